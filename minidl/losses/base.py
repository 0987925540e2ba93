"""What all losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidl import checks
from minidl.memory import Array

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.metrics.convert import Task

# The parameters a and b of the kernel's formulas, and numbers of the columns.
Numbers: TypeAlias = "tuple[float, float, tuple[float, ...] | None]"


class Loss:
    """Base of the losses: means over the rows of a batch.

    ``loss(prediction, y)`` returns the mean; ``loss.backward()`` then returns the gradient with
    respect to the prediction. The arguments that a loss is made with are attributes, and cannot be
    changed afterwards.

    Attributes
    ----------
    task : {"multiclass", "binary", "regression"} or None
        What the predictions are: logits of one class among several, logits of yes or no in each
        column, numbers, or something else.
    metric : {"accuracy"} or None
        The weighted share of right rows, if it comes with the loss.
    """

    task: Task = None
    arguments: tuple[str, ...] = ()  # names of those of the constructor
    kind: int = -1  # of the kernel; -1: a function
    integer_labels = False
    weighted = False  # True if `call` wants the sample weights

    @property
    def metric(self) -> str | None:
        """Name of the share of right rows that comes with the loss."""
        return "accuracy" if self.task in ("multiclass", "binary") else None

    def __setattr__(self, name: str, value: Any) -> None:
        """Programs are made for a loss as it is, so its arguments stay."""
        if name in self.arguments and name in self.__dict__:
            raise AttributeError(f"{name}: cannot be changed; make a new {type(self).__name__}")
        super().__setattr__(name, value)

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as JSON can hold them."""
        values = ((name, getattr(self, name)) for name in self.arguments)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    def numbers(self) -> Numbers:
        """The parameters a and b of the kernel's formulas, and numbers for the columns."""
        return 0.0, 0.0, None

    def columns(self, outputs: int) -> int:
        """Columns of the targets for a model with `outputs` outputs."""
        return outputs

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets as the kernels read them, or an error."""
        return checks.targets(y, rows, outputs, dtype, name)

    def bound(self, y: Any, weighted: bool = False) -> Loss:
        """The form of this loss that suits targets like y, with sample weights or without."""
        return self

    def call(
        self, prediction: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[float, npt.ArrayLike]:
        """Loss and gradient in Python, for losses that are functions."""
        raise NotImplementedError

    def forward(
        self,
        prediction: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """The mean loss of a batch.

        Parameters
        ----------
        prediction : array_like of shape (N, K)
            float32 stays float32, all else becomes float64.
        y : array_like
            Labels (N,) or targets (N, K), as the loss has it.
        sample_weight : array_like of shape (N,), optional
            What each row counts, at least 0; default: 1. The loss is sum(w l) / sum(w), so a
            whole number counts as so many equal rows. It is 0 where all weights are.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            An argument does not fit.

        Examples
        --------
        >>> import minidl
        >>> minidl.MSELoss().forward([[1.0], [3.0]], [0.0, 0.0], sample_weight=[3, 1])
        3.0
        """
        from minidl.layers.activations import Identity
        from minidl.lowering import Plan, feed

        array = checks.real(prediction, "prediction")
        single = array.dtype.newbyteorder("=") == np.float32
        dtype = checks.dtype("float32" if single else "float64")
        array = checks.matrix(array, dtype, None, "prediction")
        checks.not_empty(array, "prediction")
        weight = None
        if sample_weight is not None:
            weight = checks.weights(sample_weight, len(array), "sample_weight")
        form = self.bound(y, weight is not None)
        target = form.check(y, len(array), array.shape[1], dtype)
        identity = Identity()
        identity.set_dtype(dtype)
        plan = Plan(identity, array.shape[1], len(array), dtype)
        plan.batch(form)
        dz = plan.loss(form, plan.data[plan.graph.input])
        plan.barrier()
        plan.emit("LOSS_TOTAL", [plan.partial], [])
        program = plan.build()
        feed(program, form, [array], target, len(array), weight=weight)
        program.execute(0, len(plan.operations), len(array))
        self._gradient = plan.view(dz, len(array)).copy()
        return float(program.last_loss)

    _gradient: Array | None = None

    def backward(self) -> Array:
        """The gradient of the last `forward` with respect to its prediction, (N, K)."""
        if self._gradient is None:
            raise RuntimeError("backward: call forward first")
        return self._gradient

    def __call__(
        self,
        prediction: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """`forward(prediction, y, sample_weight)`."""
        return self.forward(prediction, y, sample_weight)

    def __repr__(self) -> str:
        """The constructor call, without arguments that have their default."""
        default = type(self)().config() if self.arguments else {}
        shown = (f"{k}={v!r}" for k, v in self.config().items() if v != default[k])
        return f"{type(self).__name__}({', '.join(shown)})"
