"""Linear, with the activation behind it; shared by columns where it is first and large."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from minidl.layers.linear import Linear
from minidl.lowering.emitters.elementwise import before_activation, keep

if TYPE_CHECKING:
    from minidl.layers.base import Layer
    from minidl.lowering.graph import Node, Value
    from minidl.lowering.plan import Plan

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
        kept = keep(plan, out, activation, lambda: plan.matrix(out.columns))
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
    dy = before_activation(plan, node)
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
        None if fused or p is None else plan.stored_gradient(p) for p in (weight, bias)
    )
    pointers = [dweight, plan.values(weight), plan.state(weight), plan.data[x], dy]
    pointers += [dbias, plan.values(bias), plan.state(bias)]
    sizes = [*_linear_sizes(plan, node), int(fused), plan.group(weight), plan.group(bias)]
    plan.pack_depth = max(plan.pack_depth, plan.rows)
    plan.weight_operations.append(lambda: plan.emit("LINEAR_DW", pointers, sizes))


def _activation_before(plan: Plan, x: Value) -> Layer | None:
    """The activation that gives x, if its derivative can be applied to the gradient of x."""
    producer = x.producer
    if plan.observed or producer is None or producer.kind != "activation":
        return None
    if not plan.is_last_reader(x):
        return None
    source = producer.x.producer
    inside_batchnorm = source is not None and source.kind == "batchnorm" and source in plan.fused
    return None if inside_batchnorm else producer.layer
