"""Ranks that train together, as processes of `mpiexec`: the cases of rank_cases.py, and faults."""

import os
import subprocess
import sys
import sysconfig
import time
from shutil import which

import numpy as np
import pytest
from helpers import TESTS, python, same_bits
from rank_cases import CASES
from safetensors.numpy import load_file

import minidl

pytest.importorskip("mpi4py")
MPIEXEC = which("mpiexec", path=sysconfig.get_path("scripts")) or which("mpiexec")
if MPIEXEC is None:
    pytest.skip("no mpiexec: pip install mpich", allow_module_level=True)

# On two cores a step of four ranks takes a millisecond: not all cases.
OF_FOUR = ["same_result", "large_gradients", "checkpoints", "differences", "not_finite"]
NEEDS = {"parts_of_files": "pyarrow.parquet", "validation": "sklearn"}
MAIN = ("-c", "from minidl.cli import main; main()")


def mpiexec(size, *arguments, seconds=60):
    """What so many processes of this Python say, ended after so many seconds."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "2"}
    command = [MPIEXEC, "-n", str(size), sys.executable, "-P", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=environment, check=False
    )


def cases(size, folder, *names):
    return mpiexec(size, TESTS / "rank_cases.py", folder, *names)


@pytest.mark.parametrize(("size", "names"), [(2, list(CASES)), (4, OF_FOUR)])
def test_cases(size, names, tmp_path):
    for module in {NEEDS[name] for name in names if name in NEEDS}:
        pytest.importorskip(module)
    done = cases(size, tmp_path, *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == names


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ("raises", ["rank 1 of 2 has failed:\nTraceback", "RuntimeError: only here"]),
        ("meets_bad_rows", ["X: expected finite numbers, got inf in row 600, column 3"]),
        ("fails_outside", ["RuntimeError: before training"]),
        ("killed", ["BAD TERMINATION"]),
    ],
)
def test_a_fault_of_one_ends_all(fault, messages, tmp_path):
    start = time.monotonic()
    done = cases(2, tmp_path, fault)
    assert done.returncode != 0
    assert all(message in done.stdout + done.stderr for message in messages)
    assert fault not in done.stdout.split()
    assert time.monotonic() - start < 30


CORES = r"""
import os, sys
import minidl
from minidl import distributed
if len(sys.argv) > 1:
    minidl.set_num_threads(3)
trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(2, 2)), comm=distributed.world())
trainer.fit([[0.0, 1.0]] * 4, [0, 1, 0, 1])
sys.stdout.write(f"{len(os.sched_getaffinity(0))} {minidl.get_num_threads()}\n")
"""


def test_ranks_share_the_cores():
    for more in ((), ("set",)):
        done = mpiexec(2, "-c", CORES, *more)
        assert done.returncode == 0, done.stderr
        numbers = list(map(int, done.stdout.split()))
        assert len(numbers) == 4, done
        for cores, threads in zip(numbers[::2], numbers[1::2], strict=True):
            assert threads == (3 if more else max(1, min(cores // 2, 2)))


# ------------------------------------------------------------------------------ the command line


def arrays(path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(403, 5))
    np.savez(path, X=X, y=(X[:, 0] > X[:, 1]).astype(int))
    return path


def test_train_on_arrays(tmp_path):
    pytest.importorskip("typer")
    source, out = arrays(tmp_path / "data.npz"), tmp_path / "model.safetensors"
    options = ["train", source, "--out", out, "--hidden", "16", "--epochs", "20", "--lr", "0.01"]
    done = mpiexec(2, *MAIN, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1
    assert "processes" in done.stdout
    model = minidl.load(out)
    with np.load(source) as data:
        scaled = (data["X"] - model.metadata["mean"]) / model.metadata["scale"]
        right = model.predict(scaled).argmax(axis=1) == data["y"]
    assert right.mean() > 0.9
    done = mpiexec(2, *MAIN, *options)  # the file is there
    assert done.returncode == 2
    assert "already exists" in done.stderr


def test_train_on_a_table(tmp_path):
    """The networks are shared out: the file that one process writes."""
    for module in ("typer", "sklearn", "pyarrow.csv"):
        pytest.importorskip(module)
    rng = np.random.default_rng(0)
    columns = zip(rng.random(200), rng.integers(0, 3, 200), strict=True)
    lines = [f"{a:.3f},{'uvw'[k]},{a * k:.3f}" for a, k in columns]
    source = tmp_path / "table.csv"
    source.write_text("\n".join(["a,b,y", *lines]))
    options = ["train", source, "--target", "y", "--epochs", "3"]
    alone, shared = tmp_path / "alone.safetensors", tmp_path / "shared.safetensors"
    python(*MAIN, *options, "--out", alone)
    done = mpiexec(2, *MAIN, *options, "--out", shared)
    assert done.returncode == 0, done.stderr
    a, b = load_file(alone), load_file(shared)
    assert a.keys() == b.keys()
    assert all(same_bits(a[name], b[name]) for name in a)
