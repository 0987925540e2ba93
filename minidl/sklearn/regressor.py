"""MLPRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from minidl.memory import Array
from minidl.sklearn import objectives
from minidl.sklearn.base import BaseMLP, can_go_on
from minidl.sklearn.objectives import Objective, Score
from minidl.sklearn.parameters import REGRESSOR


class MLPRegressor(RegressorMixin, BaseMLP):
    """scikit-learn's multilayer perceptron regressor, trained by minidl.

    Parameters, methods, fitted attributes, warnings and errors are those of
    `sklearn.neural_network.MLPRegressor`; see `MLPClassifier` for what is different on purpose.

    Parameters
    ----------
    loss : str, Loss or function, default "squared_error"
        scikit-learn's ``"squared_error"`` and ``"poisson"``: half the squared error, and half the
        deviance of counts whose logarithm the network predicts; or any loss of minidl for values,
        such as ``HuberLoss()`` or ``QuantileLoss([0.1, 0.5, 0.9])``, which predicts a column for
        each quantile.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init
        As those of `MLPClassifier`, with all defaults.
    power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum
        Likewise.
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon
        Likewise; no part held out keeps shares.
    n_iter_no_change, max_fun, batch_norm, dropout, callbacks, n_threads, dtype, time_limit
        Likewise.
    scoring : str or callable, optional
        What early stopping follows: a scorer of scikit-learn's or its name, ``"loss"``, or None for
        R squared. Rows count by the `sample_weight` that is given. A score of NaN is no
        improvement, and a warning.

    Attributes
    ----------
    coefs_, intercepts_, model_, loss_, loss_curve_, best_loss_, validation_scores_
        As those of `MLPClassifier`.
    best_validation_score_, validation_loss_curve_, n_iter_, t_, n_layers_, n_outputs_
        Likewise.
    n_features_in_, feature_names_in_
        Likewise.
    out_activation_ : {"identity", "exp"}
        What makes predictions of the outputs.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from minidl.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = MLPRegressor(hidden_layer_sizes=32, learning_rate_init=0.1, early_stopping=True,
    ...                    random_state=0)
    >>> make_pipeline(StandardScaler(), net).fit(X, y).score(X, y) > 0.4
    True
    """

    _parameter_constraints = {**BaseMLP._parameter_constraints, **REGRESSOR}  # noqa: RUF012
    _check_options = {"y_numeric": True}  # noqa: RUF012

    def __init__(
        self,
        loss: Any = "squared_error",
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
        batch_norm: bool = False,
        dropout: float = 0.0,
        scoring: Any = None,
        callbacks: Any = None,
        n_threads: int | None = None,
        dtype: Any = None,
        time_limit: float | None = None,
    ) -> None:
        self.loss = loss
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
        self.batch_norm = batch_norm
        self.dropout = dropout
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
    ) -> MLPRegressor:
        """Train.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
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
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """One epoch; the optimizer remembers those before.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self
        """
        if not hasattr(self, "model_"):
            self._validate_params()
        self._fit(X, y, sample_weight, (None, None, None), incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Predicted values.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        outputs = self._outputs(X)
        values: Array = np.exp(outputs) if self.out_activation_ == "exp" else outputs
        return values[:, 0] if values.shape[1] == 1 else values

    def __sklearn_tags__(self) -> Any:
        """Several outputs are taken."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    # What `BaseMLP` asks for.

    def _targets(self, y: Array, goes_on: bool, to_train: bool = True) -> Array:
        """Values (N, K)."""
        y = y if y.dtype.kind == "f" else y.astype(np.float64)
        return y.reshape(len(y), -1)

    def _objective_for(self, y: Array, weight: Array | None) -> Objective:
        return objectives.of_values(self.loss, y, weight)

    def _score_of_outputs(self, objective: Objective) -> Score:
        return objectives.determination(objective.activation)
