"""Running statistics of BatchNorm that are those of the data, as prediction sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.evaluation import blocks_of
from minidl.layers.base import Layer
from minidl.lowering import Plan, feed
from minidl.memory import Array, write_all

if TYPE_CHECKING:
    from minidl.data.rows import Data
    from minidl.distributed import Ranks


def recalibrate(
    model: Layer, data: Data, batch_size: int, layers: int, ranks: Ranks | None = None
) -> None:
    """Set running mean and variance of each BatchNorm1d to those of what it reads.

    One layer after the other, in the order of execution, each with those before it in evaluation
    mode: so that at the end all statistics fit together. Sums are in float64; blocks are merged by
    the formula of Chan, Golub and LeVeque (1979). The rows are those of all ranks.
    """
    if data.rows is not None:
        batch_size = min(batch_size, max(data.rows, 1))
    before = model.state_dict()
    try:
        for index in range(layers):
            statistics = _Statistics(model, index)
            with blocks_of(data, batch_size) as blocks:
                for block in blocks:
                    if not statistics.add(block.x, batch_size):
                        return
            if ranks is not None:
                statistics = statistics.of_all(ranks)
            statistics.write()
    except BaseException:  # nothing half done
        write_all(model.state().values(), before.values())
        raise


class _Statistics:
    """Mean and variance of what one BatchNorm1d reads."""

    def __init__(self, model: Layer, index: int) -> None:
        self.model, self.index = model, index
        self.layer: Any = None
        self.rows = self.batches = 0
        self.mean: Any = 0.0
        self.m2: Any = 0.0
        self.read: Callable[[list[Array]], Array] | None = None

    def add(self, x: list[Array], batch_size: int) -> bool:
        """Take in rows; False if there is no such layer."""
        for start in range(0, len(x[0]), batch_size):
            part = [array[start : start + batch_size] for array in x]
            values = self._values(part, batch_size)
            if values is None:
                return False
            wide = values.astype(np.float64)
            mean = wide.mean(axis=0)
            self._merge(len(wide), mean, np.square(wide - mean).sum(axis=0))
            self.batches += 1
        return True

    def _merge(self, rows: int, mean: Array, m2: Array) -> None:
        """Take in the mean of rows, and the sum of squares about it."""
        total, difference = self.rows + rows, mean - self.mean
        self.mean = self.mean + difference * (rows / total)
        self.m2 = self.m2 + m2 + np.square(difference) * (self.rows * rows / total)
        self.rows = total

    def of_all(self, ranks: Ranks) -> _Statistics:
        """Those of the rows of all ranks, merged in their order."""
        merged = _Statistics(self.model, self.index)
        merged.layer = self.layer
        for rows, mean, m2, batches in ranks.all_have(
            (self.rows, self.mean, self.m2, self.batches)
        ):
            merged._merge(rows, mean, m2)
            merged.batches += batches
        return merged

    def _values(self, x: list[Array], batch_size: int) -> Array | None:
        """What the layer reads of these rows."""
        if self.read is None:
            columns = sum(part.shape[1] for part in x)
            plan = Plan(
                self.model, columns, batch_size, self.model.dtype, training=False, split_input=True
            )
            nodes = [node for node in plan.graph.nodes if node.kind == "batchnorm"]
            if self.index >= len(nodes):
                return None
            node = nodes[self.index]
            self.layer = node.layer
            plan.batch(None)
            plan.forward()
            program = plan.build()

            def read(part: list[Array]) -> Array:
                feed(program, None, part, None, len(part[0]))
                program.execute(0, len(plan.operations), len(part[0]))
                return plan.view(plan.data[node.x], len(part[0]))

            self.read = read
        return self.read(x)

    def write(self) -> None:
        """Give the statistics to the layer: the variance unbiased, as the running one is."""
        if self.rows < 2:
            raise ValueError(f"X: expected at least 2 rows to take a variance of, got {self.rows}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.m2).all()):
            raise ValueError("model: expected finite outputs before each BatchNorm1d, got others")
        self.layer.running_mean = self.mean
        self.layer.running_var = self.m2 / (self.rows - 1)
        self.layer.num_batches_tracked[...] = self.batches
