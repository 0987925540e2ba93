"""A training step of minidl beside NumPy, PyTorch, JAX and scikit-learn, in one run.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/compare.py \\
        --json results.json --picture results.svg

Same networks, data, batches, starting weights and optimizer for all; warm; in turns. Before a case
is timed, each system trains one epoch, and its loss and what it moved must agree with NumPy's in
float64: nobody skips work. If they do not, the exit code is 1.

Times are those of a step: forward, loss, backward, update. A system has a process for each number
of threads (see `worker.py`), and counts with the better of them. Systems that are not installed
are left out by name.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import numpy as np
import report
from cases import Case, all_cases
from peers import REGISTRY
from worker import Worker, WorkerError

# Seconds of rest before each timing. The idle threads of the library that ran before spin for a
# while (libgomp and OpenBLAS for some 25 ms) and would take the CPU from the next one's.
PAUSE = 0.1

# How far a system may be from the reference after an epoch: relative, of its loss, and of the
# distance that each array moved. Float64 leaves 1e-15 and 1e-14, float32 up to 1e-5 and 2e-2: a
# gradient near zero that rounds to the other side turns a whole step of Adam.
TOLERANCES = {"float32": (1e-4, 0.05), "float64": (1e-9, 1e-6)}
OTHER_FORMULAS = (1e-4, 0.1)  # scikit-learn's epsilon of Adam stands elsewhere


class Disagreement(RuntimeError):
    """A system did not train as the others did."""


def reference(case: Case) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Loss, and state before and after an epoch, of the NumPy baseline in float64.

    It starts from the numbers of the case's own type, so that all begin at the same point.
    """
    system = REGISTRY["numpy"].load()(1)
    X, y = case.data()
    weights = [tuple(array.astype(np.float64) for array in pair) for pair in case.weights()]
    targets = y if case.loss == "cross_entropy" else y.astype(np.float64)
    system.start(replace(case, dtype="float64"), X.astype(np.float64), targets, weights)
    before = system.state()
    return system.run(1), before, system.state()


def check(
    system: str, case: Case, answer: dict[str, Any], truth: tuple[Any, Any, Any]
) -> tuple[float, float]:
    """Deviations of the loss and of the moves; raises `Disagreement` if one is too large."""
    who = REGISTRY[system].label
    loss_tolerance, move_tolerance = (
        TOLERANCES[case.dtype] if REGISTRY[system].same_formulas else OTHER_FORMULAS
    )
    loss, before, after = truth
    loss_off = abs(answer["loss"] - loss) / abs(loss)
    if not loss_off <= loss_tolerance:
        raise Disagreement(
            f"{who}, {case.name}: mean loss {answer['loss']:.7g} of {case.steps} steps, expected "
            f"{loss:.7g} (relative difference {loss_off:.1e})"
        )
    missing = before.keys() ^ answer["state"].keys()
    if missing:
        raise Disagreement(f"{who}, {case.name}: {', '.join(sorted(missing))} not in its state")
    worst = 0.0
    for name, array in answer["state"].items():
        moved = np.linalg.norm(after[name] - before[name])
        off = float(np.linalg.norm(array - after[name]) / moved)
        if not off <= move_tolerance:
            raise Disagreement(
                f"{who}, {case.name}: {name} after {case.steps} steps is off by {off:.1e} of the "
                "distance that it should have moved"
            )
        worst = max(worst, off)
    return loss_off, worst


@contextmanager
def workers(systems: list[str], threads: list[int]) -> Iterator[list[Worker]]:
    """A process for each system and number of threads."""
    cpus = machine.cpus()
    with ExitStack() as stack:
        started = []
        for system in systems:
            for count in threads:
                started.append(Worker(system, cpus[:count]))
                stack.callback(started[-1].close)
        yield started


def run_case(
    case: Case, everybody: list[Worker], reasons: dict[str, str], rounds: int, seconds: float
) -> dict[str, Any]:
    """Check and time a case."""
    able = [worker for worker in everybody if worker.system not in reasons]
    truth = reference(case)
    results = []
    for worker in able:
        answer = worker.prepare(case)
        loss_off, moves_off = check(worker.system, case, answer, truth)
        results.append(
            {
                "system": worker.system,
                "threads": worker.threads,
                "epochs": max(1, math.ceil(seconds / answer["epoch"])),
                "first_epoch_seconds": answer["first"],
                "loss": answer["loss"],
                "loss_deviation": loss_off,
                "moves_deviation": moves_off,
                "rounds_us": [],
            }
        )
    turns = list(zip(able, results, strict=True))
    for number in range(rounds):
        for worker, result in turns if number % 2 == 0 else reversed(turns):
            time.sleep(PAUSE)
            spent = worker.round(result["epochs"])
            result["rounds_us"].append(1e6 * spent / (result["epochs"] * case.steps))
    for result in results:
        result["best_us"] = min(result["rounds_us"])
        result["median_us"] = float(np.median(result["rounds_us"]))
    return {
        "name": case.name,
        "network": case.network,
        **asdict(case),
        "steps": case.steps,
        "flops": case.flops,
        "expected_loss": truth[0],
        "results": results,
        "left_out": reasons,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Systems: " + ", ".join(REGISTRY) + ". minidl is always there.",
    )
    add = parser.add_argument
    add("--cases", metavar="PATTERN", default="", help="cases whose name this expression finds")
    add("--peers", metavar="A,B", help="systems beside minidl; default: all that are installed")
    add("--threads", metavar="N,M", default="1,2", help="numbers of threads; default: 1,2")
    add("--rounds", type=int, default=5, help="timings of each system; default: 5")
    add("--seconds", type=float, default=0.1, help="length of a timing; default: 0.1")
    add("--show", choices=("best", "median"), default="best", help="of the rounds; default: best")
    norm = parser.add_mutually_exclusive_group()
    norm.add_argument("--batch-norm", action="store_true", help="only cases with BatchNorm")
    norm.add_argument("--plain", action="store_true", help="only cases without BatchNorm")
    add("--json", type=Path, metavar="FILE", help="write all figures; `report.py` reads them")
    add("--picture", type=Path, metavar="FILE", help="draw the table (svg, png; needs matplotlib)")
    add("--quick", action="store_true", help="two short rounds: to try it, not to be quoted")
    add("--list", action="store_true", help="only list the cases")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.005
    try:
        options.threads = sorted({int(n) for n in options.threads.split(",")})
        pattern = re.compile(options.cases)
    except (ValueError, re.error) as error:
        parser.error(str(error))
    cpus = len(machine.cpus())
    if not 1 <= options.threads[0] <= options.threads[-1] <= cpus:
        parser.error(f"--threads: expected numbers from 1 to {cpus}, the CPUs that it may use")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds: expected more than 0")
    peers = [name for name in REGISTRY if name != "minidl"]
    if options.peers is not None:
        peers = [name for name in options.peers.split(",") if name not in ("", "minidl")]
        if unknown := set(peers) - REGISTRY.keys():
            parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; {', '.join(REGISTRY)}")
    options.systems = ["minidl", *peers]
    options.cases = [
        case
        for case in all_cases()
        if pattern.search(case.name)
        and not (case.batch_norm and options.plain)
        and not (options.batch_norm and not case.batch_norm)
    ]
    if not options.cases:
        parser.error("--cases: no case has such a name; see --list")
    return options


def show_case(case: dict[str, Any], show: str) -> None:
    """One line while the run goes on."""
    figures = [
        f"{REGISTRY[r['system']].label}/{r['threads']} {report.digits(r[f'{show}_us'])}"
        for r in case["results"]
    ]
    print(f"{case['name']}: {', '.join(figures)} us", flush=True)


def main() -> int:
    """Return the exit code."""
    options = arguments()
    if options.list:
        print(*(case.name for case in options.cases), sep="\n")
        return 0
    for note in machine.environment_notes():
        print(note, file=sys.stderr)
    absent = [name for name in options.systems if not REGISTRY[name].installed()]
    systems = [name for name in options.systems if name not in absent]
    for name in absent:
        print(f"left out: {REGISTRY[name].label} is not installed", file=sys.stderr)
    unsuitable = {
        case: {name: why for name in systems if (why := REGISTRY[name].unsuitable(case))}
        for case in options.cases
    }
    for (name, why), count in Counter(
        item for reasons in unsuitable.values() for item in reasons.items()
    ).items():
        print(f"left out: {REGISTRY[name].label} in {count} cases: {why}", file=sys.stderr)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe() | machine.measure(),
        "notes": machine.environment_notes(),
        "settings": {key: getattr(options, key) for key in ("threads", "rounds", "seconds")},
        "systems": {name: REGISTRY[name].label for name in systems},
        "not_installed": absent,
        "cases": [],
    }
    print(report.headline(results["machine"]))
    try:
        with workers(systems, options.threads) as everybody:
            results["versions"] = {k: v for w in everybody for k, v in w.versions.items()}
            print(", ".join(f"{name} {v}" for name, v in results["versions"].items()), flush=True)
            for case in options.cases:
                done = run_case(case, everybody, unsuitable[case], options.rounds, options.seconds)
                results["cases"].append(done)
                show_case(done, options.show)
                if options.json is not None:  # each time: a long run may be stopped
                    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except (Disagreement, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print()
    print(report.table(results, options.show))
    if options.picture is not None:
        report.draw(results, options.picture, options.show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
