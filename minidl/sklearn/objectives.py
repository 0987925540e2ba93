"""What an estimator minimises, and how the network's outputs become predictions and scores.

scikit-learn's losses are sums over several outputs where minidl's are means: `slope` is the factor
between the gradients, `reported` that between the values that users see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import xlogy

from minidl import losses
from minidl.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    Loss,
    PoissonNLLLoss,
    QuantileLoss,
    as_loss,
)
from minidl.losses.base import Numbers
from minidl.losses.function import FunctionLoss
from minidl.memory import Array
from minidl.metrics.named import r2


class HalfSquaredError(Loss):
    """(prediction - y)^2 / 2, the mean over rows and columns: Huber's loss without an end.

    Examples
    --------
    >>> from minidl.sklearn.objectives import HalfSquaredError
    >>> HalfSquaredError()([[1.0], [2.0]], [1.0, 0.0])
    1.0
    """

    task = "regression"
    kind = HuberLoss.kind

    def numbers(self) -> Numbers:
        """The end at infinity, and the factor 1."""
        return math.inf, 1.0, None


class Objective(NamedTuple):
    """A loss with what belongs to it."""

    loss: Loss
    outputs: int
    activation: str  # "softmax", "logistic", "identity", "exp": of the output, as scikit-learn says
    reported: float = 1.0  # the value that users see is this times the loss, plus `constant`
    slope: float = 1.0  # what is minimised is this times the loss
    constant: float = 0.0

    def value(self, loss: float) -> float:
        """What users see of a mean loss."""
        return self.reported * loss + self.constant


def of_classes(loss: Any, classes: int, multilabel: bool) -> Objective:
    """The objective of a classifier; of labels, `classes` counts those that each row may have."""
    if loss == "log_loss":
        if multilabel:
            return Objective(BCEWithLogitsLoss(), classes, "logistic", classes, classes)
        if classes <= 2:
            return Objective(BCEWithLogitsLoss(), 1, "logistic")
        return Objective(CrossEntropyLoss(), classes, "softmax")
    found = _as_loss(loss)
    if found.task == "binary" and (multilabel or classes <= 2):
        activation = "logistic" if isinstance(found, BCEWithLogitsLoss) else "identity"
        return Objective(found, classes if multilabel else 1, activation)
    if found.task == "multiclass" and not multilabel:
        activation = "softmax" if isinstance(found, CrossEntropyLoss) else "identity"
        return Objective(found, max(classes, 2), activation)
    if isinstance(found, FunctionLoss):
        return Objective(found, classes if multilabel else max(classes, 2), "identity")
    what = "several labels" if multilabel else f"{classes} classes" if classes > 2 else "classes"
    raise ValueError(f"loss: expected one that suits {what}, got {found!r}")


def of_values(loss: Any, y: Array, weight: Array | None) -> Objective:
    """The objective of a regressor for targets (N, K)."""
    columns = y.shape[1]
    if loss == "squared_error":
        return Objective(HalfSquaredError(), columns, "identity", slope=columns)
    if loss == "poisson":
        # Half the deviance: what does not depend on the prediction is added to what users see.
        wide = y.astype(np.float64)
        constant = float(np.average(xlogy(wide, wide) - wide, axis=0, weights=weight).sum())
        return Objective(PoissonNLLLoss(), columns, "exp", columns, columns, constant)
    found = _as_loss(loss)
    if found.task != "regression" and not isinstance(found, FunctionLoss):
        raise ValueError(f"loss: expected one that suits values, got {found!r}")
    logarithm = isinstance(found, PoissonNLLLoss) and found.log_input
    if isinstance(found, QuantileLoss) and isinstance(found.quantile, tuple):
        columns = len(found.quantile)
    return Objective(found, columns, "exp" if logarithm else "identity")


def same_loss(a: Loss, b: Loss) -> bool:
    """True for losses of one kind with the same arguments."""
    if type(a) is not type(b):
        return False
    if isinstance(a, FunctionLoss) and isinstance(b, FunctionLoss):
        return a.function is b.function
    return a is b or a.config() == b.config()


def _as_loss(loss: Any) -> Loss:
    return losses.by_name(loss) if isinstance(loss, str) else as_loss(loss)


# Scores of outputs, as scikit-learn's `accuracy_score` and `r2_score` would have them.

Score = Callable[[Array, Array, "Array | None"], float]


def accuracy(y: Array, outputs: Array, weight: Array | None) -> float:
    """Share of rows that are right; of several labels, all must be."""
    if y.ndim == 2:
        right = ((outputs > 0) == (y > 0.5)).all(axis=1)
    elif outputs.shape[1] == 1:
        right = (outputs[:, 0] > 0) == y
    else:
        right = outputs.argmax(axis=1) == y
    return float(right.mean() if weight is None else np.average(right, weights=weight))


def determination(activation: str) -> Score:
    """R squared, of outputs that a function of this name makes predictions."""

    def score(y: Array, outputs: Array, weight: Array | None) -> float:
        values = np.exp(outputs) if activation == "exp" else outputs
        return r2(y, values, "regression", weight)

    return score
