"""Parameters and the flat vector in which the parameters of a model lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np

from minidl import changes
from minidl.memory import LINE, Array, allocate, row_bytes


def few_outputs(shape: tuple[int, ...], itemsize: int) -> bool:
    """True if padding the rows of W in place of those of W^T saves a fifth or more."""
    outputs, features = shape
    lane = LINE // itemsize
    return 5 * outputs * -(-features // lane) < 4 * features * -(-outputs // lane)


class Parameter:
    """An array of a layer, and its place in a `Store`. Users see it in PyTorch's shape, as a view.

    `layout` says how it is held:

    - ``"flat"``: its elements one after the other, in C order.
    - ``"rows"``: a matrix, each row padded to whole cache lines.
    - ``"weight"``: a weight matrix (out_features, in_features), transposed, rows padded: that is
      how the forward product reads it. One with few outputs is held as ``"rows"``, since the
      padding of its transpose would be most of it.
    """

    def __init__(self, values: Array, *, trainable: bool = True, layout: str = "flat") -> None:
        self.shape = values.shape
        self.trainable = trainable
        self.layout = layout
        self.store = Store([self], values.dtype)
        self.array[...] = values

    def _rows_and_columns(self, itemsize: int) -> tuple[bool, int, int]:
        """How a weight is held, from the shape and dtype alone: sums depend on it."""
        transposed = self.layout == "weight" and not few_outputs(self.shape, itemsize)
        rows, columns = self.shape[::-1] if transposed else self.shape
        return transposed, int(rows), int(columns)

    @property
    def transposed(self) -> bool:
        """True if it is held as a weight's transpose."""
        return self.layout != "flat" and self._rows_and_columns(self.store.dtype.itemsize)[0]

    def length(self, itemsize: int) -> int:
        """Elements that it takes up, padding included."""
        if self.layout != "flat":
            _, rows, columns = self._rows_and_columns(itemsize)
            return rows * row_bytes(columns, itemsize) // itemsize
        return row_bytes(prod(self.shape), itemsize) // itemsize

    def view(self, flat: Array, store: Store | None = None) -> Array:
        """This parameter's part of a flat vector of its store, or of another, in its own shape."""
        start = (store or self.store).offsets[id(self)]
        part = flat[start : start + self.length(flat.itemsize)]
        if self.layout != "flat":
            transposed, rows, columns = self._rows_and_columns(flat.itemsize)
            part = part.reshape(rows, row_bytes(columns, flat.itemsize) // flat.itemsize)
            return part[:, :columns].T if transposed else part[:, :columns]
        return part[: prod(self.shape)].reshape(self.shape)

    def at(self, flat: Array) -> int:
        """Address of this parameter's part of a flat vector."""
        base = int(flat.__array_interface__["data"][0])
        return base + self.store.offsets[id(self)] * flat.itemsize

    @property
    def array(self) -> Array:
        """The values, as a view that can be written to."""
        return self.view(self.store.values)

    @property
    def gradient(self) -> Array:
        """The gradient, as a view."""
        return self.view(self.store.gradients)


class Store:
    """The flat vectors of a model: values, and gradients parallel to them.

    Trainable parameters come first, then running averages; `trainable` is the number of elements
    of the former, padding included. Padding is zero.
    """

    def __init__(self, parameters: Sequence[Parameter], dtype: np.dtype[np.floating]) -> None:
        self.dtype = np.dtype(dtype)
        self.parameters = sorted(parameters, key=lambda p: not p.trainable)
        self.offsets: dict[int, int] = {}
        self.trainable = end = 0
        for parameter in self.parameters:
            self.offsets[id(parameter)] = end
            end += parameter.length(self.dtype.itemsize)
            if parameter.trainable:
                self.trainable = end
        self.values: Array = allocate(end * self.dtype.itemsize, "parameters").view(self.dtype)
        self._message: Array | None = None

    @property
    def gradients(self) -> Array:
        """Gradients of the trainable part, made when first asked for."""
        return self.message[: -(LINE // self.dtype.itemsize)]

    @property
    def message(self) -> Array:
        """The gradients and a line behind them: what ranks that train together sum up."""
        if self._message is None:
            self._message = self._parallel(1, LINE)
        return self._message

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector parallel to the trainable part."""
        return max(self.trainable * self.dtype.itemsize, LINE)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients; 0 before they are first asked for."""
        return 0 if self._message is None else self.gradients.nbytes

    def zeros(self, count: int | None = None) -> Array:
        """A vector parallel to the trainable part; or `count` of them, (count, n)."""
        flat = self._parallel(1 if count is None else count)
        return flat if count is None else flat.reshape(count, -1)

    def _parallel(self, count: int, more: int = 0) -> Array:
        """So many vectors side by side, and some bytes more."""
        size = count * self.vector_bytes + more
        return allocate(size, "vectors parallel to the parameters").view(self.dtype)


@cache
def empty_store(dtype: np.dtype[np.floating]) -> Store:
    """The store of all layers without parameters."""
    return Store([], dtype)


def common_store(parameters: Sequence[Parameter], dtype: np.dtype[np.floating]) -> Store:
    """The store that holds these parameters; they are moved into a new one if they lie in several.

    The store of a larger model serves its parts too: using a layer by itself moves nothing.
    """
    if not parameters:
        return empty_store(np.dtype(dtype))
    store = parameters[0].store
    if store.dtype == dtype and all(p.store is store for p in parameters):
        return store
    store = Store(parameters, dtype)
    for parameter in parameters:
        parameter.view(store.values, store)[...] = parameter.array
    changes.version += 1
    for parameter in parameters:  # an interrupt leaves each in a store that has its values
        parameter.store = store
    return store
