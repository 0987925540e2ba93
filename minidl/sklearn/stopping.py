"""What follows each epoch: curves, scikit-learn's rule of when to stop, the rate, the best weights.

Little is done an epoch, since epochs of small data take no more than a few hundred microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.callbacks import Callback
from minidl.evaluation import go_through
from minidl.sklearn.network import Penalty
from minidl.sklearn.objectives import Objective
from minidl.sklearn.solvers import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from minidl.errors import NonFiniteError
    from minidl.memory import Array
    from minidl.sklearn.objectives import Score
    from minidl.trainer import Trainer

ROWS = 1024  # of a batch of validation


def note(estimator: Any, loss: float) -> None:
    """Enter an epoch, or an iteration of "lbfgs", that has this loss."""
    estimator.n_iter_ += 1
    estimator.loss_ = loss
    estimator.loss_curve_.append(loss)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")


class Validation:
    """Data that are not trained on.

    Parameters
    ----------
    trainer : Trainer
    X, y, weight
        As the loss takes them.
    score : function (y, outputs, weight) -> float, optional
        Of the network's outputs.
    scorer : function () -> float, optional
        Of the estimator, in place of that.
    """

    def __init__(
        self,
        trainer: Trainer,
        X: Any,
        y: Array,
        weight: Array | None,
        score: Score | None = None,
        scorer: Callable[[], float] | None = None,
    ) -> None:
        self.data = X, y, weight
        self._opened, self._loss = trainer._open(X, y, weight, "validation ")
        self._trainer, self._score, self._scorer = trainer, score, scorer

    def measure(self) -> tuple[float, float | None]:
        """Loss, and score if there is one; NaN if an output is not finite."""
        sums, outputs = go_through(
            self._trainer, self._opened, self._loss, ROWS, self._score is not None
        )
        total, _, weight, _ = sums
        loss = total / weight if weight else float("nan")
        if self._scorer is not None:
            return loss, float(self._scorer())
        if self._score is None:
            return loss, None
        y, out, rows_weight = (
            outputs[0]
            if len(outputs) == 1
            else (
                np.concatenate([o.y for o in outputs]),
                np.concatenate([o.predicted for o in outputs]),
                self.data[2],
            )
        )
        if not np.isfinite(out).all():
            return loss, float("nan")
        return loss, self._score(y, out, rows_weight)


class Stopping(Callback):
    """Notes each epoch in the estimator, and stops the training when it no longer improves.

    Parameters
    ----------
    estimator : estimator
        Gets `loss_`, `loss_curve_`, `n_iter_`, `t_`, `best_loss_` and so on.
    objective : Objective
    penalty : Penalty
    rate : Rate
    rows : int
        Rows of an epoch.
    batches : int
        Batches of an epoch.
    mean_weight : float
        Of a row.
    validation : Validation, optional
    early : bool
        Follow the score of the validation, and bring its best weights back.
    """

    def __init__(
        self,
        estimator: Any,
        objective: Objective,
        penalty: Penalty,
        rate: Rate,
        *,
        rows: int,
        batches: int,
        mean_weight: float,
        validation: Validation | None,
        early: bool,
    ) -> None:
        self.estimator, self.objective = estimator, objective
        self.penalty, self.rate, self.validation, self.early = penalty, rate, validation, early
        self.rows, self.batches, self.divisor = rows, batches, rows * mean_weight
        self.stopped = self.diverged = False
        self.undefined = 0  # epochs whose score was NaN
        self._penalty_before = penalty.value()
        self._best: Array | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note the results, and decide."""
        self.note(logs["loss"])
        estimator = self.estimator
        if self.validation is not None:
            self._validate(logs)
        if not self.early:
            self._count(-estimator.loss_, -estimator.best_loss_)
            estimator.best_loss_ = min(estimator.loss_, estimator.best_loss_)
        self.rate.epoch_ended(estimator.t_)
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            self._improve_or_stop()

    def note(self, mean_loss: float) -> None:
        """Enter an epoch whose mean loss is this."""
        self.estimator.t_ += self.rows
        note(self.estimator, self.objective.value(mean_loss) + self._penalty())

    def _penalty(self) -> float:
        """The penalty's mean over the batches, each with the weights that it began with.

        They are taken to go in a straight line from one end of the epoch to the other.
        """
        before, after = self._penalty_before, self.penalty.value()
        self._penalty_before = after
        total = self.batches * before + (after - before) * (self.batches - 1) / 2
        return total / self.divisor

    def _validate(self, logs: dict[str, float]) -> None:
        estimator = self.estimator
        assert self.validation is not None
        loss, score = self.validation.measure()
        loss = self.objective.value(loss)
        estimator.validation_loss_curve_.append(loss)
        logs["val_loss"] = loss
        if not self.early:
            return
        score = -loss if score is None else score
        estimator.validation_scores_.append(score)
        self.undefined += score != score
        logs["val_score"] = score
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        self._count(score, estimator.best_validation_score_)
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self._best = self.trainer.model.store().values.copy()

    def _count(self, value: float, best: float) -> None:
        """Count the epochs in a row that are not better than the best by the tolerance."""
        estimator = self.estimator
        if value < best + estimator.tol or value != value:
            estimator._no_improvement_count += 1
        else:
            estimator._no_improvement_count = 0

    def _improve_or_stop(self) -> None:
        estimator = self.estimator
        what = "Validation score" if self.early else "Training loss"
        done = self.rate.goes_on()
        if done:
            estimator._no_improvement_count = 0
        else:
            self.stopped = self.trainer.stop_training = True
        if estimator.verbose:
            print(
                f"{what} did not improve more than tol={estimator.tol:f} for "
                f"{estimator.n_iter_no_change:d} consecutive epochs. "
                f"{done or self.rate.stops_because}"
            )

    def on_not_finite(self, error: NonFiniteError) -> bool:
        """With best weights to go back to, the scores end in NaN and training ends."""
        if self._best is None:
            return False
        estimator = self.estimator
        self.diverged = True
        estimator.n_iter_ += 1
        for curve in (
            estimator.loss_curve_, estimator.validation_loss_curve_, estimator.validation_scores_
        ):  # fmt: skip
            curve.append(float("nan"))
        return True

    def on_train_end(self) -> None:
        """Bring the best weights back."""
        if self._best is not None:
            self.trainer.model.store().values[...] = self._best
            self._best = None
