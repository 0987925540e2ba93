"""What the estimators share: `fit` and `partial_fit`, from checks to fitted attributes."""

from __future__ import annotations

import copy
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from minidl import checks
from minidl.callbacks import Callback, TimeLimit
from minidl.data.blocks import count_batches
from minidl.errors import NonFiniteError
from minidl.history import History
from minidl.memory import Array
from minidl.prediction import QUICK_ROWS
from minidl.schedulers import ReduceLROnPlateau, Scheduler
from minidl.sklearn import lbfgs, network, threads
from minidl.sklearn.objectives import Objective, Score, same_loss
from minidl.sklearn.parameters import CONSTRAINTS
from minidl.sklearn.solvers import (
    Rate,
    make_optimizer,
    make_scheduler,
    penalises,
    set_penalty,
    solver_name,
)
from minidl.sklearn.stopping import Stopping, Validation, note
from minidl.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUTO_BATCH = 200
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


def can_go_on(estimator: Any) -> bool:
    """For `partial_fit`: raise AttributeError where there is none, as scikit-learn does."""
    if solver_name(estimator.solver) == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


def _row_weights(sample_weight: Any, X: Any) -> Array | None:
    """The user's weights of the rows."""
    if sample_weight is None:
        return None
    found: Array = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    return found


def _check_missing(y: Any) -> None:
    """Labels are all there: scikit-learn would compare None and NA with others, and say that."""
    try:
        array = np.asarray(y)
    except ValueError:  # rows of different lengths, for which it has its own words
        return
    if array.dtype.kind != "O" or array.ndim == 0 or hasattr(y, "toarray"):
        return
    for place, value in enumerate(array.reshape(-1).tolist()):
        if not isinstance(value, str) and (
            value is None or is_pandas_na(value) or is_scalar_nan(value)
        ):
            row = place * len(array) // array.size
            raise ValueError(f"y: expected no missing values, got one in row {row}")


class Rows:
    """Rows to train on or to validate with.

    Attributes
    ----------
    X : ndarray or sparse matrix
    labels : ndarray
        y as the user has it.
    y : ndarray
        As the loss takes it.
    weight : ndarray or None
        The user's.
    class_weight : ndarray or None
        Of each row by its class: for training alone.
    """

    def __init__(
        self,
        X: Any,
        labels: Array,
        y: Array,
        weight: Array | None,
        class_weight: Array | None = None,
    ) -> None:
        self.X, self.labels, self.y = X, labels, y
        self.weight, self.class_weight = weight, class_weight

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    def take(self, places: Array) -> Rows:
        """Some of them."""
        weights = (None if w is None else w[places] for w in (self.weight, self.class_weight))
        return Rows(self.X[places], self.labels[places], self.y[places], *weights)

    @property
    def training_weight(self) -> Array | None:
        """What a row counts in training."""
        if self.weight is None or self.class_weight is None:
            return self.class_weight if self.weight is None else self.weight
        return self.weight * self.class_weight


class BaseMLP(BaseEstimator, metaclass=ABCMeta):
    """What `MLPClassifier` and `MLPRegressor` share; the former has the documentation."""

    _parameter_constraints = CONSTRAINTS

    # What a classifier and a regressor do differently.

    @abstractmethod
    def _targets(self, y: Array, goes_on: bool, to_train: bool = True) -> Array:
        """Targets in numbers; unless training goes on, the classes are those of y."""

    @abstractmethod
    def _objective_for(self, y: Array, weight: Array | None) -> Objective:
        """What is minimised."""

    @abstractmethod
    def _score_of_outputs(self, objective: Objective) -> Score:
        """What `score` measures, of the network's outputs."""

    def _class_weights(self, labels: Array, y: Array, incremental: bool) -> Array | None:
        """Weights of the rows by their classes."""
        return None

    def _strata(self, y: Array) -> Array | None:
        """What the split of early stopping keeps the shares of."""
        return None

    # Weights.

    @property
    def coefs_(self) -> list[Array]:
        """Weights of the layers, (fan in, fan out) each: views, which may be written to."""
        return self._weights("coefs_", network.coefs)

    @coefs_.setter
    def coefs_(self, arrays: Sequence[Any]) -> None:
        self._set_weights("coefs_", network.coefs, arrays)

    @property
    def intercepts_(self) -> list[Array]:
        """Biases of the layers: views, which may be written to."""
        return self._weights("intercepts_", network.intercepts)

    @intercepts_.setter
    def intercepts_(self, arrays: Sequence[Any]) -> None:
        self._set_weights("intercepts_", network.intercepts, arrays)

    def _weights(self, name: str, views: Callable[[Any], network.Arrays]) -> list[Array]:
        if hasattr(self, "model_"):
            return views(self.model_)
        if name in self.__dict__.get("_given", {}):
            return self._given[name]  # type: ignore[no-any-return]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _set_weights(
        self, name: str, views: Callable[[Any], network.Arrays], arrays: Sequence[Any]
    ) -> None:
        """Copy weights into the network; before there is one, keep them until there is."""
        if hasattr(self, "model_"):
            views(self.model_)[:] = arrays
        else:
            self.__dict__.setdefault("_given", {})[name] = arrays

    def __sklearn_is_fitted__(self) -> bool:
        """True if there is a network."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        """Sparse X is taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # Training.

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any],
        incremental: bool,
    ) -> None:
        """Train: `fit`, or one epoch of `partial_fit`."""
        with self._unchanged_by_errors():
            sizes = self._hidden_sizes()
            goes_on = self.warm_start or incremental
            first = not (goes_on and hasattr(self, "model_"))
            X, labels = self._checked(X, y, reset=first, least=2 if self.batch_norm else 1)
            y = self._targets(labels, goes_on)
            weight = _row_weights(sample_weight, X)
            class_weight = self._class_weights(labels, y, incremental)
            random_state = check_random_state(self.random_state)
            if self.early_stopping and incremental:
                raise ValueError("partial_fit does not support early_stopping=True")
            objective = self._objective_for(y, weight)
            if first:
                self._begin(X, sizes, objective, random_state, goes_on)
            elif objective.outputs != self.n_outputs_:
                outputs = "output" if self.n_outputs_ == 1 else "outputs"
                raise ValueError(
                    f"y, loss: expected ones for {self.n_outputs_} {outputs}, those of the network "
                    f"that training goes on with, got ones for {objective.outputs}"
                )
            self.out_activation_ = objective.activation
            y = self._as_the_loss_takes(y, objective)
            rows = Rows(X, labels, y, weight, class_weight)
            held_out = self._held_out(validation, objective)
            with threads.limit(self.n_threads):
                if solver_name(self.solver) == "lbfgs":
                    self._fit_lbfgs(rows, held_out, objective)
                else:
                    self._fit_stochastic(rows, held_out, objective, random_state, incremental)
            self.model_.eval()

    @contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """What fails in the block leaves the attributes as they were.

        But if training went on from what there was, the epochs that were made stay, and an
        interrupt leaves what there is.
        """
        before = dict(vars(self))
        curve: list[float] = before.get("loss_curve_", [])
        epochs = len(curve)
        try:
            yield
        except Exception:
            if vars(self).get("loss_curve_") is not curve or len(curve) == epochs:
                self.__dict__ = before
            raise

    def _hidden_sizes(self) -> list[int]:
        """Units of the hidden layers."""
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [checks.positive_int(n, f"hidden_layer_sizes[{i}]") for i, n in enumerate(sizes)]

    def _checked(self, X: Any, y: Any, *, reset: bool, least: int = 1) -> tuple[Any, Array]:
        """X and y as arrays; one column of y is flat."""
        dtype = (np.float64, np.float32) if self.dtype is None else checks.dtype(self.dtype)
        _check_missing(y)
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=dtype,
            ensure_min_samples=least,
            **self._check_options,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    _check_options: dict[str, Any] = {}  # noqa: RUF012  # more of `validate_data`

    def _as_the_loss_takes(self, y: Array, objective: Objective) -> Array:
        """Floating targets in the network's dtype; labels as they are."""
        if y.dtype.kind in "iu" and objective.loss.bound(y).integer_labels:
            return y
        return y.astype(self.model_.dtype, copy=False)

    def _begin(
        self,
        X: Any,
        sizes: Sequence[int],
        objective: Objective,
        random_state: np.random.RandomState,
        goes_on: bool,
    ) -> None:
        """A new network, and fitted attributes as they are before the first epoch."""
        units = [X.shape[1], *sizes, objective.outputs]
        model = network.build(
            units,
            self.activation,
            dtype=X.dtype,
            batch_norm=self.batch_norm,
            dropout=float(self.dropout),
            random_state=random_state,
        )
        given = self.__dict__.pop("_given", {})
        if given and goes_on:
            for name, views in (("coefs_", network.coefs), ("intercepts_", network.intercepts)):
                if name not in given:
                    (other,) = given
                    raise ValueError(f"{name}: expected arrays, since {other} are given")
                views(model)[:] = given[name]
        self.__dict__.pop("_trainer", None)
        self.model_ = model
        self.n_layers_, self.n_outputs_ = len(units), objective.outputs
        self.n_iter_ = self.t_ = 0
        self._no_improvement_count = 0
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] | None = None
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self.best_loss_: float | None = np.inf
        if self.early_stopping and solver_name(self.solver) != "lbfgs":
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
            self.best_loss_ = None

    def _held_out(self, validation: tuple[Any, Any, Any], objective: Objective) -> Rows | None:
        """Validation data that the user gives."""
        X, y, weight = validation
        if X is None and y is None and weight is None:
            return None
        if X is None or y is None:
            missing = "X_val" if X is None else "y_val"
            raise ValueError(
                f"{missing}: expected one, since the other of X_val and y_val is given"
            )
        try:
            X, labels = self._checked(X, y, reset=False)
            y = self._as_the_loss_takes(self._targets(labels, True, to_train=False), objective)
            return Rows(X, labels, y, _row_weights(weight, X))
        except ValueError as error:
            raise ValueError(f"X_val, y_val: {error}") from error

    def _split(self, rows: Rows, random_state: np.random.RandomState) -> tuple[Rows, Rows]:
        """Rows to train on, and the part that early stopping looks at: scikit-learn's."""
        train, rest = train_test_split(
            np.arange(len(rows)),
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._strata(rows.y),
        )
        if len(rest) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return rows.take(train), rows.take(rest)

    def _batch_size(self, rows: int) -> int:
        if isinstance(self.batch_size, str):
            size = min(AUTO_BATCH, rows)
        else:
            if self.batch_size > rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                    "clipped",
                    stacklevel=5,
                )
            size = min(int(self.batch_size), rows)
        if self.batch_norm and size < 2:
            raise ValueError(
                f"batch_size: expected at least 2 with batch_norm=True, got {size} (1 sample has "
                "no spread to normalise by)"
            )
        return size

    def _fit_stochastic(
        self,
        rows: Rows,
        held_out: Rows | None,
        objective: Objective,
        random_state: np.random.RandomState,
        incremental: bool,
    ) -> None:
        """Train in mini-batches."""
        early = bool(self.early_stopping)
        if early and held_out is None:
            rows, held_out = self._split(rows, random_state)
            objective = self._objective_for(rows.y, rows.weight)  # of these rows alone
        size = self._batch_size(len(rows))
        weight = rows.training_weight
        mean_weight = 1.0 if weight is None else float(weight.mean()) or 1.0
        trainer: Trainer | None = self.__dict__.get("_trainer")
        seed = None
        if trainer is None or not incremental:
            seed = int(random_state.randint(2**31 - 1))
            trainer = self._trainer = self._new_trainer(objective)
        elif not same_loss(trainer.loss, objective.loss):
            trainer.loss = objective.loss
        set_penalty(trainer.optimizer, self, objective.slope, size * mean_weight)
        penalty = network.Penalty(self.model_, self.alpha if penalises(self.solver) else 0.0)
        last = "merge" if self.batch_norm else "keep"
        validation = self._validation(trainer, held_out, objective) if held_out else None
        rule = Stopping(
            self,
            objective,
            penalty,
            Rate(self, trainer.optimizer, trainer._state(), self._slope(objective)),
            rows=len(rows),
            batches=count_batches(len(rows), size, last),
            mean_weight=mean_weight,
            validation=validation,
            early=early,
        )
        if early and self.validation_scores_ is None:  # it was not asked for when training began
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        if not early and self.best_loss_ is None:
            self.best_loss_ = np.inf
        if validation is not None and self.validation_loss_curve_ is None:
            self.validation_loss_curve_ = []
        self.n_iter_ = 0
        limit = None if self.time_limit is None else TimeLimit(float(self.time_limit))
        callbacks: list[Callback] = [rule, *([limit] if limit else []), *(self.callbacks or ())]
        try:
            trainer.fit(
                rows.X,
                rows.y,
                epochs=1 if incremental else int(self.max_iter),
                batch_size=size,
                shuffle=bool(self.shuffle),
                seed=seed,
                sample_weight=weight,
                validation_data=self._data_for_schedule(trainer, validation),
                last_batch=last,
                total_epochs=self._total_epochs(trainer, incremental),
                callbacks=callbacks,
                verbose=0,
            )
        except NonFiniteError as error:
            raise ValueError(NOT_FINITE) from error
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if self.n_iter_ == 0 and trainer.progress.batch:  # time was up in the first epoch
            total, _, counted, _ = trainer.progress.sums
            rule.note(total / counted if counted else 0.0)
        if not incremental:
            trainer._programs.clear()  # memory that nobody needs until training goes on
            self._warn_if_cut(rule, limit, trainer.scheduler)

    def _warn_if_cut(
        self, rule: Stopping, limit: TimeLimit | None, schedule: Scheduler | None
    ) -> None:
        """Warn of a training that has ended before it was done."""
        planned = schedule is not None and schedule.length is not None  # it ends when that ends
        if rule.diverged:
            warnings.warn(
                "Stochastic Optimizer: training met NaN or infinity, and ended with the best "
                "weights.",
                ConvergenceWarning,
                stacklevel=5,
            )
            return
        if rule.undefined:
            warnings.warn(
                f"scoring: the validation score was NaN in {rule.undefined} of {self.n_iter_} "
                "epochs, which counts as no improvement.",
                UndefinedMetricWarning,
                stacklevel=5,
            )
        if limit is not None and limit.stopped and not rule.stopped:
            reached = f"Time limit ({self.time_limit:g} s)"
        elif self.n_iter_ == self.max_iter and not rule.stopped and not planned:
            reached = f"Maximum iterations ({self.max_iter})"
        else:
            return
        warnings.warn(
            f"Stochastic Optimizer: {reached} reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _slope(self, objective: Objective) -> float:
        """The factor between the rate of the optimizer and the one that users see."""
        return objective.slope if solver_name(self.solver) == "SGD" else 1.0

    def _new_trainer(self, objective: Objective) -> Trainer:
        """A trainer, which `partial_fit` goes on with."""
        optimizer = make_optimizer(self, objective.slope)
        return Trainer(self.model_, objective.loss, optimizer, scheduler=make_scheduler(self))

    def _validation(self, trainer: Trainer, rows: Rows, objective: Objective) -> Validation:
        """What measures the network on validation data."""
        X, y, weight = rows.X, rows.y, rows.weight
        if not self.early_stopping or self.scoring == "loss":
            return Validation(trainer, X, y, weight)
        if self.scoring is None:
            return Validation(trainer, X, y, weight, self._score_of_outputs(objective))
        view = copy.copy(self)  # with the same network; X is an array, whose columns have no names
        view.__dict__.pop("feature_names_in_", None)
        scorer = check_scoring(view, self.scoring)
        options = {} if weight is None else {"sample_weight": weight}
        return Validation(
            trainer, X, y, weight, scorer=lambda: scorer(view, X, rows.labels, **options)
        )

    @staticmethod
    def _data_for_schedule(trainer: Trainer, validation: Validation | None) -> Any:
        """Validation data of the trainer's own, for a schedule that follows them."""
        follows = getattr(trainer.scheduler, "monitor", "")
        if validation is None or not follows.startswith("val_"):
            return None
        X, y, weight = validation.data
        return (X, y) if weight is None else (X, y, weight)

    @staticmethod
    def _total_epochs(trainer: Trainer, incremental: bool) -> int | None:
        """`partial_fit` makes one epoch of a training whose length nobody knows."""
        schedule = trainer.scheduler
        if not incremental or schedule is None or isinstance(schedule, ReduceLROnPlateau):
            return None
        return max(trainer.epoch + 1, schedule.length or 0)

    def _fit_lbfgs(self, rows: Rows, held_out: Rows | None, objective: Objective) -> None:
        """Train on all rows at once."""
        if self.dropout > 0:
            raise ValueError(
                f'dropout: expected 0 with solver="lbfgs", whose loss must not be random, got '
                f"{self.dropout}"
            )
        model, dtype = self.model_, self.model_.dtype
        model.set_dtype(np.dtype(np.float64))
        try:
            penalty = network.Penalty(model, float(self.alpha))
            y = self._as_the_loss_takes(rows.y, objective)
            whole = bool(self.batch_norm)
            weight = rows.training_weight
            function = lbfgs.Function(model, objective, penalty, rows.X, y, weight, whole)
            trainer = Trainer(model, objective.loss)
            validation = None
            if held_out is not None:
                y = self._as_the_loss_takes(held_out.y, objective)
                validation = Validation(trainer, held_out.X, y, held_out.weight)
                if self.validation_loss_curve_ is None:
                    self.validation_loss_curve_ = []

            def iteration_ended(value: float) -> None:
                note(self, function.reported(value))
                if validation is not None and self.validation_loss_curve_ is not None:
                    if whole:
                        trainer.recalibrate_batchnorm(rows.X)
                    self.validation_loss_curve_.append(objective.value(validation.measure()[0]))

            self.n_iter_ = 0
            found = lbfgs.solve(
                function,
                max_iter=int(self.max_iter),
                max_fun=int(self.max_fun),
                tol=float(self.tol),
                time_limit=self.time_limit,
                note=iteration_ended,
            )
            if not np.isfinite(found.x).all() or not np.isfinite(found.fun):
                raise ValueError(NOT_FINITE)
            self.loss_ = function.reported(float(found.fun))
            self.best_loss_ = min([*self.loss_curve_, self.loss_])
            if whole:
                trainer.recalibrate_batchnorm(rows.X)
        finally:
            model.set_dtype(dtype)
        self._warn_if_not_converged(found)

    def _warn_if_not_converged(self, found: Any) -> None:
        if found.time_up:
            why = f"TIME LIMIT ({self.time_limit:g} s) REACHED"
        elif found.status != 0:
            why = str(found.message)
        else:
            return
        advice = "" if found.time_up else "Increase the number of iterations to improve it "
        warnings.warn(
            f"lbfgs failed to converge after {self.n_iter_} iteration(s) "
            f"(status={found.status}):\n{why}\n\n{advice}(max_iter={self.max_iter}, "
            f"max_fun={self.max_fun}), or scale the data: "
            "https://scikit-learn.org/stable/modules/preprocessing.html",
            ConvergenceWarning,
            stacklevel=5,
        )

    # Use.

    def _outputs(self, X: Any) -> Array:
        """What the network gives for X, before the output's activation."""
        check_is_fitted(self)
        model = self.model_
        ready = (
            type(X) is np.ndarray
            and X.dtype == model.dtype
            and X.ndim == 2
            and len(X) > 0
            and "feature_names_in_" not in self.__dict__
        )
        if ready:
            try:
                return self._predicted(X)
            except ValueError:  # scikit-learn has its own words for what is wrong
                pass
        X = validate_data(self, X, reset=False, accept_sparse=["csr", "csc"])
        return self._predicted(X)

    def _predicted(self, X: Any) -> Array:
        if X.shape[0] <= QUICK_ROWS and type(X) is np.ndarray:  # in one thread anyway
            return self.model_.predict(X)
        with threads.limit(self.n_threads):
            return self.model_.predict(X)

    def plot_loss_curve(self, *, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the loss, and what was measured on validation data, over the epochs.

        Parameters
        ----------
        figsize : (float, float), optional
            Inches.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it; ``savefig`` writes it to a file. The extra `plot` brings matplotlib.
        """
        check_is_fitted(self)
        history = History()
        curves = {
            "loss": self.loss_curve_,
            "val_loss": self.validation_loss_curve_,
            "val_score": self.validation_scores_,
        }
        length = len(self.loss_curve_)
        for name, curve in curves.items():
            if curve is not None:  # one that began later is as long as it is
                history.history[name] = [float("nan")] * (length - len(curve)) + list(curve)
        return history.plot(figsize=figsize)
