"""Activations, Dropout and sums: element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from minidl.kernels.activation import KEEPS_INPUT
from minidl.layers.activations import Activation
from minidl.layers.base import Layer
from minidl.layers.dropout import Dropout

if TYPE_CHECKING:
    from minidl.lowering.graph import Node, Value
    from minidl.lowering.placement import Buffer
    from minidl.lowering.plan import Plan


def keep(plan: Plan, out: Value, activation: Layer, given: Callable[[], Buffer]) -> Buffer | None:
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
    keep(plan, node.y, node.layer, lambda: x)
    plan.emit("ACTIVATION", [y, x], [plan.ld(node.y.columns)], activation=node.layer)


def activation_backward(plan: Plan, node: Node) -> None:
    """Dx = dy activation'."""
    plan.give(node.x, times_derivative(plan, node.y, node.layer))


def times_derivative(plan: Plan, out: Value, activation: Layer) -> Buffer:
    """The gradient of `out` times the activation's derivative."""
    dy = plan.gradients[out]
    if out in plan.applied:
        return dy
    dx = plan.writable(dy)
    sizes = [plan.ld(out.columns)]
    plan.emit("ACTIVATION_BACKWARD", [dx, dy, plan.kept[out]], sizes, activation=activation)
    return dx


def before_activation(plan: Plan, node: Node) -> Buffer:
    """The gradient of what a node gives to the activation inside it, or of its output."""
    out, activation = plan.result(node)
    return plan.gradients[out] if activation is None else times_derivative(plan, out, activation)


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
