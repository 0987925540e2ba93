"""What all tests share."""

import os
import signal

# Before libgomp is loaded: PyTorch's threads would wait for each other by spinning, which is slow
# where something else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

from minidl.lowering import plan


def pytest_configure():
    """Take SIGINT again where the tests were started with it ignored, as a shell's `&` does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def threads_for_small_networks(monkeypatch, request):
    """Let programs use as many threads as they may, however little each has to do.

    Not where estimators are tested: they train thousands of small networks, and threads are tested
    elsewhere.
    """
    if not request.module.__name__.startswith("test_sklearn_"):
        monkeypatch.setattr(plan, "WORK_PER_THREAD", 0)
