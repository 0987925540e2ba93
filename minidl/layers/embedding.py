"""Embedding: a vector for each category."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.layers.base import Layer
from minidl.memory import check_room

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, Value

EXACT = 2**24  # whole numbers up to here are exact in float32


class Embedding(Layer):
    """A table of vectors, looked up by category: each column of the input becomes a vector.

    The input has F columns of whole numbers from 0 to ``num_embeddings - 1``, in the dtype of the
    model; the output has the F vectors of a row side by side, all from one table. `Parallel` gives
    columns tables of their own, or puts them beside columns of measurements. It must come first:
    categories are checked where data come in.

    The gradient is that of the whole table, as PyTorch's is by default, and rows of one category
    are added in their order. There is no gradient of the input.

    Parameters
    ----------
    num_embeddings : int
        Categories; at most 2**24 in float32, which holds no larger whole numbers exactly.
    embedding_dim : int
        Columns of a vector.
    dtype : {"float32", "float64"}
    seed : int, optional
        Seed of the initial values, normal(0, 1); default: fresh entropy.

    Attributes
    ----------
    weight : ndarray of shape (num_embeddings, embedding_dim)

    Raises
    ------
    ValueError
        An argument is no positive integer, or there are too many categories. Later, where data come
        in: they hold something else than categories, or another layer stands before this one.

    Examples
    --------
    Four measurements and two columns of categories, of which there are 7 and 12:

    >>> import minidl
    >>> model = minidl.Sequential(
    ...     minidl.Parallel(
    ...         minidl.Identity(), minidl.Embedding(7, 3), minidl.Embedding(12, 5),
    ...         columns=[4, 1, 1]),
    ...     minidl.Linear(12, 1), seed=0)
    >>> model([[0.1, 0.2, 0.3, 0.4, 6, 11]]).shape
    (1, 1)
    """

    _fixed = (*Layer._fixed, "num_embeddings", "embedding_dim")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        self.num_embeddings = checks.size(num_embeddings, "num_embeddings")
        self.embedding_dim = checks.size(embedding_dim, "embedding_dim")
        self._check_dtype(self.dtype)
        zeros = np.broadcast_to(0.0, (num_embeddings, embedding_dim))
        self.add_parameter("weight", zeros, layout="rows")
        self.reset_parameters(checks.seeded(seed))

    def _check_dtype(self, dtype: np.dtype[np.floating]) -> None:
        if dtype.itemsize == 4 and self.num_embeddings > EXACT:
            raise ValueError(
                f"num_embeddings: expected at most 2**24 = {EXACT} in float32, got "
                f"{self.num_embeddings}; use float64"
            )

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw new initial values."""
        shape = (self.num_embeddings, self.embedding_dim)
        check_room(8 * shape[0] * shape[1], f"initial values of shape {shape}")
        self.weight = checks.generator(rng).standard_normal(shape)

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """All columns."""
        yield first, columns, self.num_embeddings

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state."""
        names = ("num_embeddings", "embedding_dim")
        rows, columns = (checks.size(arguments[name], name) for name in names)
        return {"weight": (rows, columns)}

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation."""
        place = graph.place_in_input(x)
        if place is None or (place, x.columns, self.num_embeddings) not in graph.categories:
            raise ValueError(
                "Embedding: expected to be the first layer, which reads columns of the input; "
                "other layers stand before it"
            )
        return graph.add("embedding", self, x, self.output_features(x.columns))

    def output_features(self, in_features: int) -> int:
        """A vector for each column."""
        return in_features * self.embedding_dim

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"{self.num_embeddings}, {self.embedding_dim}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"num_embeddings": self.num_embeddings, "embedding_dim": self.embedding_dim}
