"""Dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl import checks
from minidl.layers.base import Layer

if TYPE_CHECKING:
    from minidl.lowering import Graph, Value


class Dropout(Layer):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    The mask depends on the layer's seed, the training step and the element's place, never on the
    thread; backward computes it again, so nothing is kept. Srivastava et al., JMLR 2014.

    Parameters
    ----------
    p : float in [0, 1], default 0.5
    seed : int, optional
        Default: fresh entropy, or drawn from the seed of the model.
    """

    _checked: ClassVar[Mapping[str, checks.Check]] = {
        **Layer._checked, "p": checks.bounds(0, 1), "key": checks.seed
    }  # fmt: skip

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__()
        self.p = p
        self.key = 0
        self.reset_parameters(checks.seeded(seed))

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw a new key for the masks."""
        self.key = int(checks.generator(rng).integers(2**63))

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operation; none in evaluation."""
        off = self.p == 0 or not graph.trains(self)
        return x if off else graph.add("dropout", self, x, x.columns)

    def extra_repr(self) -> str:
        """As PyTorch prints it."""
        return f"p={self.p}"

    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"p": self.p}
