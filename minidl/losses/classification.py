"""Losses of classes: labels, probabilities, and yes or no in each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.kernels.loss import KINDS
from minidl.losses.base import Loss, Numbers
from minidl.memory import Array

if TYPE_CHECKING:
    import numpy.typing as npt


class CrossEntropyLoss(Loss):
    """-log softmax(logits)[label], from logits (N, C).

    Targets are integer labels (N,) in [0, C), or class probabilities (N, C) of a floating dtype,
    for which it is -sum(p log softmax(logits)).

    Parameters
    ----------
    weight : array_like of shape (C,), optional
        Weights of the classes, at least 0. With labels the mean is a weighted one, over the sum of
        the labels' weights; with probabilities the terms of the classes are weighted, and the sum
        is divided by the number of rows.
    label_smoothing : float in [0, 1], default 0.0
        This share of each target goes to all classes alike. Szegedy et al., 2016.

    Examples
    --------
    >>> import minidl
    >>> round(minidl.CrossEntropyLoss()([[0.0, 0.0]], [1]), 4)
    0.6931
    >>> loss = minidl.CrossEntropyLoss(weight=[1.0, 3.0], label_smoothing=0.1)
    >>> round(loss([[2.0, 0.0], [0.0, 0.0]], [0, 1]), 4)
    0.6124
    """

    task = "multiclass"
    kind = KINDS["CrossEntropyLoss"]
    arguments = ("weight", "label_smoothing")
    integer_labels = True

    def __init__(
        self, weight: npt.ArrayLike | None = None, *, label_smoothing: float = 0.0
    ) -> None:
        self.weight = None if weight is None else checks.vector(weight, "weight", 0)
        self.label_smoothing = checks.number(label_smoothing, "label_smoothing", 0, 1)

    def numbers(self) -> Numbers:
        """Smoothing and class weights."""
        return self.label_smoothing, 0.0, self.weight

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Labels as int64."""
        if self.weight is not None:
            checks.one_each(self.weight, outputs, "weight", "class")
        return checks.labels(y, rows, outputs, name)

    def bound(self, y: Any, weighted: bool = False) -> Loss:
        """The form for probabilities if y is a matrix of several columns."""
        shape, _ = checks.shape_and_kind(y)
        if len(shape) != 2 or shape[1] == 1:
            return self
        return _SoftCrossEntropy(self.weight, label_smoothing=self.label_smoothing)


class _SoftCrossEntropy(CrossEntropyLoss):
    """CrossEntropyLoss with class probabilities."""

    kind = KINDS["CrossEntropyLossSoft"]
    integer_labels = False

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Probabilities of floating dtype."""
        if self.weight is not None:
            checks.one_each(self.weight, outputs, "weight", "class")
        if np.asarray(y).dtype.kind != "f":
            raise TypeError(
                f"{name}: expected labels of shape (rows,) or class probabilities of a "
                f"floating dtype, got shape {np.shape(y)}, {np.asarray(y).dtype}"
            )
        array = checks.targets(y, rows, outputs, dtype, name)
        checks.at_least_0(array, name, "probabilities")
        return array


class MultiMarginLoss(Loss):
    """The hinge loss of several classes, from scores (N, C) and integer labels (N,) in [0, C).

    sum over c != label of max(0, margin - score[label] + score[c])^p, over C, times the weight of
    the label; the mean over rows. Crammer and Singer, 2001, have the largest term in place of the
    sum.

    Parameters
    ----------
    p : {1, 2}, default 1
    margin : float, default 1.0
    weight : array_like of shape (C,), optional
        Weights of the classes, at least 0. They multiply the rows; the mean is not over them.

    Examples
    --------
    >>> import minidl
    >>> minidl.MultiMarginLoss()([[2.0, 0.0], [0.0, 0.0]], [0, 1])
    0.25
    """

    task = "multiclass"
    kind = KINDS["MultiMarginLoss"]
    arguments = ("p", "margin", "weight")
    integer_labels = True

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: npt.ArrayLike | None = None
    ) -> None:
        checks.one_of(p, (1, 2), "p")
        self.p = p
        self.margin = checks.number(margin, "margin", -np.inf)
        self.weight = None if weight is None else checks.vector(weight, "weight", 0)

    def numbers(self) -> Numbers:
        """Margin, power and class weights."""
        return self.margin, float(self.p), self.weight

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Labels as int64."""
        if self.weight is not None:
            checks.one_each(self.weight, outputs, "weight", "class")
        return checks.labels(y, rows, outputs, name)


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(logits), mean over rows and columns; targets in [0, 1].

    Targets (N, K), a yes or no in each column, or (N,) for one column.

    Parameters
    ----------
    pos_weight : float or array_like of shape (K,), optional
        Weight of the term of y = 1, at least 0: one for all columns, or one for each.

    Examples
    --------
    >>> import minidl
    >>> round(minidl.BCEWithLogitsLoss(pos_weight=3.0)([[0.0], [0.0]], [0, 1]), 4)
    1.3863
    """

    task = "binary"
    kind = KINDS["BCEWithLogitsLoss"]
    arguments = ("pos_weight",)

    def __init__(self, *, pos_weight: npt.ArrayLike | None = None) -> None:
        self.pos_weight = (
            None if pos_weight is None else checks.number_or_vector(pos_weight, "pos_weight", 0)
        )

    def numbers(self) -> Numbers:
        """The weight of the columns."""
        if isinstance(self.pos_weight, tuple):
            return 0.0, 0.0, self.pos_weight
        return 1.0 if self.pos_weight is None else self.pos_weight, 0.0, None

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets in [0, 1]."""
        if isinstance(self.pos_weight, tuple):
            checks.one_each(self.pos_weight, outputs, "pos_weight", "output")
        array = super().check(y, rows, outputs, dtype, name)
        if array.size and not (float(array.min()) >= 0 and float(array.max()) <= 1):
            raise ValueError(
                f"{name}: expected targets in [0, 1], got {array.min()} to {array.max()}"
            )
        return array


class HingeLoss(Loss):
    """max(0, 1 - y score), y = -1 or +1, mean over rows and columns.

    Targets (N, K), or (N,) for one column: -1 and +1, or 0 and 1, where 0 stands for -1.

    Parameters
    ----------
    squared : bool, default False
        The square of it.

    Examples
    --------
    >>> import minidl
    >>> minidl.HingeLoss()([[0.5], [0.5]], [0, 1])
    1.0
    """

    task = "binary"
    kind = KINDS["HingeLoss"]
    arguments = ("squared",)

    def __init__(self, *, squared: bool = False) -> None:
        self.squared = checks.flag(squared, "squared")

    def numbers(self) -> Numbers:
        """Whether it is squared."""
        return float(self.squared), 0.0, None

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets 0 and 1, or -1 and 1."""
        array = super().check(y, rows, outputs, dtype, name)
        low = -1 if array.min(initial=0) < 0 else 0
        wrong = array[(array != low) & (array != 1)]
        if wrong.size:
            raise ValueError(f"{name}: expected targets {low} and 1, got {wrong[0]}")
        return array


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of probabilities y from log-probabilities.

    y (log y - prediction), or exp(y) (y - prediction) for ``log_target=True``. The prediction is
    the logarithm of probabilities: the network's last layer must make it so.

    Parameters
    ----------
    reduction : {"mean", "batchmean"}, default "mean"
        The mean over rows and columns, as PyTorch has it by default, or over rows alone, which is
        the divergence.
    log_target : bool, default False
        The targets are logarithms too.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> loss = minidl.KLDivLoss("batchmean")
    >>> round(loss(np.log([[0.5, 0.5]]), [[1.0, 0.0]]), 4)
    0.6931
    """

    kind = KINDS["KLDivLoss"]
    arguments = ("reduction", "log_target")

    def __init__(self, reduction: str = "mean", *, log_target: bool = False) -> None:
        checks.one_of(reduction, ("mean", "batchmean"), "reduction")
        self.reduction = reduction
        self.log_target = checks.flag(log_target, "log_target")

    def numbers(self) -> Numbers:
        """Whether the targets are logarithms, and whether columns are summed."""
        return float(self.log_target), float(self.reduction == "batchmean"), None

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Probabilities, or any numbers."""
        array = super().check(y, rows, outputs, dtype, name)
        if not self.log_target:
            checks.at_least_0(array, name, "probabilities")
        return array
