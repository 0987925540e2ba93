"""What there is no room for is a MemoryError that says how many bytes, and nothing is changed."""

import numpy as np
import pytest
from test_checkpoint import everything

import minidl
from minidl import losses, memory
from minidl.data import blocks
from minidl.lowering import BatchProgram, feed

# ------------------------------------------------------------------------- how much there is

MEMBER = "0::/a\n", "4:memory:/a\n1:name=systemd:/x\n"
SYSTEM = "MemTotal: 9000 kB\nMemAvailable: 8000 kB\nSwapFree: 500 kB\n"
STAT = "cache 99\nrss 5\ntotal_rss 100000\nanon 200000\n"
ROOMS = {
    "the system's": (None, SYSTEM, {}, 8500 << 10),
    "nobody knows": (None, None, {}, None),
    "2: max": (MEMBER[0], SYSTEM, {"a/memory.max": "max\n"}, 8500 << 10),
    "2: a limit": (MEMBER[0], None, {"a/memory.max": "1000000\n", "a/memory.stat": STAT}, 800_000),
    "2: and swap": (
        MEMBER[0], SYSTEM, {"a/memory.max": "1000000\n", "a/memory.stat": STAT},
        800_000 + (500 << 10)),
    "2: the parent's": (
        MEMBER[0], SYSTEM, {"memory.max": "300000\n", "a/memory.max": "9000000\n"},
        300_000 + (500 << 10)),
    "2: used up": (MEMBER[0], None, {"a/memory.max": "1000\n", "a/memory.stat": STAT}, 0),
    "2: nonsense": (MEMBER[0], SYSTEM, {"a/memory.max": "-5 x\n"}, 8500 << 10),
    "1: none": (MEMBER[1], SYSTEM, {"memory/a/memory.limit_in_bytes": f"{2**63 - 4096}\n"},
                8500 << 10),
    "1: a limit": (
        MEMBER[1], None,
        {"memory/a/memory.limit_in_bytes": "1000000\n", "memory/a/memory.stat": STAT}, 900_000),
}  # fmt: skip


@pytest.mark.parametrize("case", ROOMS)
def test_room(case, tmp_path):
    membership, system, groups, wanted = ROOMS[case]
    texts = {"cgroup/none": "", "self": membership, "meminfo": system}
    texts |= {f"cgroup/{name}": text for name, text in groups.items()}
    for name, text in texts.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    places = (str(tmp_path / name) for name in ("cgroup", "self", "meminfo"))
    assert memory.available(*places) == wanted


def test_the_room_of_this_machine():
    room = memory.available()
    assert room is None or room > 1 << 20
    memory.check_room(1 << 20, "a little")


ROOM = 4_000_000


@pytest.fixture
def little_room(monkeypatch):
    """A system that has four megabytes; blocks are small beside them."""
    monkeypatch.setattr(blocks, "BLOCK", 1 << 20)
    monkeypatch.setattr(memory, "LARGE", 1 << 16)
    monkeypatch.setattr(memory, "available", lambda: ROOM)


def refused(what, size):
    message = rf"{what}: expected room for {size:,} bytes, but there are {ROOM:,}$"
    return pytest.raises(MemoryError, match=message)


def test_layers_that_there_is_no_room_for(little_room):
    with refused(r"weight of shape \(2000, 1000\)", 8_000_000):
        minidl.Linear(1000, 2000)
    with refused(r"weight of shape \(600, 1000\)", 4_800_000):
        minidl.Linear(1000, 600, dtype="float64")
    with refused(r"initial values of shape \(600, 1000\)", 4_800_000):
        minidl.Linear(1000, 600)
    with refused(r"weight of shape \(20000, 100\)", 8_000_000):
        minidl.Embedding(20000, 100)
    with refused(r"weight of shape \(2000000,\)", 8_000_000):
        minidl.BatchNorm1d(2_000_000)


def bits(*models):
    return [array.tobytes() for model in models for array in model.state().values()]


def test_a_model_that_there_is_no_room_for_leaves_its_layers_alone(little_room):
    layers = [minidl.Linear(500, 900, seed=seed) for seed in range(3)]
    before = bits(*layers)
    with refused("parameters", 5_482_944):  # padded, with the biases
        minidl.Parallel(*layers, columns=[500] * 3)
    assert bits(*layers) == before
    assert layers[0].predict(np.ones((2, 500))).shape == (2, 900)


def test_a_dtype_that_there_is_no_room_for(little_room):
    model = minidl.Sequential(minidl.Linear(500, 999, seed=0), minidl.ReLU())
    before = bits(model)
    with refused("parameters", 4_008_000):
        model.set_dtype(np.dtype("float64"))
    assert bits(model) == before
    assert model.dtype == model[0].dtype == np.float32


# ------------------------------------------------------------------------- data

ROWS = 600_000


def network(outputs=3):
    return minidl.Sequential(minidl.Linear(5, outputs, seed=0))


def arrays(path):
    return np.zeros((ROWS, 5), np.float32), np.zeros(ROWS, int)


def files(path):
    np.lib.format.open_memmap(path / "X.npy", "w+", np.float32, (ROWS, 5)).flush()
    return np.load(path / "X.npy", mmap_mode="r"), np.zeros(ROWS, int)


PROGRAM = f"a program for batches of {ROWS} rows"
OUTPUTS = "the outputs that metrics are taken of"
CALLS = {
    "a batch": (arrays, lambda t, X, y: t.fit(X, y, batch_size=ROWS, shuffle=False), PROGRAM, 0),
    "a step": (arrays, lambda t, X, y: t.train_step(X, y), PROGRAM, 0),
    "a batch to measure": (arrays, lambda t, X, y: t.evaluate(X, y, batch_size=ROWS), PROGRAM, 0),
    "a batch to predict": (arrays, lambda t, X, y: t.model.predict(X, ROWS), PROGRAM, 0),
    "layer by layer": (arrays, lambda t, X, y: t.model(X), PROGRAM, 0),
    "float64": (arrays, lambda t, X, y: t.evaluate(X.astype(float), y), "X as float32", 20 * ROWS),
    "labels": (arrays, lambda t, X, y: t.evaluate(X, y.astype("i1")), "y as int64", 8 * ROWS),
    "weights": (arrays, lambda t, X, y: t.evaluate(X, y, sample_weight=np.ones(ROWS, "f4")),
                "sample_weight as float64", 8 * ROWS),
    "an order": (arrays, lambda t, X, y: t.fit(X, y), "the order of the rows", 8 * ROWS),
    "an output": (arrays, lambda t, X, y: t.model.predict(X), "the output", 12 * ROWS),
    "an order for a file": (files, lambda t, X, y: t.fit(X, y), "the order of the rows", 8 * ROWS),
    "a block": (files, lambda t, X, y: t.fit(X, y, batch_size=ROWS, shuffle=False),
                f"{ROWS} rows of X", 20 * ROWS),
    "an output of a file": (files, lambda t, X, y: t.model.predict(X), "the output", 12 * ROWS),
    "a file for a step": (files, lambda t, X, y: t.train_step(X, y), "X", 20 * ROWS),
}  # fmt: skip
MEASURED = {
    "of rows": (arrays, lambda t, X, y: t.evaluate(X, y), OUTPUTS, 12 * ROWS),
    "of a file": (files, lambda t, X, y: t.evaluate(X, y), OUTPUTS, 12 * ROWS),
    "of training": (files, lambda t, X, y: t.fit(X, y, shuffle=False), OUTPUTS, 12 * ROWS),
}


@pytest.mark.parametrize(
    ("case", "metrics"), [*((c, []) for c in CALLS), *((c, ["f1"]) for c in MEASURED)]
)
def test_data_that_there_is_no_room_for(case, metrics, little_room, tmp_path):
    """The trainer is as before, and trains on."""
    kind, call, what, size = (MEASURED if metrics else CALLS)[case]
    X, y = kind(tmp_path)
    trainer, twin = (minidl.Trainer(network(), metrics=metrics) for _ in range(2))
    for each in (trainer, twin):
        each.fit(X[:64], y[:64], epochs=2, seed=0)
    before = everything(trainer)
    with pytest.raises(MemoryError, match=f"^({what}): expected room for ") as caught:
        call(trainer, X, y)
    asked = int(str(caught.value).split("room for ")[1].split(" bytes")[0].replace(",", ""))
    assert asked == size if size else asked > 64 * ROWS
    assert everything(trainer) == before
    for each in (trainer, twin):
        each.fit(X[:64], y[:64], epochs=2, seed=0)
    assert everything(trainer) == everything(twin)


def test_all_of_a_training_counts(little_room):
    """Parameters fit three times: as they are, and as states; but not with what is kept of them."""
    model = minidl.Sequential(minidl.Linear(250, 900, seed=0))
    before = bits(model)
    trainer = minidl.Trainer(model, optimizer=minidl.Adam())
    with pytest.raises(MemoryError, match="a program for batches of 4 rows: expected room for"):
        trainer.fit(np.ones((4, 250)), np.arange(4))
    assert bits(model) == before
    minidl.Trainer(model, optimizer=minidl.SGD(lr=0.1)).fit(np.ones((4, 250)), np.arange(4))
    assert bits(model) != before


def test_memory_that_the_system_does_not_give(monkeypatch):
    """Where the system says nothing, and NumPy finds none."""
    monkeypatch.setattr(memory, "available", lambda: None)
    message = r"expected room for 1,152,921,504,606,846,976 bytes, but there are not so many"
    with pytest.raises(MemoryError, match=message):
        memory.allocate(2**60)
    with pytest.raises(MemoryError, match=message):
        memory.empty((2**58,), np.float32, "much")
    with pytest.raises(MemoryError, match="not so many"):
        memory.allocate(2**70)


# ------------------------------------------------------------------- more than 32 bits count


def test_layers_with_more_weights_than_can_be_counted(monkeypatch):
    with pytest.raises(MemoryError, match=r"room for 1,152,921,504,606,846,976 bytes"):
        minidl.Linear(2**29, 2**29)
    monkeypatch.setattr(memory, "available", lambda: 2**40)
    with pytest.raises(MemoryError, match=r"room for 4,398,046,511,104 bytes"):
        minidl.Linear(2**20, 2**20)
    with pytest.raises(MemoryError, match=r"room for 8,796,093,022,208 bytes"):
        minidl.Linear(2**20, 2**20, dtype="float64")
    with pytest.raises(MemoryError, match=r"room for 4,398,046,511,104 bytes"):
        minidl.Embedding(2**24, 2**16)
    with pytest.raises(ValueError, match="expected an integer of at most"):
        minidl.Linear(2**40, 1)


MANY = 2**33


def sparse(path, name, dtype, shape):
    """A mapped file of zeros, which takes no place."""
    try:
        return np.memmap(path / name, dtype, "w+", shape=shape)
    except OSError:
        pytest.skip("files as large as that are not possible here")


@pytest.fixture
def many(tmp_path):
    return sparse(tmp_path, "X", np.float32, (MANY, 1)), sparse(tmp_path, "y", np.int8, MANY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, X, y: t.fit(X, y), "order of the rows: expected room for 68,719,476,736 bytes"),
        (lambda t, X, y: t.fit(X, y, batch_size=MANY, shuffle=False),
         "8589934592 rows of X: expected room for 34,359,738,368 bytes"),
        (lambda t, X, y: t.model.predict(X), "output: expected room for 103,079,215,104 bytes"),
        (lambda t, X, y: t.train_step(X, y), "y: expected room for 8,589,934,592 bytes"),
        (lambda t, X, y: t.model(X), "x: expected room for 34,359,738,368 bytes"),
    ],
)  # fmt: skip
def test_more_rows_than_32_bits_count(call, message, many, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2**32)
    trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(1, 3, seed=0)))
    before = bits(trainer.model)
    with pytest.raises(MemoryError, match=message):
        call(trainer, *many)
    assert bits(trainer.model) == before
    assert trainer.step == 0


def test_the_last_of_many_rows(many):
    """Blocks in order and by number, from a file."""
    from minidl.inputs import open_inputs

    X, y = many
    X[-9:, 0], y[-9:] = np.arange(9), np.arange(9)
    data = open_inputs(network_of_one(), X, y)
    last = list(data.blocks(None, 8, start_batch=MANY // 8 - 1))
    assert [block.x[0].tolist() for block in last] == [[[i] for i in range(1, 9)]]
    assert last[0].start == MANY - 8
    assert last[0].y.tolist() == list(range(1, 9))
    order = np.array([MANY - 1, 5, MANY - 3, 2**32 + 1])
    (block,) = data.blocks(order, 4)
    assert block.x[0][:, 0].tolist() == [8, 0, 6, 0]


def network_of_one():
    return minidl.Sequential(minidl.Linear(1, 1, seed=0))


@pytest.mark.parametrize("ordered", [False, True])
def test_the_kernels_count_that_far(ordered, many, tmp_path):
    """The last batches of an epoch, whose rows lie where 32 bits do not reach."""
    X, _ = many
    rows, size = 24, 8
    values = np.linspace(-1, 1, rows, dtype=np.float32)
    X[-rows:, 0] = values
    labels = sparse(tmp_path, "labels", np.int64, (MANY,))
    labels[-rows:] = np.arange(rows) % 3
    out = sparse(tmp_path, "out", np.float32, (MANY, 3))
    order = None
    if ordered:
        order = sparse(tmp_path, "order", np.intp, (MANY,))
        order[-rows:] = np.arange(MANY - 1, MANY - rows - 1, -1)
    model = minidl.Sequential(minidl.Linear(1, 3, seed=0))
    loss = minidl.CrossEntropyLoss().bound(labels[-rows:])
    batch = BatchProgram(model, 1, size, loss=loss)
    feed(batch.program, loss, [np.asarray(X)], np.asarray(labels), size, out=np.asarray(out),
         order=None if order is None else np.asarray(order), opens=False, ends=False)  # fmt: skip
    batch.program.seek(0, (MANY - rows) // size, 0, 0)
    assert batch.program.run(1, 60.0)[0] == "done"
    expected = model.predict(values[:, None])
    assert out[-rows:].tobytes() == expected.tobytes()
    mean = losses.CrossEntropyLoss()(expected, labels[-rows:])
    assert batch.program.sums[0] / batch.program.sums[2] == pytest.approx(mean, rel=1e-6)
    assert batch.program.sums[2] == rows


@pytest.mark.soak
def test_an_epoch_of_more_rows_than_32_bits_count():
    """All rows are one row, many times: so are the loss and the step that they give."""
    X, y = np.broadcast_to(np.float32(0.5), (MANY, 1)), np.broadcast_to(np.float32(2), (MANY, 1))
    trainer = minidl.Trainer(network_of_one(), minidl.MSELoss())
    one = trainer.evaluate(X[:1], y[:1])
    assert trainer.evaluate(X, y, batch_size=2**16)["loss"] == pytest.approx(one["loss"], rel=1e-6)
    trainer.fit(X, y, batch_size=2**16, shuffle=False)
    assert trainer.step == MANY // 2**16
    assert trainer.model.predict(X[:1]) == pytest.approx(2, rel=1e-3)
