"""A thread makes blocks ahead, in order, and always ends."""

import gc
import os
import signal
import sys
import threading
import time
import traceback

import numpy as np
import pytest
from helpers import python

from minidl.data import background
from minidl.data.background import ahead
from minidl.data.opening import open_data

SOON = 5.0  # seconds that are more than enough


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert running() == 0
    yield
    assert running() == 0


def running():
    """Threads that read ahead; others, such as that of tqdm's bars, may be there."""
    return sum(thread.name == "minidl.ahead" for thread in threading.enumerate())


def wait_for(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


class Source:
    """Numbers, and what becomes of them."""

    def __init__(self, items=10, seconds=0.0, error=None):
        self.items, self.seconds, self.error = items, seconds, error
        self.made, self.threads, self.closed_in = 0, set(), None

    def generator(self):
        try:
            for i in range(self.items):
                self.threads.add(threading.get_ident())
                time.sleep(self.seconds)
                self.made += 1
                yield i
            if self.error is not None:
                raise self.error
        finally:
            self.closed_in = threading.get_ident()


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
@pytest.mark.parametrize("items", [0, 1, 2, 10])
def test_all_items_in_order(items, depth):
    source = Source(items)
    with ahead(source.generator(), depth) as numbers:
        assert list(numbers) == list(range(items))
        assert list(numbers) == []
    assert len(source.threads) == min(items, 1)
    assert threading.get_ident() not in {*source.threads, source.closed_in}


def test_the_iterator_is_closed():
    class Closable:
        closed_in = None

        def __next__(self):
            return 1

        def close(self):
            self.closed_in = threading.get_ident()

    items = Closable()
    with ahead(items) as numbers:
        assert next(numbers) == 1
    assert items.closed_in not in (None, threading.get_ident())


def test_wrong_depth():
    with pytest.raises(ValueError, match=r"^depth: expected an integer of at least 1, got 0"):
        ahead(iter([]), 0)


def test_no_thread_to_be_had(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with ahead(iter([1])) as numbers, pytest.raises(RuntimeError, match="can't start"):
        next(numbers)


def test_any_iterator():
    with ahead(iter([3, 1, 2])) as numbers:
        assert list(numbers) == [3, 1, 2]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_as_many_are_made_as_may_be(depth):
    source = Source(20)
    with ahead(source.generator(), depth) as numbers:
        for number in numbers:
            wait_for(lambda number=number: source.made >= min(number + 1 + depth, 20))
            time.sleep(0.005)
            assert source.made == min(number + 1 + depth, 20)


def test_nothing_is_made_before_it_is_asked_for():
    source = Source()
    with ahead(source.generator()):
        time.sleep(0.01)
    assert source.made == 0


def test_the_work_is_shared():
    """What takes 5 and 5 milliseconds an item takes less than the sum."""
    source = Source(40, seconds=0.005)
    began = time.monotonic()
    with ahead(source.generator()) as numbers:
        for _ in numbers:
            time.sleep(0.005)
    assert time.monotonic() - began < 0.36


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_blocks_in_use_are_not_written_to(depth, shuffled, tmp_path):
    rows = 400
    np.arange(rows * 3, dtype="f4").tofile(tmp_path / "x.bin")
    X = np.memmap(tmp_path / "x.bin", "f4", "r", shape=(rows, 3))
    order = np.random.default_rng(0).permutation(rows) if shuffled else None
    data = open_data(X, np.arange(rows), dtype=np.dtype("f4"), features=3)
    seen = []
    with ahead(data.blocks(order, 8, size=1, depth=depth), depth) as blocks:
        for block in blocks:
            before = block.x[0].copy()
            time.sleep(0.002)
            assert np.array_equal(before, block.x[0])
            assert np.array_equal(before, X[block.y])
            seen += block.y.tolist()
    assert seen == (list(range(rows)) if order is None else order.tolist())


# Errors.


ERRORS = [ValueError("no"), KeyboardInterrupt(), SystemExit(3), MemoryError(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("items", [0, 1, 5])
def test_errors_of_the_source(items, error):
    source = Source(items, error=error)
    seen = []
    with ahead(source.generator()) as numbers:
        with pytest.raises(type(error)) as caught:
            seen.extend(number for number in numbers)
        assert caught.value is error
        assert list(numbers) == []
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert functions[-1] == "generator"
    assert "test_errors_of_the_source" in functions


def test_items_before_an_error_come_first():
    seen = []
    with ahead(Source(5, error=ERRORS[0]).generator()) as numbers:
        for _ in range(5):
            seen.append(next(numbers))
            time.sleep(0.005)
        with pytest.raises(ValueError, match="no"):
            next(numbers)
    assert seen == [0, 1, 2, 3, 4]


def test_errors_at_the_end_of_the_source():
    def source():
        try:
            yield 1
        finally:
            raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"), ahead(source()) as numbers:
        list(numbers)


def test_an_error_leaves_nothing_behind():
    """No cycle of an error and the frames that it went through keeps the blocks alive."""
    error = ValueError()
    with ahead(Source(1, error=error).generator()) as numbers, pytest.raises(ValueError):  # noqa: PT011
        list(numbers)
    error.__traceback__ = None
    gc.collect()
    gc.disable()
    try:
        references = sys.getrefcount(error)
        del numbers
        assert sys.getrefcount(error) <= references
    finally:
        gc.enable()


# Leaving early.


class Left(Exception):
    pass


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("seconds", [0.0, 0.02])
@pytest.mark.parametrize("taken", [1, 2, 5])
@pytest.mark.parametrize("how", ["break", "error"])
def test_leaving_early(how, taken, seconds, depth):
    source = Source(10**9, seconds=seconds)
    began = time.monotonic()
    try:
        with ahead(source.generator(), depth) as numbers:
            for number in numbers:
                if number + 1 == taken:
                    if how == "break":
                        break
                    raise Left
    except Left:
        pass
    assert running() == 0
    assert source.closed_in in source.threads
    assert source.made <= taken + depth
    assert time.monotonic() - began < SOON
    assert list(numbers) == []


def test_dropped_without_a_word():
    source = Source(10**9)
    numbers = ahead(source.generator())
    assert next(numbers) == 0
    del numbers
    wait_for(lambda: running() == 0)
    assert source.closed_in is not None


def test_a_source_that_does_not_come_back(monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    busy, stuck, closed = threading.Event(), threading.Event(), threading.Event()

    def source():
        try:
            yield 1
            busy.set()
            stuck.wait(SOON)
            yield 2
        finally:
            closed.set()

    began = time.monotonic()
    with ahead(source()) as numbers:
        assert next(numbers) == 1
        assert busy.wait(SOON)
    assert time.monotonic() - began < 1
    assert running() == 1
    stuck.set()
    assert closed.wait(SOON)
    wait_for(lambda: running() == 0)


def test_an_interrupt_while_waiting():
    source = Source(10**9, seconds=0.1)
    timer = threading.Timer(0.25, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt), ahead(source.generator()) as numbers:
        for _ in numbers:
            pass
    timer.join()
    assert time.monotonic() - began < SOON
    assert source.closed_in in source.threads


STORM = """
import signal, threading, time
from minidl.data.background import ahead

def interrupt(*_):
    raise InterruptedError

with ahead(iter("abc")) as letters:  # all imports
    list(letters)
signal.signal(signal.SIGALRM, interrupt)
interrupts = delay = 0
end = time.monotonic() + 2
while time.monotonic() < end:
    delay = (delay + 37) % 997
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + delay))
        with ahead(iter(range(2000))) as numbers:  # an end, since callbacks swallow exceptions
            for i, number in enumerate(numbers):
                assert i == number
        signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptedError:
        interrupts += 1
numbers = None
end = time.monotonic() + 5
while threading.active_count() > 1 and time.monotonic() < end:
    time.sleep(0.001)
print(threading.active_count(), interrupts > 100)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_interrupts_at_any_moment():
    assert python("-c", STORM).stdout.split() == ["1", "True"]


# What the thread sees.


def test_numpy_errors_are_handled_as_outside():
    def source():
        yield np.float64(1) / np.float64(0)

    with np.errstate(divide="ignore"), ahead(source()) as numbers:
        assert list(numbers) == [np.inf]
    with (
        np.errstate(divide="raise"),
        pytest.raises(FloatingPointError),
        ahead(source()) as numbers,
    ):
        list(numbers)


def test_two_at_once():
    with ahead(iter(range(100))) as one, ahead(iter(range(100))) as other:
        assert list(zip(one, other, strict=True)) == [(i, i) for i in range(100)]
