"""Columns of values, and values side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidl.lowering.graph import Node
    from minidl.lowering.placement import Buffer
    from minidl.lowering.plan import Plan


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
