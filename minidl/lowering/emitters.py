"""What each kind of node becomes: operations of the forward pass, and of the backward pass.

Fusion is decided here: an activation that alone reads what a Linear or BatchNorm gives runs inside
it; its derivative runs inside the product that makes the gradient; the optimizer runs on the tiles
of the weight gradients when nothing else asks for them. A first layer that is large beside the
batch is shared by columns, between two barriers.

A backward function takes the gradient of the node's output from `plan.gradients` and gives those of
its inputs to `plan.give`, unless nobody needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from minidl.kernels.activation import KEEPS_INPUT
from minidl.kernels.operations import BLOCK_ROWS, BLOCKS, REPLICA_ROWS
from minidl.layers.activations import Activation
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.layers.dropout import Dropout
from minidl.layers.linear import Linear
from minidl.memory import Array, address
from minidl.parameters import Parameter

if TYPE_CHECKING:
    from minidl.lowering.graph import Node, Value
    from minidl.lowering.plan import Buffer, Plan


class Emitter(NamedTuple):
    """The two functions of a kind of node."""

    forward: Callable[[Plan, Node], None]
    backward: Callable[[Plan, Node], None]


# Linear.

# Rows of the batch for each feature up to which threads share the first layer by its columns.
BY_COLUMNS = 2


def _by_columns(plan: Plan, node: Node) -> bool:
    """True if threads share a layer by columns: the first, if its weight is large.

    Each thread then reads and updates its own columns of the weight; by rows, all of it would go
    from core to core in each step. It takes a barrier before and after.
    """
    layer = cast(Linear, node.layer)
    return (
        plan.threads > 1
        and node.x.producer is None
        and layer._parameters["weight"].transposed
        and plan.width_and_ld(layer.out_features)[0] >= 4 * plan.threads
        and 2 < plan.rows <= BY_COLUMNS * layer.in_features
    )


def _linear_sizes(plan: Plan, node: Node) -> list[int]:
    layer = cast(Linear, node.layer)
    features, outputs = layer.in_features, layer.out_features
    in_place = node.x.producer is None and plan.in_place(node.x)
    sizes = [features, outputs, plan.ld(features), plan.ld(outputs)]
    flags = [layer._parameters["weight"].transposed, in_place, _by_columns(plan, node)]
    return [*sizes, *map(int, flags), node.x.first]


def linear_forward(plan: Plan, node: Node) -> None:
    """Y = activation(X Wt + b)."""
    layer = cast(Linear, node.layer)
    out, activation = plan.result(node)
    y = plan.data[out] = plan.matrix(out.columns)
    kept = None
    if activation is not None:
        kept = _keep(plan, out, activation, lambda: plan.matrix(out.columns))
    weight, bias = plan.parameter(layer, "weight"), plan.parameter(layer, "bias")
    plan.pack_depth = max(plan.pack_depth, layer.in_features, layer.out_features)
    by_columns = _by_columns(plan, node)
    if by_columns:
        plan.barrier()
    plan.emit(
        "LINEAR",
        [y, kept, plan.data[node.x], plan.values(weight), plan.values(bias)],
        _linear_sizes(plan, node),
        activation=activation,
    )
    if by_columns:
        plan.barrier()


def linear_backward(plan: Plan, node: Node) -> None:
    """DX = dY W, with the derivative of the activation before; dW = dY^T X, db = sum dY."""
    layer = cast(Linear, node.layer)
    x = node.x
    dy = _before_activation(plan, node)
    weight, bias = plan.parameter(layer, "weight"), plan.parameter(layer, "bias")
    if x in plan.needed:
        before = _activation_before(plan, x)
        if before is not None:
            plan.applied.add(x)
        dx = plan.matrix(layer.in_features)
        plan.emit(
            "LINEAR_DX",
            [
                dx,
                dy,
                plan.values(weight),
                None if before is None else plan.kept[x],
                plan.gradients.pop(x, None),
            ],
            _linear_sizes(plan, node),
            activation=before,
        )
        plan.give(x, dx)
    fused = plan.updates_at_once
    dweight, dbias = (
        None if fused or p is None else p.at(plan.store.gradients) for p in (weight, bias)
    )
    pointers = [dweight, plan.values(weight), plan.state(weight), plan.data[x], dy]
    pointers += [dbias, plan.values(bias), plan.state(bias)]
    sizes = [*_linear_sizes(plan, node), int(fused), plan.group(weight), plan.group(bias)]
    plan.pack_depth = max(plan.pack_depth, plan.rows)
    plan.weight_operations.append(lambda: plan.emit("LINEAR_DW", pointers, sizes))


def _activation_before(plan: Plan, x: Value) -> Layer | None:
    """The activation that gives x, if its derivative can be applied to the gradient of x."""
    producer = x.producer
    if producer is None or producer.kind != "activation" or not plan.is_last_reader(x):
        return None
    source = producer.x.producer
    inside_batchnorm = source is not None and source.kind == "batchnorm" and source in plan.fused
    return None if inside_batchnorm else producer.layer


# Activations.


def _keep(plan: Plan, out: Value, activation: Layer, given: Callable[[], Buffer]) -> Buffer | None:
    """Note what the activation's backward reads; its input, from `given`, if need be."""
    if cast(Activation, activation).kind in KEEPS_INPUT:
        plan.kept[out] = given()
        return plan.kept[out]
    plan.kept[out] = plan.data[out]
    return None


def activation_forward(plan: Plan, node: Node) -> None:
    """Y = activation(x), of each element."""
    x = plan.data[node.x]
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    _keep(plan, node.y, node.layer, lambda: x)
    plan.emit("ACTIVATION", [y, x], [plan.ld(node.y.columns)], activation=node.layer)


def activation_backward(plan: Plan, node: Node) -> None:
    """Dx = dy activation'."""
    plan.give(node.x, _times_derivative(plan, node.y, node.layer))


def _times_derivative(plan: Plan, out: Value, activation: Layer) -> Buffer:
    """The gradient of `out` times the activation's derivative."""
    dy = plan.gradients[out]
    if out in plan.applied:
        return dy
    dx = plan.writable(dy)
    sizes = [plan.ld(out.columns)]
    plan.emit("ACTIVATION_BACKWARD", [dx, dy, plan.kept[out]], sizes, activation=activation)
    return dx


def _before_activation(plan: Plan, node: Node) -> Buffer:
    """The gradient of what a node gives to the activation inside it, or of its output."""
    out, activation = plan.result(node)
    return plan.gradients[out] if activation is None else _times_derivative(plan, out, activation)


# BatchNorm.


def batchnorm_forward(plan: Plan, node: Node) -> None:
    """Statistics, merged behind a barrier; then y = activation(gamma xhat + beta)."""
    layer = cast(BatchNorm1d, node.layer)
    out, activation = plan.result(node)
    sizes = plan.width_and_ld(out.columns)
    x, y = plan.data[node.x], plan.matrix(out.columns)
    plan.data[out] = y
    replica = plan.replicas[node] = plan.matrix(out.columns, REPLICA_ROWS * plan.threads)
    gamma, beta, mean, var = (
        plan.values(plan.parameter(layer, name))
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    if plan.graph.trains(layer):
        partial = plan.matrix(out.columns, BLOCK_ROWS * BLOCKS)
        plan.emit("BN_BLOCKS", [partial, x], sizes)
        plan.barrier()
        plan.emit(
            "BN_MERGE",
            [replica, mean, var, partial, gamma, beta, address(layer.num_batches_tracked)],
            sizes,
            a=layer.eps,
            b=-1.0 if layer.momentum is None else layer.momentum,
        )
    else:
        plan.emit("BN_RUNNING", [replica, mean, var, gamma, beta], sizes, a=layer.eps)
    plan.emit("BN_NORMALIZE", [y, x, replica], sizes, activation=activation)


def batchnorm_backward(plan: Plan, node: Node) -> None:
    """Sums over rows, merged behind a barrier; then dx."""
    layer = cast(BatchNorm1d, node.layer)
    out, activation = plan.result(node)
    dy, x, sizes = plan.gradients[out], plan.data[node.x], plan.width_and_ld(out.columns)
    before = dy if activation is None else plan.writable(dy)
    partial = plan.matrix(out.columns, BLOCK_ROWS * BLOCKS)
    replica = plan.replicas[node]
    gamma, beta = (cast(Parameter, plan.parameter(layer, n)) for n in ("weight", "bias"))
    dgamma, dbeta = plan.gradient(gamma), plan.gradient(beta)
    plan.emit(
        "BN_GRADIENTS",
        [partial, dy, plan.data[out], x, replica, before],
        sizes,
        activation=activation,
    )
    plan.barrier()
    trains = int(plan.graph.trains(layer))
    plan.emit("BN_MERGE_GRAD", [replica, dgamma, dbeta, partial], [*sizes, trains])
    if node.x in plan.needed:
        dx = plan.writable(before)
        plan.emit("BN_BACKWARD", [dx, before, x, replica], sizes)
        plan.give(node.x, dx)
    plan.update_parameter(gamma, dgamma)
    plan.update_parameter(beta, dbeta)


# Dropout.


def dropout_forward(plan: Plan, node: Node) -> None:
    """Some elements become 0, the others are scaled up."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    _dropout(plan, node, y, plan.data[node.x])


def dropout_backward(plan: Plan, node: Node) -> None:
    """The same of the gradient."""
    dy = plan.gradients[node.y]
    dx = plan.writable(dy)
    _dropout(plan, node, dx, dy)
    plan.give(node.x, dx)


def _dropout(plan: Plan, node: Node, y: Buffer, x: Buffer) -> None:
    layer = cast(Dropout, node.layer)
    plan.emit("DROPOUT", [y, x], [plan.ld(node.y.columns), layer.key], a=layer.p)


# Sums and columns of values.


def add_forward(plan: Plan, node: Node) -> None:
    """Y = a + b."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    inputs = [plan.data[x] for x in node.inputs]
    plan.emit("ADD", [y, *inputs], [plan.ld(node.y.columns)])


def add_backward(plan: Plan, node: Node) -> None:
    """Both inputs have the gradient of the output: the same buffer."""
    dy = plan.gradients[node.y]
    plan.shared.add(dy)
    for x in node.inputs:
        if x in plan.needed:
            plan.give(x, dy)


def columns_forward(plan: Plan, node: Node) -> None:
    """Some columns of x."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    _copy(plan, y, 0, plan.data[node.x], node.y.first, y.columns, whole=True)


def columns_backward(plan: Plan, node: Node) -> None:
    """Into the same columns of the gradient of x, which other parts of x add to."""
    x, dy = node.x, plan.gradients[node.y]
    dx = plan.gradients.get(x)
    if dx is None or dx in plan.shared:
        new = plan.matrix(x.columns)
        if dx is None:
            plan.emit("ZERO", [new], [plan.ld(x.columns)])
        else:
            _copy(plan, new, 0, dx, 0, x.columns, whole=True)
        plan.gradients[x] = dx = new
    plan.waiting[x] -= 1
    _copy(plan, dx, node.y.first, dy, 0, dy.columns, add=True)


def concat_forward(plan: Plan, node: Node) -> None:
    """Values side by side."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    first = 0
    for x in node.inputs:
        _copy(plan, y, first, plan.data[x], 0, x.columns, whole=first == 0)
        first += x.columns


def concat_backward(plan: Plan, node: Node) -> None:
    """Each input has its columns of the gradient."""
    dy, first = plan.gradients[node.y], 0
    for x in node.inputs:
        if x in plan.needed:
            dx = plan.matrix(x.columns)
            _copy(plan, dx, 0, dy, first, x.columns, whole=True)
            plan.give(x, dx)
        first += x.columns


def _copy(
    plan: Plan,
    to: Buffer,
    to_first: int,
    source: Buffer,
    first: int,
    columns: int,
    *,
    add: bool = False,
    whole: bool = False,
) -> None:
    """Copy or add columns of one buffer to columns of another; `whole`: all others become 0."""
    lds = plan.ld(to.columns), plan.ld(source.columns)
    sizes = [columns, lds[0], to_first, lds[1], first, int(add), int(whole)]
    plan.emit("COLUMNS", [to, source], sizes)


# Layers in Python.


def python_forward(plan: Plan, node: Node) -> None:
    """Call the layer's forward."""
    x = plan.data[node.x]
    plan.data[node.y] = y = plan.matrix(node.y.columns)

    def call(rows: int) -> None:
        given = plan.view(x, rows)
        given.flags.writeable = False
        plan.view(y, rows)[...] = _returned(
            plan, node, "forward", node.layer.forward(given), rows, y.columns
        )

    plan.call(call)


def python_backward(plan: Plan, node: Node) -> None:
    """Call the layer's backward, which writes the gradients of its parameters."""
    dy = plan.gradients[node.y]
    dx = plan.matrix(node.x.columns)
    parameters = [p for p in node.layer._parameters.values() if p.trainable]

    def call(rows: int) -> None:
        given = plan.view(dy, rows)
        given.flags.writeable = False
        before = [] if plan.built.fresh else [p.gradient.copy() for p in parameters]
        plan.view(dx, rows)[...] = _returned(
            plan, node, "backward", node.layer.backward(given), rows, dx.columns
        )
        for parameter, sum_so_far in zip(parameters, before, strict=False):
            parameter.gradient[...] += sum_so_far

    plan.call(call)
    plan.give(node.x, dx)
    for parameter in parameters:
        plan.update_parameter(parameter, parameter.at(plan.store.gradients))


def _returned(plan: Plan, node: Node, method: str, array: object, rows: int, columns: int) -> Array:
    """What a user's layer returned, checked."""
    name = f"layer {plan.names[id(node.layer)]} ({type(node.layer).__name__}).{method}"
    if np.shape(array) != (rows, columns):  # type: ignore[arg-type]
        raise ValueError(
            f"{name}: expected an array of shape {(rows, columns)}, got "
            f"{np.shape(array)}; define output_features if it changes the columns"  # type: ignore[arg-type]
        )
    return np.asarray(array)


EMITTERS = {
    "linear": Emitter(linear_forward, linear_backward),
    "activation": Emitter(activation_forward, activation_backward),
    "batchnorm": Emitter(batchnorm_forward, batchnorm_backward),
    "dropout": Emitter(dropout_forward, dropout_backward),
    "add": Emitter(add_forward, add_backward),
    "columns": Emitter(columns_forward, columns_backward),
    "concat": Emitter(concat_forward, concat_backward),
    "python": Emitter(python_forward, python_backward),
}
