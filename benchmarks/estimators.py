"""minidl's estimators beside scikit-learn's, with the same parameters: scores, and times of `fit`.

    python benchmarks/estimators.py quality
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/estimators.py speed

`quality` is the mean score of 5-fold cross-validation over seeds, with the same folds and seeds for
both: accuracy, or R squared of a target that is standardised. The columns are standardised. The
standard error is that of the mean of scikit-learn's scores over folds and seeds; minidl should lie
no more than half of one below. If it does somewhere, the exit code is 1. "chance" is the error of
the difference between the two, in the same unit: the orders of the rows are not the same.

`speed` is the time of a `fit` with a fixed number of epochs, both in this process, in turns, the
best of some rounds. On an idle machine; it means nothing on another.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn import datasets, neural_network
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import minidl
from minidl import sklearn as ours

DATA: dict[str, Callable[..., Any]] = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "(64, 32), batch 64": {"hidden_layer_sizes": (64, 32), "batch_size": 64},
    "early stopping": {"early_stopping": True, "learning_rate_init": 0.01, "max_iter": 500},
    "sgd, adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.02, "max_iter": 500,
    },
    "lbfgs": {"solver": "lbfgs", "alpha": 1.0, "hidden_layer_sizes": (32,), "max_iter": 500},
}  # fmt: skip
FOLDS = 5
PAUSE = 0.1  # seconds: idle threads of the library that ran before spin for a while


def quality(seeds: int, settings: list[str], names: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """Print the scores; returns them, and whether all are good enough."""
    results, good = [], True
    columns = f"{'scikit-learn':>12} {'minidl':>9} {'in SE':>7} {'chance':>7}"
    print(f"{'data':14} {'parameters':20} {columns}")
    for setting in settings:
        for name in names:
            theirs, mine = (
                scores(library, name, SETTINGS[setting], seeds)
                for library in (neural_network, ours)
            )
            error = float(theirs.std(ddof=1) / np.sqrt(theirs.size))
            behind = float((mine.mean() - theirs.mean()) / error) if error else 0.0
            good &= behind >= -0.5
            note = "" if behind >= -0.5 else "  <-- below"
            chance = (
                float((mine - theirs).std(ddof=1) / np.sqrt(theirs.size) / error) if error else 0.0
            )
            means = f"{theirs.mean():12.4f} {mine.mean():9.4f}"
            print(f"{name:14} {setting:20} {means} {behind:+7.2f} {chance:7.2f}{note}", flush=True)
            results.append(
                {
                    "data": name, "parameters": setting, "scikit_learn": theirs.tolist(),
                    "minidl": mine.tolist(), "standard_error": error, "standard_errors": behind,
                }
            )  # fmt: skip
    return results, good


def scores(library: Any, name: str, options: dict[str, Any], seeds: int) -> np.ndarray:
    """Scores of a library's estimator, one for each fold and seed."""
    X, y = DATA[name](return_X_y=True)
    found = []
    for seed in range(seeds):
        if name == "diabetes":
            folds = KFold(FOLDS, shuffle=True, random_state=seed)
            net = TransformedTargetRegressor(
                library.MLPRegressor(random_state=seed, **options), transformer=StandardScaler()
            )
        else:
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            net = library.MLPClassifier(random_state=seed, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(cross_val_score(make_pipeline(StandardScaler(), net), X, y, cv=folds))
    return np.concatenate(found)


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray, dict[str, Any], int]]:
    """Name, X, y, parameters and epochs."""
    X, y = datasets.load_digits(return_X_y=True)
    deep, rng = {"hidden_layer_sizes": (64, 32), "batch_size": 64}, np.random.default_rng(0)
    for dtype in ("float64", "float32"):
        digits = (X / 16).astype(dtype)
        yield f"digits, (64, 32), batch 64, {dtype}", digits, y, deep, 100
        yield f"digits, (100,), batch 200, {dtype}", digits, y, {}, 100
        yield (
            f"digits, (64, 32), batch 64, {dtype}, early stopping",
            digits, y, deep | {"early_stopping": True}, 100,
        )  # fmt: skip
    large = rng.normal(size=(50_000, 784)), rng.integers(0, 10, 50_000)
    for dtype in ("float64", "float32"):
        yield (
            f"50000 x 784, (256, 128), batch 200, {dtype}",
            large[0].astype(dtype), large[1], {"hidden_layer_sizes": (256, 128)}, 2,
        )  # fmt: skip


def speed(rounds: int, only: str) -> list[dict[str, Any]]:
    """Print the times, in milliseconds an epoch."""
    results = []
    print(f"{'case':52} {'scikit-learn':>12} {'minidl':>9} {'ratio':>7}")
    for name, X, y, options, epochs in cases():
        if only not in name:
            continue
        nets = [
            library.MLPClassifier(
                random_state=0, max_iter=epochs, n_iter_no_change=10**6, **options
            )
            for library in (neural_network, ours)
        ]
        best = [float("inf")] * 2
        for _ in range(rounds):
            for i, net in enumerate(nets):
                time.sleep(PAUSE)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    start = time.perf_counter()
                    net.fit(X, y)
                    best[i] = min(best[i], time.perf_counter() - start)
                if net.n_iter_ != epochs:
                    raise RuntimeError(f"{name}: expected {epochs} epochs, got {net.n_iter_}")
        theirs, mine = (1e3 * seconds / epochs for seconds in best)
        print(f"{name:52} {theirs:12.3f} {mine:9.3f} {theirs / mine:6.1f}x", flush=True)
        results.append({"case": name, "scikit_learn_ms": theirs, "minidl_ms": mine})
    return results


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--only", default="", help="speed: cases whose names contain this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"minidl {minidl.__version__}, scikit-learn {sklearn.__version__}")
    good = True
    if arguments.what == "quality":
        results, good = quality(arguments.seeds, arguments.settings, arguments.data)
    else:
        results = speed(arguments.rounds, arguments.only)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
