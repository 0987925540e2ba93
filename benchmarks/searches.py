"""Searches over settings: minidl's MLPClassifier and scikit-learn's under joblib and Dask.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/searches.py

A `GridSearchCV` of 8 candidates and 3 folds, without refitting, in a process of its own for each
way: one job, two threads of joblib's, two of its processes, two workers of Dask's of one thread.
Workers are started, and have imported what they need, before the clock runs. Ways and libraries
take turns, and the round that took the least time counts.

Another process looks every five milliseconds at all threads of the search and its workers. `cores`
is their CPU time over the time of the search. `running` is the greatest number of threads that ran,
or waited for a core, at one of these looks; `too many` the share of the looks that found more than
there are cores: with 24 fits in two workers, a look may catch the process that hands them out.

Needs Linux, and an idle machine; `--quick` tries the program, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

JOBS = 2
WAYS = ["one job", "threading", "loky", "dask"]
LIBRARIES = {"scikit-learn": "sklearn.neural_network", "minidl": "minidl.sklearn"}
CASES: dict[str, dict[str, Any]] = {
    "digits, (64, 32), batch 64": {"hidden_layer_sizes": (64, 32), "batch_size": 64, "epochs": 120},
    "20000 x 100, (128, 64), batch 200": {"hidden_layer_sizes": (128, 64), "epochs": 3},
}
GRID = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2], "learning_rate_init": [1e-3, 1e-2]}
EVERY = 0.005  # seconds between looks
TICKS = os.sysconf("SC_CLK_TCK")


# The process of a search.


def data(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels."""
    if case.startswith("digits"):
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return (X / 16).astype(np.float32), y
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 100)).astype(np.float32)
    return X, (X[:, :5] > 0).sum(axis=1)


@contextmanager
def joblib_as(way: str, arrays: list[np.ndarray]) -> Iterator[None]:
    """What is parallel in the block goes this way."""
    import joblib

    if way == "dask":
        from distributed import Client, LocalCluster

        options = {"n_workers": JOBS, "threads_per_worker": 1, "dashboard_address": None}
        with (
            LocalCluster(**options) as cluster,
            Client(cluster),
            joblib.parallel_config("dask", scatter=arrays),
        ):
            yield
    elif way == "one job":
        yield
    else:
        with joblib.parallel_config(way, n_jobs=JOBS):
            yield


def run(library: str, way: str, case: str, quick: bool) -> None:
    """Search twice: a little, so that all is there, and then as it is measured."""
    from importlib import import_module

    from sklearn.model_selection import GridSearchCV

    options = dict(CASES[case])
    epochs = options.pop("epochs")
    X, y = data(case)
    net = import_module(LIBRARIES[library]).MLPClassifier(
        random_state=0, n_iter_no_change=10**6, max_iter=1 if quick else epochs, **options
    )
    grid = {name: values[:1] for name, values in GRID.items()} if quick else GRID
    with joblib_as(way, [X, y]):
        GridSearchCV(net.set_params(max_iter=1), {"alpha": [1e-4] * 4}, cv=3, refit=False).fit(X, y)
        net.set_params(max_iter=1 if quick else epochs)
        time.sleep(0 if quick else 0.3)  # idle threads spin for a while
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        search = GridSearchCV(net, grid, cv=3, refit=False).fit(X, y)
        print(time.perf_counter() - start, search.best_score_, flush=True)
        sys.stdin.readline()


# The process that looks.


def stat(path: str) -> list[str]:
    """The fields of a stat file from the third on: state, parent, ..."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def family(root: int) -> list[int]:
    """A process and all that it and its children have started."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(stat(f"/proc/{name}/stat")[1])
        except OSError:  # it has ended
            continue
    found = [root]
    for process in found:  # grows
        found += [child for child, parent in parents.items() if parent == process]
    return found


def cpu_seconds(processes: list[int]) -> float:
    """CPU time of all threads so far."""
    return sum(sum(map(int, stat(f"/proc/{p}/stat")[11:13])) for p in processes) / TICKS


def running(processes: list[int]) -> int:
    """Threads that run or wait for a core."""
    count = 0
    for process in processes:
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                count += stat(f"/proc/{process}/task/{thread}/stat")[0] == "R"
            except OSError:  # it has ended
                continue
    return count


def measure(library: str, way: str, case: str, quick: bool) -> dict[str, Any]:
    """Search in a process, and look at it meanwhile."""
    command = [sys.executable, "-P", __file__, "--run", library, way, case]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}  # fits are ended before they converge
    with subprocess.Popen(
        command + ["--quick"] * quick, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError(f"{library}, {way}: the search did not begin")
        processes = family(child.pid)
        looks = [running(processes)]
        before = cpu_seconds(processes)
        child.stdin.write("\n")
        child.stdin.flush()
        while not select.select([child.stdout], [], [], EVERY)[0]:
            looks.append(running(processes))
        used = cpu_seconds(processes) - before
        said = child.stdout.readline()
        child.stdin.write("\n")
    seconds, score = map(float, said.split())
    cores = len(os.sched_getaffinity(0))
    return {
        "case": case, "library": library, "way": way, "seconds": seconds, "score": score,
        "cores": used / seconds, "running": max(looks),
        "too_many": sum(look > cores for look in looks) / len(looks),
    }  # fmt: skip


def main() -> None:
    """Measure all, or be the process of one search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one small round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(*arguments.run, arguments.quick)
        return
    ways = [way for way in WAYS if way != "dask" or find_spec("distributed")]
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for _ in range(1 if arguments.quick else arguments.rounds):
        for case in CASES:
            for way in ways:
                for library in LIBRARIES:
                    found = measure(library, way, case, arguments.quick)
                    key = case, library, way
                    if key not in best or found["seconds"] < best[key]["seconds"]:
                        best[key] = found
    results = sorted(best.values(), key=lambda found: list(CASES).index(found["case"]))
    columns = f"{'seconds':>9}{'cores':>7}{'running':>9}{'too many':>10}{'score':>8}"
    print(f"{'case':36}{'way':11}{'library':14}{columns}")
    for found in results:
        print(f"{found['case']:36}{found['way']:11}{found['library']:14}{found['seconds']:9.3f}"
              f"{found['cores']:7.2f}{found['running']:9}{found['too_many']:10.1%}"
              f"{found['score']:8.4f}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
