"""What a training step costs on several processes, and when they pay: the figures of docs/scale.md.

    python benchmarks/scale.py [--ranks 2 4] [--repeats 5] [--latency 30e-6] [--bandwidth 1.25e9]

Needs mpi4py and mpiexec (``pip install 'minidl[mpi]' mpich``), and an idle machine. Three tables,
as Markdown:

1. The all-reduce alone, over sizes, and the latency and bandwidth that fit it best.
2. A step of a network whose batch is shared out, on so many ranks of this machine, each with its
   share of the cores: what it should take by 1. and by what a rank computes, and what it took.
   Ranks beyond the number of cores share these, in the prediction too.
3. What several machines like this one should gain, over a network between them with the latency (of
   a message, in seconds) and bandwidth (in bytes a second) that are given. That is not measured.

What a rank computes is measured in one process, with a communicator that sends nothing.
"""

import argparse
import json
import math
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from itertools import pairwise
from shutil import which

import numpy as np
from cases import Case

import minidl
from minidl import distributed

CASES = [
    Case((20, 32, 16, 2), 32),
    Case((784, 128, 64, 10), 128),
    Case((784, 128, 64, 10), 4096),
    Case((784, 128, 64, 10), 4096, batch_norm=True),
    Case((512, 1024, 1024, 10), 256),
    Case((512, 1024, 1024, 10), 1024),
]
SIZES = [2**n for n in range(6, 25, 2)]  # bytes
MACHINES = [2, 4, 8, 16]
SECONDS = 0.1  # of the shorter of two timings, about
VALUES = 1 << 22  # of X in an epoch, unless it would be fewer than 4 steps or more than 64


class Silent:
    """A rank of several, of which the others do not exist: nothing is sent or waited for."""

    def __init__(self, size):
        self.size = size

    def Get_rank(self):
        return 0

    def Get_size(self):
        return self.size

    def Dup(self):
        return self

    def allgather(self, value):
        return [value] * self.size

    gather = allgather

    def bcast(self, value):
        return value

    def Bcast(self, array):
        pass

    def Allreduce(self, nothing, array):
        if array.ndim == 1:
            array[-1] *= self.size  # ranks whose epoch ends: all

    def Allgather(self, array, out):
        out[...] = array

    def Ibarrier(self):
        raise NotImplementedError

    def Abort(self, code):
        sys.exit(code)


# ------------------------------------------------------------------------------ measured


def network(case):
    """The layers of a case."""
    layers = []
    for inputs, outputs in pairwise(case.layers[:-1]):
        layers.append(minidl.Linear(inputs, outputs, bias=not case.batch_norm))
        layers += [minidl.BatchNorm1d(outputs)] if case.batch_norm else []
        layers.append(minidl.ReLU())
    return minidl.Sequential(*layers, minidl.Linear(*case.layers[-2:]), seed=0)


def message(case):
    """Bytes of the gradients, with what goes with them."""
    return network(case).store().message.nbytes


def step(case, repeats, comm=None):
    """Seconds of a step of this rank on its share of the batch: the best."""
    size = 1 if comm is None else comm.Get_size()
    rows = max(2, case.batch // size)
    steps = int(np.clip(VALUES // (case.batch * case.layers[0]), 4, 64))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((steps * rows, case.layers[0]), np.float32)
    y = rng.integers(0, case.layers[-1], len(X))
    trainer = minidl.Trainer(network(case), comm=comm)

    def seconds(epochs):
        start = time.perf_counter()
        trainer.fit(X, y, epochs=epochs, batch_size=rows, shuffle=False, verbose=0)
        return time.perf_counter() - start

    seconds(2)
    epochs = max(1, math.ceil(SECONDS / seconds(1)))
    if comm is not None:
        epochs = comm.bcast(epochs)
    # What a call of `fit` takes by itself is in both, and drops out.
    short, long = zip(
        *((seconds(epochs), seconds(3 * epochs)) for _ in range(repeats)), strict=True
    )
    return (min(long) - min(short)) / (2 * epochs * steps)


def all_reduce(comm, size, repeats):
    """Seconds of an all-reduce of so many bytes: the best of some runs."""
    array = np.zeros(size // 4, np.float32)
    count, best = max(3, min(300, (1 << 24) // size)), math.inf
    for _ in range(repeats):
        comm.Barrier()
        start = time.perf_counter()
        for _ in range(count):
            comm.Allreduce(None, array)
        best = min(best, (time.perf_counter() - start) / count)
    return comm.allreduce(best) / comm.Get_size()


def rank(repeats):
    """What a process of mpiexec does: print all times of this number of ranks."""
    comm = distributed.world()
    found = {
        "sizes": [all_reduce(comm, size, repeats) for size in SIZES],
        "steps": [step(case, repeats, comm) for case in CASES],
    }
    if comm.Get_rank() == 0:
        print(json.dumps(found))


def on_ranks(count, repeats):
    """What `rank` prints, of so many processes."""
    mpiexec = which("mpiexec", path=sysconfig.get_path("scripts")) or which("mpiexec")
    command = [mpiexec, "-n", str(count), sys.executable, __file__, "--rank", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------ predicted


def fitted(seconds):
    """Latency, and seconds a byte, of the line with the least relative error."""
    weight = 1 / np.array(seconds)
    lines = np.column_stack([weight, weight * SIZES])
    latency, a_byte = np.linalg.lstsq(lines, np.ones(len(SIZES)), rcond=None)[0]
    return max(float(latency), 0.0), float(a_byte)


def exchanges(case):
    """Bytes of all that ranks sum up in a step: gradients, and twice for each BatchNorm."""
    norms = case.layers[1:-1] if case.batch_norm else ()
    return [message(case), *(8 * 4 * width for width in norms), *(8 * 2 * width for width in norms)]


def of_machines(case, count, latency, bandwidth):
    """Seconds of all exchanges of a step between so many machines: rings, or trees of messages."""
    there_and_back = 2 * (count - 1) / count
    return sum(
        2 * math.log2(count) * latency + there_and_back * size / bandwidth
        for size in exchanges(case)
    )


# ------------------------------------------------------------------------------ shown


def micro(seconds):
    """Microseconds, with three digits."""
    value = 1e6 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def row(*cells):
    """Print a row of a table."""
    print("|", " | ".join(map(str, cells)), "|")


def head(*cells):
    """Print the head of a table."""
    row(*cells)
    print("|---" * len(cells) + "|")


def show_all_reduce(found, lines):
    """Print table 1."""
    print("\nAn all-reduce, microseconds: measured, and by latency + bytes / bandwidth.\n")
    head("bytes", *(name for n in found for name in (f"{n} ranks: measured", "by the line")))
    for i, size in enumerate(SIZES):
        cells = (
            f"{micro(found[count]['sizes'][i])} | {micro(lines[count][0] + lines[count][1] * size)}"
            for count in found
        )
        row(f"{size:,}", *cells)
    for count, (latency, a_byte) in lines.items():
        print(f"\n{count} ranks: latency {micro(latency)} us, {1e-9 / a_byte:.3g} GB/s")


def show_steps(found, lines, alone, shares, cores):
    """Print table 2."""
    print("\nA step, microseconds; the whole batch is shared out.\n")
    head("network, batch", "bytes", "1 process, all cores", "ranks", "a rank computes",
         "exchanges", "predicted", "measured", "times as fast as 1 process")  # fmt: skip
    for i, case in enumerate(CASES):
        for count in found:
            latency, a_byte = lines[count]
            computes = shares[count][i] * max(1, count / cores)
            exchanged = sum(latency + a_byte * size for size in exchanges(case))
            measured = found[count]["steps"][i]
            row(case.name, f"{message(case):,}", micro(alone[i]), count, micro(computes),
                micro(exchanged), micro(computes + exchanged), micro(measured),
                f"{alone[i] / measured:.2f}")  # fmt: skip


def show_machines(alone, repeats, latency, bandwidth):
    """Print table 3."""
    print(
        f"\nMachines like this one, {micro(latency)} us and {1e-9 * bandwidth:.3g} GB/s apart "
        "(predicted): times as fast as one, at the same batch; and rows a rank from which 80 % of "
        "a step is computing.\n"
    )
    head("network, batch", *(f"{count} machines" for count in MACHINES), "rows a rank for 80 %")
    for case, single in zip(CASES, alone, strict=True):
        gains, times = [], {}
        for count in MACHINES:
            own = times[case.batch // count] = step(case, repeats, Silent(count))
            gains.append(single / (own + of_machines(case, count, latency, bandwidth)))
        many = replace(case, batch=4 * case.batch)
        times[many.batch // 2] = step(many, repeats, Silent(2))
        a_row, fixed = np.polyfit(list(times), list(times.values()), 1)
        rows = (4 * of_machines(case, MACHINES[-1], latency, bandwidth) - fixed) / a_row
        row(case.name, *(f"{gain:.2f}" for gain in gains), f"{max(rows, 2):,.0f}")


def main():
    """Measure and print all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency", type=float, default=30e-6, help="of a message, seconds")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes a second")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        rank(given.rank)
        return
    cores = minidl.get_num_threads()
    found = {count: on_ranks(count, given.repeats) for count in given.ranks}
    lines = {count: fitted(of["sizes"]) for count, of in found.items()}
    alone = [step(case, given.repeats) for case in CASES]
    shares = {}
    for count in found:
        with minidl.set_num_threads(max(1, cores // count)):
            shares[count] = [step(case, given.repeats, Silent(count)) for case in CASES]
    print(f"{cores} cores, {minidl.get_config()['isa']}")
    show_all_reduce(found, lines)
    show_steps(found, lines, alone, shares, cores)
    with minidl.set_num_threads(cores):
        show_machines(alone, given.repeats, given.latency, given.bandwidth)


if __name__ == "__main__":
    main()
