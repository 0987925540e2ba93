"""One model trained by several processes, each on rows of its own: data parallel, with MPI.

Every rank (process) has the model, its optimizer and a part of the rows. A step goes forward and
backward through a batch of each rank, sums the gradients of all ranks, and updates every copy:

    g = sum over ranks, rows of dl_i / sum over ranks, rows of w_i

the gradient of the mean loss of all these rows, whatever each rank has of them. The sums travel in
one all-reduce a step, in the vector of the gradients with a line behind it, which holds the sums of
the loss and what ranks have to tell each other: that one wants to stop, that its epoch ends. So all
ranks have the same numbers after each step, to the bit, and decide alike.

BatchNorm's statistics are those of the rows of all ranks (`sync_batchnorm`): count, mean and sum of
squares of each rank go to all and are merged in the order of the ranks, by the formula of Chan,
Golub and LeVeque (1979); in backward the sums of dy and dy xhat are summed over ranks. Without it
each rank normalises by its own rows, and running averages are averaged at the end of the epoch.

Only this module speaks to MPI, through the communicator that the user gives: mpi4py is never
imported but by `world`. What ranks exchange is checked before the first step; an error that is not
everybody's ends all of them.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minidl import checks, parallel
from minidl.extras import need
from minidl.kernels.operations import BLOCK_ROWS, block_edges
from minidl.memory import Array

if TYPE_CHECKING:
    from minidl.lowering.placement import Buffer
    from minidl.lowering.plan import Plan
    from minidl.parameters import Store

T = TypeVar("T")

PATIENCE = 5.0  # seconds in which all ranks must have failed for the error to be everybody's
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # variables in which mpiexec says how many there are
METHODS = ("Dup", "Get_rank", "Get_size", "Allreduce", "Allgather", "Bcast", "allgather", "bcast",
           "gather", "Ibarrier", "Abort")  # fmt: skip
GOLDEN = 0x9E3779B97F4A7C15  # keeps the orders of ranks apart

# ------------------------------------------------------------------------------ for users


def world() -> Any:
    """The communicator of all processes that `mpiexec` has started; an error in one ends all.

    Returns
    -------
    mpi4py.MPI.Intracomm
        ``MPI.COMM_WORLD``. Without `mpiexec` it has one rank.

    Raises
    ------
    ImportError
        mpi4py is not installed: ``pip install 'minidl[mpi]' mpich``.

    Examples
    --------
    >>> from minidl import distributed
    >>> comm = distributed.world()  # doctest: +SKIP
    >>> X = distributed.part(comm, np.load("X.npy", mmap_mode="r"))  # doctest: +SKIP
    """
    comm = need("mpi4py.MPI", "mpi", "training on several processes").COMM_WORLD
    _end_all_on_errors(comm)
    return comm


def end_all(code: int) -> None:
    """End all processes that `mpiexec` has started, if there are others, with an exit code."""
    module = sys.modules.get("mpi4py.MPI")
    if module is not None and module.COMM_WORLD.Get_size() > 1:
        _abort(module.COMM_WORLD, code)


def launched() -> bool:
    """True in a process that `mpiexec` has started with others, by MPICH, Intel MPI or Open MPI."""
    return any(os.environ.get(name, "1") != "1" for name in SIZES)


def rows(comm: Any, n: int) -> slice:
    """The rows of this rank, of `n` that all ranks share: runs of them, in the order of the ranks.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    n : int

    Returns
    -------
    slice
        Of ``n // size`` rows, or one more.

    Raises
    ------
    ValueError
        There are fewer rows than ranks.

    Examples
    --------
    >>> from minidl import distributed
    >>> distributed.rows(MPI.COMM_WORLD, 1000)  # doctest: +SKIP
    slice(250, 500, None)
    """
    as_comm(comm, "comm")
    n, rank, size = checks.count(n, "n"), comm.Get_rank(), comm.Get_size()
    if n < size:
        raise ValueError(f"n: expected at least one row for each of {size} ranks, got {n}")
    return slice(n * rank // size, n * (rank + 1) // size)


def part(comm: Any, data: Any) -> Any:
    """The rows of this rank of an array or a file, which is not read here.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    data : ndarray, memory map, `NpyFile`, sparse matrix, or an Arrow table

    Returns
    -------
    of the same kind
        Those that `rows` names.

    Examples
    --------
    >>> X = minidl.NpyFile("X.npy")  # doctest: +SKIP
    >>> trainer.fit(part(comm, X), part(comm, y))  # doctest: +SKIP
    """
    if not hasattr(data, "shape"):
        raise TypeError(f"data: expected an array or an NpyFile, got {type(data).__name__}")
    own = rows(comm, data.shape[0])
    if hasattr(data, "to_batches"):  # Arrow counts from an offset
        return data.slice(own.start, own.stop - own.start)
    return (data.iloc if hasattr(data, "iloc") else data)[own]


def read_parquet(
    comm: Any, path: str | os.PathLike[str], columns: Sequence[str] | None = None
) -> Any:
    """The rows of this rank of a Parquet file; only the row groups that hold them are read.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    path : str or path-like
    columns : sequence of str, optional
        Default: all.

    Returns
    -------
    pyarrow.Table
        The rows that `rows` names. Ranks whose parts meet inside a row group both read it, so that
        a file has better many groups than few.

    Raises
    ------
    ImportError
        pyarrow is not installed.
    ValueError
        There are fewer rows than ranks.

    Examples
    --------
    >>> table = distributed.read_parquet(comm, "rows.parquet")  # doctest: +SKIP
    """
    parquet = need("pyarrow.parquet", "", "read_parquet")
    with parquet.ParquetFile(checks.path(path)) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        own = rows(comm, int(ends[-1]))
        first, last = np.searchsorted(ends, (own.start, own.stop - 1), "right") - 1
        table = file.read_row_groups(list(range(first, last + 1)), columns=columns)
    return table.slice(own.start - int(ends[first]), own.stop - own.start)


def as_comm(value: Any, name: str) -> Any:
    """A communicator of mpi4py's, or whatever does what it does.

    Raises
    ------
    TypeError
    """
    known = all(callable(getattr(value, method, None)) for method in METHODS)
    if not known or not value or getattr(value, "is_inter", False):
        raise TypeError(
            f"{name}: expected a communicator such as mpi4py.MPI.COMM_WORLD, got {value!r:.200}"
        )
    return value


# ------------------------------------------------------------------------------ the end of all


_hooked = False


def _end_all_on_errors(comm: Any) -> None:
    """Have an exception that nobody catches end all ranks, which would else wait for this one."""
    global _hooked
    if _hooked or comm.Get_size() == 1 or not type(comm).__module__.startswith("mpi4py"):
        return
    _hooked = True
    before = sys.excepthook

    def hook(kind: Any, error: Any, trace: Any) -> None:
        before(kind, error, trace)
        _abort(comm)

    sys.excepthook = hook


def _abort(comm: Any, code: int = 1) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Abort(code)


# ------------------------------------------------------------------------------ for the trainer


class Ranks:
    """The processes that train a model together, seen from one of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    sync_batchnorm : bool

    Attributes
    ----------
    rank, size : int
    stopping : bool
        The ranks have agreed to stop.
    wants_to_stop : function
        Whether this rank wants to.
    """

    def __init__(self, comm: Any, sync_batchnorm: bool) -> None:
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.sync_batchnorm = sync_batchnorm
        self.stopping = False
        self.wants_to_stop: Callable[[], bool] = bool
        self._given = comm
        self.alone = False  # BatchNorm is to have the statistics of this rank's rows
        self.met = False  # the trainers of all ranks are alike, and have the same state
        self._comm: Any = None  # of our own: what users send does not mix with it
        self._faults: Any = None
        _end_all_on_errors(comm)

    def connect(self) -> None:
        """Get to know the others."""
        if self._comm is None:
            self._comm, self._faults = _own(self._given)

    # Errors.

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all ranks do: an error that is not everybody's ends all of them."""
        self.connect()
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Return if all ranks have failed; else say what happened, and end them.

        Those that have not are somewhere in a step, and wait for this rank.
        """
        everybody, end = self._faults.Ibarrier(), time.monotonic() + PATIENCE
        while not everybody.Test():
            if time.monotonic() > end:
                import traceback

                print(f"rank {self.rank} of {self.size} has failed:", file=sys.stderr)
                traceback.print_exception(error)
                _abort(self._comm)
            time.sleep(1e-3)

    def meet(
        self, alike: Mapping[str, Any], own: Any = None, error: Exception | None = None
    ) -> list[Any]:
        """What each rank has: all must have the same of `alike`, by name.

        Parameters
        ----------
        alike : dict
        own : object
            What each may have of its own.
        error : Exception, optional
            This rank cannot go on, and will raise it.

        Returns
        -------
        list
            `own` of all ranks.

        Raises
        ------
        ValueError
            Something differs.
        Exception
            The error of another rank.
        """
        everyone = self._comm.allgather((dict(alike), own, _portable(error)))
        failed = [rank for rank, (_, _, found) in enumerate(everyone) if found is not None]
        if error is not None:
            return []
        if failed:
            found = everyone[failed[0]][2]
            found.add_note(f"on rank {failed[0]} of {self.size}")
            raise found
        for name in alike:
            values = [one.get(name) for one, _, _ in everyone]
            if any(value != values[0] for value in values):
                raise ValueError(f"{name}: expected the same on all ranks, got {_listed(values)}")
        return [given for _, given, _ in everyone]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of some things that this rank sees to."""
        return items[self.rank :: self.size]

    # State.

    def of_rank_0(self, value: Any) -> Any:
        """What rank 0 has given."""
        return self._comm.bcast(value)

    def copy_from_rank_0(self, arrays: Sequence[Array]) -> None:
        """Write what rank 0 has in these arrays into those of all."""
        for array in arrays:
            self._comm.Bcast(array)

    def key(self, key: int) -> int:
        """A key for the orders of this rank; that of rank 0 is the common one."""
        return int((key + self.rank * GOLDEN) % 2**64)

    # Results.

    def sum_of(self, numbers: Sequence[float] | Array) -> list[float]:
        """Sums over ranks."""
        total = np.array(numbers, np.float64)
        self._comm.Allreduce(None, total)
        return total.tolist()  # type: ignore[no-any-return]

    def all_have(self, value: T) -> list[T]:
        """What each rank has given."""
        return self._comm.allgather(value)  # type: ignore[no-any-return]

    def at_rank_0(self, function: Callable[[list[Any]], Any], value: Any) -> Any:
        """What a function makes of what all ranks have given, on rank 0."""
        everything = self._comm.gather(value)
        result, error = None, None
        if self.rank == 0:
            try:
                result = function(everything)
            except Exception as found:
                error = found
        result, error = self._comm.bcast((result, _portable(error)))
        if error is not None:
            raise error
        return result

    def first_not_finite(self, plan: Plan, find: Callable[[], str | None]) -> tuple[Any, str]:
        """Of the ranks whose loss is not finite: the layer that the first finds; their names."""
        finite = math.isfinite(plan.sums[0])
        self.alone = True  # each looks through its own batch
        try:
            found = self.all_have((finite, find()))
        finally:
            self.alone = False
        bad = [rank for rank, (finite, _) in enumerate(found) if not finite]
        return (found[bad[0]][1], f" on {_named(bad)}") if bad else (found[0][1], "")

    def end_epoch(self, store: Store) -> None:
        """Agree on whether to stop, and on the parameters.

        Raises
        ------
        RuntimeError
            These have come apart.
        """
        import zlib

        own = np.array([self.wants_to_stop(), zlib.crc32(store.values)], np.int64)
        everyone = np.empty((self.size, 2), np.int64)
        self._comm.Allgather(own, everyone)
        self.stopping |= bool(everyone[:, 0].any())
        apart = np.flatnonzero(everyone[:, 1] != everyone[0, 1]).tolist()
        if apart:
            raise RuntimeError(
                f"comm: the parameters of {_named(apart)} are no longer those of rank 0: what "
                "callbacks, layers and losses do must be the same on all ranks"
            )

    # Operations of the program, as `Plan.call` has them: `rows` are those of the batch.

    @np.errstate(all="ignore")  # what overflows is found as a loss
    def sum_gradients(self, plan: Plan, rows: int) -> bool | None:
        """The gradient of all ranks, with what they have to say; False: the loss is not finite."""
        program, message = plan.built, plan.store.message
        tail = message[-6:]
        ends, stops = program.ends_epoch, self.wants_to_stop()
        tail[:] = *plan.sums, stops, ends
        self._comm.Allreduce(None, message)
        loss, right, weight, of_rows, stop, ended = tail.tolist()
        if ended not in (0, self.size):
            batch = program.position()[1]
            raise ValueError(
                f"X: expected as many batches on all ranks, but on {int(ended)} of {self.size} the "
                f"epoch ends with batch {batch}" + (" (here too)" if ends else "")
            )
        if not math.isfinite(loss):
            return False
        program.take_sums(loss, right, weight, of_rows)
        if stop:
            self.stopping = True
            program.end_with_update()
        if not self.sync_batchnorm and (ended or stop):
            running = plan.store.values[plan.store.trainable :]
            self._comm.Allreduce(None, running)
            running /= self.size
        return None

    @np.errstate(all="ignore")  # what overflows is found as a loss
    def merge_statistics(self, plan: Plan, partial: Buffer, rows: int) -> None:
        """BatchNorm's forward: the statistics of all ranks, into the first block of `partial`."""
        edges = block_edges(rows)
        blocks = plan.view(partial, BLOCK_ROWS * (len(edges) - 1)).astype(np.float64)
        own = np.empty((BLOCK_ROWS + 1, blocks.shape[1]))
        own[0] = rows
        own[1:] = _merged(np.diff(edges), blocks.reshape(-1, BLOCK_ROWS, blocks.shape[1]))
        everyone = own[None] if self.alone else np.empty((self.size, *own.shape))
        if not self.alone:
            self._comm.Allgather(own, everyone)
        counts = everyone[:, 0, 0]
        plan.view(partial, BLOCK_ROWS)[...] = _merged(counts, everyone[:, 1:])
        plan.rows_of_all[0] = counts.sum()

    @np.errstate(all="ignore")  # what overflows is found as a loss
    def sum_statistics(self, plan: Plan, partial: Buffer, rows: int) -> None:
        """BatchNorm's backward: its two sums over the rows of all ranks, likewise."""
        count = len(block_edges(rows)) - 1
        blocks = plan.view(partial, BLOCK_ROWS * count)
        own = blocks.reshape(count, BLOCK_ROWS, -1)[:, :2].sum(axis=0, dtype=np.float64)
        self._comm.Allreduce(None, own)
        plan.view(partial, 2)[...] = own


def _merged(counts: Array, blocks: Array) -> Array:
    """Statistics (3, columns) of all blocks (n, 3, columns): see `kernels/batchnorm.pyx`.

    A block has its first row, the mean of what exceeds it, and the sum of squares about the mean.
    """
    first, n = blocks[0, 0], counts[:, None]
    mean_of_block = blocks[:, 0] - first + blocks[:, 1]
    mean = (n * mean_of_block).sum(axis=0) / counts.sum()
    m2 = blocks[:, 2].sum(axis=0) + (n * np.square(mean_of_block - mean)).sum(axis=0)
    return np.stack([first, mean, m2])


_known: dict[int, tuple[Any, Any, Any]] = {}  # the user's communicator, and two of our own


def _own(comm: Any) -> tuple[Any, Any]:
    """Communicators of our own with the same ranks; the first time, share the cores too."""
    if id(comm) not in _known:
        _known[id(comm)] = comm, comm.Dup(), comm.Dup()
        _share_cores(comm)
    return _known[id(comm)][1:]


def _share_cores(comm: Any) -> None:
    """Let this process use its share of the cores, of those that other ranks may use too."""
    cpus = parallel.affinity()
    everyone = comm.allgather((_machine(), cpus))
    here = [other for machine, other in everyone if machine == _machine()]
    parallel.share_cores(sum(1 / sum(cpu in other for other in here) for cpu in cpus), len(here))


def _machine() -> str:
    """A name that processes on the same cores have in common."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read()
    except OSError:
        return os.uname().nodename


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can be sent, or one that says the same."""
    import pickle

    if error is None:
        return None
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _named(ranks: Sequence[int]) -> str:
    """Some ranks in words."""
    names = [str(rank) for rank in ranks[:8]] + ["..."] * (len(ranks) > 8)
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(names)}"


def _listed(values: Sequence[Any]) -> str:
    """Values that differ, with the ranks that have them; of texts, the first lines that differ."""
    lines = [str(value).splitlines() or [""] for value in values]
    if all(isinstance(value, str) for value in values):
        longest = max(map(len, lines))
        lines = [text + ["nothing"] * (longest - len(text)) for text in lines]
        first = next(i for i in range(longest) if len({text[i] for text in lines}) > 1)
        values = [text[first].strip() for text in lines]
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(f"{value!s:.100}", []).append(rank)
    return "; ".join(f"{value} on {_named(own)}" for value, own in ranks.items())
