"""How many threads minidl uses, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from minidl import cgroups
from minidl.kernels import threads


def affinity() -> set[int]:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def quota(root: str = cgroups.ROOT, membership: str = cgroups.MEMBERSHIP) -> float | None:
    """CPUs that the container's quota allows, or None without one (cgroup version 1 or 2).

    The least of all groups from this process's up to the root holds.
    """
    groups = cgroups.groups("cpu", root, membership)
    found = [_limit(folder, version == 2) for folder, version in groups]
    return min((limit for limit in found if limit is not None), default=None)


def _limit(folder: str, version_2: bool) -> float | None:
    """The quota that one group's files set."""
    try:
        if version_2:
            fields = (cgroups.read(f"{folder}/cpu.max") or "max").split()
            if fields[0] == "max":
                return None
            allowed, period = int(fields[0]), int(fields[1]) if len(fields) > 1 else 100000
        else:
            allowed = int(cgroups.read(f"{folder}/cpu.cfs_quota_us") or -1)
            period = int(cgroups.read(f"{folder}/cpu.cfs_period_us") or 0)
        return allowed / period if allowed > 0 and period > 0 else None
    except ValueError:
        return None


_shared: tuple[float, int] | None = None  # with other processes: cores of this one, and how many


def share_cores(cores: float, processes: int) -> None:
    """Take so many cores at most, since `processes` that train together share the machine.

    A number that the user has set stays.
    """
    global _shared
    _shared = cores, processes
    threads.limit_available(available()[0])


def available() -> tuple[int, str]:
    """Threads that affinity and quota leave, and which of them decided."""
    cpus, limit = len(affinity()), quota()
    cores, processes = _shared or (float(cpus), 1)
    among = f", shared by {processes} processes" if processes > 1 else ""
    if limit is not None and limit / processes < cores:
        return max(1, int(limit / processes)), f"container quota of {limit:g} CPUs{among}"
    return max(1, int(cores + 1e-9)), f"{cpus} CPUs that this process may use{among}"


MOST = 2**31 - 1  # OpenMP counts with an int


class set_num_threads:
    """Set the most threads that minidl uses from now on.

    Results are the same for every number. As a context manager the old number comes back at the
    end of the block.

    Parameters
    ----------
    n : int or None
        At least 1, more than there are CPUs if you like; None: as many as affinity, the
        container's quota and OpenMP allow, and one in a child of `fork`.

    Examples
    --------
    >>> import minidl
    >>> with minidl.set_num_threads(1):
    ...     minidl.get_num_threads()
    1
    """

    def __init__(self, n: int | None) -> None:
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= MOST):
            raise ValueError(f"n: expected an integer from 1 to {MOST} or None, got {n!r}")
        self._before: int = threads.get_requested()
        threads.set_requested(n or 0)

    def __enter__(self) -> set_num_threads:
        """Leave the new number in force."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Bring back the old number."""
        threads.set_requested(self._before)


@contextmanager
def own_limit(n: int) -> Iterator[None]:
    """At most n threads for what the calling thread starts in the block; other threads keep theirs.

    Examples
    --------
    >>> import minidl
    >>> from minidl.parallel import own_limit
    >>> with own_limit(1):
    ...     minidl.get_num_threads()
    1
    """
    before = threads.limit_own(n)
    try:
        yield
    finally:
        threads.limit_own(*before)


def get_num_threads() -> int:
    """Threads that a training started now may use.

    Examples
    --------
    >>> import minidl
    >>> minidl.get_num_threads() >= 1
    True
    """
    return int(threads.limit())


def room() -> int:
    """Threads that a program made now has room for: `get_num_threads`, or more for `fit_many`."""
    return int(threads.room())


def reason() -> str:
    """Why `get_num_threads` is what it is."""
    n = get_num_threads()
    if threads.is_forked():
        return "child of a fork"
    if n == threads.get_requested():
        return "set_num_threads"
    count, why = available()
    return why if n == count else "OpenMP (OMP_NUM_THREADS, threadpoolctl or a serial build)"


threads.limit_available(available()[0])
