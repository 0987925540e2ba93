"""Training, evaluation and prediction from every kind of data: the bits of arrays in memory."""

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
folder, rows, columns = sys.argv[1], 1_500_000, 128
header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
with open(folder + "/X.npy", "wb") as file:  # holes: little disk
    np.lib.format.write_array_header_1_0(file, header)
    start = file.tell()
    file.truncate(start + 4 * rows * columns)
    for row in range(0, rows, rows // 50):
        file.seek(start + 4 * row * columns)
        file.write(np.ones(columns, "f4").tobytes())
X, y = minidl.NpyFile(folder + "/X.npy"), np.arange(rows, dtype=np.int8) % 2
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


def test_a_file_larger_than_the_memory_allowed(tmp_path):
    """More than the process may take: RLIMIT_AS leaves 400 MiB for 730 MiB of rows, shuffled."""
    done = python("-c", LARGE, tmp_path, timeout=300)
    assert done.stdout.split() == ["1", str(-(-1_500_000 // 4096)), "True"]
