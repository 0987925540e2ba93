"""Training in several threads, beside other libraries, and in half a core.

python benchmarks/together.py [threads|beside|half] [REPEATS]

threads: networks trained in so many Python threads at once, against one after the other.
beside: the time of a training in a process where other libraries have been imported and work in
turns with it, against a process of its own; and theirs beside minidl. The two processes take turns,
and a training and a work of the others too, so that all meet the same machine.
half: a training in a control group with half a core, with the one thread that minidl takes there
and with two. Needs the right to make such a group.

Times are the best of all repeats; an idle machine is asked for. What is not installed is left out.
"""

import os
import sys
import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

REPEATS = 5
PAUSE = 0.1  # seconds: idle threads of the library that ran before spin for a while
ROWS = 4096
# Widths, and the size of a batch: one thread each, what is tried with more, and what takes all.
NETWORKS = {
    "20-32-16-2": ((20, 32, 16, 2), 32),
    "64-64-32-10": ((64, 64, 32, 10), 128),
    "784-128-64-10": ((784, 128, 64, 10), 128),
}
SECONDS = 0.5  # of one training, about


class Training:
    """A network with its data, and as many epochs as take about `SECONDS`."""

    def __init__(self, name, seed=0):
        import minidl

        widths, self.batch_size = NETWORKS[name]
        rng = np.random.default_rng(seed)
        self.X = rng.normal(size=(ROWS, widths[0])).astype(np.float32)
        self.y = rng.integers(0, widths[-1], ROWS)
        layers = []
        for fan_in, fan_out in pairwise(widths[:-1]):
            layers += [minidl.Linear(fan_in, fan_out), minidl.ReLU()]
        self.trainer = minidl.Trainer(
            minidl.Sequential(*layers, minidl.Linear(*widths[-2:]), seed=seed)
        )
        self.epochs = 1
        self()
        self.epochs = max(1, round(SECONDS / timed(self)))

    def __call__(self):
        """Train."""
        self.trainer.fit(
            self.X, self.y, epochs=self.epochs, batch_size=self.batch_size, seed=0, verbose=0
        )


def timed(work):
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def at_once(works):
    """All works, each in a thread of its own."""
    workers = [threading.Thread(target=work) for work in works]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def threads(repeats):
    """Print how much faster several trainings are at once than in turn."""
    print(f"{'trainings at once, against in turn':36}{'in turn':>10}{'at once':>10}{'faster':>9}")
    for name in NETWORKS:
        for count in (2, 4):
            works = [Training(name, seed) for seed in range(count)]
            for work in works:
                work.epochs = works[0].epochs
            turns, once = [], []
            for _ in range(repeats):
                turns.append(timed(lambda: [work() for work in works]))  # noqa: B023
                once.append(timed(lambda: at_once(works)))  # noqa: B023
            turn, best = min(turns), min(once)
            label = f"{count} of {name}"
            print(f"{label:36}{turn:9.3f}s{best:9.3f}s{turn / best:8.2f}x")


# Beside other libraries.


def work_numpy():
    """Products of matrices, which OpenBLAS shares among its threads."""
    a = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
    return lambda: [a @ a for _ in range(4)]


def work_torch():
    """Training steps of a network."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    x, y = torch.randn(512, 784), torch.arange(512) % 10
    optimizer = torch.optim.Adam(net.parameters())

    def steps():
        for _ in range(20):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

    return steps


def table():
    """Rows for boosted trees."""
    X = np.random.default_rng(0).normal(size=(20_000, 20))
    return X, (X[:, 0] > X[:, 1]).astype(int)


def work_sklearn():
    """Boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    X, y = table()
    return lambda: HistGradientBoostingClassifier(max_iter=10).fit(X, y)


def work_lightgbm():
    """Boosted trees."""
    import lightgbm

    X, y = table()
    return lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(X, y)


def works_of_minidl():
    """A training of each network."""
    return {f"minidl {name}": Training(name) for name in NETWORKS}


OTHERS = {name: globals()[f"work_{name}"] for name in ("numpy", "torch", "sklearn", "lightgbm")}


def measure(names, repeats):
    """Print the best time of each work of these libraries, in turns in one process."""
    works = {}
    for name in names:  # imported in this order
        works |= works_of_minidl() if name == "minidl" else {name: OTHERS[name]()}
    for work in works.values():
        work()
    best = dict.fromkeys(works, np.inf)
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(PAUSE)
            best[name] = min(best[name], timed(work))
    for name, seconds in best.items():
        work = works[name]
        print(seconds / (work.epochs if isinstance(work, Training) else 1), name)


def alone(names, repeats):
    """What `measure` prints in a process of its own: seconds by work."""
    import subprocess

    command = [sys.executable, "-P", __file__, "measure", str(repeats), *names]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: float(seconds) for seconds, _, name in (line.partition(" ") for line in lines)}


def beside(repeats):
    """Print what a work takes alone and in one process with all others."""
    names = ["minidl", *(name for name in OTHERS if find_spec(name) is not None)]
    print("beside:", *names)
    print(f"{'':24}{'alone':>12}{'minidl first':>14}{'minidl last':>14}")
    columns = [{}, {}, {}]
    for _ in range(3):  # processes take turns
        found = [{}, alone(names, repeats), alone(names[::-1], repeats)]
        for name in names:
            found[0] |= alone([name], repeats)
        for column, new in zip(columns, found, strict=True):
            for name, seconds in new.items():
                column[name] = min(column.get(name, np.inf), seconds)
    for name, seconds in columns[0].items():
        ratios = [column[name] / seconds for column in columns[1:]]
        print(f"{name:24}{1e3 * seconds:9.3f} ms{ratios[0]:13.2f}x{ratios[1]:13.2f}x")


# Half a core.


def group():
    """A new control group with half a core: its folder."""
    version_2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    folder = Path("/sys/fs/cgroup", "" if version_2 else "cpu", f"minidl-bench-{os.getpid()}")
    folder.mkdir()
    if version_2:
        (folder / "cpu.max").write_text("50000 100000")
    else:
        (folder / "cpu.cfs_period_us").write_text("100000")
        (folder / "cpu.cfs_quota_us").write_text("50000")
    return folder


def within(folder, n, repeats):
    """Print what an epoch takes in the group with so many threads; 0: as many as minidl takes."""
    (Path(folder) / "cgroup.procs").write_text(str(os.getpid()))
    import minidl

    if n:
        minidl.set_num_threads(n)
    for name, work in works_of_minidl().items():
        print(
            min(timed(work) for _ in range(repeats)) / work.epochs, minidl.get_num_threads(), name
        )


def half(repeats):
    """Print what an epoch takes with half a core, and what it takes without the limit."""
    import subprocess

    free = alone(["minidl"], repeats)
    try:
        folder = group()
    except OSError as error:
        raise SystemExit(f"no control group can be made here: {error}") from None
    found = {}
    try:
        for n in (0, 2):
            command = [sys.executable, "-P", __file__, "within", str(repeats), str(folder), str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                seconds, used, name = line.split(" ", 2)
                found.setdefault(name, []).append((float(seconds), int(used)))
    finally:
        folder.rmdir()
    print(f"{'an epoch in half a core':24}{'all cores':>12}{'by itself':>20}{'two threads':>14}")
    for name, ((own, used), (two, _)) in found.items():
        default = f"{1e3 * own:.2f} ms ({used} thread)"
        print(f"{name:24}{1e3 * free[name]:9.2f} ms{default:>20}{1e3 * two:11.2f} ms")


def main(arguments):
    """Run what is asked for, or all."""
    what = arguments[0] if arguments else "all"
    repeats = int(arguments[1]) if len(arguments) > 1 else REPEATS
    if what == "measure":
        measure(arguments[2:], repeats)
    elif what == "within":
        within(arguments[2], int(arguments[3]), repeats)
    else:
        known = {"threads": threads, "beside": beside, "half": half}
        for function in known.values() if what == "all" else [known[what]]:
            function(repeats)


if __name__ == "__main__":
    main(sys.argv[1:])
