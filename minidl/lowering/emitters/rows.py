"""LayerNorm, RMSNorm, Softmax and PReLU: row by row; gradients of parameters by blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from minidl.kernels.operations import BLOCKS
from minidl.layers.layernorm import RowNorm
from minidl.layers.prelu import PReLU

if TYPE_CHECKING:
    from minidl.lowering.graph import Node
    from minidl.lowering.placement import Buffer
    from minidl.lowering.plan import Plan
    from minidl.parameters import Parameter

KEPT = 3  # numbers of a row that LayerNorm keeps, in double precision


def layernorm_forward(plan: Plan, node: Node) -> None:
    """Y = gamma xhat + beta."""
    layer, columns = cast(RowNorm, node.layer), node.y.columns
    plan.data[node.y] = y = plan.matrix(columns)
    plan.statistics[node] = kept = plan.buffer(plan.rows, KEPT, 8 * KEPT)
    parameters = [plan.values(plan.parameter(layer, name)) for name in ("weight", "bias")]
    plan.emit(
        "LAYERNORM",
        [y, kept, plan.data[node.x], *parameters],
        [columns, plan.ld(columns), int(layer.centered)],
        a=layer.epsilon(plan.dtype),
    )


def layernorm_backward(plan: Plan, node: Node) -> None:
    """The gradient of x, and of gamma and beta."""
    layer, columns = cast(RowNorm, node.layer), node.y.columns
    dy, ld = plan.gradients[node.y], plan.ld(columns)
    dx = plan.writable(dy) if node.x in plan.needed else None
    gamma, beta = (plan.parameter(layer, name) for name in ("weight", "bias"))
    partial = None if gamma is None else plan.buffer(2 * BLOCKS, columns, dy.pitch)
    plan.emit(
        "LAYERNORM_BACKWARD",
        [dx, partial, dy, plan.data[node.x], plan.statistics[node], plan.values(gamma)],
        [columns, ld, int(layer.centered)],
    )
    if dx is not None:
        plan.give(node.x, dx)
    if partial is not None:
        _sum_of_blocks(plan, gamma, partial, 0, 2 * ld)
        _sum_of_blocks(plan, beta, partial, ld, 2 * ld)


def softmax_forward(plan: Plan, node: Node) -> None:
    """Y = e^x / sum e^x."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    plan.emit("SOFTMAX", [y, plan.data[node.x]], [y.columns, plan.ld(y.columns)])


def softmax_backward(plan: Plan, node: Node) -> None:
    """Dx = y (dy - sum dy y)."""
    dy, y = plan.gradients[node.y], plan.data[node.y]
    dx = plan.writable(dy)
    plan.emit("SOFTMAX_BACKWARD", [dx, dy, y], [y.columns, plan.ld(y.columns)])
    plan.give(node.x, dx)


def prelu_forward(plan: Plan, node: Node) -> None:
    """Y = x where x > 0, else w x."""
    plan.data[node.y] = y = plan.matrix(node.y.columns)
    weight = plan.values(plan.parameter(node.layer, "weight"))
    plan.emit("PRELU", [y, plan.data[node.x], weight], _prelu_sizes(plan, node))


def prelu_backward(plan: Plan, node: Node) -> None:
    """The gradient of x, and of w."""
    dy, weight = plan.gradients[node.y], plan.parameter(node.layer, "weight")
    dx = plan.writable(dy) if node.x in plan.needed else None
    partial, sizes = plan.matrix(node.y.columns, BLOCKS), _prelu_sizes(plan, node)
    pointers = [dx, partial, dy, plan.data[node.x], plan.values(weight)]
    plan.emit("PRELU_BACKWARD", pointers, sizes)
    if dx is not None:
        plan.give(node.x, dx)
    _sum_of_blocks(plan, weight, partial, 0, plan.ld(node.y.columns), one=sizes[2])


def _prelu_sizes(plan: Plan, node: Node) -> list[int]:
    one = cast(PReLU, node.layer).num_parameters == 1
    return [*plan.width_and_ld(node.y.columns), int(one)]


def _sum_of_blocks(
    plan: Plan,
    parameter: Parameter | None,
    partial: Buffer,
    first: int,
    distance: int,
    one: int = 0,
) -> None:
    """Add the blocks' sums, from vector `first` on, to the gradient of a parameter; its update.

    Both share the parameter's vectors alike: no barrier stands between them.
    """
    if parameter is None:
        return
    gradient = plan.gradient(parameter)
    sizes = [plan.ld(parameter.shape[0]), first, distance, one]
    plan.weight_operations.append(lambda: plan.emit("BLOCK_SUMS", [gradient, partial], sizes))
    plan.update_parameter(parameter, gradient)
