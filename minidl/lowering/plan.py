"""From a graph to the operations and buffers of a program.

`Plan` goes through the nodes: forward, loss, backward in reverse order. What a kind of node becomes
stands in `emitters`. The buffers are then placed in one workspace, and the program gets their
addresses.

Threads own rows of the batch, so forward and backward need no barrier but at BatchNorm. Weight
gradients need all rows: they stand together at the end, behind one barrier, or in a `compact` plan
of large buffers each behind its layer's, so that what they have read can be let go. Updates run on
the tiles of the weight gradients, unless something must see whole gradients first
(`Updates.fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from minidl import parallel
from minidl.kernels.operations import BLOCKS, KINDS, SUMS, VECTOR
from minidl.kernels.program import Program
from minidl.layers.activations import Activation
from minidl.layers.base import Layer
from minidl.lowering.emitters import EMITTERS
from minidl.lowering.graph import Graph, Node, Value
from minidl.lowering.placement import Buffer, Operation, Pointer, place
from minidl.lowering.segments import segments_of
from minidl.memory import Array, address, allocate, check_room, row_bytes
from minidl.parameters import Parameter, Store

if TYPE_CHECKING:
    from minidl.distributed import Ranks
    from minidl.losses import Loss
    from minidl.optimizers import OptimizerState

# Floating-point operations of a batch that one more thread must have to be thought of, and those
# from which it surely pays. Between them training and prediction try both (`Pace` in
# kernels/threads.pyx); what runs batch by batch from Python cannot, and asks for more.
WORK_PER_THREAD = 400_000
UNTRIED_WORK_PER_THREAD = 2_000_000
SURE_WORK_PER_THREAD = 25_000_000

# Bytes of what all layers give from which on memory is worth a barrier a layer, which takes 79 ns.
LARGE = 1 << 20


class Updates(NamedTuple):
    """How gradients become new weights."""

    state: OptimizerState
    group_of: Callable[[str, Parameter], int]  # of a parameter, by name
    clip_norm: float = 0.0  # greatest norm of the whole gradient; 0: any
    accumulate: int = 1  # batches whose gradients make an update
    ema_decay: float = 0.0  # of the average in `state.average`, if there is one
    whole: bool = False  # somebody looks at whole gradients
    ranks: Ranks | None = None  # processes that train together, whose gradients are summed

    @property
    def fused(self) -> bool:
        """True if a tile of the weight gradient can be used up at once."""
        whole = self.whole or self.ranks is not None
        return self.clip_norm == 0 and self.accumulate == 1 and not whole

    @property
    def nbytes(self) -> int:
        """Bytes of the optimizer's state, and of the average that is yet to begin."""
        begins = self.ema_decay > 0 and self.state.average is None
        return self.state.nbytes + begins * self.state.store.vector_bytes


class Plan:
    """Operations and buffers for one use of a model.

    `observed`: every value and every gradient of one has a buffer to be looked at, behind the last
    operation that writes to it. Nothing is fused; the numbers are the same.
    `compact`: buffers that are not needed at the same time share memory; what they held is gone
    when the operations have run. `checkpoint` is that of `Trainer`, of a compact plan. `threads`:
    the most that run it; by default as many as have enough to do.
    """

    def __init__(
        self,
        model: Layer,
        in_features: int,
        rows: int,
        dtype: np.dtype[Any],
        *,
        updates: Updates | None = None,
        training: bool | None = None,
        split_input: bool = False,
        input_gradient: bool = False,
        observed: bool = False,
        compact: bool = False,
        checkpoint: int | str | None = None,
        threads: int | None = None,
    ) -> None:
        self.observed, self.compact = observed, compact
        self.graph = graph = Graph(model, in_features, training, split_input)
        self.store: Store = model.store()
        self.names = {id(layer): name for name, layer in model.tree()}
        self.parameter_names = {id(p): name for name, p in model.named_parameters()}
        self.rows, self.dtype, self.updates = rows, dtype, updates
        if updates is not None and checkpoint is not None and self.in_python:
            self.updates = updates._replace(whole=True)  # see `_early`
        self.ranks = None if updates is None else updates.ranks
        # Where several ranks train: sums of the loss over an update of this one; rows of all.
        self.sums, self.rows_of_all = np.zeros(SUMS), np.zeros(1, np.int64)
        self.work = self._work()
        self.threads = self._threads(WORK_PER_THREAD) if threads is None else threads
        self.operations: list[Operation] = []
        self.update_from: int | None = None  # the operation with which the update begins
        self.calls: list[Callable[[int], bool | None]] = []
        self.program: Program | None = None
        self.keep: list[Any] = [self.sums, self.rows_of_all]  # arrays that operations point to
        self.buffers: list[Buffer] = []
        self.own: set[Buffer] = set()  # buffers that share memory with no other
        self.size = 0  # bytes of the workspace, once the buffers are placed
        self.free = 0  # those at its beginning that buffers share
        self.workspace: Array = np.empty(0, np.uint8)
        self.data: dict[Value, Buffer] = {x: self.matrix(x.columns) for x in graph.inputs}
        self.own.update(self.data.values())  # their padding is never written
        self.kept: dict[Value, Buffer] = {}  # by output of an activation: what backward needs
        self.gradients: dict[Value, Buffer] = {}  # sums of what readers have given so far
        self.shared: set[Buffer] = set()  # gradients that something else reads later
        self.waiting = {x: len(x.readers) for x in self._values()}  # readers that have yet to give
        self.applied: set[Value] = set()  # activations whose derivative is in the gradient already
        self.statistics: dict[Node, Buffer] = {}
        self.weight_operations: list[Callable[[], None]] = []
        self.partial: Buffer | None = None  # sums of the loss
        self.totalled = False  # their total has been taken
        self.backward_from: int | None = None  # the operation with which backward begins
        self.made: dict[Node, list[Buffer]] = {}  # buffers that forward makes for a node
        self.ends: list[tuple[Node, Buffer, int]] = []  # what nodes give, and when it is there
        self.label: Buffer | None = None
        self.target: Buffer | None = None
        self.weight: Buffer | None = None
        self.pack_depth = 1
        # Linear or BatchNorm: the activation inside it.
        self.fused = {} if observed else self._fused()
        self.needed = self._needed(input_gradient)
        inside = set(self.fused.values())
        units = [node for node in graph.nodes if node not in inside]
        self.segments, self.crossing = segments_of(
            units, [self.result(node)[0] for node in units], checkpoint
        )
        self.early = self._early()

    def _values(self) -> Iterator[Value]:
        yield from self.graph.inputs
        for node in self.graph.nodes:
            yield node.y

    def _fused(self) -> dict[Node, Node]:
        """Nodes that run the activation behind them, which alone reads what they give."""
        return {
            node: node.y.readers[0]
            for node in self.graph.nodes
            if node.kind in ("linear", "batchnorm")
            and len(node.y.readers) == 1
            and node.y.readers[0].kind == "activation"
            and node.y is not self.graph.output
        }

    def _needed(self, input_gradient: bool) -> set[Value]:
        """Values whose gradient is needed: those that depend on a parameter, or on a wanted x."""
        needed = set(self.graph.inputs) if input_gradient else set()
        for node in self.graph.nodes:
            own = any(p.trainable for p in node.layer._parameters.values())
            if own or node.kind == "python" or any(x in needed for x in node.inputs):
                needed.add(node.y)
        return needed

    def _early(self) -> bool:
        """True if memory counts: what has been used is let go as soon as may be.

        An error in Python code must find no layer updated before the others.
        """
        given = sum(self.ld(node.y.columns) for node in self.graph.nodes) * VECTOR * self.rows
        updated_at_once = self.updates is not None and self.updates.fused
        counts = (given >= LARGE and not self.observed) or len(self.segments) > 1
        return self.compact and counts and not (updated_at_once and self.in_python)

    @property
    def in_python(self) -> bool:
        """True if a layer is Python code."""
        return any(node.kind == "python" for node in self.graph.nodes)

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
        return max(1, min(parallel.room(), wanted))

    # Buffers and operations.

    def buffer(self, rows: int, columns: int, pitch: int, *, own: bool = False) -> Buffer:
        """A new buffer; `own`: that shares memory with no other."""
        return self._new(Buffer(rows, columns, pitch), own)

    def matrix(self, columns: int, rows: int | None = None, *, own: bool = False) -> Buffer:
        """A buffer of whole padded rows; by default, a row for each of the batch."""
        pitch = row_bytes(columns, self.dtype.itemsize)
        count = self.rows if rows is None else rows
        return self._new(Buffer(count, columns, pitch, by_rows=rows is None), own)

    def _new(self, buffer: Buffer, own: bool) -> Buffer:
        self.buffers.append(buffer)
        if own:
            self.own.add(buffer)
        return buffer

    def ld(self, columns: int) -> int:
        """Vectors from row to row."""
        return row_bytes(columns, self.dtype.itemsize) // VECTOR

    def width_and_ld(self, columns: int) -> list[int]:
        """Vectors that hold the columns, and vectors from row to row."""
        return [-(-columns * self.dtype.itemsize // VECTOR), self.ld(columns)]

    def emit(
        self,
        kind: str,
        pointers: Sequence[Pointer],
        sizes: list[int],
        *,
        activation: Layer | None = None,
        a: float = 0.0,
        b: float = 0.0,
    ) -> None:
        """Add an operation."""
        number = 0
        if activation is not None:
            act = cast(Activation, activation)
            number, (a, b) = act.kind, act.numbers()
        self.operations.append((kind, number, a, b, list(pointers), sizes))

    def barrier(self) -> None:
        """Wait for all threads."""
        if self.operations and self.operations[-1][0] != "BARRIER":
            self.emit("BARRIER", [], [])

    def call(self, function: Callable[[int], bool | None], buffers: list[Pointer]) -> None:
        """Call Python, which reads and writes some buffers, with the rows of the batch.

        If it returns False, it has met a loss that is not finite.
        """
        self.emit("PYTHON", buffers, [len(self.calls)])
        self.calls.append(function)

    def view(self, buffer: Buffer, rows: int) -> Array:
        """A buffer's first rows as an array; valid once the program is built."""
        return buffer.view(self.workspace, self.dtype)[:rows]

    # The passes.

    def forward(self) -> Buffer:
        """Operations of the forward pass; returns the buffer of the output."""
        for segment in self.segments:
            for node in segment:
                first = len(self.buffers)
                self._forward(node)
                self.made[node] = self.buffers[first:]
                given = self.data[self.result(node)[0]]  # of the activation inside, if there is one
                self.ends.append((node, given, len(self.operations)))
        return self.data[self.graph.output]

    def _forward(self, node: Node) -> None:
        """Operations of a node; behind a barrier, where memory passes to rows of another pitch."""
        lets_go = self.updates is None or len(self.segments) > 1  # forward does not keep all
        if self.early and lets_go and self.ld(node.x.columns) != self.ld(node.y.columns):
            self.barrier()
        EMITTERS[node.kind].forward(self, node)

    def backward(self, dy: Buffer) -> None:
        """Operations from the gradient of the output to those of all parameters."""
        self.gradients[self.graph.output] = dy
        self.backward_from = len(self.operations)
        for segment in reversed(self.segments):
            if segment is not self.segments[-1]:
                self._again(segment)
            for node in reversed(segment):
                if self.result(node)[0] in self.needed:
                    EMITTERS[node.kind].backward(self, node)
                if self.early and self.weight_operations:
                    self._weights()
                    self.barrier()
        self.barrier()

    def _again(self, segment: list[Node]) -> None:
        """Compute anew what a segment has given, but for what others read, which is still there."""
        for node in segment:
            if node.kind == "python" or self.result(node)[0] not in self.crossing:
                self._forward(node)

    def _weights(self) -> None:
        """The weight gradients so far, and updates that are made at once; not of a bad loss."""
        self.total()
        for operation in self.weight_operations:
            operation()
        self.weight_operations.clear()

    def total(self) -> None:
        """Take the total of the loss, which ends the run if it is not finite; behind a barrier."""
        self.barrier()
        if self.partial is not None and not self.totalled:
            self.totalled = True
            sums = None if self.ranks is None else address(self.sums)
            self.emit("LOSS_TOTAL", [self.partial, sums], [])

    def update(self) -> None:
        """Weight gradients and updates; behind a barrier."""
        updates = self.updates
        for operation in self.weight_operations:
            operation()
        if updates is None:
            return
        if not updates.fused:
            self.update_from = len(self.operations)
            self.emit("BARRIER", [], [])
            if updates.ranks is not None:
                self.call(partial(updates.ranks.sum_gradients, self), [])
            if updates.clip_norm:
                runs = self._runs(lambda parameter: 0)
                squares = self.buffer(BLOCKS * len(runs), 1, 8)
                for i, (first, count, _) in enumerate(runs):
                    self.emit("NORM", [squares, self.stored_gradient(first)], [count, BLOCKS * i])
                self.barrier()
                self.emit("CLIP", [squares], [BLOCKS * len(runs)], a=updates.clip_norm)
            for first, count, group in self._runs(self.group):
                self.emit_update(first, self.stored_gradient(first), count, group)
        state = updates.state
        if state.average is not None:
            self.barrier()
            count = self.store.trainable * self.dtype.itemsize // VECTOR
            self.emit(
                "AVERAGE",
                [lambda: address(state.average), address(self.store.values)],
                [count, state.average_from],
                a=updates.ema_decay,
            )

    def _runs(self, group_of: Callable[[Parameter], int]) -> list[tuple[Parameter, int, int]]:
        """Runs of trainable parameters of one group: the first, vectors, the group.

        Where the model is a part of a larger one, others of that may lie between its own.
        """
        runs: list[tuple[Parameter, int, int]] = []
        before = None  # the group of the parameter before, if it is the model's
        for parameter in self.store.parameters:
            own = parameter.trainable and id(parameter) in self.parameter_names
            group = group_of(parameter) if own else None
            if group is not None:
                count = parameter.length(self.dtype.itemsize) * self.dtype.itemsize // VECTOR
                first, length, _ = runs.pop() if group == before else (parameter, 0, 0)
                runs.append((first, length + count, group))
            before = group
        return runs

    # Values and gradients, for the emitters.

    def result(self, node: Node) -> tuple[Value, Layer | None]:
        """The value that a node with its fused activation gives, and that activation."""
        inner = self.fused.get(node)
        return (node.y, None) if inner is None else (inner.y, inner.layer)

    def writable(self, gradient: Buffer) -> Buffer:
        """Where a new value of a gradient may go: its own place, if nothing else reads it."""
        own = self.observed or gradient in self.shared
        return self.matrix(gradient.columns) if own else gradient

    def give(self, x: Value, gradient: Buffer) -> None:
        """Add to the gradient of a value what one of its readers has for it."""
        self.waiting[x] -= 1
        before = self.gradients.get(x)
        if before is not None:
            into = self.writable(before)
            self.emit("ADD", [into, before, gradient], [self.ld(x.columns)])
            gradient = into
        self.gradients[x] = gradient

    def is_last_reader(self, x: Value) -> bool:
        """True if all other readers have given their part of the gradient."""
        return self.waiting[x] == 1 and x is not self.graph.output

    # Parameters.

    def parameter(self, layer: Layer, name: str) -> Parameter | None:
        """A parameter of a layer, or None."""
        return layer._parameters.get(name)

    def values(self, parameter: Parameter | None) -> int | None:
        """Address of a parameter's values."""
        return None if parameter is None else parameter.at(self.store.values)

    def state(self, parameter: Parameter | None) -> Pointer:
        """The first state of the optimizer for a parameter."""
        if parameter is None or self.updates is None:
            return None
        state = self.updates.state
        return lambda: parameter.at(state.moments[0])

    def group(self, parameter: Parameter | None) -> int:
        """The optimizer's group of a parameter."""
        if parameter is None or self.updates is None:
            return 0
        return self.updates.group_of(self.parameter_names[id(parameter)], parameter)

    @property
    def updates_at_once(self) -> bool:
        """True if an operation that has a weight's gradient updates the weight."""
        return self.updates is not None and self.updates.fused

    def gradient(self, parameter: Parameter) -> Pointer:
        """Where a parameter's gradient goes: a small buffer if the update follows at once."""
        if self.updates_at_once and parameter.layout == "flat":
            return self.matrix(int(np.prod(parameter.shape)), 1, own=True)
        return self.stored_gradient(parameter)

    def stored_gradient(self, parameter: Parameter) -> Pointer:
        """A parameter's gradient in the flat vector of all, which is made if it is asked for."""
        return lambda: parameter.at(self.store.gradients)

    def update_parameter(self, parameter: Parameter, gradient: Pointer) -> None:
        """Update a parameter from its gradient, with the weight operations."""
        if self.updates_at_once:
            count = parameter.length(self.dtype.itemsize) * self.dtype.itemsize // VECTOR
            group = self.group(parameter)
            self.weight_operations.append(
                lambda: self.emit_update(parameter, gradient, count, group)
            )

    def emit_update(self, first: Parameter, gradient: Pointer, count: int, group: int) -> None:
        """Update so many vectors from a parameter on."""
        self.emit("UPDATE", [self.values(first), gradient, self.state(first)], [count, group])

    # Loss and data.

    def loss(self, loss: Loss, output: Buffer, gradient: bool = True) -> Buffer:
        """Operations of the loss; returns the buffer of its gradient."""
        dz = self.matrix(output.columns, own=loss.kind < 0)  # Python leaves padding as it is
        self.partial = sums = self.buffer(BLOCKS, SUMS, 8 * SUMS, own=True)
        sizes = [output.columns, self.ld(output.columns), loss.kind, int(self.ranks is not None)]
        self.pack_depth = max(self.pack_depth, dz.pitch // self.dtype.itemsize)
        label, target = self.label, self.target
        if loss.kind >= 0:
            a, b, numbers = loss.numbers()
            pointers = [dz if gradient else None, output, target, label, sums, self.weight]
            self.emit("LOSS", [*pointers, self._loss_numbers(numbers)], sizes, a=a, b=b)
        else:
            self.call(lambda rows: self._call_loss(loss, output, dz, rows), [dz, output])
        return dz

    def _loss_numbers(self, numbers: tuple[float, ...] | None) -> int | None:
        """Address of a loss's numbers of the columns."""
        if numbers is None:
            return None
        own = allocate(row_bytes(len(numbers), self.dtype.itemsize)).view(self.dtype)
        own[: len(numbers)] = numbers
        self.keep.append(own)
        return address(own)

    def _call_loss(self, loss: Loss, output: Buffer, dz: Buffer, rows: int) -> None:
        if self.label is not None:
            y = self.label.view(self.workspace, np.dtype(np.int64))[:rows, 0]
        else:
            y = self.view(cast(Buffer, self.target), rows)
        weight = None
        if loss.weighted:
            weight = cast(Buffer, self.weight).view(self.workspace, np.dtype(np.float64))[:rows, 0]
        total = float(rows if weight is None else weight.sum())
        value, gradient = 0.0, cast(Any, 0.0)
        if total > 0:
            value, gradient = loss.call(self.view(output, rows), y, weight)
        # The gradient is that of the mean over all rows of the update; of several ranks, their sum.
        part = self.built.part if self.ranks is None else total
        self.view(dz, rows)[...] = gradient if part == 1 else np.asarray(gradient) * part
        partial = cast(Buffer, self.partial).view(self.workspace, np.dtype(np.float64))
        partial[...] = 0
        partial[0] = value * total, 0, total, total

    def batch(self, loss: Loss | None) -> None:
        """Operations that fetch the rows of the batch."""
        for value in self.graph.inputs:
            x = self.data[value]
            sizes = [value.first, x.columns, self.ld(x.columns), int(self.in_place(value))]
            self.emit("GATHER_X", [x], sizes)
        if loss is None:
            return
        self.weight = self.buffer(self.rows, 1, 8, own=True)
        self.emit("GATHER_WEIGHT", [self.weight], [])
        if loss.integer_labels:
            self.label = self.buffer(self.rows, 1, 8, own=True)
            self.emit("GATHER_LABEL", [self.label], [])
        else:
            columns = loss.columns(self.graph.output.columns)
            self.target = self.matrix(columns, own=True)
            self.emit("GATHER_TARGET", [self.target], [columns, self.ld(columns)])

    def in_place(self, x: Value) -> bool:
        """True if an input can be read where the user has it: by products with Wt alone."""
        return bool(x.readers) and all(
            node.kind == "linear" and node.layer._parameters["weight"].transposed
            for node in x.readers
        )

    # The program.

    @property
    def built(self) -> Program:
        """The program, once it is built."""
        return cast(Program, self.program)

    def place(self) -> None:
        """Give all buffers their places in the workspace."""
        pack_size = 2 * self.pack_depth * VECTOR
        self.pack = self.buffer(self.threads, 1, -(-pack_size // 64) * 64, own=True)
        own = self.own if self.compact else set(self.buffers)
        self.size = place(self.buffers, self.operations, self.threads, own)
        self.free = min((buffer.offset for buffer in own), default=self.size)

    def build(
        self,
        saved: Callable[[], list[tuple[Array, bool]]] | None = None,
        between: Plan | None = None,
    ) -> Program:
        """Place the buffers and make the program.

        `saved` gives the arrays that are copied at the start of each epoch, and whether NaN is
        looked for in them; None: the program is not run over epochs. A program that runs `between`
        the steps of another has its buffers where those of the other are in cache, and hold nothing
        then; not where Python has views of them.
        """
        paced = WORK_PER_THREAD > 0 and self.work < self.threads * SURE_WORK_PER_THREAD
        threads = self.threads
        if paced and (saved is None or self.calls):
            paced = False
            threads = min(self.threads, self._threads(UNTRIED_WORK_PER_THREAD))
        if not self.size:
            self.place()
        state = None if self.updates is None else self.updates.state
        fresh = state.nbytes if state is not None and state.step == 0 else 0  # not touched so far
        known = self.store.values.nbytes + (0 if state is None else state.nbytes)
        room = self.size + fresh + (known if saved is not None and state is not None else 0)
        check_room(room, f"a program for batches of {self.rows} rows")
        self.workspace = allocate(self.size)
        base = address(self.workspace)
        lent, free = (0, 0) if between is None or self.calls else between.lent()

        def resolve(pointer: Pointer) -> int:
            if isinstance(pointer, Buffer):
                end = pointer.offset + pointer.nbytes
                within = lent and pointer not in self.own and end <= free
                return (lent if within else base) + pointer.offset
            if pointer is None or isinstance(pointer, int):
                return pointer or 0
            return pointer()

        ops = [
            (KINDS[kind], activation, a, b, [resolve(p) for p in pointers], sizes)
            for kind, activation, a, b, pointers, sizes in self.operations
        ]
        segments = saved() if saved is not None else []
        self.saved = [(live, np.empty_like(live)) for live, _ in segments]
        copies = [
            (address(live), address(copy), live.nbytes, real)
            for (live, copy), (_, real) in zip(self.saved, segments, strict=True)
        ]
        moved = [(live, live.copy()) for live in self.moving()]
        self.keep += [self.workspace, self.store.values, self.saved, self.names, between, moved]
        self.program = Program(
            ops,
            self.calls,
            self.dtype.itemsize,
            threads,
            base + self.pack.offset,
            self.pack.pitch,
            copies,
            self.keep,
            0 if self.updates is None else self.updates.state.moments.strides[0],
            self.update_from,
            paced,
            self.rows,
            [(address(live), address(copy), live.nbytes) for live, copy in moved],
        )
        return self.program

    def counts(self) -> list[Array]:
        """Batches that each BatchNorm has averaged over."""
        return [
            node.layer.num_batches_tracked.reshape(1)
            for node in self.graph.nodes
            if node.kind == "batchnorm"
        ]

    def moving(self) -> list[Array]:
        """What moves in the forward pass of a training, if that may end in an error of Python's."""
        if self.updates is None or not self.calls:
            return []
        return [self.store.values[self.store.trainable :], *self.counts()]

    def lent(self) -> tuple[int, int]:
        """Where the memory begins that buffers share, and bytes of it: between steps it is free."""
        return address(self.workspace), self.free

    def first_not_finite(self, batch: int, step: int, tick: int) -> str | None:
        """The first layer whose parameters are not finite; else whose output for a batch is not.

        Or else whose running averages are not. The forward pass is made anew, since the next
        layers' values may lie where these were; what BatchNorm averages moves with it.
        """
        bad = self._bad_parameter(trainable=True)
        if bad is not None:
            return bad
        program = self.built
        for part in range(program.parts_of(batch)):
            rows, low = program.rows_of(batch, part), 0
            for node, buffer, end in self.ends:
                program.visit(batch, step, tick, part, low, end)
                if not np.isfinite(self.view(buffer, rows)).all():
                    return self._title(node)
                low = end
        return self._bad_parameter(trainable=False)

    def _bad_parameter(self, *, trainable: bool) -> str | None:
        """The first layer of which a parameter, or a running average, is not finite."""
        for node in self.graph.nodes:
            own = (p.array for p in node.layer._parameters.values() if p.trainable == trainable)
            if not all(np.isfinite(array).all() for array in own):
                return self._title(node)
        return None

    def _title(self, node: Node) -> str:
        """How a message names a node."""
        return f"{self.names[id(node.layer)]} ({type(node.layer).__name__})"
