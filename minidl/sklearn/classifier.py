"""MLPClassifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from minidl import checks
from minidl.memory import Array
from minidl.sklearn import objectives
from minidl.sklearn.base import BaseMLP, can_go_on
from minidl.sklearn.objectives import Objective, Score
from minidl.sklearn.parameters import CLASSIFIER


def _has_probabilities(estimator: Any) -> bool:
    """Before `fit` nobody knows; afterwards, if the outputs are logits."""
    return getattr(estimator, "out_activation_", "softmax") in ("softmax", "logistic")


def _has_scores_alone(estimator: Any) -> bool:
    return not _has_probabilities(estimator)


class MLPClassifier(ClassifierMixin, BaseMLP):
    """scikit-learn's multilayer perceptron classifier, trained by minidl.

    Parameters, methods, fitted attributes, warnings and errors are those of
    `sklearn.neural_network.MLPClassifier`, with the same initial weights for the same
    `random_state`, the same stopping rules and the same part held out for early stopping. What
    minidl adds comes last.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of the hidden layers.
    activation : str, Layer, or a sequence of these, default "relu"
        Of the hidden layers: scikit-learn's ``"identity"``, ``"logistic"``, ``"tanh"``, ``"relu"``,
        the name of any other activation of minidl, or a layer. A sequence has one for each hidden
        layer.
    solver : str or Optimizer, default "adam"
        ``"adam"``, ``"sgd"`` and ``"lbfgs"`` as in scikit-learn; the name of any other optimizer of
        minidl, which then has `learning_rate_init` for its rate and `alpha` for its weight decay;
        or an optimizer, whose own numbers count: `alpha`, `learning_rate_init`, `momentum`,
        `beta_1` and so on are not looked at.
    alpha : float, default 0.0001
        Strength of the L2 penalty of the weights: alpha / 2 times their squares, divided by the
        rows of the batch. For ``"adamw"`` and ``"lion"``, whose weight decay is no part of the
        loss, that weight decay.
    batch_size : int, default "auto"
        Rows of a batch; "auto" is the least of 200 and the number of rows.
    learning_rate : str, Scheduler or function, default "constant"
        For ``solver="sgd"``, "invscaling" divides the rate by the number of rows seen to the power
        `power_t`; "adaptive" divides it by 5 when training would stop, until it is 1e-6. A schedule
        of minidl, or a function of the epoch that gives a factor, is for every optimizer; after one
        that has an end there is no warning that training has not converged.
    learning_rate_init : float, default 0.001
        The rate to begin with.
    power_t : float, default 0.5
        Exponent of "invscaling".
    max_iter : int, default 200
        The most epochs, of "lbfgs" iterations.
    shuffle : bool, default True
        A new order of the rows in each epoch.
    random_state : int, RandomState or None, default None
        Of the initial weights, the part held out, the orders of the rows and dropout.
    tol : float, default 1e-4
        An epoch counts as better if its loss is lower, or its validation score higher, by this.
    verbose : bool, default False
        Print the loss of each epoch, of "lbfgs" after each iteration, and why training stops.
    warm_start : bool, default False
        `fit` goes on from the weights that there are.
    momentum : float in [0, 1], default 0.9
        Of "sgd".
    nesterovs_momentum : bool, default True
        Of "sgd".
    early_stopping : bool, default False
        Stop when the validation score no longer improves, and bring the best weights back; else
        training stops when the training loss no longer improves, with the weights as they are.
        "lbfgs" has rules of its own, and no early stopping.
    validation_fraction : float, default 0.1
        The part of the rows that early stopping holds out, if `fit` is given no others. Of two
        classes it keeps the shares, as scikit-learn's does.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-8
        Of "adam" and its kin.
    n_iter_no_change : int or inf, default 10
        Epochs in a row without an improvement that are borne.
    max_fun : int, default 15000
        The most calls of the loss, of "lbfgs".
    loss : str, Loss or function, default "log_loss"
        Or any loss of minidl for classes, such as ``CrossEntropyLoss(label_smoothing=0.1)``. With
        a hinge loss, or a function, there is a `decision_function` in place of probabilities.
    batch_norm : bool, default False
        BatchNorm before each activation.
    dropout : float in [0, 1), default 0
        Dropout after each activation.
    class_weight : "balanced", dict or list of dict, optional
        Weights of the classes in training, times `sample_weight`; a list has one for each label of
        several. Validation data count by `sample_weight` alone.
    scoring : str or callable, optional
        What early stopping follows: a scorer of scikit-learn's or its name, ``"loss"``, or None for
        the accuracy. Rows count by the `sample_weight` that is given, and never by `class_weight`,
        in the part that is held out as in `X_val`: a scorer need not take weights if none are
        given. A score of NaN is no improvement, and a warning.
    callbacks : list of Callback, optional
        minidl's; they see "val_loss" and "val_score" if there are validation data. Of "lbfgs" none
        are called.
    n_threads : int, optional
        The most threads; default: as many as suit, but one in a thread of joblib's and in a task
        of Dask's, and in a process of joblib's its share of the cores.
    dtype : {"float32", "float64"}, optional
        Of the weights; default: that of X, float64 if it is neither.
    time_limit : float, optional
        Seconds after which training stops.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_, intercepts_ : list of ndarray
        Weights (fan in, fan out) and biases of the layers: views, which may be written to. Set
        before `partial_fit`, or `fit` with `warm_start`, they are what training begins with.
    model_ : Sequential
        The network itself, to save, fuse or export.
    loss_ : float
        Loss of the last epoch, with the penalty.
    loss_curve_ : list of float
        Loss of each epoch; of "lbfgs" after each iteration.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_, best_validation_score_
        Scores of the part held out, and the best; None without early stopping, as of "lbfgs".
    validation_loss_curve_ : list of float or None
        Loss on validation data after each epoch, without the penalty.
    n_iter_, t_ : int
        Epochs of the last `fit`, and rows that training has seen in all.
    n_layers_, n_outputs_ : int
        Layers with the input, and units of the last.
    out_activation_ : {"softmax", "logistic", "identity"}
        What makes probabilities of the outputs.
    n_features_in_, feature_names_in_
        Columns of X, and their names if it has some.

    Notes
    -----
    What is different on purpose:

    - The order of the rows in an epoch is another one for the same `random_state`.
    - Adam's `epsilon` stands where Kingma and Ba, and PyTorch, have it.
    - A last batch that is smaller has the penalty of the others; with sample weights, batches have
      the mean weight of all rows. `loss_` is the weighted mean over the epoch, and the penalty in
      it that of weights that go in a straight line from one end of the epoch to the other.
    - Logarithms of probabilities are finite where the probabilities are 0.
    - With `batch_norm`, a last batch of a single row joins the one before it.
    - Training that meets NaN or infinity stops at once with scikit-learn's error; with early
      stopping the best weights come back.
    - Sparse rows are made dense batch by batch.
    - "lbfgs" minimises what it has the gradient of: for several outputs with the squared error the
      sum over them, where scikit-learn's has the gradient of the sum and the value of the mean. It
      prints its iterations, and has the attributes of the others, such as `loss_curve_`.
    - Results have the dtype of the weights: after a `fit` in float32, of X in float64 too. X that
      this dtype cannot hold is an error.
    - A score of NaN counts as no improvement in early stopping, where scikit-learn's then goes on.
    - Negative weights of rows, negative y for the loss "poisson", and another number of outputs
      when training goes on are errors.
    - A call that fails leaves the estimator as it was; where training went on from what there was,
      with the epochs that it has made.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from minidl.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((32,), learning_rate_init=0.01, random_state=0, max_iter=500).fit(X, y)
    >>> clf.score(X, y) > 0.95
    True
    """

    _parameter_constraints = {**BaseMLP._parameter_constraints, **CLASSIFIER}  # noqa: RUF012

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        batch_norm: bool = False,
        dropout: float = 0.0,
        class_weight: Any = None,
        scoring: Any = None,
        callbacks: Any = None,
        n_threads: int | None = None,
        dtype: Any = None,
        time_limit: float | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.class_weight = class_weight
        self.scoring = scoring
        self.callbacks = callbacks
        self.n_threads = n_threads
        self.dtype = dtype
        self.time_limit = time_limit

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPClassifier:
        """Train.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes, of any kind that sorts; or zeros and ones, a column for each label.
        sample_weight : array-like of shape (n_samples,), optional
        X_val, y_val : as X and y, optional
            Validation data: for `validation_loss_curve_`, and in place of the part that early
            stopping would hold out.
        sample_weight_val : array-like of shape (n_validation_samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter or an argument does not fit, or training met NaN or infinity; nothing has
            been changed, but for epochs that `warm_start` has added.
        """
        self._validate_params()
        self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=False)
        return self

    @available_if(can_go_on)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> MLPClassifier:
        """One epoch; the optimizer remembers those before.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like of shape (n_classes,), optional
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
        """
        if not hasattr(self, "model_"):
            self._validate_params()
        with self._unchanged_by_errors():
            if _check_partial_fit_first_call(self, classes):
                self._multilabel = type_of_target(y).startswith("multilabel")
            self._fit(X, y, sample_weight, (None, None, None), incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """The likeliest class of each row.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        outputs = self._outputs(X)
        if self._multilabel:
            return (outputs > 0).astype(int)
        if outputs.shape[1] > 1:
            places = outputs.argmax(axis=1)
        else:
            places = np.minimum(outputs[:, 0] > 0, len(self.classes_) - 1)
        return self.classes_[places]  # type: ignore[no-any-return]

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, or of each label.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        outputs = self._outputs(X)
        if self.out_activation_ == "softmax":
            return softmax(outputs, axis=1)  # type: ignore[no-any-return]
        if self._multilabel:
            return expit(outputs)  # type: ignore[no-any-return]
        return np.hstack([expit(-outputs), expit(outputs)])

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
        """
        outputs = self._outputs(X)
        if self.out_activation_ == "softmax":
            return log_softmax(outputs, axis=1)  # type: ignore[no-any-return]
        if self._multilabel:
            return _log_expit(outputs)
        return np.hstack([_log_expit(-outputs), _log_expit(outputs)])

    @available_if(_has_scores_alone)
    def decision_function(self, X: Any) -> Array:
        """Scores of the classes, where the loss makes no probabilities of them.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
        """
        outputs = self._outputs(X)
        if self._multilabel or len(self.classes_) > 2:
            return outputs
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]

    def __sklearn_tags__(self) -> Any:
        """Several labels are taken."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # What `BaseMLP` asks for.

    def _targets(self, y: Array, goes_on: bool, to_train: bool = True) -> Array:
        """Numbers of the classes (N,), or zeros and ones (N, K)."""
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError("Multioutput target data is not supported with label binarization")
        multilabel = kind == "multilabel-indicator"
        if not goes_on or not hasattr(self, "classes_"):
            self._multilabel = multilabel
            self.classes_ = unique_labels(y)
        else:
            self._check_classes(y, multilabel, all_of_them=to_train and self.warm_start)
        if multilabel:
            dense: Array = y.toarray() if hasattr(y, "toarray") else y
            return dense
        return np.searchsorted(self.classes_, y)

    def _check_classes(self, y: Array, multilabel: bool, all_of_them: bool) -> None:
        """Classes must be those that are known already."""
        classes = unique_labels(y)
        if all_of_them:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' "
                f"has {classes}."
            )
        if multilabel != self._multilabel:
            known = "several labels" if self._multilabel else "one class"
            raise ValueError(f"y: expected {known} in each row, as before, got shape {y.shape}")

    def _objective_for(self, y: Array, weight: Array | None) -> Objective:
        count = y.shape[1] if self._multilabel else len(self.classes_)
        return objectives.of_classes(self.loss, count, self._multilabel)

    def _score_of_outputs(self, objective: Objective) -> Score:
        return objectives.accuracy

    def _class_weights(self, labels: Array, y: Array, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                'class_weight: expected weights or None for partial_fit, got "balanced", which '
                "depends on all rows; sklearn.utils.class_weight.compute_class_weight gives weights"
            )
        given = self.class_weight
        for one in given if isinstance(given, list) else [given]:
            for label, weight in one.items() if isinstance(one, dict) else ():
                checks.number(weight, f"class_weight[{label!r}]", 0)
        if self._multilabel:
            return compute_sample_weight(given, y)  # type: ignore[no-any-return]
        each = compute_class_weight(given, classes=self.classes_, y=labels)
        return each[y]  # type: ignore[no-any-return]

    def _strata(self, y: Array) -> Array | None:
        two = not self._multilabel and len(self.classes_) <= 2
        return y.astype(bool).reshape(-1, 1) if two else None


def _log_expit(z: Array) -> Array:
    """Logarithms of probabilities: as exact as these where z > 0, finite where they are 0."""
    logarithms: Array = np.where(z > 0, np.log(expit(np.maximum(z, 0))), log_expit(z))
    return logarithms
