"""The end of the interpreter, while threads train for which it does not wait (daemons).

Python ends such a thread wherever it next asks for the GIL: in the middle of a training, and with
an abort of the process if C++ is on the stack (`numpy.unique`). So trainings are told to stop, and
waited for, and none begins after that.
"""

from __future__ import annotations

import atexit
import os
import time
from typing import Any

PATIENCE = 2.0  # seconds

running: set[Any] = set()  # trainers that are training
_begun = False


def begun() -> bool:
    """True in a thread that the interpreter no longer waits for."""
    if not _begun:
        return False
    import threading

    return threading.current_thread() is not threading.main_thread()


def _stop() -> None:
    """Stop all trainings."""
    global _begun
    _begun = True
    for trainer in tuple(running):
        trainer.stop_training = True
    end = time.monotonic() + PATIENCE
    while running and time.monotonic() < end:
        time.sleep(1e-3)


atexit.register(_stop)
if hasattr(os, "register_at_fork"):  # threads of the parent are not in the child
    os.register_at_fork(after_in_child=running.clear)
