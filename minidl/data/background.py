"""A thread that makes the next blocks while the program works on one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from minidl import checks

T = TypeVar("T")

PATIENCE = 5.0  # seconds to wait at the end for an item that is being made


class ahead(Generic[T]):
    """The items of an iterator, made by one thread, in order and before they are asked for.

    While one item is in use at most `depth` more are made; asking for the next gives it back. An
    exception of the iterator comes out of ``next``, with its traceback. However the ``with`` block
    ends, the thread is told to stop, closes the iterator and is waited for. Only if the iterator
    takes longer than PATIENCE over an item the thread is left behind, and ends with that item. In a
    child of `fork` there is no such thread, and ``next`` is a RuntimeError.

    Parameters
    ----------
    items : iterator
        Used and closed by the thread alone.
    depth : int, default 1

    Examples
    --------
    >>> from minidl.data.background import ahead
    >>> with ahead(iter("abc")) as letters:
    ...     print(*letters)
    a b c
    """

    def __init__(self, items: Iterator[T], depth: int = 1) -> None:
        from contextvars import copy_context
        from queue import SimpleQueue
        from threading import Thread
        from weakref import finalize

        # All that threads share: an interrupt never finds these half done, unlike a Semaphore.
        self._permits: Any = SimpleQueue()  # one for each item that may be made
        self._made: Any = SimpleQueue()  # (item, None), at the end (None, error)
        self._stop: list[bool] = []
        self._begun = self._over = False
        self._process = os.getpid()
        for _ in range(checks.positive_int(depth, "depth")):
            self._permits.put(None)
        self._thread = Thread(
            target=copy_context().run,  # numpy.errstate as it is here
            args=(_make, items, self._permits, self._stop, self._made),
            name="minidl.ahead",
            daemon=True,
        )
        # Where an interrupt hits __exit__, or nobody calls it.
        self._backup = finalize(self, _halt, self._permits, self._stop)

    def __enter__(self) -> ahead[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        _halt(self._permits, self._stop)
        self._backup.detach()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)

    def __iter__(self) -> ahead[T]:
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        if self._process != os.getpid():
            raise RuntimeError("these data are read ahead by a thread of the parent process")
        if not self._begun:
            from _thread import start_new_thread

            # Only the main thread is ever interrupted, and `Thread.start` must not be.
            start_new_thread(_start, (self._thread, self._made))
            self._begun = True
        item, error = self._made.get()
        if error is None:
            self._permits.put(None)
            return item  # type: ignore[no-any-return]
        self._over = True
        try:
            raise error  # StopIteration at the end
        finally:
            del error  # whose traceback has this frame


def _halt(permits: Any, stop: list[bool]) -> None:
    """Let the thread go on, to find that it is to stop."""
    stop.append(True)
    permits.put(None)


def _start(thread: Any, made: Any) -> None:
    """Start the thread, or say why it cannot."""
    try:
        thread.start()
    except BaseException as error:
        made.put((None, error))


def _make(items: Iterator[Any], permits: Any, stop: list[bool], made: Any) -> None:
    """What the thread does."""
    try:
        try:
            while True:
                permits.get()
                if stop:
                    break
                made.put((next(items), None))
        finally:
            if hasattr(items, "close"):
                items.close()
    except BaseException as error:
        made.put((None, error))
