"""Batches that an iterable of the user's makes, each a training step."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

from minidl import checks
from minidl.data.blocks import BLOCK, Block, Buffers, alike, batches_in, parts
from minidl.data.opening import Form, open_rows
from minidl.data.rows import Data
from minidl.data.source import ArrayRows, Source
from minidl.memory import Array

PATIENCE = 0.05  # seconds after which a block of batches that come slowly is passed on


class Stream(Data):
    """An iterable of batches (X, y) or (X, y, sample_weight), or a function that makes one."""

    def __init__(
        self,
        batches: Any,
        form: Form,
        names: Sequence[str],
        epochs: int,
        targets: bool,
    ) -> None:
        self._made = batches
        self._form, self._names, self._targets = form, names, targets
        several = isinstance(form.features, Sequence)
        self.columns = list(form.features) if several else [form.features]  # type: ignore
        self.x = []
        if epochs > 1 and hasattr(batches, "__next__") and iter(batches) is batches:
            raise ValueError(
                f"{names[0]}: an iterator serves one pass, got {epochs} to make; pass a function "
                "that makes a new one, or an object that can be iterated again"
            )

    def batches(self, batch_size: int, last: str = "merge") -> int | None:
        """The length of the iterable, if it has one."""
        return len(self._made) if hasattr(self._made, "__len__") else None

    def load(self) -> None:
        """See `Data.load`."""
        raise TypeError(f"{self._names[0]}: expected rows, got an iterable of batches")

    def blocks(
        self,
        order: Array | None,
        batch_size: int,
        *,
        start_batch: int = 0,
        last: str = "merge",
        group: int = 1,
        depth: int = 1,
        size: int | None = None,
    ) -> Iterator[Block]:
        """See `Data.blocks`."""
        pile = _Pile(Buffers(depth + 1), self._targets, size or BLOCK, group)
        merge = last == "merge"  # then a block waits for the next batch, which may join it
        with self._iterator() as iterator:
            for x, rest in self._batches(iterator, start_batch):
                yield from pile.before_another()
                if merge and pile.takes_alone(x + rest):
                    pile.add_alone(x + rest)
                    continue
                if not pile.takes(x + rest) or pile.is_full():
                    yield from pile.passed_on()
                pile.add(x, rest)
                if pile.is_full() and not merge:
                    yield from pile.passed_on()
        if pile.batches:
            yield from pile.passed_on()

    @contextmanager
    def _iterator(self) -> Iterator[Iterator[Any]]:
        """An iterator for one epoch, closed at the end if it was made here."""
        made, name = self._made, self._names[0]
        if not hasattr(made, "__iter__"):
            made = made()
        if not isinstance(made, Iterable) or isinstance(made, (str, bytes, dict, np.ndarray)):
            raise TypeError(
                f"{name}: expected a function that returns an iterator of batches, got "
                f"{type(made).__name__} from it"
            )
        iterator = iter(made)
        try:
            yield iterator
        finally:
            if isinstance(iterator, Generator) and iterator is not self._made:
                iterator.close()

    def _batches(
        self, iterator: Iterator[Any], start_batch: int
    ) -> Iterator[tuple[list[Source], list[Source]]]:
        """Sources of each batch: its inputs, and the rest."""
        number = -1
        for number, item in enumerate(iterator):
            if number >= start_batch:
                names = [f"{name} of batch {number}" for name in self._names]
                x, y, weight = open_rows(
                    *self._split(item, names[0]), self._form, names, self._targets
                )
                self.columns = [source.shape[1] for source in x]  # all batches have as many
                several = len(x) > 1 or isinstance(self._form.features, Sequence)
                features = self.columns if several else self.columns[0]
                self._form = self._form._replace(features=features)
                checks.not_empty(x[0], names[0])
                if y is not None:
                    checks.same_rows(y.shape, x[0].shape[0], names[1])
                yield x, [source for source in (y, weight) if source is not None]
        if number < 0:
            raise ValueError(f"{self._names[0]}: expected at least one batch, got none")

    def _split(self, item: Any, name: str) -> tuple[Any, Any, Any]:
        """X, y and sample_weight of a batch."""
        if self._targets:
            if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
                long = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
                raise TypeError(
                    f"{name}: expected a tuple (X, y) or (X, y, sample_weight), got "
                    f"{type(item).__name__}{long}"
                )
            return item[0], item[1], item[2] if len(item) == 3 else None
        return self._inputs_of(item), None, None

    def _inputs_of(self, item: Any) -> Any:
        """X, where a batch for prediction may be X alone or (X, y)."""
        if not isinstance(item, (tuple, list)) or len(item) not in (1, 2, 3):
            return item
        first, features = item[0], self._form.features
        if isinstance(first, (tuple, list)):  # several inputs, or a row of numbers
            return first if any(hasattr(part, "shape") for part in first) else item
        if isinstance(features, Sequence) or not hasattr(first, "shape"):
            return item
        all_of_them = features is None or math.prod(first.shape[1:]) == features
        return first if all_of_them or len(item) == 1 else item


class _Pile:
    """A block that grows by batches of one size."""

    def __init__(self, buffers: Buffers, labelled: bool, size: int, group: int) -> None:
        self.buffers, self.labelled, self.size, self.group = buffers, labelled, size, group
        self.start = self.batches = self.batch_size = self.most = self.inputs = 0
        self.arrays: list[Array] = []
        self.alone = False  # a row behind the batches, which joins the last if nothing follows
        self.since = perf_counter()

    def takes(self, sources: list[Source]) -> bool:
        """True if a batch suits those that are there."""
        if self.batches == 0:
            return True
        return sources[0].shape[0] == self.batch_size and alike(self.arrays, sources)

    def add(self, x: list[Source], rest: list[Source]) -> None:
        """Copy a batch: whoever made it may use its memory again."""
        rows = x[0].shape[0]
        if self.batches == 0:
            self.batch_size, self.inputs = rows, len(x)
            self.most = batches_in(self.size, x, rows, self.group)
            self.arrays = self.buffers.take(self.most * rows + 1, x + rest)
        self._copy(x + rest, rows)
        self.batches += 1

    def _copy(self, sources: list[Source], rows: int) -> None:
        """Behind the batches that are there."""
        first = self.batches * self.batch_size
        for source, array in zip(sources, self.arrays, strict=True):
            with source.opened() as ready:
                ready.fill(0, None, array[first : first + rows])

    def takes_alone(self, sources: list[Source]) -> bool:
        """True if a batch is one row that may join the last batch, should it be the last itself."""
        alone = sources[0].shape[0] == 1 < self.batch_size
        return alone and self.batches > 0 and alike(self.arrays, sources)

    def add_alone(self, sources: list[Source]) -> None:
        """Copy one row, which is no batch yet."""
        self._copy(sources, 1)
        self.alone = True

    def before_another(self) -> Iterator[Block]:
        """If a row stands alone and is not the last: the block without it, of which it is none."""
        if not self.alone:
            return
        self.alone = False
        rows = self.batches * self.batch_size
        row = [ArrayRows("", array[rows : rows + 1], checked=True) for array in self.arrays]
        yield from self.passed_on()
        self.add(list(row[: self.inputs]), list(row[self.inputs :]))

    def is_full(self) -> bool:
        """True if the block is large enough, or has grown for long enough."""
        if self.batches == 0 or self.batches % self.group:
            return False
        return self.batches == self.most or perf_counter() - self.since > PATIENCE

    def passed_on(self) -> Iterator[Block]:
        """The block, with a row that stands alone, and then an empty one."""
        rows = self.batches * self.batch_size + self.alone
        arrays = [array[:rows] for array in self.arrays]
        yield Block(
            *parts(arrays, self.inputs, self.labelled),
            self.start, self.batch_size, self.batches, self.start,
        )  # fmt: skip
        self.start += rows
        self.batches = 0
        self.alone = False
        self.since = perf_counter()
