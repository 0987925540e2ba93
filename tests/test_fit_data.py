"""Training, evaluation and prediction from every kind of data: the bits of arrays in memory."""

import itertools
import threading

import numpy as np
import pytest
from helpers import python, same_bits

import minidl

ROWS, COLUMNS = 205, 4
RNG = np.random.default_rng(0)
X = np.maximum(RNG.normal(size=(ROWS, COLUMNS)), 0).astype(np.float32)  # many zeros
Y = (X[:, 0] > X[:, 1]).astype(int)
W = RNG.random(ROWS)


def in_memory(folder):
    return X, Y, W


def mapped(folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r"), Y, W


def mapped_in_another_dtype(folder):
    np.save(folder / "X.npy", X.astype(np.float64))
    return np.load(folder / "X.npy", mmap_mode="r"), Y, W


def files(folder):
    arrays = []
    for name, array in (("X", X), ("y", Y), ("w", W)):
        np.save(folder / f"{name}.npy", array)
        arrays.append(minidl.NpyFile(folder / f"{name}.npy"))
    return arrays


def pandas_frames(folder):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X), pandas.Series(Y), pandas.Series(W)


def polars_frames(folder):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(X), polars.Series(Y), polars.Series(W)


def arrow_tables(folder):
    arrow = pytest.importorskip("pyarrow")
    return arrow.table({str(i): X[:, i] for i in range(COLUMNS)}), Y, W


def sparse(folder):
    return pytest.importorskip("scipy.sparse").csr_matrix(X), Y, W


def two_arrays(folder):
    np.save(folder / "X.npy", X)
    return (X[:, :1], np.load(folder / "X.npy", mmap_mode="r")[:, 1:]), Y, W


kinds = pytest.mark.parametrize(
    "kind",
    [mapped, mapped_in_another_dtype, files, pandas_frames, polars_frames, arrow_tables, sparse,
     two_arrays],
)  # fmt: skip


def trainer(**params):
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, 16), minidl.BatchNorm1d(16), minidl.ReLU(), minidl.Dropout(0.2),
        minidl.Linear(16, 2), seed=0,
    )  # fmt: skip
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01), metrics=["top_2"], **params)


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


@kinds
@pytest.mark.parametrize(
    "params",
    [{}, {"last_batch": "drop"}, {"last_batch": "keep"}, {"shuffle": False}, {"batch_size": 17}],
    ids=str,
)
def test_the_bits_of_arrays(kind, params, tmp_path):
    """batch_size 17 leaves one row, which joins the batch before."""
    expected, found = trainer(), trainer()
    history = expected.fit(X, Y, sample_weight=W, epochs=3, seed=0, **params).history
    x, y, w = kind(tmp_path)
    assert found.fit(x, y, sample_weight=w, epochs=3, seed=0, **params).history == history
    assert bits(found.model) == bits(expected.model)
    wanted = expected.evaluate(X, Y, sample_weight=W, batch_size=50)
    assert found.evaluate(x, y, sample_weight=w, batch_size=50) == wanted
    assert same_bits(found.model.predict(x), expected.model.predict(X))


@pytest.mark.parametrize("kind", [mapped, files])
def test_several_blocks_an_epoch(kind, tmp_path, monkeypatch):
    from minidl.data import rows

    cut = []
    original = rows.cuts

    def small(n, batch_size, last, start, batches_per_block):
        cut.append(batches_per_block)
        return original(n, batch_size, last, start, 2)

    monkeypatch.setattr(rows, "cuts", small)
    x, y, w = kind(tmp_path)
    expected, found = trainer(accumulate=2), trainer(accumulate=2)
    history = expected.fit(X, Y, sample_weight=W, epochs=3, batch_size=20, seed=0).history
    assert found.fit(x, y, sample_weight=w, epochs=3, batch_size=20, seed=0).history == history
    assert cut
    assert bits(found.model) == bits(expected.model)


def batches(size=32):
    """Batches in order; a function that makes them."""
    return lambda: ((X[i : i + size], Y[i : i + size]) for i in range(0, ROWS, size))


def test_batches_of_the_users():
    expected, found = trainer(), trainer()
    history = expected.fit(X, Y, epochs=3, shuffle=False).history
    assert found.fit(batches(), epochs=3).history == history
    assert bits(found.model) == bits(expected.model)
    assert found.evaluate(batches()) == pytest.approx(expected.evaluate(X, Y), rel=1e-12)
    assert same_bits(found.model.predict(X), expected.model.predict(X))


def test_validation_from_any_data(tmp_path):
    expected, found = trainer(), trainer()
    wanted = expected.fit(X, Y, epochs=2, seed=0, validation_data=(X, Y)).history
    x, y, _ = mapped(tmp_path)
    assert found.fit(X, Y, epochs=2, seed=0, validation_data=(x, y)).history == wanted
    other = trainer().fit(X, Y, epochs=2, seed=0, validation_data=batches(205)).history
    assert other == wanted


class Watch(minidl.Callback):
    """Notes each step."""

    every = 1

    def __init__(self, events):
        self.events = events

    def on_train_batch_end(self, step, logs):
        self.events.append(("trained", step))


def test_batches_are_made_ahead_by_one_thread():
    """Those of the next block, while the steps of one run: each block a batch of its own size."""
    events, threads = [], set()

    def make():
        for i in range(6):
            threads.add(threading.current_thread())
            events.append(("made", i))
            yield X[: 20 + i], Y[: 20 + i]

    before = threading.active_count()
    trainer().fit(make, callbacks=[Watch(events)])
    assert threading.active_count() == before
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    order = {event: i for i, event in enumerate(events)}
    assert all(order["made", i + 1] < order["trained", i + 1] for i in range(5))


LARGE = """
import resource, sys
import numpy as np
import minidl
kind, folder, rows, columns = *sys.argv[1:], 1_500_000, 128
header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
with open(folder + "/X.npy", "wb") as file:  # holes: little disk
    np.lib.format.write_array_header_1_0(file, header)
    start = file.tell()
    file.truncate(start + 4 * rows * columns)
    for row in range(0, rows, rows // 50):
        file.seek(start + 4 * row * columns)
        file.write(np.ones(columns, "f4").tobytes())
X, y = minidl.NpyFile(folder + "/X.npy"), np.arange(rows, dtype=np.int8) % 2
if kind == "memmap":
    X = np.load(folder + "/X.npy", mmap_mode="r")
model = minidl.Sequential(minidl.Linear(columns, 8), minidl.ReLU(), minidl.Linear(8, 2), seed=0)
trainer = minidl.Trainer(model)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = used + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert X.nbytes > limit - used, (X.nbytes, limit - used)
history = trainer.fit(X, y, epochs=1, batch_size=4096, seed=0, verbose=0)
print(len(history), trainer.step, X.nbytes > 700 << 20)
"""


@pytest.mark.parametrize("kind", ["NpyFile", "memmap"])
def test_a_file_larger_than_the_memory_allowed(kind, tmp_path):
    """More than the process may take: RLIMIT_AS leaves 400 MiB for 730 MiB of rows, shuffled.

    The map of a file is address space: it is made before the limit, and the 400 MiB are beside it.
    """
    done = python("-c", LARGE, kind, tmp_path, timeout=300)
    assert done.stdout.split() == ["1", str(-(-1_500_000 // 4096)), "True"]


# ------------------------------------------------------------------- a batch by itself


@kinds
def test_one_update_from_any_data(kind, tmp_path):
    expected, found = trainer(), trainer()
    x, y, w = kind(tmp_path)
    for _ in range(2):
        assert found.train_step(x, y, w) == expected.train_step(X, Y, W)
    assert bits(found.model) == bits(expected.model)


@kinds
def test_forward_of_any_data(kind, tmp_path):
    model = trainer().model.eval()
    assert same_bits(model(kind(tmp_path)[0]), model(X))


def test_no_rows_of_any_kind(tmp_path):
    scipy, arrow = pytest.importorskip("scipy.sparse"), pytest.importorskip("pyarrow")
    np.save(tmp_path / "no.npy", X[:0])
    no_table = arrow.table({str(i): X[:0, i] for i in range(COLUMNS)})
    given = [X[:0], scipy.csr_matrix(X[:0]), minidl.NpyFile(tmp_path / "no.npy"), no_table]
    for x in given:
        assert trainer().model.eval()(x).shape == trainer().model.predict(x).shape == (0, 2)
        with pytest.raises(ValueError, match=r"^X: expected at least one row"):
            trainer().train_step(x, Y[:0])


def test_an_iterable_is_no_batch():
    with pytest.raises(TypeError, match=r"^X: expected rows, got an iterable of batches"):
        trainer().train_step(batches(), None)
    with pytest.raises(TypeError, match=r"^x: expected rows, got an iterable of batches"):
        trainer().model(batches())


# --------------------------------------------------------------------- several inputs


def two_branches():
    model = minidl.Sequential(
        minidl.Parallel(minidl.Linear(1, 4), minidl.Linear(COLUMNS - 1, 4)), minidl.Tanh(),
        minidl.Linear(8, 2), seed=0,
    )  # fmt: skip
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01))


@pytest.mark.parametrize("pair", [tuple, list], ids=["tuple", "list"])
def test_batches_of_several_inputs(pair):
    """As a function of the user's gives them, and as PyTorch's loaders do: in lists."""

    def stream():
        for x, y in batches()():
            yield pair((pair((x[:, :1], x[:, 1:])), y))

    expected, found = two_branches(), two_branches()
    wanted = expected.fit(X, Y, epochs=2, shuffle=False, validation_data=(X, Y)).history
    history = found.fit(stream, epochs=2, validation_data=stream).history
    assert history["loss"] == wanted["loss"]
    assert history["val_loss"] == pytest.approx(wanted["val_loss"], rel=1e-6)
    assert bits(found.model) == bits(expected.model)
    assert same_bits(found.model.predict(stream), expected.model.predict(X))
    assert same_bits(
        found.model.predict(lambda: (x for x, _ in stream())), expected.model.predict(X)
    )


def test_several_inputs_in_a_list():
    expected, found = two_branches(), two_branches()
    expected.fit(X, Y, seed=0)
    found.fit([X[:, :1], X[:, 1:]], Y, seed=0)
    assert bits(found.model) == bits(expected.model)
    assert same_bits(found.model.predict([X[:, :1], X[:, 1:].tolist()]), found.model.predict(X))
    assert same_bits(found.model([X[:, :1], X[:, 1:]]), found.model(X))


def test_several_inputs_that_are_none():
    model = two_branches().model
    for use in (model, model.predict):
        with pytest.raises(ValueError, match=r"^x\[0\]: expected 2 dim.* one column x\[0\]\[:, No"):
            use((X[:, 0], X[:, 1:]))
        with pytest.raises(ValueError, match=r"^x\[1\]: expected 205 rows, as many as x\[0\] has"):
            use((X[:, :1], X[:9, 1:]))
        with pytest.raises(ValueError, match=r"^x: expected 4 features .* in all inputs, got 1 \+"):
            use((X[:, :1], X[:, :1]))
        with pytest.raises(ValueError, match=r"^x\[1\]: expected finite numbers, got nan"):
            use((X[:, :1], X[:, 1:] * np.nan))
    with pytest.raises(ValueError, match=r"^X\[1\] of batch 1: expected 3 features"):
        two_branches().fit([((X[:9, :1], X[:9, 1:]), Y[:9]), ((X[:9, :1], X[:9]), Y[:9])])
    rows = tuple(map(tuple, X[:3].tolist()))  # of numbers, or of arrays: one matrix
    assert same_bits(model.predict(rows), model.predict(X[:3]))
    assert same_bits(model.predict(tuple(X[:3])), model.predict(X[:3]))


# ----------------------------------------------------------------------------- Flatten


def flat_trainer():
    model = minidl.Sequential(minidl.Flatten(), minidl.Linear(COLUMNS, 2), seed=0)
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01))


def tensors(images, folder):
    return pytest.importorskip("torch").tensor(images)


def images_mapped(images, folder):
    np.save(folder / "images.npy", images)
    return np.load(folder / "images.npy", mmap_mode="r")


def images_in_a_file(images, folder):
    np.save(folder / "images.npy", images)
    return minidl.NpyFile(folder / "images.npy")


@pytest.mark.parametrize(
    "kind",
    [
        lambda images, folder: images,
        lambda images, folder: np.asfortranarray(images),
        lambda images, folder: images.tolist(),
        lambda images, folder: list(images),
        tensors,
        images_mapped,
        images_in_a_file,
    ],
    ids=["array", "Fortran", "lists", "list of arrays", "tensor", "mapped", "file"],
)
def test_flatten_takes_rows_of_any_shape_from_anywhere(kind, tmp_path):
    images = X.reshape(ROWS, 2, 2)
    expected, found = flat_trainer(), flat_trainer()
    expected.fit(X, Y, epochs=2, seed=0)
    given = kind(images, tmp_path)
    found.fit(given, Y, epochs=2, seed=0)
    assert bits(found.model) == bits(expected.model)
    assert same_bits(found.model.predict(given), found.model.predict(X))
    assert same_bits(found.model(given), found.model(X))
    assert found.evaluate(given, Y) == found.evaluate(X, Y)


@pytest.mark.parametrize("kind", [list, iter, lambda items: lambda: iter(items)], ids=str)
def test_flatten_of_batches(kind):
    items = [(x.reshape(-1, 2, 2), y) for x, y in batches()()]
    expected, found = flat_trainer(), flat_trainer()
    expected.fit(X, Y, shuffle=False)
    found.fit(kind(items), validation_data=kind(items))
    assert bits(found.model) == bits(expected.model)
    assert same_bits(found.model.predict(kind(items)), found.model.predict(X))


def test_flatten_of_no_rows():
    assert flat_trainer().model.predict(np.zeros((0, 2, 2))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"^X: expected at least one row"):
        flat_trainer().fit(np.zeros((0, 2, 2)), [])


def test_flatten_in_a_branch():
    """Images beside a table."""
    model = minidl.Sequential(
        minidl.Parallel(
            minidl.Sequential(minidl.Flatten(), minidl.Linear(COLUMNS, 3)), minidl.Linear(2, 3)
        ),
        minidl.Linear(6, 2), seed=0,
    )  # fmt: skip
    images = X.reshape(ROWS, 2, 2)
    together = np.concatenate([X, X[:, 1:3]], axis=1)
    assert same_bits(model.predict((images, X[:, 1:3])), model.predict(together))
    found = minidl.Trainer(model).fit(lambda: iter([((images, X[:, 1:3]), Y)]))
    assert np.isfinite(found.history["loss"][0])


def test_files_of_more_dimensions_need_flatten(tmp_path):
    given = images_in_a_file(X.reshape(ROWS, 2, 2), tmp_path)
    with pytest.raises(ValueError, match=r"^X: expected 2 dimensions .* got shape \(205, 2, 2\)"):
        trainer().fit(given, Y)


# --------------------------------------------------------- rows that cannot be trained on


@pytest.mark.parametrize("size", [6, 12, 17, 51, 102, 204])
@pytest.mark.parametrize("block", [1, None], ids=["a batch a block", "large blocks"])
def test_a_last_batch_of_one_row_joins_the_one_before(size, block, monkeypatch):
    """205 is one more than a multiple: BatchNorm could not train on the last batch."""
    if block is not None:
        monkeypatch.setattr("minidl.data.stream.BLOCK", block)
    for accumulate in (1, 3):
        expected, found = trainer(accumulate=accumulate), trainer(accumulate=accumulate)
        options = {"epochs": 3, "validation_data": (X, Y)}
        wanted = expected.fit(X, Y, batch_size=size, shuffle=False, **options).history
        assert found.fit(batches(size), **options).history == wanted
        assert bits(found.model) == bits(expected.model)


def test_a_row_joins_only_if_it_is_the_last():
    plain = [minidl.Trainer(minidl.Sequential(minidl.Linear(COLUMNS, 2, seed=0))) for _ in "ab"]
    cuts = [0, 5, 6, 11, 12, 13, 60, 61]
    items = [(X[a:b], Y[a:b]) for a, b in itertools.pairwise(cuts)]
    plain[0].fit(items)
    for x, y in [*items[:-2], (X[13:61], Y[13:61])]:
        plain[1].train_step(x, y)
    assert bits(plain[0].model) == bits(plain[1].model)
    assert plain[0].step == len(items) - 1
    plain[0].fit(items, last_batch="keep")
    assert plain[0].step == 2 * len(items) - 1
    with pytest.raises(ValueError, match="expected at least 2 rows in a training batch, got 1"):
        trainer().fit(items)  # the second is one row


def test_batches_of_one_row_stay_what_they_are():
    model = minidl.Trainer(minidl.Sequential(minidl.Linear(COLUMNS, 2, seed=0)))
    model.fit([(X[i : i + 1], Y[i : i + 1]) for i in range(5)])
    assert model.step == 5


def test_recalibration_with_an_iterator():
    """It serves one pass, and there is one for each BatchNorm1d."""
    one, other = trainer(), trainer()
    one.recalibrate_batchnorm(x for x, _ in batches()())
    other.recalibrate_batchnorm(X)
    for name in ("1.running_mean", "1.running_var"):
        expected = other.model.state_dict()[name]
        np.testing.assert_allclose(one.model.state_dict()[name], expected, rtol=1e-5)
    deeper = minidl.Trainer(minidl.Sequential(one.model, minidl.BatchNorm1d(2)))
    with pytest.raises(ValueError, match=r"^X: an iterator serves one pass, got 2"):
        deeper.recalibrate_batchnorm(x for x, _ in batches()())


# ------------------------------------------------------------------------- bad values


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [images_mapped, images_in_a_file], ids=["mapped", "file"])
def test_the_row_of_what_is_no_category(kind, shuffle, tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.data.blocks.BLOCK", 1)
    monkeypatch.setattr("minidl.data.blocks.SCATTERED", 1)
    monkeypatch.setattr("minidl.prediction.CACHED_ROWS", 10)
    codes = np.zeros((100, 2), np.float32)
    codes[77, 1] = 9
    given = kind(codes, tmp_path)
    model = minidl.Sequential(minidl.Embedding(5, 2), minidl.Linear(4, 2))
    for name, use in (
        ("X", lambda: minidl.Trainer(model).fit(given, Y[:100], shuffle=shuffle, batch_size=10)),
        ("X", lambda: minidl.Trainer(model).evaluate(given, Y[:100], batch_size=10)),
        ("x", lambda: model.predict(given)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .* got 9.0 in row 77, column 1"):
            use()


def test_masked_values_are_missing():
    masked = np.ma.array(X, mask=np.zeros_like(X, bool))
    assert same_bits(trainer().model.predict(masked), trainer().model.predict(X))
    masked[7, 2] = np.ma.masked
    model = trainer().model
    for use in (model, model.predict, lambda x: model.predict(x[:9])):
        with pytest.raises(ValueError, match=r"^x: expected no missing values, got one in row 7"):
            use(masked)
    model.predict(X[:9])  # and by the quick path
    with pytest.raises(ValueError, match=r"^x: expected no missing values, got one in row 7"):
        model.predict(masked[:9])
    with pytest.raises(ValueError, match=r"^X: expected no missing values, got one in row 7"):
        trainer().fit(masked, Y)
    with pytest.raises(ValueError, match=r"^y: expected no missing values, got one in row 2"):
        trainer().fit(X, np.ma.array(Y, mask=np.arange(ROWS) == 2))


def test_tensors_on_a_graph():
    torch = pytest.importorskip("torch")
    expected, found = trainer(), trainer()
    tensor = torch.tensor(X, requires_grad=True)
    expected.fit(X, Y, seed=0)
    found.fit(tensor, torch.tensor(Y), seed=0)
    assert bits(found.model) == bits(expected.model)
    for _ in range(2):
        assert same_bits(found.model.predict(tensor[:5]), expected.model.predict(X[:5]))
    half = tensor.detach().bfloat16()
    assert same_bits(found.model.predict(half), expected.model.predict(half.float().numpy()))
