"""What the parameters of the estimators may be, in the form in which scikit-learn checks them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions

from minidl import losses, optimizers
from minidl.layers import ACTIVATIONS, Layer
from minidl.losses import Loss
from minidl.optimizers import Optimizer
from minidl.schedulers import Scheduler

SCIKIT_LEARN = {"identity", "logistic", "tanh", "relu"}
RATES = {"constant", "invscaling", "adaptive"}


def named(*names: Any) -> StrOptions:
    """These names, as they are and in small letters."""
    return StrOptions({form for name in names for form in (name, name.lower())})


AT_LEAST_0 = Interval(Real, 0, None, closed="left")
ABOVE_0 = Interval(Real, 0, None, closed="neither")
FROM_1 = Interval(Integral, 1, None, closed="left")
SHARE = Interval(Real, 0, 1, closed="left")

CONSTRAINTS: dict[str, list[Any]] = {
    # scikit-learn's own
    "hidden_layer_sizes": ["array-like", FROM_1],
    "activation": [named(*SCIKIT_LEARN, *ACTIVATIONS), list, tuple, Layer],
    "solver": [named("lbfgs", *optimizers.ALL), Optimizer],
    "alpha": [AT_LEAST_0],
    "batch_size": [StrOptions({"auto"}), FROM_1],
    "learning_rate": [StrOptions(RATES), Scheduler, callable],
    "learning_rate_init": [ABOVE_0],
    "power_t": [AT_LEAST_0],
    "max_iter": [FROM_1],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [AT_LEAST_0],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [SHARE],
    "beta_1": [SHARE],
    "beta_2": [SHARE],
    "epsilon": [ABOVE_0],
    "n_iter_no_change": [FROM_1, Options(Real, {np.inf})],
    "max_fun": [FROM_1],
    # minidl's
    "batch_norm": ["boolean"],
    "dropout": [SHARE],
    "scoring": [str, callable, None],
    "callbacks": [list, tuple, None],
    "n_threads": [FROM_1, None],
    "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
    "time_limit": [ABOVE_0, None],
}
CLASSIFIER: dict[str, list[Any]] = {
    "loss": [named("log_loss", *losses.ALL), Loss, callable],
    "class_weight": [StrOptions({"balanced"}), dict, list, None],
}
REGRESSOR: dict[str, list[Any]] = {
    "loss": [named("squared_error", "poisson", *losses.ALL), Loss, callable],
}
