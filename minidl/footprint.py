"""How a batch is gone through so that training fits a limit of memory.

What a way takes is asked of the program that `fit` would run: its buffers are placed, but not made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from minidl import checks
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.lowering import BatchProgram, Graph, Updates

if TYPE_CHECKING:
    from minidl.losses import Loss

FEW = 32  # rows of a part of a batch, from which on its products take no longer a row

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def as_bytes(value: Any, name: str) -> int:
    """A number of bytes, of text with a unit too."""
    if not isinstance(value, str):
        return checks.count(value, name, 1)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?I?B)\s*", value.upper())
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if size < 1:
        raise ValueError(
            f'{name}: expected bytes, as a whole number or like "512MB", got {value!r}'
        )
    return size


def as_checkpoint(value: Any, name: str) -> int | str:
    """The number of segments whose activations are recomputed."""
    if isinstance(value, str):
        if value == "sqrt":
            return value
        raise ValueError(f"{name}: expected 'sqrt', a number of segments or None, got {value!r}")
    return checks.count(value, name, 2)


class Way(NamedTuple):
    """How a batch is gone through: rows at a time, None for all; and segments recomputed."""

    micro_batch_size: int | None = None
    checkpoint: int | str | None = None

    def program(
        self, model: Layer, columns: int, rows: int, loss: Loss, updates: Updates, build: bool
    ) -> BatchProgram:
        """The program of training for batches of up to so many rows."""
        room = min(self.micro_batch_size or rows, rows)
        return BatchProgram(
            model, columns, room, loss=loss, training=True, checkpoint=self.checkpoint,
            updates=updates._replace(whole=updates.whole or room < rows), build=build,
        )  # fmt: skip

    def __str__(self) -> str:
        """As arguments."""
        given = ((k, v) for k, v in self._asdict().items() if v is not None)
        return ", ".join(f"{name}={value!r}" for name, value in given)


def choose(
    limit: int, own: Way, model: Layer, columns: int, rows: int, loss: Loss, updates: Updates
) -> Way:
    """The way that takes the least time of those that fit; what the user has chosen stays.

    Parts of a batch take hardly longer if they have some rows (`FEW`); recomputing takes the longer
    the more segments there are. BatchNorm's statistics are those of a part: it gets none.
    """
    sizes: dict[Way, int] = {}

    def fits(way: Way) -> bool:
        if way not in sizes:
            program = way.program(model, columns, rows, loss, updates, build=False)
            sizes[way] = sum(program.memory().values())
        return sizes[way] <= limit

    def largest(low: int, high: int, checkpoint: int | str | None) -> Way | None:
        """The most rows at a time, from `low` to below `high`."""
        if low >= high or not fits(Way(low, checkpoint)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(Way(middle, checkpoint)) else (low, middle)
        return Way(low, checkpoint)

    def ways() -> Iterator[Way | None]:
        yield own if fits(own) else None
        cuts: list[int | str | None] = [own.checkpoint]
        if own.checkpoint is None:
            depth = sum(node.has_weights for node in Graph(model, columns, True).nodes)
            cuts += range(2, 2 * math.isqrt(depth) + 2)
        splits = own.micro_batch_size is None and not any(
            isinstance(layer, BatchNorm1d) for _, layer in model.layers()
        )
        for low, high in ((FEW, rows), (1, min(FEW, rows))):
            if splits:
                yield largest(low, high, cuts[0])
            for cut in cuts[1:]:
                way = own._replace(checkpoint=cut)
                yield way if fits(way) else None
            for cut in cuts[1:]:
                if splits:
                    yield largest(low, high, cut)

    for way in ways():
        if way is not None:
            return way
    raise ValueError(
        f"memory_limit: expected at least {min(sizes.values()):,} bytes for batches of {rows} "
        f"rows, got {limit:,}"
    )
