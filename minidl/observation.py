"""A network at work, looked at: sums over every value, every gradient and every update.

The network is a copy, so that the model itself is not touched: its program does what a training
step does but for the update, with every value and gradient in a buffer of its own (`Plan`,
`observed`), and adds up what stands in them (`kernels/statistics.pyx`). Then it compares its
parameters with those that an update has left, in the model that trains or in another copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl.health import NAN, LayerHealth, Thresholds
from minidl.kernels.operations import BLOCKS, LOOK_SUMS, MOVE_SUMS, VECTOR, block_edges
from minidl.layers import LeakyReLU, ReLU, Sigmoid, Tanh
from minidl.layers.base import Layer
from minidl.lowering import Buffer, Node, Operation, Plan, Value
from minidl.memory import Array, address, allocate

if TYPE_CHECKING:
    from minidl.losses import Loss
    from minidl.parameters import Parameter

# tanh and sigmoid are flat where their derivative is less than this share of its greatest value.
FLAT = 0.05
FEW = 64  # vectors of a parameter that are summed up in one go
LOG = 1 << 20  # bytes of looks that are made before Python takes them


class Look(NamedTuple):
    """What was summed up over some rows.

    Attributes
    ----------
    values : ndarray of shape (n, 4)
        Of each value and gradient: sum, sum of squares, zeros, elements where it is flat. Gradients
        are those of the mean loss of all rows.
    moves : ndarray of shape (parameters, 3)
        Of each parameter: sums of squares of itself, of its update, and of its gradient.
    active : ndarray of shape (units,), bool
        Units of all ReLUs, side by side, that gave something else than 0.
    rows : int
    loss : float
    """

    values: Array
    moves: Array
    active: Array
    rows: int
    loss: float


class Looks(NamedTuple):
    """Looks one after the other, at steps of which each made an update."""

    steps: Array
    rows: Array
    loss: Array
    values: Array
    moves: Array
    active: Array

    def at(self, i: int) -> Look:
        """One of them."""
        return Look(
            self.values[i], self.moves[i], self.active[i], int(self.rows[i]), float(self.loss[i])
        )


class _Looked(NamedTuple):
    """A buffer that is looked at, and what is counted."""

    buffer: Buffer
    low: float  # elements below it are counted
    high: float  # and above it
    counts: bool
    units: int | None  # where the largest of each column go, in vectors


class Spot(NamedTuple):
    """A layer, and where in a `Look` it stands."""

    name: str
    type: str
    columns: int
    depth: int
    weighted: bool
    value: int
    given: int | None  # what an activation is given
    gradient: int | None
    flat: bool  # the activation has flat parts
    units: slice | None  # of ReLU, among all units
    parameters: list[int]
    updated: list[int]  # parameters whose update counts


class Observer:
    """The copy of a model, and the program that looks at it.

    Parameters
    ----------
    model : Layer
    columns, rows : int
        Of the input, and the most of a batch.
    loss : Loss
        In the form that suits the data.
    after : Layer
        The model with the parameters that an update has left.
    training : bool
        The mode of all layers.
    between : Plan, optional
        Of the program between whose steps this one runs: with its threads, in its memory.
    """

    def __init__(
        self,
        model: Layer,
        columns: int,
        rows: int,
        loss: Loss,
        after: Layer,
        *,
        training: bool = True,
        between: Plan | None = None,
    ) -> None:
        self.live, self.model, self.after = model, deepcopy(model), after
        self.model.train(training)
        self.rows = rows
        self.store = self.model.store()
        after.store()  # its parameters stay where they are now
        self.plan = plan = Plan(
            self.model,
            columns,
            rows,
            self.model.dtype,
            training=training,
            split_input=True,
            observed=True,
            compact=True,
            threads=None if between is None else between.threads,
        )
        plan.batch(loss)
        output = plan.forward()
        plan.backward(plan.loss(loss, output))
        plan.update()  # the weight gradients
        self._looked: list[_Looked] = []
        self._unit_vectors = 0
        self._units: list[int] = []
        pairs = zip(self.model.named_parameters(), after.named_parameters(), strict=True)
        self.parameters = [(own, other) for (_, own), (_, other) in pairs if own.trainable]
        self._order = {id(own): i for i, (own, _) in enumerate(self.parameters)}
        self.spots = self._spots()
        self.units = np.array(self._units, np.intp)
        self._emit()
        self.program = plan.build(between=between)

    def _emit(self) -> None:
        """The operations that look, and those that come when the update is made."""
        plan, itemsize = self.plan, self.store.dtype.itemsize
        values, moves = LOOK_SUMS * len(self._looked), MOVE_SUMS * len(self.parameters)
        vectors = [own.length(itemsize) * itemsize // VECTOR for own, _ in self.parameters]
        shares = [min(max(n // FEW, 1), BLOCKS) for n in vectors]
        blocks = max(len(block_edges(self.rows)) - 1, *shares, 1)
        lanes = self._unit_vectors * VECTOR // itemsize
        self.moved = values, values + moves  # where the record tells of the update
        self.record = _zeros(np.float64, values + moves + lanes)
        sums = _zeros(np.float64, blocks, values + moves)
        largest = _zeros(plan.dtype, blocks, lanes)
        passes, plan.operations = plan.operations, []
        looks = self._looks_behind(passes)
        for k, operation in enumerate(passes):
            plan.operations.append(operation)
            for i in looks.get(k, ()):
                looked = self._looked[i]
                buffer = looked.buffer
                most = 0 if looked.units is None else address(largest) + looked.units * VECTOR
                plan.emit(
                    "LOOK",
                    [address(sums[0, LOOK_SUMS * i :]), buffer, most],
                    [buffer.columns, plan.ld(buffer.columns), values + moves,
                     self._unit_vectors, int(looked.counts)],
                    a=looked.low, b=looked.high,
                )  # fmt: skip
        plan.total()  # may end the pass
        plan.update_from = len(plan.operations)
        for i, (own, other) in enumerate(self.parameters):
            pointers = [
                address(sums[0, values + MOVE_SUMS * i :]),
                own.at(self.store.values), other.at(other.store.values),
                own.at(self.store.gradients),
            ]  # fmt: skip
            plan.emit("MOVE", pointers, [vectors[i], values + moves, shares[i]])
        plan.emit("BARRIER", [], [])
        sizes = [values + moves, blocks, self._unit_vectors]
        plan.emit("LOOK_TOTAL", [address(self.record), address(sums), address(largest)], sizes)
        plan.keep += [self.record, sums, largest, self.store.gradients, self.model]
        plan.keep += [other.store.values for _, other in self.parameters]

    def _looks_behind(self, passes: Sequence[Operation]) -> dict[int, list[int]]:
        """What is looked at behind which operation: the last that writes to the buffer.

        It is still in cache then, and a thread looks at the rows that it has written itself; those
        of others are there behind the barrier that follows such an operation.
        """
        written: dict[Buffer, int] = {}
        for k, (kind, _, _, _, pointers, _) in enumerate(passes):
            for pointer in pointers if kind == "PYTHON" else pointers[:1]:
                if isinstance(pointer, Buffer):
                    written[pointer] = k + (passes[k + 1][0] == "BARRIER")
        looks: dict[int, list[int]] = {}
        for i, looked in enumerate(self._looked):
            looks.setdefault(written[looked.buffer], []).append(i)
        return looks

    # What is looked at.

    def _spots(self) -> list[Spot]:
        """All layers that do something, in the order of execution."""
        plan, names = self.plan, _names(self.model)
        depths, indices = plan.graph.depths(), {}
        spots = []
        for node in plan.graph.nodes:
            if node.kind == "columns":
                continue
            kind = type(node.layer)
            low, high = _flat_parts(node.layer)
            can_die = _can_die(node.layer)
            indices[node.y] = self._look(plan.data[node.y], low, high, units=can_die)
            units = len(self._units) - node.y.columns
            gradient = plan.gradients.get(node.y)
            own = [p for p in node.layer._parameters.values() if p.trainable]
            matrices = [p for p in own if len(p.shape) == 2]
            spots.append(
                Spot(
                    _next(names[id(node.layer)]),
                    kind.__name__,
                    node.y.columns,
                    depths[node.y],
                    node.has_weights,
                    indices[node.y],
                    self._given(node, indices),
                    None if gradient is None else self._look(gradient, counts=False),
                    low > -math.inf,
                    slice(units, len(self._units)) if can_die else None,
                    self._numbers(own),
                    self._numbers(matrices or own),
                )
            )
        return spots

    def _look(
        self,
        buffer: Buffer,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        counts: bool = True,
        units: bool = False,
    ) -> int:
        """Look at a buffer; where its sums will stand."""
        first = self._unit_vectors if units else None
        self._looked.append(_Looked(buffer, low, high, counts, first))
        if units:
            place = self._unit_vectors * VECTOR // self.plan.dtype.itemsize
            self._units += range(place, place + buffer.columns)
            self._unit_vectors += self.plan.ld(buffer.columns)
        return len(self._looked) - 1

    def _given(self, node: Node, indices: dict[Value, int]) -> int | None:
        """Where the sums of what an activation is given stand; None if it is no activation."""
        if node.kind != "activation":
            return None
        if node.x not in indices:
            indices[node.x] = self._look(self.plan.data[node.x])
        return indices[node.x]

    def _numbers(self, parameters: Sequence[Parameter]) -> list[int]:
        """The places of a layer's parameters among all."""
        return [self._order[id(p)] for p in parameters]

    # Looking.

    def total(self) -> tuple[Array, Array, Array]:
        """Compare the parameters with those behind the update, and end the sums.

        Values, moves and active units, as in `Look`, of all that has been visited since the last
        call.
        """
        end = len(self.plan.operations)
        self.program.execute(self.plan.update_from or 0, end, 1)
        return self.read(self.record)

    def read(self, records: Array) -> tuple[Array, Array, Array]:
        """Values, moves and active units that stand in a record, or in several: copies of them."""
        first, last = self.moved
        values, moves, active = np.split(records, self.moved, axis=-1)
        several = records.shape[:-1]
        return (
            values.reshape(*several, first // LOOK_SUMS, LOOK_SUMS).copy(),
            moves.reshape(*several, (last - first) // MOVE_SUMS, MOVE_SUMS).copy(),
            active[..., self.units] > 0,
        )

    @property
    def gradients(self) -> list[int]:
        """Places of sums over gradients."""
        return [spot.gradient for spot in self.spots if spot.gradient is not None]


class Lookout:
    """An observer that the program of a training asks by itself, every so many steps.

    Attributes
    ----------
    watch : tuple
        What `Program.watch` is given.
    """

    def __init__(self, observer: Observer, every: int) -> None:
        self.observer = observer
        width = 3 + len(observer.record)
        room = max(LOG // (8 * width), 1)
        self._log = np.empty((room, width))
        self._entered = np.zeros(1, np.intp)
        self._count = memoryview(self._entered)
        itemsize = observer.store.dtype.itemsize
        there, here = (address(m.store().values) for m in (observer.live, observer.model))
        copies = [
            (there + a.start * itemsize, here + b.start * itemsize, (a.stop - a.start) * itemsize)
            for a, b in places(observer.live, observer.model)
        ]
        self.watch = (
            observer.program, every, copies, observer.record, observer.moved, self._log,
            self._entered,
        )  # fmt: skip

    def take(self) -> Looks | None:
        """The looks that were made since the last call; None: there are none."""
        count = self._count[0]
        if not count:
            return None
        log = self._log[:count].copy()
        self._count[0] = 0
        steps, rows = log[:, :2].astype(np.int64).T
        return Looks(steps, rows, log[:, 2].copy(), *self.observer.read(log[:, 3:]))


def layers_of(spots: Sequence[Spot], look: Look) -> list[LayerHealth]:
    """What was measured of each layer."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return [_layer(spot, look) for spot in spots]


def _layer(spot: Spot, look: Look) -> LayerHealth:
    mean, std, zeros = _moments(look, spot.value, spot.columns)
    given = (NAN,) * 3 if spot.given is None else _moments(look, spot.given, spot.columns)
    flat = look.values[spot.value, 3] / (look.rows * spot.columns) if spot.flat else NAN
    dead = NAN if spot.units is None else 1 - look.active[spot.units].mean()
    gradient = NAN
    if spot.gradient is not None:
        gradient = np.sqrt(look.rows * look.values[spot.gradient, 1])
    own, _, by_gradient = (np.sqrt(look.moves[spot.parameters, k].sum()) for k in range(3))
    weights, update = (np.sqrt(look.moves[spot.updated, k].sum()) for k in range(2))
    measured = (mean, std, zeros, *given, flat, dead, gradient)
    of_parameters = (own, by_gradient, update / weights) if spot.parameters else (NAN,) * 3
    return LayerHealth(
        spot.name, spot.type, spot.columns, spot.depth, spot.weighted,
        *map(float, (*measured, *of_parameters)),
    )  # fmt: skip


def _moments(look: Look, index: int, columns: int) -> tuple[float, float, float]:
    """Mean, standard deviation and share of zeros; all NaN where a value is not finite."""
    total, squares, zeros, _ = look.values[index] / (look.rows * columns)
    if not np.isfinite(squares):
        return NAN, NAN, NAN
    return total, np.sqrt(max(squares - total * total, 0.0)), zeros


def _flat_parts(layer: Layer) -> tuple[float, float]:
    """Outputs below and above which an activation is flat; the bounds are infinite for others."""
    edge = math.sqrt(1 - FLAT)
    if isinstance(layer, Tanh):  # y' = 1 - y^2
        return -edge, edge
    if isinstance(layer, Sigmoid):  # y' = y (1 - y)
        return (1 - edge) / 2, (1 + edge) / 2
    return -math.inf, math.inf


def _can_die(layer: Layer) -> bool:
    """True for activations whose output and gradient are 0 for half of all numbers."""
    return isinstance(layer, ReLU) or (isinstance(layer, LeakyReLU) and not layer.negative_slope)


def _names(model: Layer) -> dict[int, list[str]]:
    """The names of each layer, which may stand in several places."""
    names: dict[int, list[str]] = {}
    for name, layer in model.tree():
        names.setdefault(id(layer), []).append(name)
    return names


def _next(names: list[str]) -> str:
    """The name of the place that comes next; the last is for all that follow."""
    return names.pop(0) if len(names) > 1 else names[0]


def places(source: Layer, own: Layer, *, trainable: bool = False) -> list[tuple[slice, slice]]:
    """Where the parameters of a model and of its copy stand in the flat vectors of the two.

    All, or those that are trainable. As few slices as possible: one, where the order is the same.
    """
    itemsize = own.store().dtype.itemsize
    pairs = zip(source.named_parameters(), own.named_parameters(), strict=True)
    lengths = [
        (_offset(b), _offset(a), b.length(itemsize))
        for (_, a), (_, b) in pairs
        if b.trainable or not trainable
    ]
    found: list[tuple[slice, slice]] = []
    for here, there, length in sorted(lengths):
        first, start = there, here
        if found and (found[-1][0].stop, found[-1][1].stop) == (there, here):
            first, start = found[-1][0].start, found.pop()[1].start
        found.append((slice(first, there + length), slice(start, here + length)))
    return found


def _offset(parameter: Parameter) -> int:
    """Where a parameter begins in the vector that it lies in."""
    return parameter.store.offsets[id(parameter)]


def _zeros(dtype: Any, *shape: int) -> Array:
    """Zeros that begin at a cache line."""
    dtype = np.dtype(dtype)
    array: Array = allocate(dtype.itemsize * math.prod(shape)).view(dtype)
    return array.reshape(shape)


class Suspects:
    """Which findings looks may hold, without going through their layers: none of them is missed."""

    def __init__(self, spots: Sequence[Spot], thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        weighted = [(s.depth, s.gradient) for s in spots if s.weighted and s.gradient is not None]
        depths = sorted({depth for depth, _ in weighted})
        first, last = depths[:1], depths[1:][-1:]
        self.first, self.last = (
            [gradient for depth, gradient in weighted if [depth] == at] for at in (first, last)
        )
        flat = [s for s in spots if s.flat]
        self.flat = [s.value for s in flat]
        self.most_flat = np.array([thresholds.saturated * s.columns for s in flat])
        self.updated = [i for s in spots if s.weighted for i in s.updated]
        self.units = [(s.units, s.columns) for s in spots if s.units is not None]

    def kinds(self, looks: Looks) -> dict[str, Array]:
        """For each kind of finding, which of the looks may hold it."""
        most = self.thresholds
        none: Array = np.zeros(len(looks.steps), bool)
        squares, flat = looks.values[..., 1], looks.values[..., 3]
        own, moved = looks.moves[:, self.updated, 0], looks.moves[:, self.updated, 1]
        found: dict[str, Any] = {"vanishing": none, "exploding": none, "dead": none.copy()}
        with np.errstate(invalid="ignore", over="ignore"):
            if self.last:
                first, last = (squares[:, at].max(axis=1) for at in (self.first, self.last))
                found["vanishing"] = first < most.vanishing**2 * last
                found["exploding"] = first > most.exploding**2 * last
            flat = flat[:, self.flat] >= looks.rows[:, None] * self.most_flat
            found["saturated"] = flat.any(axis=1)
            found["large update"] = (moved >= most.large_update**2 * own).any(axis=1)
        for units, columns in self.units:
            alive = looks.active[:, units].sum(axis=1)
            found["dead"] |= columns - alive >= most.dead * columns
        return found
