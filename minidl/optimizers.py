"""Optimizers, with PyTorch's names, defaults and formulas; the update itself is compiled.

The formulas stand in `kernels/optimizer.pxd`.
"""

from __future__ import annotations

from typing import Any

from minidl import checks
from minidl.kernels.operations import KINDS as OPERATIONS
from minidl.kernels.operations import VECTOR
from minidl.kernels.optimizer import KINDS
from minidl.kernels.program import Program
from minidl.layers.base import Layer
from minidl.memory import Array
from minidl.parameters import Parameter, Store


class OptimizerState:
    """What an optimizer keeps for a model.

    Attributes
    ----------
    moments : ndarray of shape (moments, n)
        Parallel to the flat vector of the trainable parameters.
    average : ndarray of shape (n,) or None
        The moving average of the parameters, if it was asked for after `average_from` steps.
    step, tick : int
        Updates made, and batches seen.
    """

    def __init__(self, store: Store, moments: int) -> None:
        self.store = store
        self.moments: Array = store.zeros(moments)
        self.average: Array | None = None
        self.average_from = 0
        self.step = self.tick = 0

    def begin_average(self) -> None:
        """Keep a moving average from now on; the next update makes it equal to the parameters."""
        if self.average is None:
            self.average = self.store.zeros()
            self.average[...] = self.store.values[: len(self.average)]
            self.average_from = self.step

    @property
    def nbytes(self) -> int:
        """Bytes of all this."""
        return self.moments.nbytes + (0 if self.average is None else self.average.nbytes)


class Optimizer:
    """Base of the optimizers."""

    moments = 2  # vectors of state

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr = checks.number(lr, "lr", 0)
        self.weight_decay = checks.number(weight_decay, "weight_decay", 0)
        self._state: OptimizerState | None = None

    def state_for(self, store: Store) -> OptimizerState:
        """The state for a model; a new one if it was for another model."""
        if self._state is None or self._state.store is not store:
            self._state = OptimizerState(store, self.moments)
        return self._state

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def rates(self) -> list[tuple[float, float]]:
        """Factor of lr and weight_decay of each group."""
        return [(1.0, self.weight_decay)]

    def group_of(self, name: str, parameter: Parameter) -> int:
        """Group of a parameter."""
        return 0

    def step(self, model: Layer) -> None:
        """One update of a model's parameters from its `gradients()`.

        `Trainer.fit` does this inside the compiled program; this is for loops of your own.
        """
        store = model.store()
        state = self.state_for(store)
        itemsize = store.dtype.itemsize
        vectors = (store.values, store.gradients, state.moments[0])
        updates = [
            (
                OPERATIONS["UPDATE"],
                0,
                0.0,
                0.0,
                [parameter.at(v) for v in vectors],
                [parameter.length(itemsize) * itemsize // VECTOR, 0],
            )
            for _, parameter in model.named_parameters()
            if parameter.trainable
        ]
        program = Program(updates, [], itemsize, 1, 0, 0, stride=state.moments.strides[0])
        program.set_optimizer(**self.numbers())
        program.execute(0, len(updates), 1, state.step)
        state.step += 1
        state.tick += 1

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without the state, which belongs to a model."""
        return {**self.__dict__, "_state": None}

    def __repr__(self) -> str:
        """The constructor call."""
        shown = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if not k.startswith("_"))
        return f"{type(self).__name__}({shown})"


def _betas(betas: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas: expected two numbers, got {betas!r}")
    first, second = (
        checks.number(b, f"betas[{i}]", 0, 1, open_high=True) for i, b in enumerate(betas)
    )
    return first, second


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if you like.

    Parameters
    ----------
    lr : float, default 1e-3
    momentum : float in [0, 1), default 0
    weight_decay : float, default 0
        Added to the gradient, times the weight.
    nesterov : bool, default False
        Nesterov's momentum; needs momentum > 0.

    Examples
    --------
    >>> import minidl
    >>> minidl.SGD(lr=0.1, momentum=0.9)
    SGD(lr=0.1, weight_decay=0.0, momentum=0.9, nesterov=False)
    """

    moments = 1

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = checks.number(momentum, "momentum", 0, 1, open_high=True)
        self.nesterov = bool(nesterov)
        if nesterov and momentum == 0:
            raise ValueError("nesterov: expected False, since momentum is 0, got True")

    def numbers(self) -> dict[str, Any]:
        """For the kernel."""
        return {
            "kind": KINDS["SGD"],
            "nesterov": self.nesterov,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "beta1": self.momentum,
            "beta2": 0.0,
            "eps": 0.0,
        }


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
    """

    _kind = "Adam"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.betas = _betas(betas)
        self.eps = checks.number(eps, "eps", 0, open_low=True)

    def numbers(self) -> dict[str, Any]:
        """For the kernel."""
        return {
            "kind": KINDS[self._kind],
            "nesterov": False,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
        }


class AdamW(Adam):
    """Adam with decoupled weight decay, default 0.01. Loshchilov and Hutter, ICLR 2019."""

    _kind = "AdamW"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "OptimizerState"]
