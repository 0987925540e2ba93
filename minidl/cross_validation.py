"""Cross-validation: a training for each fold, all at once, and predictions of what it held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.data.rows import RowData
from minidl.ensemble import Ensemble, as_predictions
from minidl.evaluation import go_through, measure, results
from minidl.many import Shared, fit_over
from minidl.memory import Array
from minidl.metrics.convert import flat, true_labels
from minidl.trainer import Trainer

if TYPE_CHECKING:
    from minidl.callbacks import Callback
    from minidl.history import History
    from minidl.layers import Layer
    from minidl.losses import Loss

ROWS = 1024  # of a batch of those held out


class CrossValidation:
    """What `cross_validate` returns.

    Attributes
    ----------
    trainers : list of Trainer
        Of each fold, trained.
    folds : list of (ndarray, ndarray)
        Numbers of the rows that each was trained on, and of those that it held out.
    scores : dict of ndarray of shape (folds,)
        ``"loss"``, ``"accuracy"`` (if the loss has it) and the trainers' metrics, on the rows held
        out.
    predictions : ndarray of shape (N, out_features)
        Of each row by the model that held it out; the mean, if several did; NaN, if none did. Of
        classes they are probabilities, as `Ensemble.predict` gives them.
    """

    def __init__(
        self,
        trainers: list[Trainer],
        folds: list[tuple[Array, Array]],
        scores: dict[str, Array],
        predictions: Array,
    ) -> None:
        self.trainers, self.folds = trainers, folds
        self.scores, self.predictions = scores, predictions

    @property
    def models(self) -> list[Layer]:
        """The model of each fold."""
        return [trainer.model for trainer in self.trainers]

    @property
    def histories(self) -> list[History]:
        """The history of each fold."""
        return [trainer.history for trainer in self.trainers]

    def ensemble(self) -> Ensemble:
        """The models of all folds, to predict new rows together."""
        return Ensemble(self.models, self.trainers[0].loss.task)

    def __repr__(self) -> str:
        """Mean and standard deviation of each score over the folds."""
        shown = (f"{k}={v.mean():.4g} ± {v.std():.2g}" for k, v in self.scores.items())
        return f"CrossValidation({len(self.trainers)} folds: {', '.join(shown)})"


def cross_validate(
    make_trainer: Callable[[int], Trainer],
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    groups: Any = None,
    seed: int | None = None,
    epochs: int | Sequence[int] = 1,
    batch_size: int | Sequence[int] = 32,
    shuffle: bool | Sequence[bool] = True,
    last_batch: str | Sequence[str] = "merge",
    sample_weight: Any = None,
    validate: bool = False,
    callbacks: Sequence[Callback] | Sequence[Sequence[Callback]] = (),
    n_threads: int | None = None,
    verbose: str | int = "auto",
) -> CrossValidation:
    """Train a model for each fold, all at once with `fit_many`, and measure what they predict.

    Parameters
    ----------
    make_trainer : function (int) -> Trainer
        Called once for each fold with its number, from 0; gives a trainer of its own.
    X, y
        As for `fit_many`, but no iterables.
    cv : int, splitter, or iterable of (train, test), default 5
        Folds of about equal size, to which rows are dealt in an order drawn from `seed`; those of
        each class evenly, if the loss has classes and y is labels. Or an object as scikit-learn has
        them, with ``split(X, y, groups)``; or numbers or masks of the rows to train on and to hold
        out.
    groups : array_like of shape (N,), optional
        For a splitter that asks for them.
    seed : int, optional
        Of the folds, and of the orders of the rows, which differ from fold to fold; default: fresh
        entropy.
    epochs, batch_size, shuffle, last_batch
        As for `fit_many`.
    sample_weight : array_like of shape (N,), optional
        In the training and in the scores.
    validate : bool, default False
        Evaluate the rows held out after each epoch, as ``val_loss`` and so on, for the history and
        for callbacks such as `EarlyStopping`. If these choose by them, the scores flatter.
    callbacks, n_threads, verbose
        As for `fit_many`.

    Returns
    -------
    CrossValidation
        ``trainers``, ``folds``, ``scores``, ``predictions``; ``ensemble()`` has all models.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit, before any training begins.
    NonFiniteError
        A training met NaN or infinity; the others are stopped. So does any other error.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> X = np.random.default_rng(0).normal(size=(300, 2)); y = (X[:, 0] > X[:, 1]).astype(int)
    >>> def trainer(fold):
    ...     model = minidl.Sequential(
    ...         minidl.Linear(2, 16), minidl.ReLU(), minidl.Linear(16, 2), seed=fold)
    ...     return minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01))
    >>> found = minidl.cross_validate(trainer, X, y, cv=4, epochs=20, seed=0)
    >>> found.scores["accuracy"].shape, bool(found.scores["accuracy"].min() > 0.9)
    ((4,), True)
    >>> found.predictions.shape, bool((found.predictions.argmax(axis=1) == y).mean() > 0.9)
    ((300, 2), True)
    >>> len(found.ensemble())
    4
    """
    rng = checks.seeded(seed)
    checks.flag(validate, "validate")
    first = _made(make_trainer, 0)
    data = Shared(X, y)
    opened, loss = data.of(first, 1, sample_weight)
    if not isinstance(opened, RowData):
        raise TypeError("X: expected rows, got an iterable of batches")
    folds = _folds(cv, X, opened, groups, loss, rng)
    trainers = [first, *(_made(make_trainer, i) for i in range(1, len(folds)))]
    tasks = {trainer.loss.task for trainer in trainers}
    if len(tasks) > 1:
        raise ValueError(f"make_trainer: expected losses of one task, got {tasks}")
    Ensemble([trainer.model for trainer in trainers], loss.task)  # they can be one
    trained, held_out = map(list, zip(*folds, strict=True))
    fit_over(
        data, trainers, epochs=epochs, batch_size=batch_size, shuffle=shuffle, seed=seed,
        rows=trained, sample_weight=sample_weight, validation_data=None,
        validation_rows=held_out if validate else None, last_batch=last_batch, total_epochs=None,
        callbacks=callbacks, n_threads=n_threads, on_error="raise", verbose=verbose,
    )  # fmt: skip
    scores, total, count = [], np.zeros(()), np.zeros((opened.all_rows, 1))
    for trainer, rows in zip(trainers, held_out, strict=True):
        sums, outputs = go_through(trainer, *data.of(trainer, 1, sample_weight, rows), ROWS, True)
        scores.append(results(loss, sums) | measure(trainer.metrics, outputs, loss))
        found = as_predictions(np.concatenate([part.predicted for part in outputs]), loss.task)
        if not total.ndim:
            total = np.zeros((len(count), found.shape[1]))
        np.add.at(total, rows, found)
        np.add.at(count, rows, 1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return CrossValidation(
        trainers,
        folds,
        {name: np.array([score[name] for score in scores]) for name in scores[0]},
        mean.astype(first.model.dtype),
    )


def _made(make_trainer: Callable[[int], Trainer], fold: int) -> Trainer:
    """The trainer of a fold."""
    from inspect import signature

    if not callable(make_trainer) or isinstance(make_trainer, type):
        raise TypeError(f"make_trainer: expected a function, got {make_trainer!r:.100}")
    try:
        signature(make_trainer).bind(fold)
    except TypeError as error:
        raise TypeError(
            f"make_trainer: expected a function of one argument, the number of the fold: {error}"
        ) from None
    trainer = make_trainer(fold)
    if not isinstance(trainer, Trainer):
        raise TypeError(f"make_trainer: expected a Trainer from it, got {trainer!r:.100}")
    return trainer


def _folds(
    cv: Any, X: Any, data: RowData, groups: Any, loss: Loss, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Numbers of the rows to train on and to hold out, of each fold."""
    rows = data.all_rows
    if isinstance(cv, (int, np.integer)):
        count = checks.count(cv, "cv", 2)
        if count > rows:
            raise ValueError(f"cv: expected at most {rows} folds, one for each row, got {count}")
        fold = deal(rng.permutation(rows), count, _classes(data, loss))
        return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(count)]
    if hasattr(cv, "split") and not isinstance(cv, str):
        like_X = X if getattr(X, "shape", ())[:1] == (rows,) else np.zeros((rows, 1))
        cv = cv.split(like_X, flat(data.targets()), groups)
    elif not isinstance(cv, Iterable) or isinstance(cv, (str, dict)):
        raise TypeError(
            f"cv: expected a number, an object with split, or pairs (train, test), got {cv!r:.100}"
        )
    pairs = list(cv)
    if not pairs:
        raise ValueError("cv: expected at least one fold, got none")
    for i, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"cv[{i}]: expected a pair (train, test), got {pair!r:.100}")
    return [
        (checks.indices(train, rows, f"cv[{i}][0]"), checks.indices(test, rows, f"cv[{i}][1]"))
        for i, (train, test) in enumerate(pairs)
    ]


def _classes(data: RowData, loss: Loss) -> Array | None:
    """The class of each row, if there is one."""
    if loss.task not in ("multiclass", "binary"):
        return None
    labels = true_labels(data.targets(), loss.task)
    return labels if labels.ndim == 1 else None


def deal(order: Array, count: int, classes: Array | None = None) -> Array:
    """The fold of each row: rows are dealt in this order, those of each class one after another.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl.cross_validation import deal
    >>> deal(np.arange(6), 2, classes=np.array([0, 0, 0, 0, 1, 1]))
    array([0, 1, 0, 1, 0, 1])
    """
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    fold = np.empty(len(order), np.intp)
    fold[order] = np.arange(len(order)) % count
    return fold
