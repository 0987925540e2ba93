"""All kinds of data give the batches that a plain array gives, block by block."""

import os
import pickle
import re
import sys
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from helpers import python, read_only, same_bits

import minidl
from minidl.data import NpyFile
from minidl.data.blocks import BLOCK, SCATTERED, count_batches
from minidl.data.kinds import is_mapped, is_stream
from minidl.data.opening import open_data
from minidl.kernels.random import permutation, shuffle_into
from minidl.memory import address

COLUMNS = 5
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = ["f2", "f4", "f8"]
INTS = ["i1", "i8", "u2", "u8", "?"]
ALL = [*FLOATS, *INTS, ">f4", ">f8", ">i2", ">f2"]


def numbers(rows, dtype="f4", columns=COLUMNS):
    """A matrix with zeros in it."""
    rng = np.random.default_rng(rows)
    dense = np.where(rng.random((rows, columns)) < 0.6, rng.normal(size=(rows, columns)) * 50, 0)
    return np.abs(dense).astype(dtype) if np.dtype(dtype).kind in "ub" else dense.astype(dtype)


def opened(X, y=None, weight=None, *, dtype=F32, features=COLUMNS, **more):
    return open_data(X, y, weight, dtype=dtype, features=features, **more)


# ------------------------------------------------------------------------- what there should be


def expected_batches(arrays, order, batch_size, last="merge", start_batch=0):
    """Batches of plain arrays: a list of lists of arrays."""
    rows = np.arange(len(arrays[0])) if order is None else order
    parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if last == "merge" and len(parts) > 1 and batch_size > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    if last == "drop" and parts and len(parts[-1]) < batch_size:
        parts.pop()
    return [[None if a is None else a[part] for a in arrays] for part in parts[start_batch:]]


def batches_of(blocks, inputs=1):
    """Batches of blocks, copied before the next block is asked for."""
    found = []
    for block in blocks:
        edges = [i * block.batch_size for i in range(block.batches)] + [block.rows]
        arrays = [*block.x, block.y, block.weight]
        assert len(block.x) == inputs
        assert all(a.flags.c_contiguous and a.dtype.isnative for a in arrays if a is not None)
        assert edges[-1] - edges[-2] == block.last_rows
        for start, stop in pairwise(edges):
            found.append([None if a is None else a[start:stop].copy() for a in arrays])
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or same_bits(a, b)


# ------------------------------------------------------------------------------- kinds of data


def memmap(X, path, mode="r"):
    path = path / f"{len(list(path.iterdir()))}.bin"
    X.tofile(path)
    return np.memmap(path, X.dtype, mode, shape=X.shape)


def npy(X, path):
    path = path / f"{len(list(path.iterdir()))}.npy"
    np.save(path, X)
    return NpyFile(path)


def arrow(X, path=None, pieces=1):
    """A table of columns in as many chunks, of which one is empty."""
    pa = pytest.importorskip("pyarrow")
    edges = np.linspace(0, len(X), pieces + 1).astype(int)
    parts = [X[a:b] for a, b in pairwise([0, *edges])]  # the first is empty
    return pa.table(
        {f"c{j}": pa.chunked_array([pa.array(p[:, j]) for p in parts]) for j in range(X.shape[1])}
    )


def uneven_arrow(X, path=None):
    """Chunks end in another place in each column."""
    pa = pytest.importorskip("pyarrow")
    return pa.table(
        {
            f"c{j}": pa.chunked_array([X[: len(X) * j // 9, j], X[len(X) * j // 9 :, j]])
            for j in range(X.shape[1])
        }
    )


def mapped_arrow(X, path):
    pa = pytest.importorskip("pyarrow")
    table = arrow(X)
    path = path / f"{len(list(path.iterdir()))}.arrow"
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=7)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def sparse(kind, X):
    return getattr(pytest.importorskip("scipy.sparse"), kind)(X)


def unordered_csr(X, path=None):
    """Every number is there as two halves, the last column first."""
    sp = pytest.importorskip("scipy.sparse")
    columns = np.tile(np.repeat(np.arange(X.shape[1])[::-1], 2), len(X))
    data = np.repeat(X[:, ::-1] / 2, 2, axis=1).ravel().astype(X.dtype)
    starts = np.arange(len(X) + 1) * 2 * X.shape[1]
    return sp.csr_matrix((data, columns, starts), shape=X.shape)


def pandas(X, path=None):
    return pytest.importorskip("pandas").DataFrame(X.copy(), columns=[*"abcde"][: X.shape[1]])


def polars(X, path=None):
    pl = pytest.importorskip("polars")
    return pl.DataFrame({f"c{j}": X[:, j].copy() for j in range(X.shape[1])})


ARROW = [*FLOATS, *INTS]
SPARSE = ["f4", "f8", "i1", "i8", "u2", "?"]
KINDS = {
    "array": (lambda X, path: X.copy(), ALL),
    "Fortran array": (lambda X, path: np.asfortranarray(X), ALL),
    "list": (lambda X, path: X.tolist(), ["f8", "i8", "?"]),
    "memmap": (memmap, ALL),
    "writable memmap": (lambda X, path: memmap(X, path, "r+"), ["f4"]),
    "array of a memmap": (lambda X, path: np.asarray(memmap(X, path)), ["f4", "f8"]),
    "memmap, every second column": (
        lambda X, path: memmap(np.repeat(X, 2, axis=1), path)[:, ::2], ALL),
    "memmap backwards": (lambda X, path: memmap(X[::-1].copy(), path)[::-1], ["f4", ">f8"]),
    "Fortran memmap": (lambda X, path: memmap(X.T.copy(), path).T, ["f4", "i8"]),
    "buffer of a map": (
        lambda X, path: np.frombuffer(memmap(X, path)._mmap, X.dtype).reshape(X.shape), ["f8"]),
    "npy": (npy, ALL),
    "table": (arrow, ARROW),
    "table in chunks": (lambda X, path: arrow(X, pieces=6), ARROW),
    "table in uneven chunks": (uneven_arrow, ["f4", "i8"]),
    "table mapped": (mapped_arrow, ARROW),
    "record batch": (lambda X, path: arrow(X).combine_chunks().to_batches()[0], ["f4"]),
    "record batches": (lambda X, path: arrow(X, pieces=3).to_batches(), ["f4", "?"]),
    "pandas": (pandas, [*ALL[:8], ">f4"]),
    "polars": (polars, ALL[1:8]),
    **{kind: ((lambda X, path, kind=kind: sparse(kind, X)), SPARSE)
       for kind in ("csr_array", "csr_matrix", "csc_array", "csc_matrix", "coo_array", "coo_matrix",
                    "lil_array", "bsr_array")},
    "unordered csr": (unordered_csr, ["f4", "f8"]),
}  # fmt: skip
IN_MEMORY = {"array", "Fortran array", "list", "pandas", "polars"}
CASES = [(kind, dtype) for kind, (_, dtypes) in KINDS.items() for dtype in dtypes]
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind, X, path):
    return KINDS[kind][0](X, path)


def shuffled(rows, seed=1):
    return np.array(permutation(rows, seed, 0), np.intp)


ORDERS = {
    "in order": lambda rows: None,
    "shuffled": shuffled,
    "a part": lambda rows: shuffled(rows)[: rows // 2],
    "with repeats": lambda rows: np.random.default_rng(2).integers(0, rows, 2 * rows),
}
orders = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


@orders
@pytest.mark.parametrize("to", [F32, F64])
@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=str)
def test_batches_are_those_of_the_array(kind, dtype, to, order, tmp_path):
    X, y = numbers(67, dtype), np.arange(67) * 3
    order = order(67)
    data = opened(make(kind, X, tmp_path), y, dtype=to)
    assert (data.rows, data.columns) == (67, [COLUMNS])
    assert data.in_memory == (kind in IN_MEMORY)
    found = batches_of(data.blocks(order, 8, size=3 * 8 * COLUMNS * to.itemsize))
    assert_same(found, expected_batches([X.astype(to), y, None], order, 8))


@orders
@kinds
def test_all_at_once(kind, order, tmp_path):
    """Blocks of the usual size."""
    dtype = KINDS[kind][1][0]
    X, y = numbers(3000, dtype), np.arange(3000) % 7
    order = order(3000)
    data = opened(make(kind, X, tmp_path), y)
    found = batches_of(data.blocks(order, 32))
    assert_same(found, expected_batches([X.astype(F32), y, None], order, 32))


@kinds
def test_the_source_is_not_changed(kind, tmp_path):
    X = numbers(40, KINDS[kind][1][0])
    source, same = make(kind, X, tmp_path), make(kind, X, tmp_path)
    for order in (None, shuffled(40)):
        batches_of(opened(source, np.zeros(40)).blocks(order, 8))
    if hasattr(source, "tocsr"):
        assert same_bits(source.toarray(), same.toarray())
        if hasattr(source, "indptr"):
            assert all(same_bits(getattr(source, n), getattr(same, n))
                       for n in ("data", "indices", "indptr"))  # fmt: skip
    elif hasattr(source, "equals"):
        assert source.equals(same)
    elif isinstance(source, np.ndarray):
        assert same_bits(source, same)
        assert source.flags.writeable == same.flags.writeable


@kinds
@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(kind, rows, tmp_path):
    X, y = numbers(rows, KINDS[kind][1][0]), np.ones(rows, bool)
    data = opened(make(kind, X, tmp_path), y)
    for order in (None, shuffled(rows)):
        found = batches_of(data.blocks(order, 1))
        assert_same(found, expected_batches([X.astype(F32), y, None], order, 1))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"list", "buffer of a map", "record batch", *(
    k for k in KINDS if "memmap" in k)}))  # fmt: skip
def test_no_rows(kind, tmp_path):
    X = numbers(0, KINDS[kind][1][0])
    if kind == "record batches":
        pytest.skip("no batches say nothing of their columns")
    data = opened(make(kind, X, tmp_path), np.zeros(0))
    assert data.rows == 0
    assert list(data.blocks(None, 4)) == list(data.blocks(np.empty(0, np.intp), 4)) == []


@kinds
def test_values_of_blocks(kind, tmp_path):
    """A block keeps its values until `depth` more have been made."""
    X = numbers(64, KINDS[kind][1][0])
    data = opened(make(kind, X, tmp_path), np.arange(64))
    for order in (None, shuffled(64)):
        for depth in (1, 2, 3):
            blocks = list(data.blocks(order, 8, size=1, depth=depth))
            last = blocks[-depth - 1 :]
            want = expected_batches([X.astype(F32), np.arange(64), None], order, 8)
            assert_same([[*b.x, b.y, b.weight] for b in last], want[-depth - 1 :])
            first = blocks[0]
            assert np.shares_memory(first.x[0], blocks[depth + 1].x[0])  # used again


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("size", [1, 3 * 8 * COLUMNS * 4, BLOCK])
@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("last", ["merge", "keep", "drop"])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 31, 47, 48, 49, 97])
def test_batches(rows, last, group, size, tmp_path):
    X, y = numbers(rows), np.arange(rows)
    data = opened(memmap(X, tmp_path), y)
    for start_batch in {0, group, 2 * group}:
        how = {"last": last, "start_batch": start_batch}
        expected = expected_batches([X, y, None], None, 8, **how)
        blocks = list(data.blocks(None, 8, group=group, size=size, depth=100, **how))
        assert_same(batches_of(blocks), expected)
        assert data.batches(8, last) == len(expected_batches([X], None, 8, last))
        place = start_batch * 8
        for block in blocks:
            assert block.start == block.numbers == place
            place += block.rows
        assert all(b.rows % (group * 8) == 0 and b.last_rows == 8 for b in blocks[:-1])
        if size == 1:
            assert all(b.batches == group for b in blocks[:-1])


@pytest.mark.parametrize("last", ["merge", "keep", "drop"])
@pytest.mark.parametrize("batch_size", [1, 2, 10**12])
def test_batch_sizes(batch_size, last, tmp_path):
    X, y = numbers(5), np.arange(5)
    data = opened(memmap(X, tmp_path), y)
    found = batches_of(data.blocks(None, batch_size, last=last))
    assert_same(found, expected_batches([X, y, None], None, batch_size, last))
    assert len(found) == count_batches(5, batch_size, last)


def test_numbers_of_rows(tmp_path):
    data = opened(memmap(numbers(30), tmp_path), np.arange(30))
    order = shuffled(30)
    for block in data.blocks(order, 4, size=1):
        assert np.array_equal(block.numbers, order[block.start : block.start + block.rows])
        assert np.array_equal(block.numbers, block.y)


@pytest.mark.parametrize("columns", [COLUMNS, 300])
def test_blocks_have_a_few_megabytes(columns, tmp_path):
    rows = 2 * SCATTERED // (4 * columns)
    path = tmp_path / "large.bin"
    path.touch()
    os.truncate(path, 4 * rows * columns)
    X = np.memmap(path, "f4", "r", shape=(rows, columns))
    data = opened(X, np.zeros(rows, bool), features=columns)
    for order, size in ((None, BLOCK), (np.arange(rows), SCATTERED if columns < 256 else BLOCK)):
        first, *others, _ = (block.x[0].nbytes for block in data.blocks(order, 32))
        assert 0.9 * size < first <= size
        assert set(others) == {first}


# ------------------------------------------------------------- several inputs, targets, weights


def test_several_inputs(tmp_path):
    parts = [numbers(50, "f4", 2), numbers(50, "f8", 3), numbers(50, "i8", 1)]
    inputs = (memmap(parts[0], tmp_path), pandas(parts[1]), npy(parts[2], tmp_path))
    y, weight = np.arange(50), np.linspace(0, 1, 50)
    data = opened(inputs, y, weight, features=(2, None, 1))
    assert data.columns == [2, 3, 1]
    assert not data.in_memory
    arrays = [*(p.astype(F32) for p in parts), y, weight]
    for order in (None, shuffled(50)):
        found = batches_of(data.blocks(order, 6, size=1), inputs=3)
        assert_same(found, expected_batches(arrays, order, 6))


def test_arrays_in_memory_are_used_as_they_are():
    X, y, weight = numbers(10), np.arange(10), np.ones(10)
    data = opened([X, X[:, :2]], y, weight, features=[COLUMNS, 2])
    assert data.in_memory
    assert data.x[0] is X
    assert np.shares_memory(data.x[1], X)
    assert data.y is y
    assert data.weight is weight


def test_targets_in_memory_may_be_replaced(tmp_path):
    data = opened(memmap(numbers(10), tmp_path), [[i] for i in range(10)])
    assert data.y.shape == (10, 1)
    data.y = data.y[:, 0].astype(np.int64)
    assert [b.y.tolist() for b in data.blocks(None, 4, size=1)] == [[0, 1, 2, 3], [4, 5, 6, 7],
                                                                   [8, 9]]  # fmt: skip


TARGETS = {
    "labels": lambda: np.arange(23, dtype="i8") % 4,
    "small labels": lambda: (np.arange(23) % 4).astype("u1"),
    "booleans": lambda: np.arange(23) % 2 == 0,
    "numbers": lambda: numbers(23)[:, 0],
    "other byte order": lambda: numbers(23, ">f8")[:, 0].copy(),
    "columns": lambda: numbers(23, "f8", 3),
}
targets = pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
HOLDERS = {
    "array": lambda y, path: y,
    "memmap": memmap,
    "npy": npy,
    "pandas": lambda y, path: pytest.importorskip("pandas").DataFrame(y) if y.ndim == 2
    else pytest.importorskip("pandas").Series(y),
    "arrow": lambda y, path: arrow(y) if y.ndim == 2
    else pytest.importorskip("pyarrow").chunked_array([y[:5], y[5:]]),
    "polars": lambda y, path: polars(y) if y.ndim == 2
    else pytest.importorskip("polars").Series(y),
}  # fmt: skip
holders = pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)


@targets
@holders
def test_targets_keep_their_dtype(y, holder, tmp_path):
    y, X = y(), numbers(23)
    if not y.dtype.isnative and holder not in (HOLDERS["array"], memmap, npy):
        pytest.skip("the library has native numbers only")
    native = y.astype(y.dtype.newbyteorder("="))
    data = opened(memmap(X, tmp_path), holder(y, tmp_path))
    assert data.y_like.shape == (0, *y.shape[1:])
    assert data.y_like.dtype == native.dtype
    assert (data.y is None) == (holder in (memmap, npy, HOLDERS["arrow"]))
    for order in (None, shuffled(23)):
        found = batches_of(data.blocks(order, 5, size=1))
        assert_same(found, expected_batches([X, native, None], order, 5))


@holders
def test_weights(holder, tmp_path):
    X, y = numbers(23), np.arange(23)
    weight = np.linspace(0, 2, 23)
    data = opened(memmap(X, tmp_path), y, holder(weight, tmp_path))
    for order in (None, shuffled(23)):
        found = batches_of(data.blocks(order, 5, size=1))
        assert_same(found, expected_batches([X, y, weight], order, 5))


@kinds
def test_without_targets(kind, tmp_path):
    X = numbers(20, KINDS[kind][1][0])
    data = opened(make(kind, X, tmp_path), targets=False)
    assert data.y is data.y_like is data.weight is None
    found = batches_of(data.blocks(None, 6, last="keep"))
    assert_same(found, expected_batches([X.astype(F32), None, None], None, 6, "keep"))


def test_a_frame_of_one_column_as_targets():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"label": [0, 1, 1]})
    data = opened(numbers(3), frame)
    assert same_bits(data.y, np.array([[0], [1], [1]]))


def test_a_frame_of_several_dtypes_as_targets():
    pl = pytest.importorskip("polars")
    data = opened(numbers(2), pl.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}))
    assert same_bits(data.y, np.array([[1, 0.5], [2, 1.5]]))


# --------------------------------------------------------------------------------- wrong input


@kinds
def test_wrong_columns(kind, tmp_path):
    with pytest.raises(ValueError, match=r"^X: expected 4 features \(columns\), got shape \(9, 5"):
        opened(make(kind, numbers(9, KINDS[kind][1][0]), tmp_path), np.zeros(9), features=4)


@kinds
def test_wrong_rows(kind, tmp_path):
    with pytest.raises(ValueError, match=r"^y: expected 9 rows, as many as X has, got shape \(8,"):
        opened(make(kind, numbers(9, KINDS[kind][1][0]), tmp_path), np.zeros(8))


@holders
def test_wrong_rows_of_targets_and_weights(holder, tmp_path):
    X = memmap(numbers(9), tmp_path)
    with pytest.raises(ValueError, match=r"^y: expected 9 rows, as many as X has, got shape \(8,"):
        opened(X, holder(np.zeros(8), tmp_path))
    with pytest.raises(ValueError, match=r"^sample_weight: expected 9 rows, as many as X has, got"):
        opened(X, np.zeros(9), holder(np.ones(10), tmp_path))
    with pytest.raises(ValueError, match=r"^sample_weight: expected shape \(rows,\), got shape "):
        opened(X, np.zeros(9), holder(np.ones((9, 1)), tmp_path))


@orders
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [kind for kind, (_, dtypes) in KINDS.items() if "f8" in dtypes])
def test_the_place_of_what_is_not_finite(kind, value, order, tmp_path):
    X = numbers(67, "f8")
    X[33, 2] = value
    order = order(67)
    if order is not None:
        order[-9] = 33
    source = make(kind, X, tmp_path)
    if kind in IN_MEMORY:
        with pytest.raises(
            ValueError, match=f"^X.*: expected finite numbers, got {value}.* row 33"
        ):
            opened(source, np.zeros(67))
        return
    blocks = opened(source, np.zeros(67)).blocks(order, 4, size=1)
    with pytest.raises(ValueError, match=r"^X: expected finite numbers, got ") as caught:
        list(blocks)
    assert re.search(rf"got {value} in row 33, column 2( \('c2'\))?$", str(caught.value))


@pytest.mark.parametrize("order", [None, shuffled(67)])
@pytest.mark.parametrize("kind", [kind for kind, (_, dtypes) in KINDS.items() if "f8" in dtypes])
def test_too_large_for_float32(kind, order, tmp_path):
    X = numbers(67, "f8")
    X[33, 2] = 1e39
    source = make(kind, X, tmp_path)
    with pytest.raises(
        ValueError, match=r"^X as float32: expected finite numbers, got inf in row 33, column 2"
    ):
        list(opened(source, np.zeros(67)).blocks(order, 4, size=1))
    assert len(list(opened(source, np.zeros(67), dtype=F64).blocks(order, 4, size=1))) == 17


@pytest.mark.parametrize("order", [None, shuffled(20)])
@pytest.mark.parametrize("holder", [memmap, npy])
def test_targets_and_weights_in_files_are_checked(holder, order, tmp_path):
    X, bad, negative = numbers(20), np.ones(20), np.ones(20)
    bad[13], negative[12] = np.nan, -1
    for y, weight, message in (
        (bad, None, "^y: expected finite numbers, got nan in row 13$"),
        (np.stack([bad, bad], 1), None, "^y: expected finite numbers, got nan in row 13, column 0"),
        (np.ones(20), bad, "^sample_weight: expected finite numbers, got nan in row 13$"),
        (np.ones(20), negative, r"^sample_weight: .* at least 0, got -1.0 in row 12$"),
    ):
        weight = None if weight is None else holder(weight, tmp_path)
        with pytest.raises(ValueError, match=message):
            list(opened(X, holder(y, tmp_path), weight).blocks(order, 4, size=1))


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.array([1, -2.5, 1]), ValueError, "of at least 0, got -2.5 in row 1"),
        (np.array([1, 1, np.nan]), ValueError, "expected finite numbers, got nan in row 2"),
        (np.ones((3, 1)), ValueError, r"expected shape \(rows,\), got shape \(3, 1\)"),
        (np.ones(4), ValueError, r"expected 3 rows, as many as X has, got shape \(4,\)"),
        (2.0, ValueError, r"expected shape \(rows,\), got shape \(\)"),
        (["a", "b", "c"], TypeError, "expected real numbers, got dtype <U1"),
    ],
)
def test_wrong_weights(weight, error, message):
    with pytest.raises(error, match=f"^sample_weight: .*{message}"):
        opened(numbers(3), np.zeros(3), weight)


def test_wrong_inputs():
    X = numbers(6)
    for value, got in ((X, "got ndarray"), ((X,), "got 1 of them"), ([X] * 3, "got 3 of them")):
        with pytest.raises(ValueError, match=f"^X: expected a tuple of 2 inputs, {got}"):
            opened(value, np.zeros(6), features=(5, 5))
    with pytest.raises(ValueError, match=r"^X\[1\]: expected 6 rows, as many as X\[0\] has, got "):
        opened((X, X[:5]), np.zeros(6), features=(5, 5))
    with pytest.raises(ValueError, match=r"^X\[1\]: expected 3 features"):
        opened((X, X), np.zeros(6), features=(5, 3))
    with pytest.raises(ValueError, match=r"^x\[0\]: expected finite numbers"):
        opened((X * np.nan, X), features=(5, 5), targets=False, names=("x", "y", "w"))


@pytest.mark.parametrize(
    "X", [None, 1.0, "abc", b"abc", {"a": 1}, [], [1, 2], [(1, 2), (3, 4)], range(3), np.zeros(3)]
)
def test_no_streams(X):
    assert not is_stream(X)


@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_are_no_streams(kind, tmp_path):
    assert not is_stream(make(kind, numbers(4, KINDS[kind][1][0]), tmp_path))


def test_what_is_mapped(tmp_path):
    mapped = memmap(numbers(4), tmp_path)
    assert all(map(is_mapped, (mapped, mapped[1:], np.asarray(mapped).T, mapped.view(np.ndarray))))
    assert not any(map(is_mapped, (mapped + 1, mapped[[0, 1]], mapped.copy(), numbers(4))))


# -------------------------------------------------------------------------------------- frames


def pandas_column(values, dtype=None):
    pd = pytest.importorskip("pandas")
    if dtype is not None and "pyarrow" in str(dtype):
        pytest.importorskip("pyarrow")
    return pd.DataFrame({"good": np.arange(len(values)), "age": pd.Series(values, dtype=dtype)})


@pytest.mark.parametrize(
    "dtype", ["Int8", "UInt64", "Float32", "Float64", "boolean", "int64[pyarrow]", "bool[pyarrow]",
              "float[pyarrow]", "Sparse[float64]", "Sparse[int]"]
)  # fmt: skip
def test_dtypes_of_pandas(dtype):
    data = opened(pandas_column([1, 0, 1], dtype), np.zeros(3), features=2)
    assert same_bits(data.x[0], np.array([[0, 1], [1, 0], [2, 1]], np.float32))
    y = opened(numbers(3), pandas_column([1, 0, 1], dtype)["age"]).y
    assert y.tolist() == [1, 0, 1]
    assert y.dtype.kind == ("b" if "bool" in dtype else "f" if "f" in dtype.lower() else
                            "u" if "U" in dtype else "i")  # fmt: skip


@pytest.mark.parametrize("dtype", ["Int8", "Float32", "boolean", "int64[pyarrow]", "bool[pyarrow]"])
def test_missing_values_of_pandas(dtype):
    frame = pandas_column([1, 0, None], dtype)
    message = "^X, column 'age': expected no missing values, got one in row 2$"
    with pytest.raises(ValueError, match=message):
        opened(frame, np.zeros(3), features=2)
    with pytest.raises(ValueError, match=r"^y: expected no missing values, got one in row 2$"):
        opened(numbers(3), frame["age"])
    with pytest.raises(ValueError, match=r"^y, column 'age': expected no missing values, got one"):
        opened(numbers(3), frame[["age"]])


def test_not_a_number_in_pandas():
    with pytest.raises(
        ValueError, match=r"^X, column 'age': expected finite numbers, got nan in row 1$"
    ):
        opened(pandas_column([1, np.nan]), np.zeros(2), features=2)


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        (["a", "b"], object, "dtype object"),
        (["a", "b"], "category", "dtype category"),
        ([1, 2], "category", "dtype category"),
        (["2020-01-01", "2020-01-02"], "datetime64[ns]", "dtype datetime64"),
        ([1 + 1j, 2], None, "dtype complex128"),
        ([1, 2], "longdouble", f"dtype {np.dtype('longdouble')}"),
    ],
)
def test_refused_columns_of_pandas(values, dtype, shown):
    frame = pandas_column(values, dtype)
    message = f"column 'age': expected real numbers or booleans, got {shown}.*Embedding.*one-hot"
    with pytest.raises(TypeError, match=f"^X, {message}"):
        opened(frame, np.zeros(2), features=2)
    with pytest.raises(TypeError, match=f"^y, {message}"):
        opened(numbers(2), frame)
    with pytest.raises(TypeError, match=r"^y: expected real numbers or booleans, got dtype"):
        opened(numbers(2), frame["age"])


def test_columns_of_one_name_and_any_label():
    pd = pytest.importorskip("pandas")
    X = numbers(4)
    data = opened(pd.DataFrame(X, columns=["a", "a", 3, ("b", 1), None]), np.zeros(4))
    assert same_bits(data.x[0], X)


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    with pytest.raises(
        TypeError, match=r"^X, column 'b': expected real .* got dtype String; .*one-"
    ):
        opened(frame, np.zeros(2), features=2)
    for dtype in (pl.Categorical, pl.Decimal(10, 2), pl.Date, pl.List(pl.Float32)):
        series = pl.Series("s", [None, None], dtype=dtype)
        with pytest.raises(TypeError, match=r"^y: expected real numbers or booleans, got dtype"):
            opened(numbers(2), series)
    with pytest.raises(TypeError, match=r"^y: expected real numbers .* got dtype Int128"):
        opened(numbers(2), pl.Series("s", [1, 2], dtype=pl.Int128))
    for dtype in (pl.Int64, pl.Float32, pl.Boolean):
        series = pl.Series("s", [1, None, 1]).cast(dtype)
        with pytest.raises(ValueError, match=r"^y: expected no missing values, got one in row 1$"):
            opened(numbers(3), series)
        with pytest.raises(
            ValueError, match=r"^X, column 's': expected no missing values, got one"
        ):
            opened(series.to_frame(), np.zeros(3), features=1)
    with pytest.raises(
        TypeError, match=r"^X: expected a DataFrame, got a LazyFrame; call .collect"
    ):
        opened(frame.lazy(), np.zeros(2), features=2)


@pytest.mark.parametrize("make_frame", [pandas, polars])
def test_large_frames_keep_their_rows(make_frame):
    X = np.arange(10_000 * 37, dtype=np.float64).reshape(10_000, 37)
    frame = make_frame(X) if make_frame is polars else pytest.importorskip("pandas").DataFrame(X)
    assert same_bits(opened(frame, np.zeros(10_000), features=37).x[0], X.astype(np.float32))


# ------------------------------------------------------------------------------ Arrow and SciPy


def test_missing_values_of_arrow():
    pa = pytest.importorskip("pyarrow")
    column = pa.chunked_array([pa.array([1.0, 2, 3]), pa.array([4, None, 6.0])])
    table = pa.table({"good": pa.array(range(6)), "age": column})
    message = "expected no missing values, got one in row 4$"
    for order in (None, np.array([5, 4, 0])):
        with pytest.raises(ValueError, match=f"^X, column 'age': {message}"):
            list(opened(table, np.zeros(6), features=2).blocks(order, 2, size=1))
        with pytest.raises(ValueError, match=f"^y: {message}"):
            list(opened(numbers(6), column).blocks(order, 2, size=1))


def test_refused_types_of_arrow():
    pa = pytest.importorskip("pyarrow")
    for array in (pa.array(["a"]), pa.array(["a"]).dictionary_encode(), pa.array([[1]]),
                  pa.array([1], pa.timestamp("s")), pa.array([None]),
                  pa.array([1], pa.decimal128(3))):  # fmt: skip
        shown = re.escape(str(array.type))
        with pytest.raises(TypeError, match=f"^X, column 'a': .* got type {shown}; .*one-hot"):
            opened(pa.table({"a": array}), np.zeros(1), features=1)
        with pytest.raises(TypeError, match=f"^y: expected .* got type {shown}"):
            opened(numbers(1), array)


def test_refused_sparse():
    sp = pytest.importorskip("scipy.sparse")
    X = numbers(4)
    with pytest.raises(TypeError, match=r"^X: expected real numbers, got dtype complex128"):
        opened(sp.csr_array(X.astype(complex)), np.zeros(4))
    with pytest.raises(
        TypeError, match=r"^y: expected a dense array, got a sparse one; call .toar"
    ):
        opened(X, sp.csr_array(X))
    with pytest.raises(TypeError, match=r"^sample_weight: expected a dense array"):
        opened(X, np.zeros(4), sp.coo_array(X[:, 0]))
    with pytest.raises(ValueError, match=r"^X: expected 2 dimensions"):
        opened(sp.coo_array(X[:, 0]), np.zeros(4))


def test_numbers_in_one_place_are_added_before_they_are_converted():
    sp = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 20, 400), rng.integers(0, COLUMNS, 400)
    X = sp.coo_array((rng.normal(size=400), (rows, columns)), shape=(20, COLUMNS))
    starts = np.searchsorted(np.sort(rows), range(21))
    places = np.argsort(rows, kind="stable")
    X = sp.csr_array((X.data[places], columns[places], starts), shape=X.shape)
    assert not X.has_canonical_format
    [block] = opened(X, np.zeros(20)).blocks(None, 20)
    assert np.abs(block.x[0] - X.toarray()).max() <= 2**-24 * np.abs(X.toarray()).max()
    copy = X.copy()
    copy.sum_duplicates()
    assert same_bits(block.x[0], copy.toarray().astype(F32))


def test_csr_is_not_copied():
    X = sparse("csr_array", numbers(30))
    assert opened(X, np.zeros(30))._x[0].matrix is X


# ------------------------------------------------------------------------------------- NpyFile


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy(version, tmp_path):
    X = numbers(20)
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, X, version)
    data = opened(NpyFile(path), np.zeros(20))
    assert_same(
        batches_of(data.blocks(None, 5)), expected_batches([X, np.zeros(20), None], None, 5)
    )


def test_a_long_header(tmp_path):
    X = numbers(20)
    header = repr({"descr": "<f4", "fortran_order": False, "shape": X.shape}).ljust(2000) + "\n"
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + X.tobytes()
    (tmp_path / "x.npy").write_bytes(content)
    for order in (None, shuffled(20)):
        found = batches_of(opened(NpyFile(tmp_path / "x.npy"), np.zeros(20)).blocks(order, 5))
        assert_same(found, expected_batches([X, np.zeros(20), None], order, 5))


def test_what_a_file_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", numbers(20, ">f4"))
    file = minidl.NpyFile("x.npy")
    assert (file.shape, file.dtype, file.ndim, len(file), file.nbytes) == (
        (20, 5), np.dtype(">f4"), 2, 20, 400)  # fmt: skip
    assert file.path == str(tmp_path / "x.npy")
    assert repr(file) == f"NpyFile({file.path!r}, shape=(20, 5), dtype=>f4)"
    same = pickle.loads(pickle.dumps(file))
    monkeypatch.chdir("/")
    assert len(list(opened(same, np.zeros(20)).blocks(None, 5))) == 1


@pytest.mark.parametrize("part", [slice(3, 17), slice(None, 4), slice(-5, None), slice(7, 2)])
def test_rows_of_an_npy_file(part, tmp_path):
    """A slice has them without reading them; a slice of a slice, too."""
    X = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    file = NpyFile(tmp_path / "x.npy")
    for own, expected in ((file[part], X[part]), (file[2:19][part], X[2:19][part])):
        assert own.shape == expected.shape
        assert len(file) == 20
        if len(expected):
            data = opened(own, np.zeros(len(own)))
            found = np.concatenate([b.x[0].copy() for b in data.blocks(None, 3, last="keep")])
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("rows", [3, slice(0, 9, 2), slice(None, None, -1), [1, 2], "x"])
def test_rows_of_an_npy_file_that_do_not_follow_each_other(rows, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 5)))
    with pytest.raises(TypeError, match=r"^rows: expected a slice of rows that follow each other"):
        NpyFile(tmp_path / "x.npy")[rows]


def written(path, array, **header):
    """A file whose header says something else of an array."""
    with path.open("wb") as file:
        known = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, known | header)
        file.write(array.tobytes())
    return path


@pytest.mark.parametrize(
    ("array", "header", "error", "message"),
    [
        (np.zeros((4, 5)), {"fortran_order": True}, ValueError, "expected C order, got Fortran or"),
        (
            np.zeros((4, 5)),
            {"shape": (5, 5)},
            ValueError,
            "expected 328 bytes, got 288: the file is",
        ),
        (np.zeros((4, 5)), {"shape": (-4, 5)}, ValueError, r"rows, got shape \(-4, 5\)"),
        (np.zeros((4, 5)), {"descr": "|O"}, TypeError, "expected real numbers .* got dtype object"),
        (np.zeros((4, 5), complex), {}, TypeError, "expected real numbers .* got dtype complex128"),
        (np.zeros((4, 5), "M8[s]"), {}, TypeError, "got dtype datetime64"),
        (np.zeros((4, 5), "f4,f4"), {}, TypeError, "expected real numbers"),
        (np.zeros((4, 5), np.longdouble), {}, TypeError, "at most 64 bits, got dtype"),
        (np.zeros((4, 5, 6)), {"fortran_order": True}, ValueError, "expected C order, got Fortr"),
        (np.zeros(()), {}, ValueError, r"expected rows, got shape \(\)"),
        (np.zeros((4, 5)), {"descr": "nonsense"}, ValueError, "expected an .npy file: "),
    ],
)
def test_wrong_files(array, header, error, message, tmp_path):
    path = written(tmp_path / "x.npy", array, **header)
    with pytest.raises(error, match=f"^{re.escape(str(path))}: .*{message}"):
        NpyFile(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 a zip file", b"\x93NUMPY", b"\x93NUMPY\4\0\x10\0" + b" " * 16,
                b"\x93NUMPY\1\0\xff\xff{", b"\x93NUMPY\1\0\2\0[]"]
)  # fmt: skip
def test_files_that_are_no_npy(content, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npy: expected an .npy file: "):
        NpyFile(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        NpyFile(tmp_path / "x.npy")


def test_one_dimension_is_no_matrix(tmp_path):
    with pytest.raises(ValueError, match=r"^X: expected 2 dimensions .* got shape \(9,\)"):
        opened(npy(np.zeros(9), tmp_path), np.zeros(9))


@pytest.mark.parametrize("order", [None, np.arange(1000)[::-1]])
def test_a_file_that_shrinks(order, tmp_path):
    file = npy(numbers(1000), tmp_path)
    data = opened(file, np.zeros(1000))
    blocks = data.blocks(order, 8, size=1)
    next(blocks)
    os.truncate(file.path, 1000)
    with pytest.raises(ValueError, match="the file was truncated while it was read"):
        list(blocks)
    with pytest.raises(ValueError, match="expected 20128 bytes, got 1000: the file is truncated"):
        next(data.blocks(order, 8))


def test_rows_far_apart(tmp_path):
    """Single rows are read where what lies between them is much more than they are."""
    path = tmp_path / "x.npy"
    X = np.lib.format.open_memmap(path, "w+", "f4", (200_000, COLUMNS))
    X[::7919] = numbers(len(X[::7919]))
    order = np.arange(len(X))[::7919][::-1]
    for to in (F32, F64):
        data = opened(NpyFile(path), np.zeros(len(X)), dtype=to)
        [block] = data.blocks(order, 100)
        assert same_bits(block.x[0], X[order].astype(to))


def test_rows_close_together(tmp_path):
    """All that lies between them is read, in several windows."""
    X, order = numbers(100_000, "f8"), shuffled(100_000)[::3]
    [block] = opened(npy(X, tmp_path), np.zeros(len(X))).blocks(order, len(order))
    assert same_bits(block.x[0], X[order].astype(F32))


def open_files():
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_files_are_closed(tmp_path):
    before = open_files()
    data = opened(npy(numbers(100), tmp_path), npy(np.zeros(100), tmp_path))
    assert open_files() == before
    blocks = data.blocks(None, 8, size=1)
    next(blocks)
    assert len(open_files() - before) == 2
    blocks.close()
    assert open_files() == before
    list(data.blocks(None, 8))
    assert open_files() == before


# ------------------------------------------------------------------------------------- streams


class Batches:
    """Can be iterated again and again."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


def batch(rows, dtype="f4"):
    return numbers(rows, dtype), np.arange(rows)


SIZES = [8, 8, 8, 3, 8, 1, 1, 1, 20]
ITEMS = [batch(rows) for rows in SIZES]
STREAMS = {
    "list of tuples": lambda: ITEMS,
    "object": lambda: Batches(ITEMS),
    "iterator": lambda: iter(ITEMS),
    "generator": lambda: (item for item in ITEMS),
    "function": lambda: lambda: iter(ITEMS),
    "lists": lambda: Batches([list(item) for item in ITEMS]),
    "reused memory": lambda: reused_memory,
}
streams = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)


def reused_memory():
    """Every batch lies in the same arrays."""
    X, y = np.empty((20, COLUMNS), np.float32), np.empty(20, np.intp)
    for one, other in ITEMS:
        X[: len(one)], y[: len(one)] = one, other
        yield X[: len(one)], y[: len(one)]


def as_expected(items=ITEMS, dtype=F32):
    return [[x.astype(dtype), y, w[0] if w else None] for x, y, *w in items]


@streams
@pytest.mark.parametrize("size", [1, 2 * 8 * COLUMNS * 4, None])
def test_streams(stream, size):
    data = opened(stream())
    assert (data.rows, data.in_memory, data.columns) == (None, False, [COLUMNS])
    assert data.x == []
    assert data.y is data.y_like is data.weight is None
    blocks = list(data.blocks(None, 1, size=size, depth=100))
    assert_same(batches_of(blocks), as_expected())
    assert [b.start for b in blocks] == np.cumsum([0, *(b.rows for b in blocks[:-1])]).tolist()
    if size is None:
        assert [(b.batches, b.batch_size) for b in blocks] == [(3, 8), (1, 3), (1, 8), (3, 1),
                                                              (1, 20)]  # fmt: skip
    if size == 1:
        assert all(b.batches == 1 for b in blocks)


@pytest.mark.parametrize("name", ["list of tuples", "object", "function"])
def test_streams_that_serve_many_epochs(name):
    data = opened(STREAMS[name](), epochs=3)
    for _ in range(3):
        assert_same(batches_of(data.blocks(None, 1)), as_expected())
    assert data.batches(1) == (None if name == "function" else len(ITEMS))


@pytest.mark.parametrize("name", ["iterator", "generator"])
def test_streams_that_serve_one_epoch(name):
    with pytest.raises(
        ValueError, match=r"^X: an iterator serves one pass, got 2 to make; pass a f"
    ):
        opened(STREAMS[name](), epochs=2)
    data = opened(STREAMS[name](), epochs=1)
    assert len(batches_of(data.blocks(None, 1))) == len(ITEMS)
    with pytest.raises(ValueError, match=r"^X: expected at least one batch, got none"):
        list(data.blocks(None, 1))


def test_nothing_is_asked_of_a_stream_before_its_blocks():
    def never():
        raise AssertionError
        yield

    opened(never())
    opened(never)
    with pytest.raises(AssertionError):
        next(opened(never).blocks(None, 1))


def test_every_kind_in_a_stream(tmp_path):
    kinds = [kind for kind in KINDS if "f4" in KINDS[kind][1]]
    items = [(make(kind, numbers(6), tmp_path), np.arange(6)) for kind in kinds]
    expected = as_expected([batch(6)] * len(kinds))
    assert_same(batches_of(opened(Batches(items)).blocks(None, 1)), expected)


def test_weights_in_a_stream():
    items = [(*batch(4), np.full(4, 2.0)), batch(4), (*batch(4), np.ones(4))]
    assert_same(batches_of(opened(Batches(items)).blocks(None, 1)), as_expected(items))


def test_targets_that_change_their_kind_in_a_stream():
    items = [(numbers(4), y) for y in (np.arange(4), np.arange(4.0), np.zeros((4, 2)), [1] * 4)]
    expected = [(x, np.asarray(y)) for x, y in items]
    assert_same(batches_of(opened(Batches(items)).blocks(None, 1)), as_expected(expected))


def test_several_inputs_in_a_stream():
    items = [((numbers(k, "f4", 2), numbers(k, "f8", 3)), np.arange(k)) for k in (4, 4, 5)]
    expected = [[a, b.astype(F32), y, None] for (a, b), y in items]
    data = opened(items, features=(2, 3))
    assert_same(batches_of(data.blocks(None, 1), inputs=2), expected)


def test_columns_of_a_stream():
    """The first batch says how many there are, where the model does not."""
    data = opened([batch(4), (numbers(4, "f4", 3), np.zeros(4))], features=None)
    assert data.columns == [None]
    blocks = data.blocks(None, 1, last="keep", size=1)
    next(blocks)
    assert data.columns == [COLUMNS]
    with pytest.raises(ValueError, match=r"^X of batch 1: expected 5 features \(columns\), got"):
        next(blocks)


@pytest.mark.parametrize("group", [2, 3])
def test_groups_of_a_stream(group):
    items = [batch(8)] * 7 + [batch(3)] * 2
    blocks = list(opened(items).blocks(None, 1, group=group, size=1, depth=100))
    assert_same(batches_of(blocks), as_expected(items))
    assert [b.batches for b in blocks] == [group] * (7 // group) + [7 % group] + (
        [2] if group > 1 else [1, 1]
    )


def test_start_batch_of_a_stream():
    found = batches_of(opened(ITEMS).blocks(None, 1, start_batch=4))
    assert_same(found, as_expected()[4:])


def test_blocks_of_a_stream_keep_their_values():
    items = [batch(8)] * 9
    blocks = list(opened(items).blocks(None, 1, size=1, depth=2))
    assert np.shares_memory(blocks[0].x[0], blocks[3].x[0])
    assert not any(np.shares_memory(blocks[6].x[0], blocks[i].x[0]) for i in (7, 8))


def test_slow_batches_are_not_waited_for(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("minidl.data.stream.perf_counter", lambda: next(clock))
    blocks = opened([batch(8)] * 5).blocks(None, 1)
    assert [b.batches for b in blocks] == [1] * 5
    blocks = opened([batch(8)] * 5).blocks(None, 1, group=2)
    assert [b.batches for b in blocks] == [2, 2, 1]


@pytest.mark.parametrize(
    ("stream", "features"),
    [
        (Batches([numbers(4), numbers(4), numbers(3)]), COLUMNS),
        (Batches([(numbers(4), np.zeros(4)), [numbers(4)], (numbers(3), 1, 2)]), COLUMNS),
        (Batches([numbers(4).tolist(), numbers(4), numbers(3)]), COLUMNS),
        ([(numbers(4), np.zeros(4)), (numbers(4),), (numbers(3), 1, 2)], COLUMNS),
    ],
)
def test_streams_without_targets(stream, features):
    data = opened(stream, features=features, targets=False)
    expected = [[numbers(k), None, None] for k in (4, 4, 3)]
    assert_same(batches_of(data.blocks(None, 1)), expected)


def test_streams_of_several_inputs_without_targets():
    pair = numbers(4, "f4", 2), numbers(4, "f4", 3)
    data = opened(Batches([pair, list(pair), (pair, np.zeros(4))]), features=(2, 3), targets=False)
    assert_same(batches_of(data.blocks(None, 1), inputs=2), [[*pair, None, None]] * 3)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (numbers(4), TypeError, r"^X of batch 2: expected a tuple \(X, y\) or \(X, y, sample_weig"),
        ((numbers(4),), TypeError, r"^X of batch 2: .* got tuple of 1"),
        ((1, 2, 3, 4), TypeError, r"^X of batch 2: .* got tuple of 4"),
        ("ab", TypeError, "^X of batch 2: .* got str"),
        (None, TypeError, "^X of batch 2: .* got NoneType"),
        ((numbers(4), None), TypeError, "^y of batch 2: expected real numbers, got dtype object"),
        ((numbers(4), np.zeros(5)), ValueError, "^y of batch 2: expected 4 rows, as many as X has"),
        ((numbers(4), 1), ValueError, r"^y of batch 2: expected 4 rows, .* got shape \(\)"),
        ((numbers(4)[:, 1:], np.zeros(4)), ValueError, "^X of batch 2: expected 5 features"),
        ((numbers(4)[0], np.zeros(4)), ValueError, "^X of batch 2: expected 2 dimensions"),
        (
            (numbers(0), np.zeros(0)),
            ValueError,
            "^X of batch 2: expected at least one row, got sha",
        ),
        (
            (numbers(4) * np.nan, np.zeros(4)),
            ValueError,
            "^X of batch 2: .* got nan in row 0, colu",
        ),
        ((numbers(4), np.full(4, np.inf)), ValueError, "^y of batch 2: .* got inf in row 0"),
        ((*batch(4), -np.ones(4)), ValueError, "^sample_weight of batch 2: .* got -1.0 in row 0"),
    ],
)
def test_wrong_batches(item, error, message):
    blocks = opened(Batches([batch(4), batch(4), item])).blocks(None, 1)
    with pytest.raises(error, match=message):
        list(blocks)


def test_wrong_streams():
    with pytest.raises(TypeError, match=r"^y: expected None, since X gives batches .* got ndarray"):
        opened(Batches(ITEMS), np.zeros(4))
    with pytest.raises(TypeError, match=r"^sample_weight: expected None, since X gives batches"):
        opened(lambda: iter(ITEMS), None, np.zeros(4))
    with pytest.raises(
        TypeError, match=r"^X: expected a function that returns an iterator of batch"
    ):
        next(opened(lambda: 3).blocks(None, 1))
    for empty in ([], Batches([]), lambda: iter(())):
        with pytest.raises((ValueError, TypeError), match=r"^(X|y): expected"):
            next(opened(empty).blocks(None, 1))


def test_arrays_without_targets_are_no_batches():
    with pytest.raises(TypeError, match=r"^y: expected real numbers, got dtype object"):
        opened(numbers(4))


def test_a_generator_made_here_is_closed_here():
    closed = []

    def make_batches():
        try:
            yield from ITEMS
        finally:
            closed.append(True)

    blocks = opened(make_batches).blocks(None, 1, size=1)
    next(blocks)
    blocks.close()
    assert closed == [True]


def test_a_generator_of_the_user_is_left_open():
    items = iter(ITEMS)
    generator = (item for item in items)
    blocks = opened(generator).blocks(None, 1, size=1)
    next(blocks)
    blocks.close()
    assert next(generator) is not None


def test_a_loader_of_pytorch():
    torch = pytest.importorskip("torch")
    X, y = torch.from_numpy(numbers(21)), torch.arange(21)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=5)
    data = opened(loader, epochs=2)
    assert data.batches(1) == 5
    for _ in range(2):
        for last in ("merge", "keep"):
            found = batches_of(data.blocks(None, 1, last=last))
            assert_same(found, expected_batches([X.numpy(), y.numpy(), None], None, 5, last))
    assert_same(
        batches_of(opened(loader, targets=False).blocks(None, 1, last="keep")),
        expected_batches([X.numpy(), None, None], None, 5, "keep"),
    )


# ------------------------------------------------------------------------------------- shuffling


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1000])
def test_shuffle_into(rows):
    order = np.full(rows + 1, -7, np.intp)
    shuffle_into(address(order), rows, 2**64 - 3, 5)
    assert order.tolist() == [*permutation(rows, 2**64 - 3, 5), -7]
    assert sorted(order[:rows]) == list(range(rows))
    for seed, epoch in ((1, 5), (2**64 - 3, 6)):
        assert rows < 3 or permutation(rows, seed, epoch) != order[:rows].tolist()


# -------------------------------------------------------------------------------------- memory


def traced_peak(function):
    """Bytes that a call takes at most, arrays of NumPy included."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drain(blocks):
    for _ in blocks:
        pass


LARGE = 200_000, 100


def sparse_memmap(path):
    """Nothing but zeros, which take no room on the disk."""
    path = path / "zeros.bin"
    path.touch()
    os.truncate(path, LARGE[0] * LARGE[1] * 8)
    return np.memmap(path, "f8", "r", shape=LARGE)


def sparse_npy(path):
    path = path / "zeros.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": LARGE}
        )
        file.truncate(file.tell() + LARGE[0] * LARGE[1] * 8)
    return NpyFile(path)


def sparse_csr(path):
    sp = pytest.importorskip("scipy.sparse")
    return sp.random_array(LARGE, density=0.001, format="csr", rng=np.random.default_rng(0))


def mapped_table(path):
    pa = pytest.importorskip("pyarrow")
    zeros = np.zeros((10_000, LARGE[1]))
    batch = pa.table({f"c{j}": zeros[:, j] for j in range(LARGE[1])}).to_batches()[0]
    with pa.ipc.new_file(path / "x.arrow", batch.schema) as file:
        for _ in range(LARGE[0] // len(zeros)):
            file.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path / "x.arrow"))).read_all()


@pytest.mark.parametrize("order", [None, "shuffled"])
@pytest.mark.parametrize("make_source", [sparse_memmap, sparse_npy, sparse_csr, mapped_table])
def test_nothing_is_read_whole(make_source, order, tmp_path):
    source = make_source(tmp_path)
    order = None if order is None else np.array(permutation(LARGE[0], 0, 0), np.intp)
    labels = np.zeros(LARGE[0], bool)
    size = BLOCK if order is None or make_source is sparse_csr else SCATTERED
    peak = traced_peak(lambda: drain(opened(source, labels, features=100).blocks(order, 32)))
    assert peak < 2 * size + 6 * (1 << 20) < LARGE[0] * LARGE[1] * 4


def test_a_frame_is_converted_without_a_detour():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({f"c{j}": np.zeros(200_000, "i8") for j in range(30)})
    peak = traced_peak(lambda: opened(frame, np.zeros(200_000), features=30))
    assert peak < 1.3 * 200_000 * 30 * 4


LIMITED = """
import os, resource, sys
import numpy as np
from minidl.data import NpyFile
from minidl.data.opening import open_data
from minidl.data.background import ahead

def status(name):
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith(name)).split()[1])

kind, limit, room, path = sys.argv[1:]
name = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}[limit]
allowed = status(name) + int(room)
resource.setrlimit(getattr(resource, limit), (allowed, allowed))
file = NpyFile(path)
size = file.nbytes
X = file if kind == "NpyFile" else np.load(path, mmap_mode="r")
rows = len(X)
try:
    np.zeros(2 * int(room), np.uint8)
except MemoryError:
    pass
else:
    raise SystemExit("no limit")
data = open_data(X, np.zeros(rows, bool), dtype=np.dtype("f4"), features=X.shape[1])
order = np.arange(rows)[::-1].copy()
for order in (None, order):
    seen = 0
    with ahead(data.blocks(order, 128)) as blocks:
        for block in blocks:
            seen += block.rows
            last = block.x[0].max()
    assert seen == rows
print(size // int(room), last)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc")
@pytest.mark.skipif(bool(minidl.get_config()["sanitizers"]), reason="sanitizers replace malloc")
@pytest.mark.parametrize(
    ("kind", "limit"), [("NpyFile", "RLIMIT_AS"), ("NpyFile", "RLIMIT_DATA"),
                        ("memmap", "RLIMIT_DATA")]
)  # fmt: skip
def test_files_larger_than_memory(kind, limit, tmp_path):
    """The limit is set beyond what the process has at first; the file is four times as large."""
    path, room = tmp_path / "x.npy", 256 << 20
    shape = (4 * room // 4096, 1024)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * room)
    done = python(
        "-c", LIMITED, kind, limit, room, path,
        timeout=120, environment={"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["4", "0.0"]


def test_read_only_arrays(tmp_path):
    X = read_only(numbers(9))
    data = opened([X, memmap(X, tmp_path)], read_only(np.arange(9)), features=[5, 5])
    assert_same(batches_of(data.blocks(shuffled(9), 4), 2),
                expected_batches([X, X, np.arange(9), None], shuffled(9), 4))  # fmt: skip
