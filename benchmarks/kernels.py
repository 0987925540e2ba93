"""Single kernels beside what the machine can do, and products beside `numpy.matmul`.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/kernels.py

- The three products of a dense layer as share of the multiply-add peak: cubes, and the thin, odd
  and awkward shapes of small networks. minidl's forward has the bias in it, its weight gradient
  that of the bias; NumPy's is the product alone, into an array that exists.
- BatchNorm as share of the bandwidth that `a = b + c / 2` reaches in the same memory, counted as
  three matrices forward (x twice, y) and five backward (x and dy twice, dx).
- Optimizers in cycles a weight.
- A barrier between threads.

A kernel is timed as a minidl program runs it, many times in one call. The best round counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from report import digits, headline, markdown

import minidl
from minidl import lowering

CUBES = tuple((n, n, n) for n in (16, 32, 64, 128, 256, 512, 1024))
THIN = (
    (32, 20, 32),
    (128, 64, 6),
    (128, 64, 10),
    (128, 64, 16),
    (1000, 6, 10),
    (256, 500, 1),
    (33, 45, 46),
    (127, 129, 33),
    (129, 783, 127),
    (128, 784, 128),
    (128, 1024, 10),
    (128, 1024, 1024),  # float32 rows 4 KiB apart
    (128, 512, 512),  # float64 rows 4 KiB apart
)
BATCH_NORMS = ((128, 32), (128, 128), (256, 512), (2048, 1024), (65536, 256))
WEIGHTS = (1024, 16384, 262144, 8388608)
BARRIERS = 1000
MOST_REPEATS = 1000


class Repeated:
    """Some operations of a plan, many times in one program.

    Parameters
    ----------
    plan : BackwardPlan
        Complete, not built.
    first, last : str
        Kinds of the first and the last operation wanted; where one occurs more than once, the
        first time counts.
    rows : int
        Of the batch.
    repeats : int
    fill : function of no arguments
        Writes data into the buffers, now and before each run.
    optimizer : Optimizer, optional
    """

    def __init__(
        self,
        plan: lowering.BackwardPlan,
        first: str,
        last: str,
        rows: int,
        repeats: int,
        fill: Callable[[], None],
        optimizer: minidl.Optimizer | None = None,
    ) -> None:
        kinds = [operation[0] for operation in plan.operations]
        wanted = plan.operations[kinds.index(first) : kinds.index(last) + 1]
        if plan.threads > 1:
            wanted = [*wanted, ("BARRIER", 0, 0.0, 0.0, [], [])]
        self.low, self.rows, self.repeats, self.fill = len(kinds), rows, repeats, fill
        plan.operations += wanted * repeats
        self.high = len(plan.operations)
        self.program = plan.build()
        if optimizer is not None:
            self.program.set_optimizer(**optimizer.numbers())
        fill()
        self.program.execute(0, self.low, rows)  # what the operations read from each other

    def run(self) -> None:
        """All repeats."""
        self.program.execute(self.low, self.high, self.rows)


def layer_operations(
    layer: minidl.Layer, rows: int, columns: int, first: str, last: str, repeats: int
) -> Repeated:
    """Operations of a layer's forward or backward."""
    layer.train()
    plan = lowering.BackwardPlan(layer, columns, rows, layer.dtype)
    output = plan.forward()
    gradient = plan.matrix(output.columns)
    plan.backward(gradient, input_gradient=True)
    plan.update()
    given = plan.data[plan.graph.input]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns), np.float32)
    x -= x.mean(axis=0)
    x /= x.std(axis=0)  # so that BatchNorm's backward, in place again and again, keeps its scale
    dy = rng.standard_normal((rows, output.columns), np.float32)

    def fill() -> None:
        plan.view(given, rows)[...] = x
        plan.view(gradient, rows)[...] = dy

    return Repeated(plan, first, last, rows, repeats, fill)


def update_operation(
    optimizer: minidl.Optimizer, weights: int, dtype: str, repeats: int
) -> Repeated:
    """An optimizer's update of a vector of weights."""
    plan = lowering.BackwardPlan(minidl.ReLU(), 1, 1, np.dtype(dtype))
    vectors = [plan.matrix(weights, 1) for _ in range(4)]  # weights, gradient, m, v
    plan.emit("UPDATE", vectors, [weights * plan.dtype.itemsize // lowering.VECTOR])
    start = np.random.default_rng(0).standard_normal(weights, np.float32)

    def fill() -> None:
        for vector in vectors[:2]:
            plan.view(vector, 1)[...] = start

    return Repeated(plan, "UPDATE", "UPDATE", 1, repeats, fill, optimizer)


# ---- timing


@dataclass(frozen=True)
class Timer:
    """Best of some rounds, each of about some seconds."""

    rounds: int
    seconds: float
    threads: int

    def _repeats(self, once: float) -> int:
        return int(np.clip(self.seconds / max(once, 1e-9), 1, MOST_REPEATS))

    def _best(self, run: Callable[[], None], fill: Callable[[], None] | None = None) -> float:
        best = np.inf
        for _ in range(self.rounds):
            if fill is not None:
                fill()
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return best

    def operations(self, make: Callable[..., Repeated], *arguments: Any) -> float:
        """Seconds of what `make(*arguments, repeats)` repeats."""
        self._rest()
        trial = make(*arguments, 1)
        repeats = self._repeats(self._best(trial.run, trial.fill))
        timed = make(*arguments, repeats)
        timed.run()
        return self._best(timed.run, timed.fill) / repeats

    def calls(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> float:
        """Seconds of a call."""
        self._rest()

        def once() -> None:
            function(*arguments, **keywords)

        once()
        repeats = self._repeats(self._best(once))

        def run() -> None:
            for _ in range(repeats):
                function(*arguments, **keywords)

        return self._best(run) / repeats

    def _rest(self) -> None:
        """Until the threads of the library before have stopped spinning."""
        if self.threads > 1:
            time.sleep(0.05)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """The process, NumPy's BLAS and minidl on that many CPUs."""
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        raise SystemExit("error: this needs threadpoolctl (extra `bench`)") from None
    cpus = machine.cpus()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus[:threads])
    work, lowering.WORK_PER_THREAD = lowering.WORK_PER_THREAD, 0  # threads for small work too
    try:
        with threadpool_limits(threads, user_api="blas"), minidl.set_num_threads(threads):
            yield
    finally:
        lowering.WORK_PER_THREAD = work
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)


# ---- what is measured: each gives rows of figures


def products(timer: Timer, dtype: str, shapes: Any, peak: float) -> list[dict[str, Any]]:
    """The three products of a dense layer with N rows, D inputs and K outputs."""
    rng = np.random.default_rng(0)
    found = []
    for rows, inputs, outputs in shapes:
        layer = minidl.Linear(inputs, outputs, dtype=dtype, seed=0)
        x, dy, weight = (
            rng.standard_normal(shape).astype(dtype)
            for shape in ((rows, inputs), (rows, outputs), (outputs, inputs))
        )
        kinds = {
            "forward": ("LINEAR", x, weight.T),
            "input gradient": ("LINEAR_DX", dy, weight),
            "weight gradient": ("LINEAR_DW", dy.T, x),
        }
        for name, (kind, a, b) in kinds.items():
            own = timer.operations(layer_operations, layer, rows, inputs, kind, kind)
            out = np.empty((a.shape[0], b.shape[1]), dtype)
            other = timer.calls(np.matmul, a, b, out=out)
            rate = 2 * rows * inputs * outputs / own
            found.append(
                {
                    "product": name,
                    "dtype": dtype,
                    "shape": [rows, inputs, outputs],
                    "minidl_us": own * 1e6,
                    "numpy_us": other * 1e6,
                    "flops": rate,
                    "of_peak": rate / peak,
                    "times_numpy": other / own,
                }
            )
    return found


def batch_norms(timer: Timer, dtype: str, cpus: list[int]) -> list[dict[str, Any]]:
    """Forward and backward of BatchNorm, training mode."""
    found = []
    for rows, features in BATCH_NORMS:
        layer = minidl.Sequential(minidl.BatchNorm1d(features), dtype=dtype)
        size = rows * features * layer.dtype.itemsize
        bandwidth = machine.bandwidth(3 * size, cpus)
        for name, first, last, passes in (
            ("forward", "BN_BLOCKS", "BN_NORMALIZE", 3),
            ("backward", "BN_GRADIENTS", "BN_BACKWARD", 5),
        ):
            spent = timer.operations(layer_operations, layer, rows, features, first, last)
            found.append(
                {
                    "pass": name,
                    "dtype": dtype,
                    "shape": [rows, features],
                    "matrix_bytes": size,
                    "us": spent * 1e6,
                    "bytes_per_second": passes * size / spent,
                    "of_bandwidth": passes * size / spent / bandwidth,
                    "bandwidth": bandwidth,
                }
            )
    return found


def optimizers(timer: Timer, dtype: str, clock: float | None) -> list[dict[str, Any]]:
    """Updates from a gradient in memory; in training most are done on the product's tile."""
    found = []
    for name, optimizer in (
        ("Adam", minidl.Adam()),
        ("SGD with momentum", minidl.SGD(momentum=0.9)),
    ):
        for weights in WEIGHTS:
            spent = timer.operations(update_operation, optimizer, weights, dtype)
            found.append(
                {
                    "optimizer": name,
                    "dtype": dtype,
                    "weights": weights,
                    "ns_per_weight": spent / weights * 1e9,
                    "cycles_per_weight": spent / weights * clock if clock else None,
                }
            )
    return found


def barrier(timer: Timer) -> dict[str, float]:
    """Nanoseconds of a barrier, and of a call with one, which starts the threads."""
    plan = lowering.BackwardPlan(minidl.ReLU(), 1, 1, np.dtype("float32"))
    for _ in range(BARRIERS):
        plan.emit("BARRIER", [], [])
    program = plan.build()
    one = timer.calls(program.execute, 0, 1, 1)
    many = timer.calls(program.execute, 0, BARRIERS, 1)
    return {"ns": (many - one) / (BARRIERS - 1) * 1e9, "call_ns": one * 1e9}


# ---- what is printed


def show_products(found: list[dict[str, Any]]) -> str:
    """A row for each shape: GFLOP/s, share of peak, and how many times as fast as NumPy."""
    names = list(dict.fromkeys(row["product"] for row in found))
    table = [["N, D, K", *(f"{name}: GFLOP/s, of peak, times NumPy" for name in names)]]
    for start in range(0, len(found), len(names)):
        chosen = found[start : start + len(names)]
        cells = [
            f"{digits(row['flops'] / 1e9)}  {100 * row['of_peak']:3.0f} %  {row['times_numpy']:.2f}"
            for row in chosen
        ]
        table.append([", ".join(map(str, chosen[0]["shape"])), *cells])
    return markdown(table)


def show_batch_norms(found: list[dict[str, Any]]) -> str:
    """A row for each shape and direction."""
    table = [["rows, features", "MiB a matrix", "pass", "us", "GB/s", "of bandwidth"]]
    for row in found:
        table.append(
            [
                ", ".join(map(str, row["shape"])),
                digits(row["matrix_bytes"] / 2**20),
                row["pass"],
                digits(row["us"]),
                digits(row["bytes_per_second"] / 1e9),
                f"{100 * row['of_bandwidth']:.0f} %",
            ]
        )
    return markdown(table)


def show_optimizers(found: list[dict[str, Any]]) -> str:
    """A row for each optimizer and size."""
    table = [["optimizer", "weights", "ns a weight", "cycles a weight"]]
    for row in found:
        cycles = row["cycles_per_weight"]
        table.append(
            [
                row["optimizer"],
                str(row["weights"]),
                f"{row['ns_per_weight']:.3f}",
                "" if cycles is None else f"{cycles:.2f}",
            ]
        )
    return markdown(table)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("cubes", "thin", "batchnorm", "optimizers", "barrier")
    add = parser.add_argument
    add("parts", nargs="*", help=f"what to measure: {', '.join(parts)}; default: all")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--threads", type=int, default=1, help="default: 1; the barrier always has all CPUs")
    add("--rounds", type=int, default=10, help="timings of each; the best counts; default: 10")
    add("--seconds", type=float, default=0.01, help="length of a timing; default: 0.01")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(parts)}")
    options.parts = options.parts or list(parts)
    if not 1 <= options.threads <= len(machine.cpus()):
        parser.error(f"--threads: expected 1 to {len(machine.cpus())}")
    return options


def main() -> None:
    """Measure and print."""
    options = arguments()
    for note in machine.environment_notes():
        print(note, file=sys.stderr)
    dtype, threads = options.dtype, options.threads
    every = machine.cpus()
    cpus = every[:threads]
    facts = machine.describe() | machine.measure()
    config = minidl.get_config()
    print(headline(facts))
    print(f"minidl {config['version']} ({config['isa']}), NumPy {np.__version__}")
    results: dict[str, Any] = {"machine": facts, "minidl": config, "dtype": dtype}
    results["threads"] = threads
    peak = machine.peak(dtype, cpus)
    timer = Timer(options.rounds, options.seconds, threads)
    what = f"{dtype}, {threads} thread{'s' if threads > 1 else ''}"
    with limited(threads):
        for part, shapes in (("cubes", CUBES), ("thin", THIN)):
            if part in options.parts:
                results[part] = products(timer, dtype, shapes, peak)
                print(f"\nProducts, {part}, {what}\n\n{show_products(results[part])}", flush=True)
        if "batchnorm" in options.parts:
            results["batchnorm"] = batch_norms(timer, dtype, cpus)
            print(f"\nBatchNorm, {what}\n\n{show_batch_norms(results['batchnorm'])}", flush=True)
        if "optimizers" in options.parts:
            results["optimizers"] = optimizers(timer, dtype, facts["clock"])
            print(f"\nOptimizers, {what}\n\n{show_optimizers(results['optimizers'])}", flush=True)
    if "barrier" in options.parts and len(every) > 1:
        with limited(len(every)):
            cost = results["barrier"] = barrier(timer)
        print(
            f"\nBarrier, {len(every)} threads: {cost['ns']:.0f} ns; a call from Python with one "
            f"barrier: {cost['call_ns']:.0f} ns"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
