"""What comes out: scores beside those of a constant guess, and predictions as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Scores: TypeAlias = dict[str, tuple[float, float]]  # by name: the model's, the constant guess's


@dataclass(frozen=True)
class Result:
    """A trained model, how to write it, and how it went; `facts` are shown as they are."""

    task: str
    write: Callable[[Path], None]
    scores: Scores
    seconds: float
    facts: dict[str, str]


def scores_of_classes(
    training: npt.NDArray[Any], y: npt.NDArray[Any], P: npt.NDArray[np.float64]
) -> Scores:
    """Return the scores of probabilities P (N, classes), for classes y (N,) by number.

    The constant guess is the share of each class in training; of its accuracy, the largest class.
    """
    shares = np.bincount(training, minlength=P.shape[1]) / len(training)
    least = np.finfo(np.float64).tiny

    def of(P: npt.NDArray[np.float64]) -> tuple[float, float]:
        accuracy = float((P.argmax(axis=1) == y).mean())
        return accuracy, float(-np.log(np.maximum(P[np.arange(len(y)), y], least)).mean())

    model, guess = of(P), of(np.broadcast_to(shares, P.shape))
    return {"accuracy": (model[0], guess[0]), "log loss": (model[1], guess[1])}


def scores_of_values(
    training: npt.NDArray[Any], y: npt.NDArray[Any], predicted: npt.NDArray[np.float64]
) -> Scores:
    """Return the scores of predicted values, for values y (N,).

    The constant guess is the mean of training.
    """
    variance = float(np.var(y))

    def of(predicted: Any) -> tuple[float, float, float]:
        errors = predicted - y
        square = float(np.square(errors).mean())
        R2 = 1 - square / variance if variance else float("nan")
        return square**0.5, float(np.abs(errors).mean()), R2

    model, guess = of(predicted), of(training.mean())
    return dict(zip(("RMSE", "MAE", "R2"), zip(model, guess, strict=True), strict=True))


def as_csv(
    target: str,
    predicted: Sequence[Any],
    classes: Sequence[Any] = (),
    P: npt.NDArray[np.float64] | None = None,
) -> str:
    """Return predictions, and probabilities of classes if they are given, as a CSV file's text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = [f"{v:.12g}" if isinstance(v, float) else v for v in predicted]
    if P is None:
        writer.writerow([target])
        writer.writerows([value] for value in shown)
    else:
        writer.writerow([target, *(f"p({label})" for label in classes)])
        for value, row in zip(shown, P.tolist(), strict=True):
            writer.writerow([value, *(f"{share:.6g}" for share in row)])
    return text.getvalue()
