"""From layers to a program: the list of operations that `kernels/program.pyx` runs.

1. `Layer.lower` writes a `Graph`: nodes in order of execution, values between them.
2. `Plan` turns nodes into operations over buffers: forward, loss, then backward in reverse order,
   and decides what is fused. An activation that alone reads what a Linear or BatchNorm gives runs
   inside it; its derivative runs inside the product that makes the gradient; the optimizer runs on
   the tiles of the weight gradients when nothing else asks for them.
3. The buffers are placed in one workspace, and the program gets their addresses.

Threads own rows of the batch, so forward and backward need no barrier but at BatchNorm; weight
gradients, which need all rows, stand together at the end, behind one barrier. A first layer that is
large beside the batch is shared by columns, between two barriers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minidl import checks, parallel
from minidl.kernels.activation import KEEPS_INPUT
from minidl.kernels.program import BLOCK_ROWS, BLOCKS, KINDS, REPLICA_ROWS, VECTOR, Program
from minidl.layers.activations import Activation
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.layers.dropout import Dropout
from minidl.layers.linear import Linear
from minidl.memory import LINE, Array, address, allocate, row_bytes
from minidl.parameters import Parameter, Store

if TYPE_CHECKING:
    from minidl.losses import Loss
    from minidl.optimizers import OptimizerState

ONE_ROW = (
    "BatchNorm1d: expected at least 2 rows in a training batch, got 1: one row has no spread to "
    "normalise by. Use a larger batch, or model.eval() to normalise by the running averages"
)


class Buffer:
    """Memory of the workspace: rows of a number of columns, `pitch` bytes from row to row."""

    __slots__ = ("columns", "offset", "pitch", "rows")

    def __init__(self, rows: int, columns: int, pitch: int) -> None:
        self.rows, self.columns, self.pitch = rows, columns, pitch
        self.offset = 0

    @property
    def nbytes(self) -> int:
        """Bytes, up to the next cache line."""
        return -(-self.rows * self.pitch // LINE) * LINE

    def view(self, workspace: Array, dtype: np.dtype[Any]) -> Array:
        """The columns, without padding."""
        part = workspace[self.offset : self.offset + self.rows * self.pitch].view(dtype)
        return part.reshape(self.rows, self.pitch // dtype.itemsize)[:, : self.columns]


class Value:
    """What a node gives and other nodes read."""

    __slots__ = ("columns", "producer", "readers")

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.producer: Node | None = None
        self.readers: list[Node] = []


class Node:
    """A layer in the order of execution: what it reads and what it gives."""

    __slots__ = ("kind", "layer", "x", "y")

    def __init__(self, kind: str, layer: Layer, x: Value, y: Value) -> None:
        self.kind, self.layer, self.x, self.y = kind, layer, x, y


class Graph:
    """Nodes in order of execution; layers add theirs in `Layer.lower`.

    `training` is the mode that the layers are lowered for; None: each in its own.
    """

    def __init__(self, model: Layer, in_features: int, training: bool | None = None) -> None:
        self.training = training
        self.nodes: list[Node] = []
        self.input = Value(in_features)
        self.output = model.lower(self, self.input)

    def add(self, kind: str, layer: Layer, x: Value, columns: int) -> Value:
        """Add a layer that reads x and gives `columns` columns."""
        wanted = layer.in_features_or_none()
        if wanted is not None and wanted != x.columns:
            raise ValueError(f"{type(layer).__name__}: expected {wanted} features, got {x.columns}")
        node = Node(kind, layer, x, Value(columns))
        node.y.producer = node
        x.readers.append(node)
        self.nodes.append(node)
        return node.y

    def trains(self, layer: Layer) -> bool:
        """True if a layer is lowered for training."""
        return layer.training if self.training is None else self.training

    def python(self, layer: Layer, x: Value, columns: int) -> Value:
        """Add a layer whose forward and backward are Python code."""
        return self.add("python", layer, x, columns)


# Floating-point operations of a batch that one more thread must have to be thought of, and those
# from which it surely pays. Between them training and prediction try both (`Pace` in
# kernels/threads.pyx); what runs batch by batch from Python cannot, and asks for more.
WORK_PER_THREAD = 400_000
UNTRIED_WORK_PER_THREAD = 2_000_000
SURE_WORK_PER_THREAD = 25_000_000

# Rows of the batch for each feature up to which threads share the first layer by its columns.
BY_COLUMNS = 2

Operation = tuple[str, int, float, float, list[Any], list[int]]


class Plan:
    """Operations and buffers for one use of a model."""

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        dtype: np.dtype[Any],
        training: bool | None = None,
    ) -> None:
        self.graph = Graph(model, in_features, training)
        self.store: Store = model.store()
        self.names = {id(layer): name for name, layer in model.layers()}
        self.rows, self.dtype = rows, dtype
        self.work = self._work()
        self.threads = self._threads(WORK_PER_THREAD)
        self.operations: list[Operation] = []
        self.calls: list[Callable[[int], None]] = []
        self.buffers: list[Buffer] = []
        self.workspace: Array = np.empty(0, np.uint8)
        self.data: dict[Value, Buffer] = {self.graph.input: self.matrix(in_features)}
        self.kept: dict[Value, Buffer] = {}  # by output of an activation: what backward needs
        self.gradients: dict[Value, Buffer] = {}
        self.replicas: dict[Node, Buffer] = {}
        self.fused: dict[Node, Node] = {}  # Linear or BatchNorm: the activation inside it
        self.pack_depth = 1
        for node in self.graph.nodes:
            if node.kind in ("linear", "batchnorm") and len(node.y.readers) == 1:
                reader = node.y.readers[0]
                if reader.kind == "activation" and node.y is not self.graph.output:
                    self.fused[node] = reader

    def _work(self) -> int:
        """Floating-point operations of a batch, roughly."""
        widths = [
            (node.x.columns, node.y.columns if node.kind == "linear" else 8)
            for node in self.graph.nodes
        ]
        return 6 * self.rows * int(sum(a * b for a, b in widths))

    def _threads(self, work_per_thread: int) -> int:
        """The most threads that have so much to do."""
        wanted = self.work // work_per_thread if work_per_thread else self.work
        return max(1, min(parallel.get_num_threads(), wanted))

    # Buffers and operations.

    def buffer(self, rows: int, columns: int, pitch: int) -> Buffer:
        """A new buffer."""
        new = Buffer(rows, columns, pitch)
        self.buffers.append(new)
        return new

    def matrix(self, columns: int, rows: int | None = None) -> Buffer:
        """A buffer of whole padded rows."""
        pitch = row_bytes(columns, self.dtype.itemsize)
        return self.buffer(self.rows if rows is None else rows, columns, pitch)

    def ld(self, columns: int) -> int:
        """Vectors from row to row."""
        return row_bytes(columns, self.dtype.itemsize) // VECTOR

    def emit(
        self,
        kind: str,
        pointers: list[Any],
        sizes: list[int],
        *,
        activation: Layer | None = None,
        a: float = 0.0,
        b: float = 0.0,
    ) -> None:
        """Add an operation; pointers are buffers, addresses or None."""
        number = 0
        if activation is not None:
            act = cast(Activation, activation)
            number, (a, b) = act.kind, act.numbers()
        self.operations.append((kind, number, a, b, pointers, sizes))

    def barrier(self) -> None:
        """Wait for all threads."""
        if self.operations and self.operations[-1][0] != "BARRIER":
            self.emit("BARRIER", [], [])

    def call(self, function: Callable[[int], None]) -> None:
        """Call Python."""
        self.emit("PYTHON", [], [len(self.calls)])
        self.calls.append(function)

    def view(self, buffer: Buffer, rows: int) -> Array:
        """A buffer's first rows as an array; valid once the program is built."""
        return buffer.view(self.workspace, self.dtype)[:rows]

    # Forward.

    def forward(self) -> Buffer:
        """Operations of the forward pass; returns the buffer of the output."""
        inside = set(self.fused.values())
        for node in self.graph.nodes:
            if node not in inside:
                getattr(self, f"_{node.kind}_forward")(node)
        return self.data[self.graph.output]

    def _out(self, node: Node) -> tuple[Value, Layer | None]:
        """The value that a node with its fused activation gives, and that activation."""
        inner = self.fused.get(node)
        return (node.y, None) if inner is None else (inner.y, inner.layer)

    def _keep(self, out: Value, activation: Layer, given: Callable[[], Buffer]) -> Buffer | None:
        """Note what the activation's backward reads; its input, from `given`, if need be."""
        if cast(Activation, activation).kind in KEEPS_INPUT:
            self.kept[out] = given()
            return self.kept[out]
        self.kept[out] = self.data[out]
        return None

    def _linear_forward(self, node: Node) -> None:
        layer = cast(Linear, node.layer)
        out, activation = self._out(node)
        y = self.data[out] = self.matrix(out.columns)
        kept = None
        if activation is not None:
            kept = self._keep(out, activation, lambda: self.matrix(out.columns))
        weight, bias = self.parameter(layer, "weight"), self.parameter(layer, "bias")
        self.pack_depth = max(self.pack_depth, layer.in_features, layer.out_features)
        by_columns = self._by_columns(node)
        if by_columns:
            self.barrier()
        self.emit(
            "LINEAR",
            [y, kept, self.data[node.x], self.values(weight), self.values(bias)],
            self._linear_sizes(node),
            activation=activation,
        )
        if by_columns:
            self.barrier()

    def _in_place(self) -> bool:
        """True if the batch can be read where the user has it: by products with Wt alone."""
        readers = self.graph.input.readers
        return bool(readers) and all(
            node.kind == "linear" and node.layer._parameters["weight"].transposed
            for node in readers
        )

    def _linear_sizes(self, node: Node) -> list[int]:
        layer = cast(Linear, node.layer)
        features, outputs = layer.in_features, layer.out_features
        transposed = layer._parameters["weight"].transposed
        in_place = node.x is self.graph.input and self._in_place()
        sizes = [features, outputs, self.ld(features), self.ld(outputs)]
        return [*sizes, int(transposed), int(in_place), int(self._by_columns(node))]

    def _by_columns(self, node: Node) -> bool:
        """True if threads share a layer by columns: the first, if its weight is large.

        Each thread then reads and updates its own columns of the weight; by rows, all of it would
        go from core to core in each step. It takes a barrier before and after.
        """
        layer = cast(Linear, node.layer)
        return (
            self.threads > 1
            and node.x is self.graph.input
            and layer._parameters["weight"].transposed
            and self._width_and_ld(layer.out_features)[0] >= 4 * self.threads
            and 2 < self.rows <= BY_COLUMNS * layer.in_features
        )

    def _width_and_ld(self, columns: int) -> list[int]:
        return [-(-columns * self.dtype.itemsize // VECTOR), self.ld(columns)]

    def _batchnorm_forward(self, node: Node) -> None:
        layer = cast(BatchNorm1d, node.layer)
        out, activation = self._out(node)
        sizes = self._width_and_ld(out.columns)
        x, y = self.data[node.x], self.matrix(out.columns)
        self.data[out] = y
        replica = self.replicas[node] = self.matrix(out.columns, REPLICA_ROWS * self.threads)
        gamma, beta, mean, var = (
            self.values(self.parameter(layer, name))
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        if self.graph.trains(layer):
            partial = self.matrix(out.columns, BLOCK_ROWS * BLOCKS)
            self.emit("BN_BLOCKS", [partial, x], sizes)
            self.barrier()
            self.emit(
                "BN_MERGE",
                [replica, mean, var, partial, gamma, beta, address(layer.num_batches_tracked)],
                sizes,
                a=layer.eps,
                b=-1.0 if layer.momentum is None else layer.momentum,
            )
        else:
            self.emit("BN_RUNNING", [replica, mean, var, gamma, beta], sizes, a=layer.eps)
        self.emit("BN_NORMALIZE", [y, x, replica], sizes, activation=activation)

    def _activation_forward(self, node: Node) -> None:
        x = self.data[node.x]
        self.data[node.y] = y = self.matrix(node.y.columns)
        self._keep(node.y, node.layer, lambda: x)
        self.emit("ACTIVATION", [y, x], [self.ld(node.y.columns)], activation=node.layer)

    def _dropout_forward(self, node: Node) -> None:
        self.data[node.y] = y = self.matrix(node.y.columns)
        self._dropout(node, y, self.data[node.x])

    def _dropout(self, node: Node, y: Buffer, x: Buffer) -> None:
        layer = cast(Dropout, node.layer)
        self.emit("DROPOUT", [y, x], [self.ld(node.y.columns), layer.key], a=layer.p)

    def _python_forward(self, node: Node) -> None:
        x = self.data[node.x]
        self.data[node.y] = y = self.matrix(node.y.columns)

        def call(rows: int) -> None:
            given = self.view(x, rows)
            given.flags.writeable = False
            self.view(y, rows)[...] = self._returned(
                node, "forward", node.layer.forward(given), rows, y.columns
            )

        self.call(call)

    def _returned(self, node: Node, method: str, array: Any, rows: int, columns: int) -> Array:
        """What a user's layer returned, checked."""
        name = f"layer {self.names[id(node.layer)]} ({type(node.layer).__name__}).{method}"
        if np.shape(array) != (rows, columns):
            raise ValueError(
                f"{name}: expected an array of shape {(rows, columns)}, got "
                f"{np.shape(array)}; define output_features if it changes the columns"
            )
        return np.asarray(array)

    # Parameters.

    def parameter(self, layer: Layer, name: str) -> Parameter | None:
        """A parameter of a layer, or None."""
        return layer._parameters.get(name)

    def values(self, parameter: Parameter | None) -> int | None:
        """Address of a parameter's values."""
        return None if parameter is None else parameter.at(self.store.values)

    # The program.

    def build(self, segments: list[tuple[Array, bool]] | None = None) -> Program:
        """Place the buffers and make the program.

        `segments` are saved each epoch; None: the program is not run over epochs.
        """
        paced = WORK_PER_THREAD > 0 and self.work < self.threads * SURE_WORK_PER_THREAD
        threads = self.threads
        if paced and (segments is None or self.calls):
            paced = False
            threads = self._threads(UNTRIED_WORK_PER_THREAD)
        pack_size = 2 * self.pack_depth * VECTOR
        pack = self.buffer(self.threads, 1, -(-pack_size // 64) * 64)
        end = 0
        for buffer in self.buffers:
            buffer.offset = end
            end += buffer.nbytes
        self.workspace = allocate(end)
        base = address(self.workspace)

        def resolve(pointer: Any) -> int:
            if isinstance(pointer, Buffer):
                return base + pointer.offset
            return 0 if pointer is None else int(pointer)

        ops = [
            (KINDS[kind], activation, a, b, [resolve(p) for p in pointers], sizes)
            for kind, activation, a, b, pointers, sizes in self.operations
        ]
        self.saved = [(live, np.empty_like(live)) for live, _ in segments or []]
        saved = [
            (address(live), address(copy), live.nbytes, real)
            for (live, copy), (_, real) in zip(self.saved, segments or [], strict=True)
        ]
        keep = (self.workspace, self.store.values, self.saved, self.names)
        return Program(
            ops,
            self.calls,
            self.dtype.itemsize,
            threads,
            base + pack.offset,
            pack.pitch,
            saved,
            keep,
            paced,
        )


class BackwardPlan(Plan):
    """A plan with gradients, and the updates if an optimizer is given."""

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        dtype: np.dtype[Any],
        state: OptimizerState | None = None,
        training: bool | None = None,
    ) -> None:
        super().__init__(model, in_features, rows, dtype, training)
        self.state = state
        self.applied: set[Value] = set()  # activations whose derivative is in the gradient already
        self.weight_operations: list[Callable[[], None]] = []

    def backward(self, dy: Buffer, input_gradient: bool) -> None:
        """Operations from the gradient of the output to those of all parameters."""
        self.gradients[self.graph.output] = dy
        inside = set(self.fused.values())
        for node in reversed(self.graph.nodes):
            if node not in inside:
                wanted = input_gradient or node.x is not self.graph.input
                getattr(self, f"_{node.kind}_backward")(node, wanted)
        self.barrier()

    def update(self) -> None:
        """Weight gradients, with their updates, and the other updates; behind a barrier."""
        for operation in self.weight_operations:
            operation()

    def _gradient(self, parameter: Parameter | None) -> Any:
        """Where a parameter's gradient goes: a small buffer if the update follows at once."""
        if parameter is None:
            return None
        if self.state is not None and not parameter.matrix:
            return self.matrix(int(np.prod(parameter.shape)), 1)
        return parameter.at(self.store.gradients)

    def _states(self, parameter: Parameter | None) -> list[int | None]:
        if parameter is None or self.state is None:
            return [None, None]
        return [parameter.at(self.state.m), parameter.at(self.state.v)]

    def _update(self, parameter: Parameter, gradient: Any) -> None:
        """Apply the optimizer to a parameter."""
        count = parameter.length(self.dtype.itemsize) * self.dtype.itemsize // VECTOR
        self.weight_operations.append(
            lambda: self.emit(
                "UPDATE", [self.values(parameter), gradient, *self._states(parameter)], [count]
            )
        )

    def _activation_gradient(self, out: Value, activation: Layer | None, dy: Buffer) -> None:
        """Multiply a gradient by the activation's derivative, unless that is done."""
        if activation is not None and out not in self.applied:
            self.emit(
                "ACTIVATION_BACKWARD",
                [dy, dy, self.kept[out]],
                [self.ld(out.columns)],
                activation=activation,
            )

    def _linear_backward(self, node: Node, wanted: bool) -> None:
        layer = cast(Linear, node.layer)
        out, activation = self._out(node)
        dy, x = self.gradients[out], self.data[node.x]
        self._activation_gradient(out, activation, dy)
        weight, bias = self.parameter(layer, "weight"), self.parameter(layer, "bias")
        if wanted:
            dx = self.gradients[node.x] = self.matrix(layer.in_features)
            producer = node.x.producer
            before = None
            if producer is not None and producer.kind == "activation" and node.x in self.kept:
                source = producer.x.producer
                if source is None or source.kind != "batchnorm" or source not in self.fused:
                    before = producer.layer
                    self.applied.add(node.x)
            kept = None if before is None else self.kept[node.x]
            self.emit(
                "LINEAR_DX",
                [dx, dy, self.values(weight), kept],
                self._linear_sizes(node),
                activation=before,
            )
        fused = self.state is not None
        dweight, dbias = (
            None if fused or p is None else p.at(self.store.gradients) for p in (weight, bias)
        )
        pointers = [dweight, self.values(weight), *self._states(weight), x, dy]
        pointers += [dbias, self.values(bias), *self._states(bias)]
        sizes = [*self._linear_sizes(node), int(fused), 0]
        self.pack_depth = max(self.pack_depth, self.rows)
        self.weight_operations.append(lambda: self.emit("LINEAR_DW", pointers, sizes))

    def _batchnorm_backward(self, node: Node, wanted: bool) -> None:
        layer = cast(BatchNorm1d, node.layer)
        out, activation = self._out(node)
        dy, x, sizes = self.gradients[out], self.data[node.x], self._width_and_ld(out.columns)
        partial = self.matrix(out.columns, BLOCK_ROWS * BLOCKS)
        replica = self.replicas[node]
        gamma, beta = self.parameter(layer, "weight"), self.parameter(layer, "bias")
        dgamma, dbeta = self._gradient(gamma), self._gradient(beta)
        self.emit(
            "BN_GRADIENTS", [partial, dy, self.data[out], x, replica], sizes, activation=activation
        )
        self.barrier()
        trains = int(self.graph.trains(layer))
        self.emit("BN_MERGE_GRAD", [replica, dgamma, dbeta, partial], [*sizes, trains, 0])
        if wanted:
            self.emit("BN_BACKWARD", [dy, dy, x, replica], sizes)
            self.gradients[node.x] = dy
        if self.state is not None:
            self._update(cast(Parameter, gamma), dgamma)
            self._update(cast(Parameter, beta), dbeta)

    def _activation_backward(self, node: Node, wanted: bool) -> None:
        dy = self.gradients[node.x] = self.gradients[node.y]
        self._activation_gradient(node.y, node.layer, dy)

    def _dropout_backward(self, node: Node, wanted: bool) -> None:
        dy = self.gradients[node.x] = self.gradients[node.y]
        self._dropout(node, dy, dy)

    def _python_backward(self, node: Node, wanted: bool) -> None:
        dy = self.gradients[node.y]
        dx = self.gradients[node.x] = self.matrix(node.x.columns)

        def call(rows: int) -> None:
            given = self.view(dy, rows)
            given.flags.writeable = False
            self.view(dx, rows)[...] = self._returned(
                node, "backward", node.layer.backward(given), rows, dx.columns
            )

        self.call(call)
        if self.state is not None:
            for parameter in node.layer._parameters.values():
                if parameter.trainable:
                    self._update(parameter, parameter.at(self.store.gradients))

    def loss(self, loss: Loss, output: Buffer, gradient: bool = True) -> Buffer:
        """Operations of the loss; returns the buffer of its gradient."""
        dz = self.matrix(output.columns)
        self.partial = self.buffer(BLOCKS, 2, 16)
        sizes = [output.columns, self.ld(output.columns), loss.kind]
        self.pack_depth = max(self.pack_depth, dz.pitch // self.dtype.itemsize)
        label, target = self.label, self.target
        if loss.kind >= 0:
            self.emit(
                "LOSS", [dz if gradient else None, output, target, label, self.partial], sizes
            )
        else:
            self.call(lambda rows: self._call_loss(loss, output, dz, rows))
        return dz

    def _call_loss(self, loss: Loss, output: Buffer, dz: Buffer, rows: int) -> None:
        if self.label is not None:
            y = self.label.view(self.workspace, np.dtype(np.int64))[:rows, 0]
        else:
            y = self.view(cast(Buffer, self.target), rows)
        value, gradient = loss.call(self.view(output, rows), y)
        self.view(dz, rows)[...] = gradient
        partial = self.partial.view(self.workspace, np.dtype(np.float64))
        partial[...] = 0
        partial[0, 0] = value * rows

    label: Buffer | None = None
    target: Buffer | None = None

    def batch(self, loss: Loss | None) -> None:
        """Operations that fetch the rows of the batch."""
        x = self.data[self.graph.input]
        self.emit("GATHER_X", [x], [x.columns, self.ld(x.columns), int(self._in_place())])
        if loss is None:
            return
        if loss.integer_labels:
            self.label = self.buffer(self.rows, 1, 8)
            self.emit("GATHER_LABEL", [self.label], [])
        else:
            columns = loss.columns(self.graph.output.columns)
            self.target = self.matrix(columns)
            self.emit("GATHER_TARGET", [self.target], [columns, self.ld(columns)])

    def first_not_finite(self, rows: int) -> str | None:
        """The first layer whose parameters, else whose output, are not finite."""
        for name, layer in self.names_and_layers():
            if not all(np.isfinite(p.array).all() for p in layer._parameters.values()):
                return f"{name} ({type(layer).__name__})"
        for node in self.graph.nodes:
            out, _ = self._out(node)  # with an activation inside, its output is all there is
            buffer = self.data.get(out)
            if buffer is not None and not np.isfinite(self.view(buffer, rows)).all():
                return f"{self.names[id(node.layer)]} ({type(node.layer).__name__})"
        return None

    def names_and_layers(self) -> Iterator[tuple[str, Layer]]:
        """Layers of the graph with their names, in order."""
        return ((self.names[id(node.layer)], node.layer) for node in self.graph.nodes)


@contextmanager
def mode(model: Layer, training: bool) -> Iterator[None]:
    """All layers in one mode, and back."""
    layers = list(model.tree())
    before = [layer.training for layer in layers]
    model.train(training)
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.training = was


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


class LayerProgram:
    """Forward and backward of one layer (or model), one call each."""

    def __init__(self, layer: Layer, in_features: int, rows: int) -> None:
        self.signature = signature(layer, in_features)
        self.rows = rows
        self.plan = plan = BackwardPlan(layer, in_features, rows, layer.dtype)
        self.output = plan.forward()
        self.forward_end = len(plan.operations)
        self.dy = plan.matrix(self.output.columns)
        plan.barrier()
        plan.backward(self.dy, input_gradient=True)
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


def source(array: Array | None) -> tuple[int, int, int] | None:
    """An array as (address, row stride, column stride)."""
    return None if array is None else (address(array), array.strides[0], array.strides[1])


class BatchProgram:
    """A model over many batches: prediction, evaluation or training."""

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        *,
        loss: Loss | None = None,
        state: OptimizerState | None = None,
        training: bool | None = None,
    ) -> None:
        self.plan = plan = BackwardPlan(model, in_features, rows, model.dtype, state, training)
        self.rows = rows
        segments = []
        if state is not None:
            segments = [(plan.store.values, True), (state.m, False), (state.v, False)]
            segments += [
                (n.layer.num_batches_tracked.reshape(1), False)
                for n in plan.graph.nodes
                if n.kind == "batchnorm"
            ]
        plan.batch(loss)
        output = plan.forward()
        self.columns = output.columns
        if loss is None:
            plan.emit("SCATTER", [output], [output.columns, plan.ld(output.columns)])
        else:
            dz = plan.loss(loss, output, gradient=state is not None)
            if state is not None:
                plan.backward(dz, input_gradient=False)
            plan.barrier()
            plan.emit("LOSS_TOTAL", [plan.partial], [])
            if state is not None:
                plan.update()
        self.program = plan.build(segments)
        self.note(0, 1, False)

    def memory(self) -> dict[str, int]:
        """Bytes of all that the program works on, by kind, the data left out.

        ``"gradients"`` are those of activations and, if anything asks for them, of parameters;
        ``"saved"`` is what a non-finite loss brings back; ``"scratch"`` the rest of the workspace.
        """
        plan = self.plan
        activations = {*plan.data.values(), *plan.kept.values()}
        gradients = set(plan.gradients.values()) - activations
        state = plan.state
        used = {
            "parameters": plan.store.values.nbytes,
            "optimizer": 0 if state is None else state.m.nbytes + state.v.nbytes,
            "gradients": sum(b.nbytes for b in gradients) + plan.store.gradient_bytes,
            "activations": sum(b.nbytes for b in activations),
            "saved": sum(copy.nbytes for _, copy in plan.saved),
        }
        ours = sum(b.nbytes for b in activations | gradients)
        return used | {"scratch": plan.workspace.nbytes - ours}

    def note(self, rows: int, batch_size: int, merge_last: bool) -> None:
        """How the data that the program was fed last fall into batches."""
        joined = merge_last and rows > batch_size and rows % batch_size == 1
        self.data_rows, self.batch_size = rows, batch_size
        self.batches = -(-rows // batch_size) - joined  # in an epoch

    def rows_of(self, batch: int) -> int:
        """Rows of a batch."""
        rest = self.data_rows - batch * self.batch_size
        return rest if batch == self.batches - 1 else self.batch_size

    def restore(self) -> None:
        """Bring back what was saved at the start of the epoch."""
        for live, copy in self.plan.saved:
            live[...] = copy


CACHED_ROWS = 1024


def predict(model: Layer, x: Any, batch_size: int | None) -> Array:
    """Output of a model in evaluation mode."""
    array = checks.matrix(x, model.dtype, model.in_features_or_none(), "x")
    if batch_size is not None:
        batch_size = checks.positive_int(batch_size, "batch_size")
    rows = min(batch_size or CACHED_ROWS, max(len(array), 1))
    # Taken out while it runs: another thread that predicts at the same time makes its own.
    cached = model.__dict__.pop("_predictor", None)
    key = signature(model, array.shape[1], training=False)
    if cached is None or cached[0] != key or cached[1].rows < rows:
        cached = key, BatchProgram(model, array.shape[1], rows, training=False)
    batch: BatchProgram = cached[1]
    out = np.empty((len(array), batch.columns), model.dtype)
    if len(array):
        batch.program.set_data(source(array), None, 0, source(out), 0, len(array), rows, False, 0)
        batch.program.seek(0, 0, 0)
        # Layers in Python read their flags as they run; no other flag is touched.
        with mode(model, False) if batch.plan.calls else nullcontext():
            while batch.program.run(1, 0.1)[0] == "time":
                pass
    model.__dict__["_predictor"] = cached
    return out
