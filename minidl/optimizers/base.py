"""What all optimizers share: rates, groups of parameters, a step by hand; and their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from minidl import checks
from minidl.kernels.operations import KINDS as OPERATIONS
from minidl.kernels.operations import VECTOR
from minidl.kernels.optimizer import KINDS
from minidl.kernels.program import Program
from minidl.layers.base import Layer
from minidl.memory import Array
from minidl.optimizers.groups import as_groups, check_count, check_patterns, group_of
from minidl.parameters import Parameter, Store

AT_LEAST_0 = checks.bounds(0)
POSITIVE = checks.bounds(0, open_low=True)
DECAY = checks.bounds(0, 1, open_high=True)


def two_decays(value: Any, name: str) -> tuple[float, float]:
    """Two decays of averages."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name}: expected two numbers, got {value!r}")
    first, second = (DECAY(one, f"{name}[{i}]") for i, one in enumerate(value))
    return first, second


class OptimizerState:
    """What an optimizer keeps for a model.

    Attributes
    ----------
    moments : ndarray of shape (moments, n)
        Parallel to the flat vector of the trainable parameters; made when first asked for.
    average : ndarray of shape (n,) or None
        The moving average of the parameters, if it was asked for after `average_from` steps.
    step, tick : int
        Updates made, and batches seen.
    searched : bool
        Whether NaN and infinity are looked for in the moments too, since no weight would show them.
    """

    def __init__(
        self, store: Store, moments: int, initial: float = 0.0, searched: bool = False
    ) -> None:
        self.store = store
        self.searched = searched
        self._count, self._initial = moments, initial
        self._moments: Array | None = None
        self.average: Array | None = None
        self.average_from = 0
        self.step = self.tick = 0

    @property
    def moments(self) -> Array:
        """The moments; those of the first are `initial` before the first step, padding is 0."""
        if self._moments is None:
            moments = self.store.zeros(self._count)
            if self._initial:
                for parameter in self.store.parameters:
                    if parameter.trainable:
                        parameter.view(moments[0])[...] = self._initial
            self._moments = moments  # last: an interrupt finds all of it or nothing
        return self._moments

    def begin_average(self) -> None:
        """Keep a moving average from now on; the next update makes it equal to the parameters."""
        if self.average is None:
            average = self.store.zeros()
            average[...] = self.store.values[: len(average)]
            self.average_from = self.step
            self.average = average  # last: an interrupt finds all of it or nothing

    @property
    def nbytes(self) -> int:
        """Bytes of all this."""
        vectors = self._count + (self.average is not None)
        return vectors * self.store.vector_bytes


class Optimizer(checks.Checked):
    """Base of the optimizers, with the arguments that all have beside their own.

    Parameters
    ----------
    lr : float
    weight_decay : float
    decay_bias_and_norm : bool, default True
        False: no weight decay of what is not a weight matrix, that is of biases and of the
        parameters of BatchNorm and the like, in all groups.
    groups : list of dict, optional
        Parameters with numbers of their own: ``{"params": pattern, "lr": ..., "weight_decay":
        ...}``, one of the two or both. A pattern, or one of a list of them, is matched against the
        full name as `state_dict` has it: ``"2.*"``, ``"*.bias"``. The first group that matches
        counts; all other parameters have the optimizer's numbers. A schedule scales the rates of
        all groups alike. Groups may be 8 in all, the optimizer's own included, and 4 where
        ``decay_bias_and_norm=False`` splits each in two.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit; or, with the first step of a model, a pattern matches none of its
        parameters.

    Examples
    --------
    >>> import minidl
    >>> model = minidl.Sequential(minidl.Linear(4, 8), minidl.ReLU(), minidl.Linear(8, 2))
    >>> slow = minidl.SGD(lr=0.1, groups=[{"params": "0.*", "lr": 0.01}])
    >>> trainer = minidl.Trainer(model, optimizer=slow)
    """

    # Programs and states are made for an optimizer as it is, so some arguments stay.
    _checked: ClassVar[dict[str, checks.Check]] = {
        "lr": AT_LEAST_0, "weight_decay": AT_LEAST_0, "decay_bias_and_norm": checks.flag,
        "groups": as_groups,
    }  # fmt: skip
    _fixed: ClassVar[tuple[str, ...]] = ("decay_bias_and_norm", "groups")
    _kind = ""  # its name in the kernel
    _hides = False  # True if a weight stays finite whatever the gradient is

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        decay_bias_and_norm: bool,
        groups: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_bias_and_norm = decay_bias_and_norm
        self.groups = groups
        check_count(self.groups or (), split=not decay_bias_and_norm)
        self._state: OptimizerState | None = None
        self.rates()

    def __setattr__(self, name: str, value: Any) -> None:
        """Check an argument; there are no other attributes."""
        if not name.startswith("_") and name not in self._checked:
            known = ", ".join(self._checked)
            raise AttributeError(f"{name}: {type(self).__name__} has {known}")
        super().__setattr__(name, value)

    @property
    def moments(self) -> int:
        """Vectors of state, parallel to the parameters."""
        return 2

    @property
    def initial(self) -> float:
        """Value of the first of them before the first step."""
        return 0.0

    def state_for(self, model: Layer) -> OptimizerState:
        """The state for a model; a new one if it was for another model."""
        if not isinstance(model, Layer):
            raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
        store = model.store()
        if self._state is None or self._state.store is not store:
            names = [name for name, p in model.named_parameters() if p.trainable]
            check_patterns(self.groups or [], names)
            self._state = OptimizerState(store, self.moments, self.initial, self._hides)
        return self._state

    def numbers(self) -> dict[str, Any]:
        """Arguments of `Program.set_optimizer`."""
        shared = {"lr": self.lr, "weight_decay": self.weight_decay, "beta1": 0.0}
        return {"kind": KINDS[self._kind], **shared}

    def rates(self) -> list[tuple[float, float]]:
        """Factor of lr, and weight_decay, of each group; the optimizer's own come first."""
        rates = [(1.0, self.weight_decay)]
        for i, group in enumerate(self.groups or []):
            lr = group.get("lr", self.lr)
            if lr != self.lr and self.lr == 0:
                raise ValueError(f"lr: expected more than 0, since groups[{i}] has lr={lr}, got 0")
            factor = lr / self.lr if lr != self.lr else 1.0
            rates.append((factor, group.get("weight_decay", self.weight_decay)))
        return rates if self.decay_bias_and_norm else rates + [(f, 0.0) for f, _ in rates]

    def group_of(self, name: str, parameter: Parameter) -> int:
        """Index in `rates()` of a parameter."""
        groups = self.groups or []
        split = not self.decay_bias_and_norm and len(parameter.shape) < 2
        return group_of(groups, name) + (1 + len(groups) if split else 0)

    def step(self, model: Layer) -> None:
        """One update of a model's parameters from its `gradients()`.

        `Trainer.fit` does this inside the compiled program; this is for loops of your own.
        """
        state = self.state_for(model)
        store = state.store
        itemsize = store.dtype.itemsize
        vectors = (store.values, store.gradients, state.moments[0])
        updates = [
            (
                OPERATIONS["UPDATE"],
                0,
                0.0,
                0.0,
                [parameter.at(v) for v in vectors],
                [parameter.length(itemsize) * itemsize // VECTOR, self.group_of(name, parameter)],
            )
            for name, parameter in model.named_parameters()
            if parameter.trainable
        ]
        program = Program(updates, [], itemsize, 1, 0, 0, stride=state.moments.strides[0])
        program.set_optimizer(**self.numbers(), groups=self.rates())
        program.execute(0, len(updates), 1, state.step)
        state.step += 1
        state.tick += 1

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them.

        Examples
        --------
        >>> import minidl
        >>> minidl.Lion(lr=1e-3).config()["betas"]
        [0.9, 0.99]
        """
        config = {name: getattr(self, name) for name in self._checked}
        if self.groups is not None:
            config["groups"] = [
                {k: list(v) if k == "params" else v for k, v in group.items()}
                for group in self.groups
            ]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without the state, which belongs to a model."""
        return {**self.__dict__, "_state": None}

    def __repr__(self) -> str:
        """The constructor call; arguments that all optimizers share only if they were given."""
        usual = {"decay_bias_and_norm": True, "groups": None}
        shown = (
            f"{k}={v!r}"
            for k, v in self.__dict__.items()
            if not k.startswith("_") and (k not in usual or v != usual[k])
        )
        return f"{type(self).__name__}({', '.join(shown)})"
