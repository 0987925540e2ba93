"""Opening of data: every kind of X, y and sample_weight becomes sources of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minidl import checks
from minidl.data.kinds import is_arrow, is_frame, is_mapped, is_sparse, is_stream
from minidl.data.npy import NpyFile
from minidl.data.rows import Data, RowData
from minidl.data.source import ArrayRows, MappedRows, Source

Features: TypeAlias = "int | Sequence[int | None] | None"


class Form(NamedTuple):
    """What a model takes.

    Attributes
    ----------
    dtype : numpy.dtype
        Of X and the weights.
    features : int or None, or a sequence of these
        Columns of X if the model knows them, of all inputs together; a sequence has one number for
        each of several inputs.
    flat : bool
        Rows of any shape are flattened.
    """

    dtype: np.dtype[np.floating]
    features: Features = None
    flat: bool = False


def open_data(
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    dtype: np.dtype[np.floating],
    features: Features,
    flat: bool = False,
    names: Sequence[str] = ("X", "y", "sample_weight"),
    epochs: int = 1,
    targets: bool = True,
) -> Data:
    """X, y and sample_weight, whatever holds them. What is large is neither read nor copied yet.

    Parameters
    ----------
    X : array_like, frame, table, sparse matrix, `NpyFile`, or an iterable of batches
        Several inputs are a tuple or list of these, iterables excepted; in an iterable, a batch's
        X is one. A list of arrays of one shape may be rows that are to be flattened, too: then it
        is that.
    y : the same, but for sparse matrices, or None
        None for iterables, and without targets.
    sample_weight : as y, of shape (N,), optional
    dtype, features, flat
        See `Form`.
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
    form = Form(dtype, features, flat)
    if not is_stream(X):
        return RowData(*open_rows(X, y, sample_weight, form, names, targets))
    from minidl.data.stream import Stream

    for value, name in ((y, names[1]), (sample_weight, names[2])):
        if value is not None:
            raise TypeError(
                f"{name}: expected None, since {names[0]} gives batches ({', '.join(names)}), got "
                f"{type(value).__name__}"
            )
    return Stream(X, form, names, epochs, targets)


def open_rows(
    X: Any,
    y: Any,
    sample_weight: Any,
    form: Form,
    names: Sequence[str],
    targets: bool,
) -> tuple[list[Source], Source | None, Source | None]:
    """Sources of all arguments, which agree in their rows."""
    x = _all_inputs(X, form, names[0])
    rows = x[0].shape[0]
    for source in x[1:]:
        checks.same_rows(source.shape, rows, source.name, x[0].name)
    return (
        x,
        _targets(y, rows, names[1]) if targets else None,
        None if sample_weight is None else open_weights(sample_weight, rows, names[2]),
    )


def _all_inputs(X: Any, form: Form, name: str) -> list[Source]:
    """One source for each input of the model."""
    told = isinstance(form.features, Sequence)
    if not told and not _are_several(X, form.flat):
        return [_input(X, form, form.features, name)]  # type: ignore[arg-type]
    columns = form.features if isinstance(form.features, Sequence) else [None] * len(X)
    if not isinstance(X, (tuple, list)) or len(X) != len(columns):
        got = f"{len(X)} of them" if isinstance(X, (tuple, list)) else type(X).__name__
        raise ValueError(f"{name}: expected a tuple of {len(columns)} inputs, got {got}")
    first, batch, number = name.partition(" of batch ")
    parts = [
        _input(part, form, k, f"{first}[{i}]{batch}{number}")
        for i, (part, k) in enumerate(zip(X, columns, strict=True))
    ]
    found = [source.shape[1] for source in parts]
    if isinstance(form.features, int) and sum(found) != form.features:
        raise ValueError(
            f"{name}: expected {form.features} features (columns) in all inputs, got "
            f"{' + '.join(map(str, found))}"
        )
    return parts


def _are_several(X: Any, flat: bool) -> bool:
    """True for several inputs: matrices in a tuple or list, and not rows that are vectors."""
    if not isinstance(X, (tuple, list)) or is_arrow(X):
        return False
    shapes = [tuple(getattr(part, "shape", ())) for part in X]
    if not any(len(shape) > 1 for shape in shapes):
        return False
    return isinstance(X, tuple) or not flat or len(set(shapes)) > 1


def _input(value: Any, form: Form, features: int | None, name: str) -> Source:
    """X: read on demand where it may be large, else an array, checked and converted."""
    if form.flat:
        value = _flat(value, name)
    source = _on_demand(value, name)
    if source is not None:
        checks.matrix_shape(source.shape, features, name)
        source.to = form.dtype
        return source
    if is_frame(value):
        from minidl.data.frames import array

        value = array(value, form.dtype, features, name)
    return ArrayRows(name, checks.matrix(value, form.dtype, features, name), checked=True)


def _flat(value: Any, name: str) -> Any:
    """Rows of any shape as a matrix, not read or copied if they lie in C order."""
    if not hasattr(value, "shape"):
        value = checks.real(value, name)
    if len(value.shape) < 3:
        return value
    shape = value.shape[0], math.prod(value.shape[1:])
    return value.reshape(*shape)


def _targets(value: Any, rows: int, name: str) -> Source:
    """y, in its own dtype; the loss checks it further."""
    value = _dense(value, name)
    source = _on_demand(value, name)
    if source is None:
        source = ArrayRows(name, checks.real(value, name))
    if source.shape:
        checks.same_rows(source.shape, rows, name)
    return source


def open_weights(value: Any, rows: int, name: str) -> Source:
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
