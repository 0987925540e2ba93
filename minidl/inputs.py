"""What a model is given: arrays, or data that come in blocks, in the shape that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.layers.base import Layer
from minidl.memory import Array

if TYPE_CHECKING:
    from minidl.data.rows import Data


def open_inputs(
    model: Layer,
    X: Any,
    y: Any = None,
    sample_weight: Any = None,
    names: Sequence[str] = ("X", "y", "sample_weight"),
    epochs: int = 1,
    targets: bool = True,
) -> Data:
    """The data for a model; see `minidl.data.open_data`.

    A tuple of arrays stands for several inputs, whose columns add up to those of the model.
    """
    from minidl.data.opening import open_data

    features: Any = model.in_features_or_none()
    if model.flattens():
        X = tuple(map(_flat, X)) if isinstance(X, tuple) else _flat(X)
    several = isinstance(X, tuple) and all(len(getattr(part, "shape", ())) == 2 for part in X)
    data = open_data(
        X,
        y,
        sample_weight,
        dtype=model.dtype,
        features=[None] * len(X) if several else features,
        names=names,
        epochs=epochs,
        targets=targets,
    )
    columns = sum(k for k in data.columns if k is not None)
    if several and features is not None and columns != features:
        raise ValueError(
            f"{names[0]}: expected {features} features (columns) in all inputs, got "
            f"{' + '.join(map(str, data.columns))}"
        )
    return data


def one_matrix(model: Layer, x: Any, name: str) -> Array:
    """An array, or several side by side, as a finite matrix in the model's dtype."""
    if model.flattens():
        x = tuple(map(_flat, x)) if isinstance(x, tuple) else _flat(x)
    features = model.in_features_or_none()
    if isinstance(x, tuple) and all(len(getattr(part, "shape", ())) == 2 for part in x):
        parts = [checks.matrix(p, model.dtype, None, f"{name}[{i}]") for i, p in enumerate(x)]
        for i, part in enumerate(parts[1:], 1):
            checks.same_rows(part.shape, len(parts[0]), f"{name}[{i}]", f"{name}[0]")
        x = np.concatenate(parts, axis=1)
    array = checks.matrix(x, model.dtype, features, name)
    checks.categories([array], model.categories(0, array.shape[1]), name)
    return array


def _flat(x: Any) -> Any:
    """An array of rows of any shape as a matrix; what is no such array as it is."""
    if isinstance(x, list):
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.ndim > 2:
        return x.reshape(len(x), -1)
    return x
