"""A network at work, looked at: sums over every value, every gradient and every update.

The network is a copy, so that the model itself is not touched: its program does what a training
step does, with every value and gradient in a buffer of its own (`Plan`, `observed`), and then adds
up what stands in them (`kernels/statistics.pyx`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl.health import NAN, LayerHealth, Thresholds
from minidl.kernels.operations import BLOCKS, LOOK_SUMS, MOVE_SUMS, VECTOR
from minidl.layers import LeakyReLU, ReLU, Sigmoid, Tanh
from minidl.layers.base import Layer
from minidl.lowering import Buffer, Node, Plan, Updates, Value
from minidl.memory import Array, address, allocate

if TYPE_CHECKING:
    from minidl.losses import Loss
    from minidl.optimizers import Optimizer, OptimizerState
    from minidl.parameters import Parameter

# tanh and sigmoid are flat where their derivative is less than this share of its greatest value.
FLAT = 0.05
FEW = 64  # vectors of a parameter that are summed up in one go


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
        The parameters are copied now, and again by `take`.
    columns, rows : int
        Of the input, and the most of a batch.
    loss : Loss
        In the form that suits the data.
    optimizer : Optimizer
    clip_norm : float
        The greatest norm of the gradient that an update is made of; 0: any.
    training : bool
        The mode of all layers.
    """

    def __init__(
        self,
        model: Layer,
        columns: int,
        rows: int,
        loss: Loss,
        optimizer: Optimizer,
        *,
        clip_norm: float = 0.0,
        training: bool = True,
    ) -> None:
        self.live, self.model = model.store(), deepcopy(model)
        self.model.train(training)
        self.rows = rows
        self.store = self.model.store()
        self.state = copy(optimizer).state_for(self.model)
        self.before = self.store.zeros()
        self.places = _places(model, self.model)
        self.plan = plan = Plan(
            self.model,
            columns,
            rows,
            self.model.dtype,
            updates=Updates(self.state, optimizer.group_of, clip_norm, whole=True),
            training=training,
            split_input=True,
            observed=True,
        )
        plan.batch(loss)
        output = plan.forward()
        plan.backward(plan.loss(loss, output))
        self._looked: list[_Looked] = []
        self._unit_vectors = 0
        self._units: list[int] = []
        self.parameters = [p for _, p in self.model.named_parameters() if p.trainable]
        self.spots = self._spots()
        self.sums = _zeros(np.float64, BLOCKS, len(self._looked), LOOK_SUMS)
        self.moved = _zeros(np.float64, BLOCKS, len(self.parameters), MOVE_SUMS)
        lanes = VECTOR // plan.dtype.itemsize
        self.largest = _zeros(plan.dtype, BLOCKS, self._unit_vectors * lanes)
        self.units = np.array(self._units, np.intp)
        self._updated = False
        self._emit()
        plan.keep += [self.sums, self.moved, self.before, self.largest]
        self.program = plan.build()
        self.end = len(plan.operations)

    def _emit(self) -> None:
        """The operations that look; then the loss, which may end the pass; then the update."""
        plan = self.plan
        for i, looked in enumerate(self._looked):
            buffer = looked.buffer
            largest = 0
            if looked.units is not None:
                largest = address(self.largest) + looked.units * VECTOR
            plan.emit(
                "LOOK",
                [address(self.sums[0, i]), buffer, largest],
                [buffer.columns, plan.ld(buffer.columns), self.sums[0].size, self._unit_vectors,
                 int(looked.counts)],
                a=looked.low, b=looked.high,
            )  # fmt: skip
        plan.emit("LOSS_TOTAL", [plan.partial], [])
        plan.update()
        plan.barrier()
        itemsize = self.store.dtype.itemsize
        for i, parameter in enumerate(self.parameters):
            vectors = (self.before, self.store.values, self.store.gradients)
            count = parameter.length(itemsize) * itemsize // VECTOR
            blocks = min(max(count // FEW, 1), BLOCKS)
            pointers = [address(self.moved[0, i]), *map(parameter.at, vectors)]
            plan.emit("MOVE", pointers, [count, self.moved[0].size, blocks])

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
        order = {id(p): i for i, p in enumerate(self.parameters)}
        return [order[id(p)] for p in parameters]

    # Looking.

    def take(self, state: OptimizerState) -> None:
        """Copy the values of the model's parameters, and what the optimizer keeps for them."""
        live, own = self.live.values, self.store.values
        for there, here, trained in self.places:
            own[here] = live[there]
            if trained:
                self.state.moments[:, here] = state.moments[:, there]
        self.state.step = state.step

    def begin(self) -> None:
        """Forget all sums."""
        self.sums.fill(0.0)
        self.largest.fill(0.0)
        self._updated = False

    def update(self, step: int) -> None:
        """Make the update that follows so many others, and look at it."""
        self.before[: self.store.trainable] = self.store.values[: self.store.trainable]
        self._updated = not self.program.execute(self.plan.update_from or 0, self.end, 1, step)

    def active(self) -> Array:
        """Units of all ReLUs that gave something else than 0 since `begin`."""
        active: Array = np.maximum.reduce(self.largest)[self.units] > 0
        return active

    def values(self) -> Array:
        """What has been summed up of values and gradients since `begin`."""
        values: Array = np.add.reduce(self.sums)
        return values

    def look(self, rows: int, loss: float) -> Look:
        """All that has been summed up since `begin`; NaN of an update that was not made."""
        moves = np.add.reduce(self.moved)
        if not self._updated:
            moves[...] = NAN
        return Look(self.values(), moves, self.active(), rows, loss)

    @property
    def gradients(self) -> list[int]:
        """Places of sums over gradients."""
        return [spot.gradient for spot in self.spots if spot.gradient is not None]


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


def _places(source: Layer, own: Layer) -> list[tuple[slice, slice, bool]]:
    """Where parameters stand in the flat vectors of a model and of its copy, and if any is trained.

    As few slices as possible: two, where all is in the same order.
    """
    itemsize = own.store().dtype.itemsize
    pairs = zip(source.named_parameters(), own.named_parameters(), strict=True)
    found = sorted(
        (_offset(b), _offset(a), b.length(itemsize), b.trainable) for (_, a), (_, b) in pairs
    )
    places: list[tuple[slice, slice, bool]] = []
    for here, there, length, trained in found:
        first, start = there, here
        if places and (places[-1][0].stop, places[-1][1].stop, places[-1][2]) == (
            there,
            here,
            trained,
        ):
            first, start = places[-1][0].start, places.pop()[1].start
        places.append((slice(first, there + length), slice(start, here + length), trained))
    return places


def _offset(parameter: Parameter) -> int:
    """Where a parameter begins in the vector that it lies in."""
    return parameter.store.offsets[id(parameter)]


def _zeros(dtype: Any, *shape: int) -> Array:
    """Zeros that begin at a cache line."""
    dtype = np.dtype(dtype)
    array: Array = allocate(dtype.itemsize * math.prod(shape)).view(dtype)
    return array.reshape(shape)


class Suspects:
    """Which findings a look may hold, without going through its layers: none that it holds misses.

    A few operations on small arrays, since `GradientMonitor` asks at every look.
    """

    def __init__(self, spots: Sequence[Spot], thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        weighted = [s for s in spots if s.weighted and s.gradient is not None]
        depths = sorted({s.depth for s in weighted})
        first, last = depths[:1], depths[1:][-1:]
        self.first, self.last = (
            [s.gradient for s in weighted if [s.depth] == at] for at in (first, last)
        )
        self.flat = [(s.value, thresholds.saturated * s.columns) for s in spots if s.flat]
        self.updated = [i for s in spots if s.weighted for i in s.updated]
        self.most_squared = thresholds.large_update**2
        self.units = [(s.units, s.columns) for s in spots if s.units is not None]

    def kinds(self, look: Look) -> set[str]:
        """Kinds of findings."""
        kinds, most = set(), self.thresholds
        _, squares, _, flat = look.values.T.tolist()
        own, moved, _ = look.moves.T.tolist()
        if self.last:
            first, last = (max(squares[i] for i in at) for at in (self.first, self.last))
            if first < most.vanishing**2 * last:
                kinds.add("vanishing")
            elif first > most.exploding**2 * last:
                kinds.add("exploding")
        if any(flat[i] >= share * look.rows for i, share in self.flat):
            kinds.add("saturated")
        if any(moved[i] >= self.most_squared * own[i] for i in self.updated):
            kinds.add("large update")
        if not look.active.all():
            for units, columns in self.units:
                if columns - np.count_nonzero(look.active[units]) >= most.dead * columns:
                    kinds.add("dead")
        return kinds
