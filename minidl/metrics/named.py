"""The metrics that have names.

Each takes y_true and y_pred as its entry in `NAMES` needs them, the task, and the rows' weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.extras import need
from minidl.memory import Array
from minidl.metrics.convert import Task, columns, probabilities, true_labels

# Labels.


def accuracy(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Share of labels that are right."""
    right = columns(y == p).mean(axis=1)
    return float(np.average(right, weights=sample_weight))


def balanced_accuracy(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Mean recall of the classes that are there."""
    recall_score = sklearn("balanced_accuracy").recall_score
    options = {"average": "macro", "sample_weight": sample_weight}
    pairs = zip(np.atleast_2d(y.T), np.atleast_2d(p.T), strict=True)
    return float(np.mean([recall_score(a, b, labels=np.unique(a), **options) for a, b in pairs]))


def precision(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Of the rows that are said to be of a class, the share that are."""
    return _score("precision", y, p, task, sample_weight)


def recall(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Of the rows of a class, the share that are said to be."""
    return _score("recall", y, p, task, sample_weight)


def f1(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Harmonic mean of precision and recall."""
    return _score("f1", y, p, task, sample_weight)


def _score(name: str, y: Array, p: Array, task: Task, sample_weight: Array | None) -> float:
    average = "binary" if task == "binary" and y.ndim == 1 else "macro"
    score = getattr(sklearn(name), f"{name}_score")
    return float(score(y, p, average=average, sample_weight=sample_weight, zero_division=0.0))


def sklearn(name: str) -> Any:
    """The module that the metric needs."""
    return need("sklearn.metrics", "sklearn", f"the metric {name!r}")


# Raw outputs of classifiers, whose order is that of the probabilities, but which never saturate.


def auc(y: Array, z: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Area under the curve of true against false positives."""
    roc_auc_score = sklearn("auc").roc_auc_score
    y = true_labels(y, task)
    if task == "multiclass":
        classes = z.shape[1]
        missing = classes < 2 or len(np.unique(y)) < classes
        z = z[:, 1].astype(np.float64) - z[:, 0] if classes == 2 else probabilities(z, task)
    else:
        missing = bool((columns(y) == columns(y)[0]).all(axis=0).any())
    if missing:
        return float("nan")
    return float(roc_auc_score(y, z, multi_class="ovr", sample_weight=sample_weight))


def top_k(
    y: Array, z: Array, task: Task, sample_weight: Array | None = None, *, k: int = 5
) -> float:
    """Share of rows whose class is among the k likeliest; of equals, the last ones come first."""
    y = true_labels(y, task)[:, None]
    own = np.take_along_axis(z, y, axis=1)
    before = (z > own) | ((z == own) & (np.arange(z.shape[1]) > y))
    return float(np.average(before.sum(axis=1) < k, weights=sample_weight))


# Values.


def mae(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Mean absolute error, over rows and columns."""
    error = np.abs(_difference(y, p))
    return float(np.average(error, axis=0, weights=sample_weight).mean())


def rmse(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """Root of the mean square error of each column; the mean over the columns."""
    square = _difference(y, p) ** 2
    return float(np.sqrt(np.average(square, axis=0, weights=sample_weight)).mean())


def r2(y: Array, p: Array, task: Task, sample_weight: Array | None = None) -> float:
    """1 - square error / variance of each column; the mean over the columns.

    Where there is no variance, a column counts 1 if it is met, else 0.
    """
    error = _difference(y, p) ** 2
    if len(error) < 2:
        return float("nan")
    spread = (columns(y) - np.average(columns(y), axis=0, weights=sample_weight)) ** 2
    error, spread = (np.average(x, axis=0, weights=sample_weight) for x in (error, spread))
    share = np.divide(error, spread, out=(error > 0).astype(np.float64), where=spread > 0)
    return float(1 - share.mean())


def _difference(y: Array, p: Array) -> Array:
    y, p = columns(y), columns(p)
    if y.shape != p.shape:
        raise ValueError(f"metrics: expected outputs like the targets {y.shape}, got {p.shape}")
    return p - y


CLASSIFICATION: tuple[Task, ...] = ("multiclass", "binary")
REGRESSION: tuple[Task, ...] = ("regression", None)
SKLEARN = ("auc", "balanced_accuracy", "f1", "precision", "recall")  # what scikit-learn computes

# The function, what it needs (see `Metric`), and the tasks it is for.
NAMES: dict[str, tuple[Callable[..., float], str, tuple[Task, ...]]] = {
    "accuracy": (accuracy, "labels", CLASSIFICATION),
    "auc": (auc, "values", CLASSIFICATION),
    "balanced_accuracy": (balanced_accuracy, "labels", CLASSIFICATION),
    "f1": (f1, "labels", CLASSIFICATION),
    "mae": (mae, "values", REGRESSION),
    "precision": (precision, "labels", CLASSIFICATION),
    "r2": (r2, "values", REGRESSION),
    "recall": (recall, "labels", CLASSIFICATION),
    "rmse": (rmse, "values", REGRESSION),
    "top_k": (top_k, "values", ("multiclass",)),
}
