"""What all tests share."""

import pytest

from minidl import lowering


@pytest.fixture(autouse=True)
def threads_for_small_networks(monkeypatch):
    """Let programs use as many threads as they may, however little each has to do."""
    monkeypatch.setattr(lowering, "WORK_PER_THREAD", 0)
