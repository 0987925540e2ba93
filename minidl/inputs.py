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
    """The data for a model; see `minidl.data.open_data`."""
    from minidl.data.opening import open_data

    return open_data(
        X,
        y,
        sample_weight,
        dtype=model.dtype,
        features=model.in_features_or_none(),
        flat=model.flattens(),
        names=names,
        epochs=epochs,
        targets=targets,
    )


def one_matrix(model: Layer, x: Any, name: str) -> Array:
    """Rows, or several inputs side by side, as a finite matrix in the model's dtype."""
    data = open_inputs(model, x, names=(name, "y", "sample_weight"), targets=False)
    data.load()
    array = data.x[0] if len(data.x) == 1 else np.concatenate(data.x, axis=1)
    checks.categories([array], model.categories(0, array.shape[1]), name)
    return array
