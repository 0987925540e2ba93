"""SGD, and gradients scaled or cut to their sign; formulas stand in `kernels/optimizer.pxd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minidl import checks
from minidl.optimizers.base import AT_LEAST_0, DECAY, POSITIVE, Optimizer, two_decays


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if you like.

    Parameters
    ----------
    lr : float, default 1e-3
    momentum : float in [0, 1), default 0
    dampening : float in [0, 1], default 0
        What momentum leaves out of each gradient but the first.
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    nesterov : bool, default False
        Nesterov's momentum; needs momentum > 0 and no dampening.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.SGD(lr=0.1, momentum=0.9)
    SGD(lr=0.1, weight_decay=0.0, momentum=0.9, dampening=0.0, nesterov=False)
    """

    _checked = Optimizer._checked | {
        "momentum": DECAY, "dampening": checks.bounds(0, 1),
        "nesterov": checks.flag,
    }  # fmt: skip
    _kind = "SGD"

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.momentum = momentum
        self.dampening = dampening
        self.nesterov = nesterov
        if nesterov and momentum == 0:
            raise ValueError("nesterov: expected False, since momentum is 0, got True")
        if nesterov and dampening > 0:
            raise ValueError(f"nesterov: expected False, since dampening is {dampening}, got True")

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 1

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        own = {"beta1": self.momentum, "extra": self.dampening, "variant": self.nesterov}
        return super().numbers() | own


class RMSprop(Optimizer):
    """Gradients over the root of the average of their squares. Tieleman and Hinton, 2012.

    Parameters
    ----------
    lr : float, default 1e-2
    alpha : float in [0, 1), default 0.99
        Decay of the average of the squares.
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    momentum : float in [0, 1), default 0
        A schedule changes it only if it is not 0.
    centered : bool, default False
        Divide by the standard deviation instead, that is without the square of the mean.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.RMSprop(momentum=0.9, centered=True).moments
    3
    """

    _checked = Optimizer._checked | {
        "alpha": DECAY, "eps": POSITIVE, "momentum": DECAY, "centered": checks.flag,
    }  # fmt: skip
    _fixed = (*Optimizer._fixed, "momentum", "centered")
    _kind = "RMSprop"

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.alpha = alpha
        self.eps = eps
        self.momentum = momentum
        self.centered = centered

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 1 + self.centered + (self.momentum > 0)

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        own = {"beta1": self.momentum, "beta2": self.alpha, "eps": self.eps}
        return super().numbers() | own | {"variant": self.centered}


class Adagrad(Optimizer):
    """Gradients over the root of the sum of their squares. Duchi, Hazan and Singer, JMLR 2011.

    Parameters
    ----------
    lr : float, default 1e-2
    lr_decay : float, default 0
        The rate of step t is lr / (1 + (t - 1) lr_decay).
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    initial_accumulator_value : float, default 0
        What the sums begin with.
    eps : float, default 1e-10
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.Adagrad(lr=0.1).moments
    1
    """

    _checked = Optimizer._checked | {
        "lr_decay": AT_LEAST_0, "initial_accumulator_value": AT_LEAST_0, "eps": POSITIVE,
    }  # fmt: skip
    _fixed = (*Optimizer._fixed, "initial_accumulator_value")
    _kind = "Adagrad"

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.lr_decay = lr_decay
        self.initial_accumulator_value = initial_accumulator_value
        self.eps = eps

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 1

    @property
    def initial(self) -> float:
        """Value of the first of them before the first step."""
        return self.initial_accumulator_value

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        return super().numbers() | {"eps": self.eps, "extra": self.lr_decay}


class Lion(Optimizer):
    """Steps of one size, in the direction of the momentum's sign. Chen et al., NeurIPS 2023.

    Parameters
    ----------
    lr : float, default 1e-4
        A third to a tenth of what Adam would have.
    betas : (float, float), default (0.9, 0.99)
        Decay of the average of the gradient: in the step, and in what is kept.
    weight_decay : float, default 0
        Each step multiplies the weight by 1 - lr weight_decay.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.Lion(weight_decay=0.1)
    Lion(lr=0.0001, weight_decay=0.1, betas=(0.9, 0.99))
    """

    _checked = Optimizer._checked | {"betas": two_decays}
    _kind = "Lion"
    _hides = True  # the sign of infinity is 1

    def __init__(
        self,
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.betas = betas

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 1

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        return super().numbers() | {"beta1": self.betas[0], "beta2": self.betas[1]}
