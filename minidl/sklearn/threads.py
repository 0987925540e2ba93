"""How many threads an estimator may use, inside joblib's and Dask's workers too."""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager, nullcontext

from joblib.parallel import get_active_backend

from minidl import parallel


def limit(n_threads: int | None) -> AbstractContextManager[None]:
    """The threads of what runs in the block: so many at most; None: as many as suit.

    Processes of joblib's loky have a limit of OpenMP's that leaves each its share of the cores.
    Threads of joblib's share one process, which says nothing of the sort; so each gets one. So does
    a task of Dask's, which counts a task as a thread; its workers may be threads of one process.
    """
    if n_threads is None and not _is_worker_thread():
        return nullcontext()
    return parallel.own_limit(1 if n_threads is None else int(n_threads))


def _is_worker_thread() -> bool:
    """True in a thread in which joblib or Dask runs one of several jobs."""
    if threading.current_thread() is threading.main_thread():
        return False
    backend, _ = get_active_backend()
    return bool(backend.nesting_level) or _is_dask_task()


def _is_dask_task() -> bool:
    """True in a task on a worker of Dask's."""
    distributed = sys.modules.get("distributed")  # a worker has imported it
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
