"""Where buffers lie in the workspace: those that are never needed at the same time share memory.

A buffer is needed from the first operation that has it to the last. Threads work on their own
between two barriers; there a place passes from one buffer to another only if each thread finds in
it what it has put there itself: its own rows, at the same pitch. Behind a barrier it may pass on.

The operations are gone through once. A buffer takes the smallest free slot that is large enough,
else the largest, which grows: in a chain of layers that keeps nothing, two slots take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from minidl.memory import LINE, Array

# Operations in which a thread reads or writes rows of others.
ACROSS = {
    "BLOCK_SUMS", "BN_MERGE", "BN_MERGE_GRAD", "CLIP", "EMBEDDING_GRADIENT", "LINEAR_DW",
    "LOSS_TOTAL", "PYTHON", "UPDATE",
}  # fmt: skip


class Buffer:
    """Memory of the workspace: rows of a number of columns, `pitch` bytes from row to row.

    `by_rows`: its rows are those of the batch.
    """

    __slots__ = ("by_rows", "columns", "offset", "pitch", "rows")

    def __init__(self, rows: int, columns: int, pitch: int, by_rows: bool = False) -> None:
        self.rows, self.columns, self.pitch, self.by_rows = rows, columns, pitch, by_rows
        self.offset = 0

    @property
    def nbytes(self) -> int:
        """Bytes, up to the next cache line."""
        return -(-self.rows * self.pitch // LINE) * LINE

    def view(self, workspace: Array, dtype: np.dtype[Any]) -> Array:
        """The columns, without padding."""
        part = workspace[self.offset : self.offset + self.rows * self.pitch].view(dtype)
        return part.reshape(self.rows, self.pitch // dtype.itemsize)[:, : self.columns]


# What an operation points to: a buffer, an address, or a function that gives one when it is built.
Pointer = Buffer | int | Callable[[], int] | None
Operation = tuple[str, int, float, float, list[Pointer], list[int]]


class Life:
    """When a buffer is needed: from which operation to which, and in which phases.

    Barriers part the phases.
    """

    __slots__ = ("across", "began", "begins_across", "ended", "first", "last")

    def __init__(self, first: int, phase: int, across: bool) -> None:
        self.first = self.last = first
        self.began = self.ended = phase
        self.begins_across = across  # threads meet in the first operation
        self.across = -1  # the last phase in which they do


class Slot:
    """Memory that buffers have one after the other; who had it last."""

    __slots__ = ("holder", "life", "number", "size")

    def __init__(self, number: int) -> None:
        self.number, self.size = number, 0
        self.holder: Buffer
        self.life: Life


def place(
    buffers: Sequence[Buffer],
    operations: Sequence[Operation],
    threads: int,
    own: Collection[Buffer],
) -> int:
    """Set the offsets of all buffers; returns the bytes of all. Those of `own` share with none."""
    slots: list[Slot] = []
    free: list[Slot] = []
    held: list[list[Slot]] = [[] for _ in operations]  # by the last operation that needs them
    past = 0  # operations whose slots are free
    slot_of: dict[Buffer, Slot] = {}
    for buffer, life in lives_of(operations, own).items():
        for slots_then in held[past : life.first]:
            free += slots_then
        past, size = life.first, buffer.nbytes
        slot = None
        for one in reversed(free):  # what was free last may still be in cache
            if (threads == 1 or _passes(one, buffer, life)) and (
                slot is None or _suits(one, size) < _suits(slot, size)
            ):
                slot = one
                if slot.size == size:
                    break
        if slot is None:
            slot = Slot(len(slots))
            slots.append(slot)
        else:
            free.remove(slot)
        slot_of[buffer] = slot
        slot.holder, slot.life, slot.size = buffer, life, max(slot.size, size)
        held[life.last].append(slot)
    starts, end = [], 0
    for slot in slots:
        starts.append(end)
        end += slot.size
    for buffer in buffers:
        if buffer in slot_of:
            buffer.offset = starts[slot_of[buffer].number]
        else:
            buffer.offset, end = end, end + buffer.nbytes
    return end


def _suits(slot: Slot, size: int) -> tuple[bool, int]:
    """The less, the better: large enough, and of about the size."""
    return slot.size < size, abs(slot.size - size)


def _passes(slot: Slot, buffer: Buffer, life: Life) -> bool:
    """True if a free slot can go to a buffer, with several threads at work."""
    before = slot.life
    if before.ended < life.began:
        return True
    alike = slot.holder.by_rows and buffer.by_rows and slot.holder.pitch == buffer.pitch
    return alike and before.across < life.began and not life.begins_across


def lives_of(operations: Sequence[Operation], own: Collection[Buffer]) -> dict[Buffer, Life]:
    """Buffers that may share, in the order in which they are needed."""
    lives: dict[Buffer, Life] = {}
    phase = 0
    for i, (kind, _, _, _, pointers, sizes) in enumerate(operations):
        if kind == "BARRIER":
            phase += 1
            continue
        across = kind in ACROSS or (kind == "LINEAR" and bool(sizes[6]))  # by columns
        for pointer in pointers:
            if isinstance(pointer, Buffer) and pointer not in own:
                life = lives.get(pointer)
                if life is None:
                    life = lives[pointer] = Life(i, phase, across)
                life.last, life.ended = i, phase
                if across:
                    life.across = phase
    return lives
