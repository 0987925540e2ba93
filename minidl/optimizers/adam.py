"""Adam and its kin; the formulas stand in `kernels/optimizer.pxd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minidl import checks
from minidl.optimizers.base import AT_LEAST_0, POSITIVE, Optimizer, two_decays


class Adam(Optimizer):
    """Adam. Kingma and Ba, ICLR 2015.

    Parameters
    ----------
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
        Decay of the averages of the gradient and of its square.
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    amsgrad : bool, default False
        Divide by the greatest average of the square so far. Reddi, Kale and Kumar, ICLR 2018.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.Adam(lr=0.01)
    Adam(lr=0.01, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-08, amsgrad=False)
    """

    _checked = Optimizer._checked | {
        "betas": two_decays, "eps": POSITIVE, "amsgrad": checks.flag,
    }  # fmt: skip
    _fixed = (*Optimizer._fixed, "amsgrad")
    _kind = "Adam"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 3 if self.amsgrad else 2

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        beta1, beta2 = self.betas
        own = {"beta1": beta1, "beta2": beta2, "eps": self.eps, "variant": self.amsgrad}
        return super().numbers() | own


class AdamW(Adam):
    """Adam with decoupled weight decay. Loshchilov and Hutter, ICLR 2019.

    Parameters
    ----------
    lr, betas, eps, amsgrad
        As those of `Adam`.
    weight_decay : float, default 0.01
        Each step multiplies the weight by 1 - lr weight_decay.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Examples
    --------
    Decay of weight matrices alone:

    >>> import minidl
    >>> minidl.AdamW(weight_decay=0.1, decay_bias_and_norm=False).decay_bias_and_norm
    False
    """

    _kind = "AdamW"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr, betas, eps, weight_decay, amsgrad,
            decay_bias_and_norm=decay_bias_and_norm, groups=groups,
        )  # fmt: skip


class RAdam(Optimizer):
    """Adam without the variance of its first steps. Liu et al., ICLR 2020.

    Parameters
    ----------
    lr : float, default 1e-3
    betas : (float, float), default (0.9, 0.999)
        Decay of the averages of the gradient and of its square.
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    decoupled_weight_decay : bool, default False
        Each step multiplies the weight by 1 - lr weight_decay instead, as `AdamW` does.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.RAdam(weight_decay=0.01, decoupled_weight_decay=True).betas
    (0.9, 0.999)
    """

    _checked = Optimizer._checked | {
        "betas": two_decays, "eps": POSITIVE, "decoupled_weight_decay": checks.flag,
    }  # fmt: skip
    _kind = "RAdam"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias_and_norm, groups)
        self.betas = betas
        self.eps = eps
        self.decoupled_weight_decay = decoupled_weight_decay

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        beta1, beta2 = self.betas
        decoupled = self.decoupled_weight_decay
        own = {"beta1": beta1, "beta2": beta2, "eps": self.eps, "variant": decoupled}
        return super().numbers() | own


class NAdam(RAdam):
    """Adam with Nesterov's momentum. Dozat, ICLR 2016 workshop.

    Where a schedule changes the first beta, the product over the steps so far that the formula
    holds is still that of the beta given here.

    Parameters
    ----------
    lr : float, default 2e-3
    betas : (float, float), default (0.9, 0.999)
        Decay of the averages of the gradient and of its square.
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    momentum_decay : float, default 4e-3
        How fast the momentum rises from half the first beta to all of it.
    decoupled_weight_decay : bool, default False
        Each step multiplies the weight by 1 - lr weight_decay instead, as `AdamW` does.
    decay_bias_and_norm, groups
        See `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import minidl
    >>> minidl.NAdam().lr
    0.002
    """

    _checked = RAdam._checked | {"momentum_decay": AT_LEAST_0}
    _kind = "NAdam"

    def __init__(
        self,
        lr: float = 2e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        decay_bias_and_norm: bool = True,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr, betas, eps, weight_decay, decoupled_weight_decay,
            decay_bias_and_norm=decay_bias_and_norm, groups=groups,
        )  # fmt: skip
        self.momentum_decay = momentum_decay

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        return super().numbers() | {"extra": self.momentum_decay}
