"""Embedding: rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from minidl.layers.embedding import Embedding
from minidl.parameters import Parameter

if TYPE_CHECKING:
    from minidl.lowering.graph import Node
    from minidl.lowering.plan import Plan


def embedding_forward(plan: Plan, node: Node) -> None:
    """The rows of the table that the categories name, side by side."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    table = plan.values(plan.parameter(node.layer, "weight"))
    plan.emit("EMBEDDING", [y, plan.data[node.x], table], _sizes(plan, node))


def embedding_backward(plan: Plan, node: Node) -> None:
    """The gradient of the whole table; categories have none."""
    weight = cast(Parameter, plan.parameter(node.layer, "weight"))
    gradient = plan.gradient(weight)
    pointers = [gradient, plan.gradients[node.y], plan.data[node.x]]
    sizes = _sizes(plan, node)
    plan.weight_operations.append(lambda: plan.emit("EMBEDDING_GRADIENT", pointers, sizes))
    plan.update_parameter(weight, gradient)
    if node.x in plan.needed:
        zero = plan.matrix(node.x.columns)
        plan.emit("ZERO", [zero], [plan.ld(node.x.columns)])
        plan.give(node.x, zero)


def _sizes(plan: Plan, node: Node) -> list[int]:
    layer = cast(Embedding, node.layer)
    sizes = [node.x.columns, layer.embedding_dim, layer.num_embeddings]
    return [*sizes, *map(plan.ld, (node.x.columns, node.y.columns, layer.embedding_dim))]
