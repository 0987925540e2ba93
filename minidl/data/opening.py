"""Opening of data: every kind of X, y and sample_weight becomes sources of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from minidl import checks
from minidl.data.kinds import is_arrow, is_frame, is_mapped, is_sparse, is_stream
from minidl.data.npy import NpyFile
from minidl.data.rows import Data, RowData
from minidl.data.source import ArrayRows, MappedRows, Source

Features: TypeAlias = "int | Sequence[int | None] | None"


def open_data(
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    dtype: np.dtype[np.floating],
    features: Features,
    names: Sequence[str] = ("X", "y", "sample_weight"),
    epochs: int = 1,
    targets: bool = True,
) -> Data:
    """X, y and sample_weight, whatever holds them. What is large is neither read nor copied yet.

    Parameters
    ----------
    X : array_like, frame, table, sparse matrix, `NpyFile`, or an iterable of batches
        Several inputs are a tuple or list of these, iterables excepted.
    y : the same, but for sparse matrices, or None
        None for iterables, and without targets.
    sample_weight : as y, of shape (N,), optional
    dtype : numpy.dtype
        The model's; of X and the weights.
    features : int or None, or a sequence of these
        Columns of X if the model knows them; a sequence has one for each of several inputs.
    names : three str
        What errors call the arguments.
    epochs : int, default 1
        How often the data will be gone through.
    targets : bool, default True
        False for prediction.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.
    """
    if not is_stream(X):
        return RowData(*open_rows(X, y, sample_weight, dtype, features, names, targets))
    from minidl.data.stream import Stream

    for value, name in ((y, names[1]), (sample_weight, names[2])):
        if value is not None:
            raise TypeError(
                f"{name}: expected None, since {names[0]} gives batches ({', '.join(names)}), got "
                f"{type(value).__name__}"
            )
    return Stream(X, dtype, features, names, epochs, targets)


def open_rows(
    X: Any,
    y: Any,
    sample_weight: Any,
    dtype: np.dtype[np.floating],
    features: Features,
    names: Sequence[str],
    targets: bool,
) -> tuple[list[Source], Source | None, Source | None]:
    """Sources of all arguments, which agree in their rows."""
    x = _all_inputs(X, dtype, features, names[0])
    rows = x[0].shape[0]
    for source in x[1:]:
        checks.same_rows(source.shape, rows, source.name, x[0].name)
    return (
        x,
        _targets(y, rows, names[1]) if targets else None,
        None if sample_weight is None else _weights(sample_weight, rows, names[2]),
    )


def _all_inputs(
    X: Any, dtype: np.dtype[np.floating], features: Features, name: str
) -> list[Source]:
    """One source for each input of the model."""
    if not isinstance(features, Sequence):
        return [_input(X, dtype, features, name)]
    if not isinstance(X, (tuple, list)) or len(X) != len(features):
        got = f"{len(X)} of them" if isinstance(X, (tuple, list)) else type(X).__name__
        raise ValueError(f"{name}: expected a tuple of {len(features)} inputs, got {got}")
    parts = zip(X, features, strict=True)
    return [_input(part, dtype, k, f"{name}[{i}]") for i, (part, k) in enumerate(parts)]


def _input(value: Any, dtype: np.dtype[np.floating], features: int | None, name: str) -> Source:
    """X: read on demand where it may be large, else an array, checked and converted."""
    source = _on_demand(value, name)
    if source is not None:
        checks.matrix_shape(source.shape, features, name)
        source.to = dtype
        return source
    if is_frame(value):
        from minidl.data.frames import array

        value = array(value, dtype, features, name)
    return ArrayRows(name, checks.matrix(value, dtype, features, name), checked=True)


def _targets(value: Any, rows: int, name: str) -> Source:
    """y, in its own dtype; the loss checks it further."""
    value = _dense(value, name)
    source = _on_demand(value, name)
    if source is None:
        source = ArrayRows(name, checks.real(value, name))
    if source.shape:
        checks.same_rows(source.shape, rows, name)
    return source


def _weights(value: Any, rows: int, name: str) -> Source:
    """Weights of the rows."""
    value = _dense(value, name)
    source = _on_demand(value, name)
    if source is None:
        return ArrayRows(name, checks.weights(value, rows, name), checked=True)
    checks.weights_shape(source.shape, rows, name)
    source.to, source.positive = np.dtype(np.float64), True
    return source


def _dense(value: Any, name: str) -> Any:
    """The array of a frame or series; anything else as it is."""
    if is_sparse(value):
        raise TypeError(f"{name}: expected a dense array, got a sparse one; call .toarray()")
    if not is_frame(value):
        return value
    from minidl.data.frames import array

    return array(value, None, None, name)


def _on_demand(value: Any, name: str) -> Source | None:
    """A source of what may be larger than memory, or would be if it were dense."""
    if isinstance(value, NpyFile):
        from minidl.data.npy_rows import NpyRows

        return NpyRows(name, value)
    if isinstance(value, np.ndarray):
        return MappedRows(name, checks.real(value, name)) if is_mapped(value) else None
    if is_arrow(value):
        from minidl.data.arrow import ArrowRows

        return ArrowRows(name, value)
    if is_sparse(value):
        from minidl.data.sparse import SparseRows

        return SparseRows(name, value)
    return None
