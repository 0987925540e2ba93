"""Programs as layers and the trainer use them: of one layer, and of a model over many batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import setitem
from typing import TYPE_CHECKING, Any

from minidl import checks, parallel
from minidl.layers.base import Layer
from minidl.lowering.plan import Plan, Updates
from minidl.memory import Array, address, write_all

if TYPE_CHECKING:
    from minidl.kernels.program import Program
    from minidl.losses import Loss
    from minidl.lowering.graph import Graph

ONE_ROW = (
    "BatchNorm1d: expected at least 2 rows in a training batch, got 1: one row has no spread to "
    "normalise by. Use a larger batch, or model.eval() to normalise by the running averages"
)

# What becomes of a last batch that is smaller than the others; see `LastBatch` of the kernels.
LAST_BATCH = {"keep": 0, "merge": 1, "drop": 2}


@contextmanager
def mode(model: Layer, training: bool) -> Iterator[None]:
    """All layers in one mode, and back.

    An interrupt may come anywhere: the flags come back in one call of C, not one by one.
    """
    own = [layer.__dict__ for _, layer in model.tree()]
    before = [attributes["training"] for attributes in own]
    back = map(setitem, own, repeat("training"), before)
    try:
        model.train(training)
        yield
    finally:
        deque(back, 0)


def signature(model: Layer, in_features: int, training: bool | None = None) -> tuple[Any, ...]:
    """What a program depends on besides the values of the parameters; `training` as in `Graph`."""
    return (
        model.store(), in_features, parallel.get_num_threads(), repr(model),
        tuple(
            (layer.training if training is None else training, getattr(layer, "key", 0))
            for _, layer in model.layers()
        ),
    )  # fmt: skip


def check_rows(graph: Graph, rows: int) -> None:
    """BatchNorm cannot train on one row."""
    if rows == 1 and any(n.kind == "batchnorm" and graph.trains(n.layer) for n in graph.nodes):
        raise ValueError(ONE_ROW)


def feed(
    program: Program,
    loss: Loss | None,
    x: Sequence[Array],
    y: Array | None,
    batch_size: int,
    *,
    weight: Array | None = None,
    out: Array | None = None,
    order: Array | None = None,
    last_batch: str = "keep",
    seed: int = 0,
    opens: bool = True,
    ends: bool = True,
) -> None:
    """Point a program at its data: arrays side by side in x, what the loss has made of y."""
    labels = loss is not None and loss.integer_labels
    program.set_data(
        [(*_matrix(part), part.shape[1]) for part in x],
        None if labels or y is None else _matrix(y),
        address(y) if labels else 0,
        address(weight),
        None if out is None else _matrix(out),
        address(order),
        len(x[0]),
        batch_size,
        LAST_BATCH[last_batch],
        seed,
        opens,
        ends,
    )


def _matrix(array: Array) -> tuple[int, int, int]:
    """Where an array lies: address, and bytes from row to row and from column to column."""
    return address(array), array.strides[0], array.strides[1]


class LayerProgram:
    """Forward and backward of one layer (or model), one call each."""

    def __init__(self, layer: Layer, in_features: int, rows: int) -> None:
        self.signature = signature(layer, in_features)
        self.rows = rows
        self.plan = plan = Plan(layer, in_features, rows, layer.dtype, input_gradient=True)
        self.output = plan.forward()
        self.forward_end = len(plan.operations)
        self.dy = plan.matrix(self.output.columns)
        plan.barrier()
        plan.backward(self.dy)
        plan.update()
        self.end = len(plan.operations)
        self.program = plan.build()
        self.last: tuple[int, int] | None = None

    def fits(self, layer: Layer, x: Array) -> bool:
        """True if this program can be used for the layer as it is now, and this batch."""
        return len(x) <= self.rows and self.signature == signature(layer, x.shape[1])

    def forward(self, x: Array, step: int) -> Array:
        """Output for a batch."""
        check_rows(self.plan.graph, len(x))
        self.plan.view(self.plan.data[self.plan.graph.input], len(x))[...] = x
        self.program.execute(0, self.forward_end, len(x), step)
        self.last = len(x), step
        return self.plan.view(self.output, len(x)).copy()

    def backward(self, dy: Array) -> Array:
        """Gradient of the input; fills those of the parameters."""
        if self.last is None:
            raise RuntimeError("backward: call forward first")
        rows, step = self.last
        dy = checks.matrix(dy, self.plan.dtype, self.output.columns, "dy")
        checks.same_shape(dy, (rows, self.output.columns), "dy")
        self.plan.view(self.dy, rows)[...] = dy
        self.program.execute(self.forward_end, self.end, rows, step)
        return self.plan.view(self.plan.gradients[self.plan.graph.input], rows).copy()


class BatchProgram:
    """A model over many batches: prediction, evaluation or training."""

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        *,
        loss: Loss | None = None,
        updates: Updates | None = None,
        training: bool | None = None,
    ) -> None:
        self.plan = plan = Plan(
            model,
            in_features,
            rows,
            model.dtype,
            updates=updates,
            training=training,
            split_input=True,
        )
        self.rows = rows
        segments = []
        if updates is not None:
            state = updates.state
            segments = [(plan.store.values, True), (state.moments, state.searched)]
            if state.average is not None:
                segments.append((state.average, True))
            segments += [
                (n.layer.num_batches_tracked.reshape(1), False)
                for n in plan.graph.nodes
                if n.kind == "batchnorm"
            ]
        plan.batch(loss)
        output = plan.forward()
        self.columns = output.columns
        plan.emit("SCATTER", [output], [output.columns, plan.ld(output.columns)])
        if loss is not None:
            dz = plan.loss(loss, output, gradient=updates is not None)
            if updates is not None:
                plan.backward(dz)
            plan.barrier()
            plan.emit("LOSS_TOTAL", [plan.partial], [])
            if updates is not None:
                plan.update()
        self.program = plan.build(segments)

    def memory(self) -> dict[str, int]:
        """Bytes of all that the program works on, by kind, the data left out.

        ``"gradients"`` are those of activations and, if anything asks for them, of parameters;
        ``"saved"`` is what a non-finite loss brings back; ``"scratch"`` the rest of the workspace.
        """
        plan = self.plan
        activations = {*plan.data.values(), *plan.kept.values()}
        gradients = set(plan.gradients.values()) - activations
        state = None if plan.updates is None else plan.updates.state
        used = {
            "parameters": plan.store.values.nbytes,
            "optimizer": 0 if state is None else state.nbytes,
            "gradients": sum(b.nbytes for b in gradients) + plan.store.gradient_bytes,
            "activations": sum(b.nbytes for b in activations),
            "saved": sum(copy.nbytes for _, copy in plan.saved),
        }
        ours = sum(b.nbytes for b in activations | gradients)
        return used | {"scratch": plan.workspace.nbytes - ours}

    def restore(self) -> None:
        """Bring back what was saved at the start of the epoch."""
        write_all((live for live, _ in self.plan.saved), (copy for _, copy in self.plan.saved))
