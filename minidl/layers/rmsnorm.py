"""RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidl.layers.layernorm import RowNorm

if TYPE_CHECKING:
    import numpy.typing as npt


class RMSNorm(RowNorm):
    """Root mean square normalisation: y = gamma x / sqrt(mean(x^2) + eps), row by row.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        Columns of the input.
    eps : float, optional
        Added to the mean square, inside the root; default: the dtype's machine epsilon.
    elementwise_affine : bool, default True
        False: no gamma.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    weight : ndarray of shape (normalized_shape,)
        gamma, at first 1.

    Raises
    ------
    ValueError
        `normalized_shape` has several numbers or is no positive integer, or `eps` is not positive.

    References
    ----------
    Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Examples
    --------
    >>> import minidl
    >>> minidl.RMSNorm(2)([[3.0, -3.0], [0.0, 0.0]]).round(3).tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """

    centered = False

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: npt.DTypeLike = "float32",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, False, dtype)
