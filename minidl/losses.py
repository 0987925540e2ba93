"""Losses: the mean over the rows of a batch, with PyTorch's names and formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidl import checks
from minidl.kernels.loss import KINDS
from minidl.memory import Array

if TYPE_CHECKING:
    import numpy.typing as npt

LossFunction: TypeAlias = "Callable[[Array, Array], tuple[float, npt.ArrayLike]]"


class Loss:
    """Base of the losses.

    ``loss(prediction, y)`` returns the mean; ``loss.backward()`` then returns the gradient with
    respect to the prediction.
    """

    kind: int = -1
    integer_labels = False
    task: str | None = None
    metric: str | None = None  # name of the share of right rows that comes with the loss

    def __init__(self) -> None:
        self._gradient: Array | None = None

    def columns(self, outputs: int) -> int:
        """Columns of the targets for a model with `outputs` outputs."""
        return outputs

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets as the kernels read them, or an error."""
        return checks.targets(y, rows, outputs, dtype, name)

    def bound(self, y: Any) -> Loss:
        """The form of this loss that suits targets like y."""
        return self

    def call(self, prediction: Array, y: Array) -> tuple[float, npt.ArrayLike]:
        """Loss and gradient in Python, for losses that are functions."""
        raise NotImplementedError

    def forward(self, prediction: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """The mean loss of a batch.

        Parameters
        ----------
        prediction : array_like of shape (N, K)
            float32 stays float32, all else becomes float64.
        y : array_like
            Labels (N,) or targets (N, K), as the loss has it.
        """
        from minidl.layers.activations import Identity
        from minidl.lowering import Plan, feed

        array = np.asarray(prediction)
        single = array.dtype.newbyteorder("=") == np.float32
        dtype = checks.dtype("float32" if single else "float64")
        array = checks.matrix(array, dtype, None, "prediction")
        checks.not_empty(array, "prediction")
        form = self.bound(y)
        target = form.check(y, len(array), array.shape[1], dtype)
        identity = Identity()
        identity.set_dtype(dtype)
        plan = Plan(identity, array.shape[1], len(array), dtype)
        plan.batch(form)
        dz = plan.loss(form, plan.data[plan.graph.input])
        plan.barrier()
        plan.emit("LOSS_TOTAL", [plan.partial], [])
        program = plan.build()
        feed(program, form, [array], target, len(array))
        program.execute(0, len(plan.operations), len(array))
        self._gradient = plan.view(dz, len(array)).copy()
        return float(program.last_loss)

    def backward(self) -> Array:
        """The gradient of the last `forward` with respect to its prediction, (N, K)."""
        if self._gradient is None:
            raise RuntimeError("backward: call forward first")
        return self._gradient

    def __call__(self, prediction: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """`forward(prediction, y)`."""
        return self.forward(prediction, y)

    def __repr__(self) -> str:
        """As PyTorch prints it."""
        return f"{type(self).__name__}()"


class CrossEntropyLoss(Loss):
    """-log softmax(logits)[label], from logits (N, C).

    Targets are integer labels (N,) in [0, C), or class probabilities (N, C) of a floating dtype.

    Examples
    --------
    >>> import minidl
    >>> round(minidl.CrossEntropyLoss()([[0.0, 0.0]], [1]), 4)
    0.6931
    """

    kind = KINDS["CrossEntropyLoss"]
    integer_labels = True
    task = "multiclass"
    metric = "accuracy"

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Labels as int64."""
        return checks.labels(y, rows, outputs, name)

    def bound(self, y: Any) -> Loss:
        """The form for probabilities if y is a matrix of several columns."""
        shape, _ = checks.shape_and_kind(y)
        return _SoftCrossEntropy() if len(shape) == 2 and shape[1] != 1 else self


class _SoftCrossEntropy(Loss):
    """CrossEntropyLoss with class probabilities."""

    kind = KINDS["CrossEntropyLossSoft"]
    metric = "accuracy"

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Probabilities of floating dtype."""
        if np.asarray(y).dtype.kind != "f":
            raise TypeError(
                f"{name}: expected labels of shape (rows,) or class probabilities of a "
                f"floating dtype, got shape {np.shape(y)}, {np.asarray(y).dtype}"
            )
        array = checks.targets(y, rows, outputs, dtype, name)
        if array.size and float(array.min()) < 0:
            raise ValueError(f"{name}: expected probabilities, got {array.min()}")
        return array


class MSELoss(Loss):
    """mean((prediction - y)^2) over rows and columns. Targets (N, K), or (N,) for one column.

    Examples
    --------
    >>> import minidl
    >>> minidl.MSELoss()([[1.0], [2.0]], [1.0, 0.0])
    2.0
    """

    kind = KINDS["MSELoss"]


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(logits), mean over rows and columns; targets in [0, 1].

    Targets (N, K), or (N,) for one column.
    """

    kind = KINDS["BCEWithLogitsLoss"]
    metric = "accuracy"

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Targets in [0, 1]."""
        array = super().check(y, rows, outputs, dtype, name)
        if array.size and not (float(array.min()) >= 0 and float(array.max()) <= 1):
            raise ValueError(
                f"{name}: expected targets in [0, 1], got {array.min()} to {array.max()}"
            )
        return array


class FunctionLoss(Loss):
    """A loss of the user's: a function ``(prediction, y) -> (loss, gradient)``.

    Targets of an integer dtype are given as they are (N,), others as (N, K). The trainer wraps a
    plain function by itself.
    """

    def __init__(self, function: LossFunction, *, integer_labels: bool = False) -> None:
        super().__init__()
        self.function = function
        self.integer_labels = integer_labels
        self._columns: int | None = None

    def bound(self, y: Any) -> Loss:
        """The form for integer labels if y is of an integer dtype and one-dimensional."""
        shape, kind = checks.shape_and_kind(y)
        form = FunctionLoss(self.function, integer_labels=kind in "iu" and len(shape) == 1)
        form._columns = shape[1] if len(shape) == 2 else 1
        return form

    def columns(self, outputs: int) -> int:
        """Columns of the targets: as the user gives them."""
        return self._columns if self._columns is not None else outputs

    def check(
        self, y: Any, rows: int, outputs: int, dtype: np.dtype[Any], name: str = "y"
    ) -> Array:
        """Finite labels or targets with one row for each row of X."""
        if self.integer_labels:
            return checks.labels(y, rows, int(np.max(y, initial=0)) + 1, name)
        return checks.targets(y, rows, self.columns(outputs), dtype, name)

    def call(self, prediction: Array, y: Array) -> tuple[float, npt.ArrayLike]:
        """Call the function and check what it returns."""
        result = self.function(prediction, y)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"loss: expected a pair (loss, gradient), got {type(result).__name__}")
        loss, gradient = result
        if np.shape(gradient) != prediction.shape:
            raise ValueError(
                f"loss: expected a gradient of shape {prediction.shape}, got {np.shape(gradient)}"
            )
        return float(loss), gradient

    def __repr__(self) -> str:
        """Name of the function."""
        return f"FunctionLoss({getattr(self.function, '__name__', self.function)!s})"


def as_loss(loss: Loss | LossFunction) -> Loss:
    """A loss object, or a function made into one."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return FunctionLoss(loss)
    raise TypeError(
        f"loss: expected a Loss or a function (prediction, y) -> (loss, gradient), got {loss!r}"
    )
