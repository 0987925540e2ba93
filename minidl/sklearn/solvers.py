"""Solvers and learning rates by scikit-learn's names: minidl's optimizers and schedules."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from minidl import checks, optimizers
from minidl.memory import Array
from minidl.optimizers import Adam, Optimizer, OptimizerState
from minidl.schedulers import Scheduler, as_scheduler
from minidl.sklearn.parameters import RATES

ADAMS = ("Adam", "AdamW", "NAdam", "RAdam")
DECOUPLED = ("AdamW", "Lion")  # their weight decay is no part of the gradient
SMALLEST_RATE, DIVISOR = 1e-6, 5.0  # of learning_rate="adaptive"


class SGD(optimizers.SGD):
    """SGD whose momentum may be 1, as scikit-learn lets it be.

    Examples
    --------
    >>> from minidl.sklearn.solvers import SGD
    >>> SGD(momentum=1.0).momentum
    1.0
    """

    _checked = optimizers.SGD._checked | {"momentum": checks.bounds(0, 1)}


def solver_name(solver: Any) -> str:
    """``"lbfgs"``, the name of an optimizer, or "" for an optimizer that is given."""
    if isinstance(solver, Optimizer):
        return ""
    return checks.known_name(solver, ("lbfgs", *optimizers.ALL), "solver")


def penalises(solver: Any) -> bool:
    """True if alpha is the factor of an L2 penalty that is a part of the loss."""
    return solver_name(solver) not in ("", *DECOUPLED)


def make_optimizer(estimator: Any, slope: float) -> Optimizer:
    """The optimizer that the parameters of an estimator describe, but for `alpha`.

    Parameters
    ----------
    estimator : estimator
    slope : float
        What is minimised is this times the loss. The rate of SGD takes it in, and the epsilon of
        Adam, whose steps do not depend on it otherwise.
    """
    if isinstance(estimator.solver, Optimizer):
        return deepcopy(estimator.solver)
    name = solver_name(estimator.solver)
    lr = float(estimator.learning_rate_init)
    options: dict[str, Any] = {"decay_bias_and_norm": False}
    if name in ADAMS:
        options["betas"] = float(estimator.beta_1), float(estimator.beta_2)
        options["eps"] = float(estimator.epsilon)
    if name == "Adam":
        options["eps"] /= slope
        return Adam(lr, **options)
    if name == "SGD":
        momentum = float(estimator.momentum)
        nesterov = bool(estimator.nesterovs_momentum) and momentum > 0
        return SGD(lr * slope, momentum=momentum, nesterov=nesterov, **options)
    return optimizers.by_name(name, lr=lr, **options)


def set_penalty(optimizer: Optimizer, estimator: Any, slope: float, weight_of_batch: float) -> None:
    """Give an optimizer `alpha` as it is now; one of the user's has its own weight decay.

    Parameters
    ----------
    optimizer : Optimizer
    estimator : estimator
    slope : float
        As for `make_optimizer`.
    weight_of_batch : float
        Sum of the weights of the rows of a batch: scikit-learn divides the penalty by it.
    """
    name, alpha = solver_name(estimator.solver), float(estimator.alpha)
    if name in DECOUPLED:
        optimizer.weight_decay = alpha
    elif name:
        scale = slope if name in ("Adam", "SGD") else 1.0
        optimizer.weight_decay = alpha / weight_of_batch / scale


def make_scheduler(estimator: Any) -> Scheduler | None:
    """A schedule of minidl's, if one is given."""
    rate = estimator.learning_rate
    return None if isinstance(rate, str) and rate in RATES else as_scheduler(rate)


class Rate:
    """The rate of SGD between epochs, as scikit-learn changes it; of others it stays.

    Parameters
    ----------
    estimator : estimator
    optimizer : Optimizer
    state : OptimizerState
    slope : float
        The optimizer's rate is so many times the one that users see.
    """

    def __init__(
        self, estimator: Any, optimizer: Optimizer, state: OptimizerState, slope: float
    ) -> None:
        own = estimator.learning_rate if solver_name(estimator.solver) == "SGD" else "constant"
        self.rule = own if isinstance(own, str) else "constant"
        self.initial, self.power = float(estimator.learning_rate_init), float(estimator.power_t)
        self.optimizer, self.state, self.slope = optimizer, state, slope

    @property
    def value(self) -> float:
        """The rate."""
        return self.optimizer.lr / self.slope

    def set(self, rate: float) -> None:
        """Change it. scikit-learn's velocities hold the rates of their steps, minidl's do not."""
        moments: Array = self.state.moments[0]
        moments *= self.value / rate
        self.optimizer.lr = rate * self.slope

    def epoch_ended(self, rows: int) -> None:
        """Follow the number of rows seen so far, if the rule is "invscaling"."""
        if self.rule == "invscaling":
            self.set(self.initial / (rows + 1) ** self.power)

    def goes_on(self) -> str:
        """When nothing improves any more: what is done about it; "" if training is to stop."""
        if self.rule != "adaptive" or self.value <= SMALLEST_RATE:
            return ""
        self.set(self.value / DIVISOR)
        return f"Setting learning rate to {self.value:f}"

    @property
    def stops_because(self) -> str:
        """The last words of the message about a stop."""
        return "Learning rate too small. Stopping." if self.rule == "adaptive" else "Stopping."
