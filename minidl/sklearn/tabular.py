"""TabularClassifier and TabularRegressor: strong defaults for a table with mixed columns."""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted

import minidl
from minidl import checks
from minidl.cross_validation import deal
from minidl.memory import Array
from minidl.sklearn import threads
from minidl.sklearn.tabular_columns import Columns, is_missing
from minidl.sklearn.tabular_encoder import TabularEncoder
from minidl.sklearn.tabular_network import (
    CYCLES,
    Recipe,
    Rows,
    build,
    fill_unseen,
    train,
    trainer_for,
)

if TYPE_CHECKING:
    from minidl.distributed import Ranks

# Units of a hidden layer for fewer rows than so many, if `hidden_layer_sizes` is "auto".
WIDTHS = {1000: 64, 2000: 96, math.inf: 128}
BATCH = (16, 256)  # least and most rows of a batch, if `batch_size` is "auto"
STEPS = 40  # steps an epoch that it aims at then


class Targets(NamedTuple):
    """What the networks are to learn.

    `y` is as the loss has it, and `classes`, if there are any, are shared out evenly among those
    held out; `learned` are attributes of the estimator, by name.
    """

    y: Array
    outputs: int
    classes: Array | None
    learned: dict[str, Any]


class _Tabular(BaseEstimator, metaclass=ABCMeta):
    """What both estimators share; the parameters are theirs."""

    _loss: minidl.Loss
    _ranks: Ranks | None = None  # that train the networks

    def __init__(
        self,
        n_models: int = 4,
        hidden_layer_sizes: int | Sequence[int] | str = "auto",
        activation: str = "silu",
        dropout: float = 0.0,
        *,
        categorical_features: Sequence[str | int] | None = None,
        n_bins: int | str = "auto",
        max_one_hot: int = 12,
        min_frequency: int = 2,
        embedding_dim: int = 8,
        learning_rate_init: float = 0.04,
        weight_decay: float = 0.0,
        batch_size: int | str = "auto",
        max_iter: int = 35,
        validation_fraction: float = 0.2,
        n_threads: int | None = None,
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_models = n_models
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.categorical_features = categorical_features
        self.n_bins = n_bins
        self.max_one_hot = max_one_hot
        self.min_frequency = min_frequency
        self.embedding_dim = embedding_dim
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.n_threads = n_threads
        self.verbose = verbose
        self.random_state = random_state

    @abstractmethod
    def _targets(self, y: Array) -> Targets:
        """What the networks are to learn."""

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks are to know."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            Numbers, booleans, strings, categories; missing values are NaN, None, NA or null.
        y : array_like of shape (N,)
            Labels or values; of values also (N, K).
        sample_weight : array_like of shape (N,), optional
            Weights of the rows, at least 0. A row of weight 0 might as well not be there.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter, a column or y does not fit; the message names it.
        """
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None"
            )
        n_models = checks.positive_int(self.n_models, "n_models")
        random = check_random_state(self.random_state)
        if self.n_threads is not None:
            checks.positive_int(self.n_threads, "n_threads")
        y, columns = self._read_y(y), Columns(X)
        if columns.rows != len(y):
            raise ValueError(
                "Found input variables with inconsistent numbers of samples: expected one y for "
                f"each of the {columns.rows} rows of X, got {len(y)}"
            )
        weight, present = None, None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, np.empty((len(y), 1), np.float32), ensure_non_negative=True
            )
            if not weight.all():
                present = np.flatnonzero(weight)
                y, weight = y[present], weight[present]
            weight = weight / weight.mean()
        if len(y) < 2:
            raise ValueError(
                f"X: expected at least two rows (n_samples >= 2), got n_samples = {len(y)}"
            )
        targets, recipe = self._targets(y), self._recipe(len(y))
        encoder = self._encoder()
        inputs = encoder.learn_and_encode(columns, present)
        if not inputs.shape[1]:
            raise ValueError(
                "X: expected a column that tells rows apart, but each is constant or has another "
                "category in each row"
            )
        folds = self._folds(len(y), n_models, targets.classes, random)
        seeds = random.randint(2**31 - 1, size=n_models).tolist()
        rows = Rows(inputs, targets.y, weight)
        with threads.limit(self.n_threads):
            trainers = self._train(recipe, rows, encoder, targets.outputs, folds, seeds)
        # Nothing has been changed up to here.
        for name in ("feature_names_in_", "metadata_"):
            self.__dict__.pop(name, None)
        if hasattr(encoder, "feature_names_in_"):
            self.feature_names_in_ = encoder.feature_names_in_
        self.n_features_in_ = encoder.n_features_in_
        self.encoder_ = encoder
        self.models_ = [trainer.model for trainer in trainers]
        self.histories_ = [trainer.history for trainer in trainers]
        self.n_iter_ = max(trainer.epoch for trainer in trainers)
        self.validation_loss_ = [min(h.history["val_loss"]) for h in self.histories_]
        for name, value in targets.learned.items():
            setattr(self, name, value)
        return self

    @contextmanager
    def networks_shared_by(self, comm: Any) -> Iterator[None]:
        """Let ranks that all call `fit` in the block train some of the networks each.

        Parameters
        ----------
        comm : mpi4py.MPI.Comm or None
            All have the same rows, and the same estimator in the end: the one that one process
            makes.
        """
        if comm is None or comm.Get_size() == 1:
            yield
            return
        from minidl.distributed import Ranks

        self._ranks = Ranks(comm, sync_batchnorm=True)
        try:
            with self._ranks.together():
                yield
        finally:
            del self._ranks

    def _encoder(self) -> TabularEncoder:
        """An encoder with the parameters of this estimator."""
        return TabularEncoder(
            self.categorical_features, self.n_bins, self.max_one_hot, self.min_frequency
        )

    @abstractmethod
    def _read_y(self, y: Any) -> Array:
        """Y as an array, checked."""

    def _recipe(self, rows: int) -> Recipe:
        """The parameters, checked, as they are for so many rows."""
        given: Any = self.hidden_layer_sizes
        if isinstance(given, str):
            checks.one_of(given, ("auto",), "hidden_layer_sizes")
            given = [next(width for most, width in WIDTHS.items() if rows < most)] * 2
        given = [given] if isinstance(given, (int, np.integer)) else given
        if not isinstance(given, (Sequence, np.ndarray)):
            raise ValueError(
                f"hidden_layer_sizes: expected a size or a list of sizes, got {given!r}"
            )
        sizes = [checks.positive_int(n, f"hidden_layer_sizes[{i}]") for i, n in enumerate(given)]
        if len(set(sizes)) > 4:
            raise ValueError(
                "hidden_layer_sizes: expected at most 4 different sizes, since each has a learning "
                f"rate of its own, got {sizes}"
            )
        if isinstance(self.batch_size, str):
            checks.one_of(self.batch_size, ("auto",), "batch_size")
            batch = 1 << max(round(np.log2(rows / STEPS)), 0)
            batch = min(max(batch, BATCH[0]), BATCH[1])
        else:
            batch = checks.positive_int(self.batch_size, "batch_size")
        epochs = checks.positive_int(self.max_iter, "max_iter")
        cycles = CYCLES if epochs >= 2**CYCLES - 1 else 1
        return Recipe(
            hidden_layer_sizes=sizes,
            activation=self.activation,
            dropout=checks.number(self.dropout, "dropout", 0, 1, open_high=True),
            embedding_dim=checks.positive_int(self.embedding_dim, "embedding_dim"),
            lr=checks.number(self.learning_rate_init, "learning_rate_init", 0, open_low=True),
            weight_decay=checks.number(self.weight_decay, "weight_decay", 0),
            batch_size=batch,
            cycles=cycles,
            first_cycle=epochs // (2**cycles - 1),
            loss=self._loss,
        )

    def _folds(
        self, rows: int, n_models: int, classes: Array | None, random: np.random.RandomState
    ) -> Array:
        """The fold of each row; a model holds out one fold, and each model another."""
        share = checks.number(
            self.validation_fraction, "validation_fraction", 0, 1, open_low=True, open_high=True
        )
        count = min(max(round(1 / share), n_models, 2), rows)
        return deal(random.permutation(rows), count, classes)

    def _train(
        self,
        recipe: Recipe,
        rows: Rows,
        encoder: TabularEncoder,
        outputs: int,
        folds: Array,
        seeds: list[int],
    ) -> list[minidl.Trainer]:
        """The models, trained side by side.

        Where the command line runs on several ranks, each trains some of them, and has all.
        """
        dense, cardinalities = encoder.n_dense_, encoder.cardinalities_
        count = int(folds.max()) + 1
        held_out = [folds == i % count for i in range(len(seeds))]
        trainers = []
        for seed, fold in zip(seeds, held_out, strict=True):
            model = build(recipe, dense, cardinalities, outputs, seed)
            trainers.append(trainer_for(recipe, model, int((~fold).sum())))
        ranks = self._ranks
        mine = list(range(len(seeds)) if ranks is None else ranks.share(range(len(seeds))))
        if mine:
            own = [(trainers[i], held_out[i], seeds[i]) for i in mine]
            train(own, recipe, rows, bool(self.verbose))
        if ranks is not None:
            for part in ranks.all_have({i: trainers[i] for i in mine}):
                for i, trainer in part.items():
                    trainers[i] = trainer
        if cardinalities:
            for trainer, fold in zip(trainers, held_out, strict=True):
                fill_unseen(trainer.model, rows.X[~fold], dense)
        return trainers

    def _outputs(self, X: Any) -> list[Array]:
        """What each model gives for X."""
        check_is_fitted(self)
        inputs = self.encoder_.transform(X)
        with threads.limit(self.n_threads):
            return [model.predict(inputs).astype(np.float64) for model in self.models_]


class TabularClassifier(ClassifierMixin, _Tabular):
    """Classes of rows with mixed columns, with defaults that need no tuning.

    Numbers are scaled by median and quartiles, clipped smoothly, and encoded piecewise linearly
    between quantiles; categories become one-hot columns or embeddings by how many there are;
    missing values and categories that training data did not have are taken as they are. Several
    networks, each with another part of the rows held out, are trained side by side on the cores;
    what they give is averaged.

    Parameters
    ----------
    n_models : int, default 4
        Networks. More give better results and take longer.
    hidden_layer_sizes : int, sequence of int or "auto", default "auto"
        Units of the hidden layers; of at most four different sizes. A layer as wide as the one
        before is a residual block: it adds to its input. "auto": (64, 64) for fewer than 1000 rows,
        (96, 96) for fewer than 2000, else (128, 128).
    activation : str, default "silu"
        Of the hidden layers: the name of any activation of minidl.
    dropout : float in [0, 1), default 0
        Dropout after each activation.
    categorical_features : sequence of str, int or bool, optional
        Names, or places from 0, of columns that are categories; or a mask of all columns. Default:
        those of strings, of objects that are not numbers, and of a category dtype.
    n_bins, max_one_hot, min_frequency
        As those of `TabularEncoder`.
    embedding_dim : int, default 8
        The most columns of the vector of a category; columns of few categories have fewer, one more
        than the root of their number.
    learning_rate_init : float, default 0.04
        The rate at the start of each cycle; for a weight matrix it is divided by the root of its
        inputs.
    weight_decay : float, default 0
        AdamW's, of the weights of `Linear` layers.
    batch_size : int or "auto", default "auto"
        Rows of a batch; "auto" is a power of two from 16 to 256 that makes some 40 steps an epoch.
    max_iter : int, default 35
        The most epochs. They fall into three cycles of the learning rate, each twice as long as the
        one before, so that a multiple of 7 is made; fewer than 7 are one cycle. Training ends
        before, after a cycle without improvement.
    validation_fraction : float in (0, 1), default 0.2
        The part of the rows that each network holds out, to choose its best epoch by. It is at most
        one part in `n_models`, and another one for each.
    n_threads : int, optional
        The most threads; default: as many as there are cores, in a thread of joblib's or a task of
        Dask's one. Results do not depend on it.
    verbose : bool, default False
        Show the progress of all networks as one bar.
    random_state : int, RandomState or None, default None
        Of the initial weights, the parts held out, the orders of the rows and dropout.

    Attributes
    ----------
    models_ : list of Sequential
        The networks, to save, fuse or export.
    encoder_ : TabularEncoder
        What makes their input of a table.
    histories_ : list of History
        Losses of each, epoch by epoch.
    n_iter_ : int
        Epochs of the network that had the most.
    validation_loss_ : list of float
        The best loss of each on the rows it held out, with label smoothing.
    classes_ : ndarray of shape (n_classes,)
        In the order of the columns of `predict_proba`.
    n_features_in_ : int
        Columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, of a frame whose column names are all strings.

    References
    ----------
    Holzmueller, Grinsztajn and Steinwart, Better by Default: Strong Pre-Tuned MLPs and Boosted
    Trees on Tabular Data, NeurIPS 2024: robust scaling, smooth clipping, rates of the neural
    tangent parametrization, label smoothing, cycles of the rate. Gorishniy, Rubachev and Babenko,
    On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022: piecewise-linear
    encoding.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl.sklearn import TabularClassifier
    >>> rng = np.random.default_rng(0)
    >>> size, color = rng.normal(size=400), rng.choice(["red", "blue"], 400)
    >>> X = np.array([size, color], dtype=object).T
    >>> y = np.where((color == "red") == (size > 0), "yes", "no")
    >>> model = TabularClassifier(random_state=0).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.95
    True
    >>> model.predict(np.array([[-1.0, "red"], [-1.0, "blue"]], dtype=object)).tolist()
    ['no', 'yes']
    """

    _loss = minidl.CrossEntropyLoss(label_smoothing=0.05)

    def _read_y(self, y: Any) -> Array:
        labels: Array = column_or_1d(y, warn=True)
        if labels.dtype.kind == "O":
            for row, label in enumerate(labels.tolist()):
                if is_missing(label):
                    raise ValueError(
                        f"y: expected a label for each row, got {label!r} in row {row}"
                    )
        check_classification_targets(labels)
        return labels

    def _targets(self, y: Array) -> Targets:
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            one = classes.tolist()[0]
            raise ValueError(f"y: expected at least two classes, got one class: {one!r}")
        return Targets(codes, len(classes), codes, {"classes_": classes})

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, the mean of the models'.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            The columns that the estimator was fitted with; in a frame in any order.

        Returns
        -------
        ndarray of shape (N, n_classes), float64
            In the order of `classes_`.
        """
        mean: Array = np.mean([softmax(z, axis=1) for z in self._outputs(X)], axis=0)
        return mean

    def predict(self, X: Any) -> Array:
        """The most probable classes.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            The columns that the estimator was fitted with; in a frame in any order.

        Returns
        -------
        ndarray of shape (N,)
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: Array = self.classes_[best]
        return labels


class TabularRegressor(RegressorMixin, _Tabular):
    """Values of rows with mixed columns, with defaults that need no tuning.

    Numbers are scaled by median and quartiles, clipped smoothly, and encoded piecewise linearly
    between quantiles; categories become one-hot columns or embeddings by how many there are;
    missing values and categories that training data did not have are taken as they are. Several
    networks, each with another part of the rows held out, are trained side by side on the cores;
    what they give is averaged.

    Parameters
    ----------
    n_models : int, default 4
        Networks. More give better results and take longer.
    hidden_layer_sizes : int, sequence of int or "auto", default "auto"
        Units of the hidden layers; of at most four different sizes. A layer as wide as the one
        before is a residual block: it adds to its input. "auto": (64, 64) for fewer than 1000 rows,
        (96, 96) for fewer than 2000, else (128, 128).
    activation : str, default "silu"
        Of the hidden layers: the name of any activation of minidl.
    dropout : float in [0, 1), default 0
        Dropout after each activation.
    categorical_features : sequence of str, int or bool, optional
        Names, or places from 0, of columns that are categories; or a mask of all columns. Default:
        those of strings, of objects that are not numbers, and of a category dtype.
    n_bins, max_one_hot, min_frequency
        As those of `TabularEncoder`.
    embedding_dim : int, default 8
        The most columns of the vector of a category; columns of few categories have fewer, one more
        than the root of their number.
    learning_rate_init : float, default 0.04
        The rate at the start of each cycle; for a weight matrix it is divided by the root of its
        inputs.
    weight_decay : float, default 0
        AdamW's, of the weights of `Linear` layers.
    batch_size : int or "auto", default "auto"
        Rows of a batch; "auto" is a power of two from 16 to 256 that makes some 40 steps an epoch.
    max_iter : int, default 35
        The most epochs. They fall into three cycles of the learning rate, each twice as long as the
        one before, so that a multiple of 7 is made; fewer than 7 are one cycle. Training ends
        before, after a cycle without improvement.
    validation_fraction : float in (0, 1), default 0.2
        The part of the rows that each network holds out, to choose its best epoch by. It is at most
        one part in `n_models`, and another one for each.
    n_threads : int, optional
        The most threads; default: as many as there are cores, in a thread of joblib's or a task of
        Dask's one. Results do not depend on it.
    verbose : bool, default False
        Show the progress of all networks as one bar.
    random_state : int, RandomState or None, default None
        Of the initial weights, the parts held out, the orders of the rows and dropout.

    Attributes
    ----------
    models_ : list of Sequential
        The networks, to save, fuse or export.
    encoder_ : TabularEncoder
        What makes their input of a table.
    histories_ : list of History
        Losses of each, epoch by epoch.
    n_iter_ : int
        Epochs of the network that had the most.
    validation_loss_ : list of float
        The best loss of each on the rows it held out, of standardized targets.
    n_features_in_ : int
        Columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Their names, of a frame whose column names are all strings.

    References
    ----------
    Holzmueller, Grinsztajn and Steinwart, Better by Default: Strong Pre-Tuned MLPs and Boosted
    Trees on Tabular Data, NeurIPS 2024: robust scaling, smooth clipping, rates of the neural
    tangent parametrization, label smoothing, cycles of the rate. Gorishniy, Rubachev and Babenko,
    On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022: piecewise-linear
    encoding.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl.sklearn import TabularRegressor
    >>> rng = np.random.default_rng(0)
    >>> size, color = rng.normal(size=400), rng.choice(["red", "blue"], 400)
    >>> X = np.array([size, color], dtype=object).T
    >>> y = np.where(color == "red", np.abs(size), size)
    >>> model = TabularRegressor(random_state=0).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.95
    True
    """

    _loss = minidl.MSELoss()

    def __sklearn_tags__(self) -> Any:
        """Targets may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _read_y(self, y: Any) -> Array:
        values: Array = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        return values

    def _targets(self, y: Array) -> Targets:
        flat, y = y.ndim == 1, y.reshape(len(y), -1)
        largest = np.abs(y).max(axis=0)
        unit = np.where(largest > 0, largest, 1.0)  # so that no square is too large
        mean, scale = (y / unit).mean(axis=0), (y / unit).std(axis=0)
        scale = np.where(scale > 1e-14, scale, 1.0) * unit  # a mean may miss equal numbers by 1e-16
        mean *= unit
        learned = {"_flat": flat, "_mean": mean, "_scale": scale}
        learned |= {"_low": y.min(axis=0), "_high": y.max(axis=0)}
        return Targets((y - mean) / scale, y.shape[1], None, learned)

    def predict(self, X: Any) -> Array:
        """Values, the mean of the models', within those of training.

        Parameters
        ----------
        X : frame of pandas or polars, Arrow table, or array_like of shape (N, columns)
            The columns that the estimator was fitted with; in a frame in any order.

        Returns
        -------
        ndarray of shape (N,) or (N, K), float64
        """
        outputs = self._outputs(X)
        values = [np.clip(z * self._scale + self._mean, self._low, self._high) for z in outputs]
        y: Array = np.mean(values, axis=0)
        return y[:, 0] if self._flat else y
