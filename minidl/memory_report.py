"""The table of what training and prediction take: `Layer.memory` and `Trainer.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from minidl.footprint import UNITS, Way
from minidl.tables import Line, Table

if TYPE_CHECKING:
    from minidl.layers.base import Layer
    from minidl.lowering import BatchProgram


def of_model(
    model: Layer, batch_size: int, optimizer: Any, loss: Any, in_features: int | None
) -> MemoryReport:
    """What `Layer.memory` returns."""
    from minidl.trainer import Trainer

    own = optimizer if isinstance(optimizer, str) else copy(optimizer)  # without its state
    return Trainer(model, loss, own).memory(batch_size, in_features=in_features)


class LayerMemory(NamedTuple):
    """Bytes that a layer takes.

    Attributes
    ----------
    name, type : str
        As in `summary`.
    columns : int
        Of what it gives.
    parameters, gradients, optimizer : int
        Running averages are among the parameters. No gradient is kept of weights that are updated
        as it is made.
    kept : int
        What forward makes and backward reads. Where an activation runs inside the layer before it,
        all that both keep stands with the activation.
    """

    name: str
    type: str
    columns: int
    parameters: int
    gradients: int
    optimizer: int
    kept: int


class MemoryReport(Table):
    """What training and prediction take, in bytes: see `Layer.memory`.

    Attributes
    ----------
    batch_size : int
    micro_batch_size : int or None
        Rows that are gone through at a time, if they are fewer.
    checkpoint : int, "sqrt" or None
        Segments whose activations are recomputed.
    layers : list of LayerMemory
        One for each layer, in the order of execution.
    training, prediction : dict of str to int
        By kind: ``"parameters"``; ``"gradients"`` and ``"optimizer"``, of the parameters;
        ``"saved"``, the copies that a loss which is not finite brings back; ``"workspace"``: the
        batch, activations, their gradients and scratch.
    unshared : dict of str to int
        What the two workspaces would be, ``"training"`` and ``"prediction"``, if no buffers shared
        memory.
    """

    _header = ("layer", "output", "parameters", "gradients", "optimizer", "kept for backward")
    _left = 2

    def __init__(
        self, batch_size: int, way: Way, training: BatchProgram, prediction: BatchProgram
    ) -> None:
        self.batch_size = batch_size
        self.micro_batch_size = way.micro_batch_size if training.rows < batch_size else None
        self.checkpoint = way.checkpoint
        self.layers = list(_layers(training))
        self.training, self.prediction = (
            training.memory(),
            {kind: size for kind, size in prediction.memory().items() if size},
        )
        self.unshared = {
            name: sum(buffer.nbytes for buffer in program.plan.buffers)
            for name, program in (("training", training), ("prediction", prediction))
        }

    def _lines(self) -> Iterator[Line]:
        for layer in self.layers:
            sizes = (layer.parameters, layer.gradients, layer.optimizer, layer.kept)
            cells = (f"{layer.name} ({layer.type})", f"(N, {layer.columns})")
            yield Line((*cells, *(megabytes(size) if size else "" for size in sizes)))

    def _foot(self) -> list[str]:
        way = str(Way(self.micro_batch_size, self.checkpoint))
        return [
            self._sum("training", self.training, f" ({way})" if way else ""),
            self._sum("prediction", self.prediction),
        ]

    def _sum(self, name: str, sizes: dict[str, int], way: str = "") -> str:
        """All that a use takes."""
        parts = ", ".join(f"{kind} {megabytes(size)}" for kind, size in sizes.items() if size)
        return (
            f"{name}, {self.batch_size} rows{way}: {megabytes(sum(sizes.values()))}: {parts} "
            f"({megabytes(self.unshared[name])} if no buffers shared memory)"
        )


def _layers(program: BatchProgram) -> Iterator[LayerMemory]:
    """What the layers of a program of training take."""
    plan, kept = program.plan, program.kept()
    fused = {inner: outer for outer, inner in plan.fused.items()}
    updates, itemsize = plan.updates, plan.dtype.itemsize
    assert updates is not None
    vector = plan.store.vector_bytes
    moments, stored = updates.nbytes // vector, program.memory()["gradients"] > 0
    for node in plan.graph.nodes:
        own = [
            (p.length(itemsize) * itemsize, p.trainable) for p in node.layer._parameters.values()
        ]
        trained = sum(size for size, trainable in own if trainable)
        yield LayerMemory(
            plan.names[id(node.layer)],
            type(node.layer).__name__,
            node.y.columns,
            sum(size for size, _ in own),
            trained * stored,
            trained * moments,
            0 if node in plan.fused else kept.get(fused.get(node, node), 0),
        )


def megabytes(size: int) -> str:
    """A number of bytes as people read it."""
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.3g} {unit}"
    return f"{size} B"
