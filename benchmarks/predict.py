"""How long a prediction takes: minidl, as it is and fused, beside onnxruntime, PyTorch and NumPy.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/predict.py --json predict.json

The same network with the same weights for all, float32, evaluation mode, the same number of
threads; warm; in turns. Before a case is timed, all must predict what NumPy does in float64; if one
does not, the exit code is 1. Times are those of a call with so many rows: array in, array out
(PyTorch: tensor in, tensor out). What is not installed is left out by name.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import machine
import numpy as np
import report

import minidl
from minidl import numpy_baseline as baseline

ROWS = (1, 100, 10_000, 1_000_000)
MOST_NUMBERS = 100_000_000  # in a batch: 784 features have 100 000 rows in place of a million
TOLERANCE = 1e-4  # relative to the largest prediction
# Seconds of rest before each timing: idle threads of the library that ran before spin for a while.
PAUSE = 0.1

Predict = Callable[[], Any]


class Disagreement(RuntimeError):
    """A system does not predict what the others do."""


@dataclass(frozen=True)
class Case:
    """A network, with BatchNorm behind its hidden layers or without, and rows of a call."""

    layers: tuple[int, ...]
    batch_norm: bool
    rows: int

    @property
    def name(self) -> str:
        """Sizes, rows, and whether it has BatchNorm."""
        sizes = "-".join(map(str, self.layers))
        return f"{sizes}, {self.rows}{' BatchNorm' if self.batch_norm else ''}"

    def data(self) -> np.ndarray:
        """Rows to predict."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.rows, self.layers[0]), dtype=np.float32)

    def model(self) -> minidl.Sequential:
        """The network after a few steps: running averages are not the first ones."""
        layers: list[minidl.Layer] = []
        for inputs, outputs in pairwise(self.layers[:-1]):
            layers.append(minidl.Linear(inputs, outputs))
            layers += [minidl.BatchNorm1d(outputs)] if self.batch_norm else []
            layers.append(minidl.ReLU())
        model = minidl.Sequential(*layers, minidl.Linear(*self.layers[-2:]), seed=0)
        rng = np.random.default_rng(1)
        X, y = rng.normal(1, 2, (256, self.layers[0])), rng.integers(0, self.layers[-1], 256)
        minidl.Trainer(model).fit(X, y, epochs=2, seed=0)
        model.eval()
        return model


def all_cases() -> list[Case]:
    """Two networks, without BatchNorm and with it."""
    return [
        Case(layers, batch_norm, rows if rows * layers[0] <= MOST_NUMBERS else 100_000)
        for layers in ((20, 32, 16, 2), (784, 128, 64, 10))
        for batch_norm in (False, True)
        for rows in ROWS
    ]


def numpy_network(model: minidl.Sequential, dtype: str) -> baseline.Sequential:
    """The model in the NumPy baseline."""

    def layer(own: Any) -> baseline.Layer:
        if isinstance(own, minidl.Linear):
            return baseline.Linear(own.weight.astype(dtype), own.bias.astype(dtype))
        if isinstance(own, minidl.BatchNorm1d):
            norm = baseline.BatchNorm1d(own.weight.astype(dtype), own.bias.astype(dtype), own.eps)
            norm.running_mean[...], norm.running_var[...] = own.running_mean, own.running_var
            return norm
        return baseline.Act(type(own).__name__)

    return baseline.Sequential(layer(own) for own in model)


# Systems: from a model, the rows and a number of threads to a call that predicts them.


def with_minidl(model: minidl.Sequential, X: np.ndarray, threads: int) -> Predict:
    """As it is."""
    return lambda: model.predict(X)


def with_minidl_fused(model: minidl.Sequential, X: np.ndarray, threads: int) -> Predict:
    """BatchNorm inside the layers before."""
    fused = model.fuse()
    return lambda: fused.predict(X)


def with_onnxruntime(model: minidl.Sequential, X: np.ndarray, threads: int) -> Predict:
    """All its optimizations, which are its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        minidl.export_onnx(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": X})[0]


def with_pytorch(model: minidl.Sequential, X: np.ndarray, threads: int) -> Predict:
    """Eager, in inference mode."""
    import torch

    torch.set_num_threads(threads)
    module, x = minidl.to_torch(model), torch.from_numpy(X)

    @torch.inference_mode()
    def predict() -> Any:
        return module(x)

    return predict


def with_numpy(model: minidl.Sequential, X: np.ndarray, threads: int) -> Predict:
    """The baseline."""
    network = numpy_network(model, "float32")
    return lambda: network.forward(X)


# By label: the packages that a system needs, and how it is made.
SYSTEMS: dict[str, tuple[tuple[str, ...], Callable[..., Predict]]] = {
    "minidl": ((), with_minidl),
    "minidl fused": ((), with_minidl_fused),
    "onnxruntime": (("onnx", "onnxruntime"), with_onnxruntime),
    "PyTorch": (("torch",), with_pytorch),
    "NumPy": ((), with_numpy),
}


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """The same limit for minidl and for NumPy's BLAS."""
    with minidl.set_num_threads(threads):
        if find_spec("threadpoolctl") is None:
            print("note: without threadpoolctl NumPy has as many threads as it likes")
            yield
            return
        from threadpoolctl import threadpool_limits

        with threadpool_limits(threads, user_api="blas"):
            yield


def check(label: str, case: Case, found: Any, truth: np.ndarray) -> None:
    """Raise `Disagreement` if predictions are not those of NumPy in float64."""
    off = float(np.abs(np.asarray(found) - truth).max() / np.abs(truth).max())
    if not off <= TOLERANCE:
        raise Disagreement(f"{label}, {case.name}: predictions are off by {off:.1e}")


def seconds_of(predict: Predict, calls: int) -> float:
    """Seconds of a call, from several, after a rest and one that is not counted."""
    time.sleep(PAUSE)
    predict()
    start = time.perf_counter()
    for _ in range(calls):
        predict()
    return (time.perf_counter() - start) / calls


def run_case(case: Case, labels: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Check and time a case; microseconds a call by system, one for each round."""
    model, X = case.model(), case.data()
    sample = X[:1000]
    truth = numpy_network(model, "float64").forward(sample.astype(np.float64))
    able = [label for label in labels if case.batch_norm or label != "minidl fused"]
    systems = {label: SYSTEMS[label][1](model, X, options.threads) for label in able}
    calls = {}
    for label, predict in systems.items():
        check(label, case, predict()[: len(sample)], truth)
        calls[label] = max(1, math.ceil(options.seconds / seconds_of(predict, 1)))
    rounds: dict[str, list[float]] = {label: [] for label in able}
    for number in range(options.rounds):
        for label in able if number % 2 == 0 else reversed(able):
            rounds[label].append(1e6 * seconds_of(systems[label], calls[label]))
    best = {label: min(times) for label, times in rounds.items()}
    return {"name": case.name, **asdict(case), "best_us": best, "rounds_us": rounds}


def table(results: dict[str, Any]) -> str:
    """A row for each case: microseconds a call, and in brackets how many times minidl's."""
    head = ["layers, rows", *results["systems"]]
    rows = [head]
    for case in results["cases"]:
        best = case["best_us"]
        own = best.get("minidl fused", best["minidl"])
        row = [case["name"]]
        for label in head[1:]:
            figure = report.digits(best[label]) if label in best else ""
            peer = label in best and not label.startswith("minidl")
            row.append(f"{figure} ({best[label] / own:.1f})" if peer else figure)
        rows.append(row)
    settings = results["settings"]
    note = (
        f"Microseconds a call, best of {settings['rounds']} rounds, {settings['threads']} "
        "thread(s) each; in brackets: times minidl's figure, the fused one where there is one."
    )
    return f"{report.markdown(rows)}\n\n{note}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--cases", metavar="PATTERN", default="", help="cases whose name this expression finds")
    add("--threads", type=int, default=minidl.get_num_threads(), help="of every system")
    add("--rounds", type=int, default=5, help="timings of each system; default: 5")
    add("--seconds", type=float, default=0.1, help="least length of a timing; default: 0.1")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--quick", action="store_true", help="two short rounds: to try it, not to be quoted")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.005
    if min(options.threads, options.rounds) < 1 or options.seconds <= 0:
        parser.error("--threads, --rounds and --seconds: expected more than 0")
    try:
        pattern = re.compile(options.cases)
    except re.error as error:
        parser.error(str(error))
    options.cases = [case for case in all_cases() if pattern.search(case.name)]
    if not options.cases:
        parser.error("--cases: no case has such a name")
    return options


def main() -> int:
    """Return the exit code."""
    options = arguments()
    for note in machine.environment_notes():
        print(note, file=sys.stderr)
    missing = {
        label: [package for package in packages if find_spec(package) is None]
        for label, (packages, _) in SYSTEMS.items()
    }
    labels = [label for label, packages in missing.items() if not packages]
    for label in missing.keys() - labels:
        print(f"left out: {label} ({', '.join(missing[label])} not installed)", file=sys.stderr)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe() | machine.measure(),
        "settings": {key: getattr(options, key) for key in ("threads", "rounds", "seconds")},
        "systems": labels,
        "cases": [],
    }
    print(report.headline(results["machine"]), flush=True)
    try:
        with same_threads(options.threads):
            for case in options.cases:
                done = run_case(case, labels, options)
                results["cases"].append(done)
                figures = (f"{k} {report.digits(v)}" for k, v in done["best_us"].items())
                print(f"{case.name}: {', '.join(figures)} us", flush=True)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(results)}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
