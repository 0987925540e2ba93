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
from minidl.lowering.placement import lives_of
from minidl.lowering.plan import Plan, Updates
from minidl.memory import Array, address, write_all

if TYPE_CHECKING:
    from minidl.kernels.program import Program
    from minidl.losses import Loss
    from minidl.lowering.graph import Graph, Node

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
        model.store(), in_features, parallel.room(), repr(model),
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
    chosen: Array | None = None,
    rank_row: int = 0,
) -> None:
    """Point a program at its data: arrays side by side in x, what the loss has made of y.

    `chosen` are the numbers of the only rows that are gone through; `rank_row` is what the first
    row of a batch is among those of all ranks that train together.
    """
    labels = loss is not None and loss.integer_labels
    program.set_data(
        [(*_matrix(part), part.shape[1]) for part in x],
        None if labels or y is None else _matrix(y),
        address(y) if labels else 0,
        address(weight),
        None if out is None else _matrix(out),
        address(order),
        len(x[0] if chosen is None else chosen),
        batch_size,
        LAST_BATCH[last_batch],
        seed,
        opens,
        ends,
        address(chosen),
    )
    program.set_rank_row(rank_row)


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
    """A model over many batches: prediction, evaluation or training.

    `checkpoint` is that of `Trainer`. Not built, it is there to be asked how much memory it needs.
    """

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        *,
        loss: Loss | None = None,
        updates: Updates | None = None,
        training: bool | None = None,
        checkpoint: int | str | None = None,
        build: bool = True,
    ) -> None:
        self.plan = plan = Plan(
            model,
            in_features,
            rows,
            model.dtype,
            updates=updates,
            training=training,
            split_input=True,
            compact=True,
            checkpoint=checkpoint,
        )
        self.rows = rows
        plan.batch(loss)
        output = plan.forward()
        self.columns = output.columns
        plan.emit("SCATTER", [output], [output.columns, plan.ld(output.columns)])
        if loss is not None:
            dz = plan.loss(loss, output, gradient=updates is not None)
            if updates is not None:
                plan.backward(dz)
            plan.total()
            if updates is not None:
                plan.update()
        plan.place()
        self.program: Program
        if build:
            self.program = plan.build(self._saved)

    def _saved(self) -> list[tuple[Array, bool]]:
        """What a non-finite loss brings back; whether NaN is looked for in it."""
        plan = self.plan
        if plan.updates is None:
            return []
        state = plan.updates.state
        saved = [(plan.store.values, True), (state.moments, state.searched)]
        if state.average is not None:
            saved.append((state.average, True))
        return saved + [(count, False) for count in plan.counts()]

    def memory(self) -> dict[str, int]:
        """Bytes of all that the program works on, by kind, the data left out.

        ``"gradients"`` are those of parameters, if anything asks for them; ``"saved"`` is what a
        non-finite loss brings back; ``"workspace"`` has batches, activations, their gradients and
        scratch.
        """
        plan, updates = self.plan, self.plan.updates
        memory = {
            "parameters": plan.store.values.nbytes,
            "gradients": 0,
            "optimizer": 0,
            "saved": 0,
        }
        if updates is not None:
            asked = not updates.fused or plan.in_python
            memory["gradients"] = plan.store.vector_bytes if asked else plan.store.gradient_bytes
            memory["optimizer"] = updates.nbytes
            saved = [plan.store.values, *plan.counts(), *plan.moving()]
            memory["saved"] = sum(array.nbytes for array in saved) + memory["optimizer"]
        return memory | {"workspace": plan.size}

    def kept(self) -> dict[Node, int]:
        """Bytes that forward makes for each node and that backward reads, as if none shared."""
        plan = self.plan
        lives = lives_of(plan.operations, ())
        start = len(plan.operations) if plan.backward_from is None else plan.backward_from
        return {
            node: sum(b.nbytes for b in made if b in lives and lives[b].last >= start)
            for node, made in plan.made.items()
        }

    def restore(self) -> None:
        """Bring back what was saved at the start of the epoch."""
        write_all((live for live, _ in self.plan.saved), (copy for _, copy in self.plan.saved))
