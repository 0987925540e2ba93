"""Ranks that train together, as threads of this process, without MPI.

`Comm` does with a barrier and a list what minidl asks of a communicator. So all that is minidl's
own is tested at each CPU level and under the sanitizers too.
"""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class Comm:
    """One of several threads' view of a communicator."""

    def __init__(self, rank, shared):
        self.rank, self._shared, self._duplicates = rank, shared, 0

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self._shared.size

    def allgather(self, value):
        shared = self._shared
        shared.barrier.wait(30)
        shared.slots[self.rank] = pickle.dumps(value)
        shared.barrier.wait(30)
        return [pickle.loads(slot) for slot in shared.slots]

    def gather(self, value):
        everything = self.allgather(value)
        return everything if self.rank == 0 else None

    def bcast(self, value):
        return self.allgather(value)[0]

    def Bcast(self, array):
        array[...] = self.allgather(array.copy())[0]

    def Allreduce(self, nothing, array):
        assert nothing is None
        everything = self.allgather(array.copy())
        assert len({(a.shape, a.dtype) for a in everything}) == 1
        array[...] = sum(everything[1:], everything[0])

    def Allgather(self, array, out):
        everything = self.allgather(array.copy())
        assert len({(a.shape, a.dtype) for a in everything}) == 1
        out[...] = np.stack(everything)

    def Dup(self):
        self._duplicates += 1
        with self._shared.lock:
            kin = self._shared.kin.setdefault(self._duplicates, Shared(self._shared.size))
        return Comm(self.rank, kin)

    def Ibarrier(self):
        return Request(self._shared)

    def Abort(self, code):
        for kin in self._shared.all:
            kin.barrier.abort()
        raise SystemExit(code)


class Shared:
    """What the threads share."""

    all = []  # noqa: RUF012

    def __init__(self, size):
        self.size, self.lock = size, threading.Lock()
        self.barrier, self.slots = threading.Barrier(size), [None] * size
        self.kin, self.arrived = {}, 0
        Shared.all.append(self)


class Request:
    """Whether all have come."""

    def __init__(self, shared):
        self.shared = shared
        with shared.lock:
            shared.arrived += 1
            self.wanted = -(-shared.arrived // shared.size) * shared.size

    def Test(self):
        return self.shared.arrived >= self.wanted


def together(size, function, *arguments):
    """What `function(comm, *arguments)` gives, on so many ranks at once."""
    shared = Shared(size)
    with ThreadPoolExecutor(size) as pool:
        done = [pool.submit(function, Comm(rank, shared), *arguments) for rank in range(size)]
        return [one.result() for one in done]
