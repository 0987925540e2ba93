"""Blocks: whole batches of consecutive rows, a few megabytes, in memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minidl.data.source import Source
from minidl.memory import Array, empty

BLOCK = 4 << 20  # bytes of X in a block
# Rows taken from all over a file: of small ones, the more are read at once the more share a page.
SCATTERED, SMALL_ROW = 16 << 20, 1024


class Block:
    """Rows of consecutive batches, in the order in which the program visits them.

    Attributes
    ----------
    x : list of ndarray of shape (rows, columns)
        In C order, one for each input.
    y : ndarray of shape (rows, ...) or None
        In its own dtype.
    weight : ndarray of shape (rows,) or None
    start : int
        Place of the first row in the epoch.
    rows, batch_size : int
        All batches have `batch_size` rows, but for the last one of an epoch.
    last_rows : int
        Rows of the last batch; more than `batch_size` if a single row has joined it.
    batches : int
    numbers : ndarray of shape (rows,) or int
        Number of each row in the data, or of the first where they are in order.
    """

    __slots__ = ("batch_size", "batches", "last_rows", "numbers", "rows", "start", "weight", "x",
                 "y")  # fmt: skip
    chosen: Array | None = None  # all of them; see `Data`

    def __init__(
        self,
        x: list[Array],
        y: Array | None,
        weight: Array | None,
        start: int,
        batch_size: int,
        batches: int,
        numbers: Array | int,
    ) -> None:
        self.x, self.y, self.weight = x, y, weight
        self.start, self.rows, self.numbers = start, len(x[0]), numbers
        self.batch_size, self.batches = batch_size, batches
        self.last_rows = self.rows - (batches - 1) * batch_size

    def pick(self, array: Array) -> Array:
        """What an array has for the rows, to be kept: the block's memory is used again."""
        return array.copy()


def count_batches(rows: int, batch_size: int, last: str) -> int:
    """Batches of an epoch; `last` is "merge", "keep" or "drop", as in `Data.blocks`."""
    whole, rest = divmod(rows, batch_size)
    left_out = rest == 0 or last == "drop" or (last == "merge" and rest == 1 and whole > 0)
    return whole if left_out else whole + 1


def cuts(
    rows: int, batch_size: int, last: str, start_batch: int, batches_per_block: int
) -> Iterator[tuple[int, int, int]]:
    """First row, end and batches of each block."""
    batches = count_batches(rows, batch_size, last)
    end = batches * batch_size if last == "drop" else rows
    for first in range(start_batch, batches, batches_per_block):
        after = min(first + batches_per_block, batches)
        yield first * batch_size, end if after == batches else after * batch_size, after - first


def block_bytes(inputs: Sequence[Source], in_order: bool) -> int:
    """Bytes of X that make a good block."""
    scattered = not in_order and any(source.forward for source in inputs)
    return SCATTERED if scattered and row_bytes(inputs) <= SMALL_ROW else BLOCK


def row_bytes(inputs: Sequence[Source]) -> int:
    """Bytes of one row of X in a block."""
    return max(1, sum(source.shape[1] * source.to.itemsize for source in inputs))


def batches_in(size: int, inputs: Sequence[Source], batch_size: int, group: int) -> int:
    """How many batches of this size make a block: whole groups of them, at least one group."""
    return group * max(1, size // (row_bytes(inputs) * batch_size * group))


def parts(
    arrays: list[Array], inputs: int, labelled: bool
) -> tuple[list[Array], Array | None, Array | None]:
    """Arrays in the order x..., y, weight, told apart."""
    x, rest = arrays[:inputs], arrays[inputs:]
    y = rest.pop(0) if labelled else None
    return x, y, rest.pop() if rest else None


class Buffers:
    """Memory for the blocks that are in use at one time, taken in turn."""

    def __init__(self, number: int) -> None:
        self.sets: list[list[Array]] = [[]] * number
        self.turn = 0

    def take(self, rows: int, sources: Sequence[Source]) -> list[Array]:
        """Arrays of at least `rows` rows for these sources, made anew only if need be."""
        self.turn = (self.turn + 1) % len(self.sets)
        arrays = self.sets[self.turn]
        if not arrays or len(arrays[0]) < rows or not alike(arrays, sources):
            arrays = [
                empty((rows, *source.shape[1:]), source.to, f"{rows} rows of {source.name}")
                for source in sources
            ]
            self.sets[self.turn] = arrays
        return arrays


def alike(arrays: Sequence[Array], sources: Sequence[Source]) -> bool:
    """True if the arrays can hold rows of the sources."""
    return len(arrays) == len(sources) and all(
        array.shape[1:] == source.shape[1:] and array.dtype == source.to
        for array, source in zip(arrays, sources, strict=True)
    )
