"""Layers in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.memory import Array

if TYPE_CHECKING:
    from minidl.lowering.graph import Node
    from minidl.lowering.plan import Plan


def python_forward(plan: Plan, node: Node) -> None:
    """Call the layer's forward, which leaves padding as it is."""
    x = plan.data[node.x]
    plan.data[node.y] = y = plan.matrix(node.y.columns, own=True)

    def call(rows: int) -> None:
        given = plan.view(x, rows)
        given.flags.writeable = False
        plan.view(y, rows)[...] = _returned(
            plan, node, "forward", node.layer.forward(given), rows, y.columns
        )

    plan.call(call, [x, y])


def python_backward(plan: Plan, node: Node) -> None:
    """Call the layer's backward, which writes the gradients of its parameters.

    It may read what forward was given, of which it has a view.
    """
    dy = plan.gradients[node.y]
    dx = plan.matrix(node.x.columns, own=True)
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

    plan.call(call, [dy, dx, plan.data[node.x]])
    plan.give(node.x, dx)
    for parameter in parameters:
        plan.update_parameter(parameter, plan.stored_gradient(parameter))


def _returned(plan: Plan, node: Node, method: str, array: Any, rows: int, columns: int) -> Array:
    """What a user's layer returned, checked."""
    name = f"layer {plan.names[id(node.layer)]} ({type(node.layer).__name__}).{method}"
    if np.shape(array) != (rows, columns):
        raise ValueError(
            f"{name}: expected an array of shape {(rows, columns)}, got "
            f"{np.shape(array)}; define output_features if it changes the columns"
        )
    return np.asarray(array)
