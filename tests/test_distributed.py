"""Ranks that train together, as threads: what test_mpi.py does with MPI, without it."""

import copy
import pickle

import numpy as np
import pytest
from rank_cases import CASES, X, Y, fit, network, raises, trainer
from ranks import Comm, Shared, together

import minidl
from minidl import distributed, parallel

NEEDS = {"parts_of_files": "pyarrow.parquet", "validation": "sklearn"}


@pytest.fixture(autouse=True)
def own_cores(monkeypatch):
    """Threads do not share the cores of the process by a limit for all of it."""
    monkeypatch.setattr(distributed, "_share_cores", lambda comm: None)


@pytest.mark.parametrize("case", CASES)
def test_on_two_ranks(case, tmp_path):
    if case in NEEDS:
        pytest.importorskip(NEEDS[case])
    together(2, CASES[case], tmp_path)


@pytest.mark.parametrize(
    ("case", "size"),
    [("one_step", 3), ("uneven_parts", 3), ("differences", 3), ("statistics_of_all", 5),
     ("same_result", 4)],
)  # fmt: skip
def test_on_more_ranks(case, size, tmp_path):
    together(size, CASES[case], tmp_path)


# ------------------------------------------------------------------------------ one by one


def test_one_rank_trains_as_if_alone():
    """To the bit, whatever the communicator is."""
    alone, shared = trainer(None), trainer(Comm(0, Shared(1)))
    assert shared.rank == 0
    for made in (alone, shared):
        made.fit(X, Y, epochs=2, seed=0, last_batch="drop")
    assert all(
        np.array_equal(a, shared.model.state_dict()[n]) for n, a in alone.model.state_dict().items()
    )


def test_a_copy_has_no_communicator():
    made = trainer(Comm(0, Shared(2)))
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.comm is None
        fit(None, other, epochs=1)


@pytest.mark.parametrize("name", ["comm", "sync_batchnorm"])
def test_what_stays(name):
    made = trainer(None)
    with pytest.raises(AttributeError, match=rf"^{name}: cannot be changed"):
        setattr(made, name, None)


def test_what_is_no_communicator():
    with pytest.raises(TypeError, match=r"^comm: expected a communicator such as mpi4py"):
        minidl.Trainer(network(), comm=0)
    other = Comm(0, Shared(2))
    other.is_inter = True
    with pytest.raises(TypeError, match=r"^comm: expected a communicator"):
        minidl.Trainer(network(), comm=other)


def test_without_mpi4py(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(ImportError, match=r"needs mpi4py: pip install 'minidl\[mpi\]'"):
        distributed.world()


@pytest.mark.parametrize(("n", "size"), [(7, 3), (8, 4), (4, 4), (1000, 7)])
def test_rows(n, size):
    parts = [distributed.rows(Comm(rank, Shared(size)), n) for rank in range(size)]
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert {part.stop - part.start for part in parts} <= {n // size, n // size + 1}


def test_parts_of_what_there_is():
    comm = Comm(1, Shared(3))
    assert np.shares_memory(distributed.part(comm, X), X)
    assert distributed.part(comm, X).shape == (214 - 1, 6)
    with pytest.raises(ValueError, match=r"^n: expected at least one row for each of 3 ranks, got"):
        distributed.rows(comm, 2)
    with pytest.raises(TypeError, match=r"^data: expected an array or an NpyFile, got list"):
        distributed.part(comm, [1, 2, 3])
    with pytest.raises(TypeError, match=r"^comm: expected a communicator"):
        distributed.rows(None, 3)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=range(1000, 1000 + len(X)))
    assert np.array_equal(distributed.part(comm, frame), distributed.part(comm, X))


@pytest.mark.parametrize(
    ("mine", "others", "cores", "threads"),
    [
        (range(8), [range(8)], 4, 4),
        (range(8), [range(8)] * 2, 8 / 3, 2),
        (range(4), [range(4, 8)], 4, 4),
        (range(2), [range(2)] * 3, 0.5, 1),
        (range(8), [range(4)], 6, 6),
    ],
)
def test_shares_of_the_cores(mine, others, cores, threads, monkeypatch):
    """Those that other ranks may use too are shared; those of other machines do not count."""
    monkeypatch.undo()
    limits, names = [], iter("abcdef")

    class Sent:
        def allgather(self, own):
            return [own, *((own[0], set(cpus)) for cpus in others), (next(names), own[1])]

    monkeypatch.setattr(parallel, "affinity", lambda: set(mine))
    monkeypatch.setattr(parallel, "quota", lambda: None)
    monkeypatch.setattr(parallel, "_shared", None)
    monkeypatch.setattr(parallel.threads, "limit_available", limits.append)
    distributed._share_cores(Sent())
    assert limits == [threads]
    assert parallel._shared == (pytest.approx(cores), 1 + len(others))
    count, why = parallel.available()
    assert (count, why.endswith(f"shared by {1 + len(others)} processes")) == (threads, True)
    monkeypatch.setattr(parallel, "quota", lambda: 2.0)
    assert parallel.available()[0] == max(1, min(threads, int(2 / (1 + len(others)))))


def test_a_rank_that_fails_ends_all(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(distributed, "PATIENCE", 0.1)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # of threads: whichever is first
        together(2, raises, tmp_path)
    assert "rank 1 of 2 has failed:" in capfd.readouterr().err
