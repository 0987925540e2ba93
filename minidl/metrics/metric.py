"""A metric, and what makes one of names and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from minidl import checks
from minidl.memory import Array
from minidl.metrics.convert import Task, flat, predicted_labels, probabilities, true_labels
from minidl.metrics.named import CLASSIFICATION, NAMES, REGRESSION, SKLEARN, sklearn

Function: TypeAlias = Callable[..., float]
TASKS: dict[str | None, tuple[Task, ...]] = {
    None: CLASSIFICATION + REGRESSION,
    "labels": CLASSIFICATION,
    "scores": CLASSIFICATION,
    "values": CLASSIFICATION + REGRESSION,
}
RESERVED = ("loss", "lr", "epoch", "step")  # what other results and fields are called


class Metric:
    """A function that says how good predictions are.

    Parameters
    ----------
    function : callable
        ``(y_true, y_pred) -> float``, such as those of `sklearn.metrics`.
    name : str, optional
        What the result is called; default: as the function.
    needs : {"labels", "scores", "values"}, optional
        What the function gets of a classifier. One column is (N,).

        - "labels": class numbers (N,); for a binary loss zeros and ones, (N,) or (N, K).
        - "scores": such labels, and probabilities (N, C), of a binary loss (N,) or (N, K).
        - "values": targets as they are, and logits.

        Default: labels. Regression has values only. With a loss that is a plain function, targets
        and outputs stay as they are.
    weighted : bool, optional
        Whether the function takes ``sample_weight``; default: whether it has such an argument.
        False measures without weights what is trained with weights.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> def worst(y_true, y_pred):
    ...     return np.abs(y_true - y_pred).max()
    >>> minidl.Metric(worst)(np.array([1.0, 2.0]), np.array([[1.5], [2.0]]), "regression")
    0.5
    """

    def __init__(
        self,
        function: Function,
        name: str | None = None,
        *,
        needs: str | None = None,
        weighted: bool | None = None,
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(
                f"metrics: expected names, functions (y_true, y_pred) or Metric, got {function!r}"
            )
        if needs is not None:
            checks.one_of(needs, tuple(name for name in TASKS if name), "needs")
        self.function = function
        self.name = _checked(_name_of(function) if name is None else name)
        self.needs = needs
        self.tasks = TASKS[needs]
        self.weighted = (
            _takes_weights(function) if weighted is None else checks.flag(weighted, "weighted")
        )
        self._ignores_weights = weighted is False

    def check(self, task: Task, weights: bool = False) -> None:
        """Raise a ValueError if this cannot be measured with such a loss, or with weights."""
        if task not in self.tasks:
            suited = " or ".join(t or "function" for t in self.tasks)
            raise ValueError(
                f"metrics: {self.name!r} is for a {suited} loss, got a {task or 'function'} loss"
            )
        if weights and not self.weighted and not self._ignores_weights:
            raise ValueError(
                f"metrics: {self.name!r} takes no sample_weight; "
                "Metric(function, weighted=False) measures it without"
            )

    def __call__(
        self, y: Array, outputs: Array, task: Task, sample_weight: Array | None = None
    ) -> float:
        """The value, from the targets and the network's raw outputs; NaN if these are not finite.

        Parameters
        ----------
        y : ndarray of shape (N,) or (N, K)
            As the loss takes them.
        outputs : ndarray of shape (N, K)
        task : {"multiclass", "binary", "regression", None}
            What the loss takes them for; None if it is a plain function.
        sample_weight : ndarray of shape (N,), optional
            Rows of weight 0 are left out.
        """
        self.check(task, sample_weight is not None)
        y, outputs = np.asarray(y), np.asarray(outputs)
        options: dict[str, Any] = {}
        if sample_weight is not None and self.weighted:
            kept = np.flatnonzero(sample_weight)
            y, outputs = y[kept], outputs[kept]
            options["sample_weight"] = np.asarray(sample_weight)[kept]
        if not len(outputs) or not np.isfinite(outputs).all():
            return float("nan")
        value = self._measure(*self._arguments(y, outputs, task), task, options)
        if np.ndim(value) or np.asarray(value).dtype.kind not in "fiub":
            raise TypeError(f"metrics: expected a number from {self.name!r}, got {value!r}")
        return float(value)

    def _measure(self, y: Array, p: Array, task: Task, options: dict[str, Any]) -> float:
        return self.function(y, p, **options)

    def _arguments(self, y: Array, outputs: Array, task: Task) -> tuple[Array, Array]:
        """y_true and y_pred."""
        if task is None:
            return y, outputs
        if task == "regression" or self.needs == "values":
            return flat(y), outputs if task == "multiclass" else flat(outputs)
        convert = probabilities if self.needs == "scores" else predicted_labels
        return true_labels(y, task), convert(outputs, task)

    def __repr__(self) -> str:
        """The name."""
        return f"{type(self).__name__}({self.name!r})"


class NamedMetric(Metric):
    """One of minidl's metrics; "top_3" is "top_k" with k = 3."""

    def __init__(self, name: str) -> None:
        digits = name.removeprefix("top_")
        k = int(digits) if digits != name and digits.isdecimal() else 0
        if not k and name not in NAMES:
            raise ValueError(f"metrics: unknown {name!r:.50}{_nearest(name)}")
        if name in SKLEARN:  # an error now, not after an epoch
            sklearn(name)
        function, needs, tasks = NAMES["top_k" if k else name]
        super().__init__(function, name, needs=needs, weighted=True)
        self.tasks = tasks
        self.options = {"k": k} if k else {}

    def _measure(self, y: Array, p: Array, task: Task, options: dict[str, Any]) -> float:
        return self.function(y, p, task, **self.options, **options)


def as_metrics(metrics: Iterable[str | Metric | Function]) -> list[Metric]:
    """Metrics of names, functions and metrics.

    Raises
    ------
    ValueError
        A name is unknown, reserved, or there twice.
    TypeError
        Something else is in the list, or it is no list.
    ImportError
        A metric needs scikit-learn, which is not installed.

    Examples
    --------
    >>> from minidl.metrics import as_metrics
    >>> as_metrics(["f1", "top_3"])
    [NamedMetric('f1'), NamedMetric('top_3')]
    >>> as_metrics(["acuracy"])
    Traceback (most recent call last):
        ...
    ValueError: metrics: unknown 'acuracy', did you mean 'accuracy'?
    """
    if isinstance(metrics, (str, dict, np.ndarray)) or not isinstance(metrics, Iterable):
        raise TypeError(f"metrics: expected a list, got {metrics!r}")
    found: dict[str, Metric] = {}
    for each in metrics:
        metric = (
            each if isinstance(each, Metric)
            else NamedMetric(each) if isinstance(each, str)
            else Metric(each)
        )  # fmt: skip
        if metric.name in found:
            raise ValueError(f"metrics: expected each name once, got {metric.name!r} twice")
        found[metric.name] = metric
    return list(found.values())


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name[:50].lower(), NAMES, 1)
    return f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(NAMES)}"


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name: expected a string, got {name!r}")
    if name in RESERVED or name.startswith("val_"):
        raise ValueError(f"name: expected one that no other result has, got {name!r}")
    return name


def _name_of(function: Any) -> str:
    """As it was defined; that of the inner one of a functools.partial."""
    while hasattr(function, "func"):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    if name == "<lambda>":
        raise ValueError("metrics: a lambda has no name; Metric(function, name) gives it one")
    return name


def _takes_weights(function: Function) -> bool:
    from inspect import signature

    try:
        return "sample_weight" in signature(function).parameters
    except (TypeError, ValueError):  # compiled functions may have none
        return False
