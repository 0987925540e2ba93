"""What all tests share."""

import signal
from importlib.util import find_spec

import pytest

from minidl.lowering import plan


def pytest_configure():
    """Take SIGINT again where the tests were started with it ignored, as a shell's `&` does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread_for_torch():
    """PyTorch's threads wait for each other by spinning: slow where something else runs."""
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def threads_for_small_networks(monkeypatch, request):
    """Let programs use as many threads as they may, however little each has to do.

    Not where estimators are tested: they train thousands of small networks, and threads are tested
    elsewhere.
    """
    if not request.module.__name__.startswith("test_sklearn_"):
        monkeypatch.setattr(plan, "WORK_PER_THREAD", 0)
