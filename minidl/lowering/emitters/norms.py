"""BatchNorm, with the activation behind it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from minidl.kernels.operations import BLOCK_ROWS, BLOCKS, REPLICA_ROWS
from minidl.layers.batchnorm import BatchNorm1d
from minidl.memory import address
from minidl.parameters import Parameter

if TYPE_CHECKING:
    from minidl.distributed import Ranks
    from minidl.lowering.graph import Node
    from minidl.lowering.plan import Plan


def batchnorm_forward(plan: Plan, node: Node) -> None:
    """Statistics, merged behind a barrier; then y = activation(gamma xhat + beta)."""
    layer = cast(BatchNorm1d, node.layer)
    out, activation = plan.result(node)
    sizes = plan.width_and_ld(out.columns)
    x, y = plan.data[node.x], plan.matrix(out.columns)
    plan.data[out] = y
    again = node in plan.statistics  # in the backward pass: its statistics stay
    if not again:
        plan.statistics[node] = plan.matrix(out.columns, REPLICA_ROWS * plan.threads)
    replica = plan.statistics[node]
    gamma, beta, mean, var = (
        plan.values(plan.parameter(layer, name))
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    if plan.graph.trains(layer) and not again:
        blocks, ranks = plan.matrix(out.columns, BLOCK_ROWS * BLOCKS), _synchronised(plan, node)
        plan.emit("BN_BLOCKS", [blocks, x], sizes)
        plan.barrier()
        if ranks is not None:
            plan.call(partial(ranks.merge_statistics, plan, blocks), [blocks])
        pointers = [replica, mean, var, blocks, gamma, beta, address(layer.num_batches_tracked)]
        plan.emit(
            "BN_MERGE",
            [*pointers, None if ranks is None else address(plan.rows_of_all)],
            sizes,
            a=layer.eps,
            b=-1.0 if layer.momentum is None else layer.momentum,
        )
    elif not again:
        plan.emit("BN_RUNNING", [replica, mean, var, gamma, beta], sizes, a=layer.eps)
    plan.emit("BN_NORMALIZE", [y, x, replica], sizes, activation=activation)


def _synchronised(plan: Plan, node: Node) -> Ranks | None:
    """The ranks over all of whose rows the statistics are taken, if there are several."""
    ranks = plan.ranks
    synchronised = ranks is not None and ranks.sync_batchnorm and plan.graph.trains(node.layer)
    return ranks if synchronised else None


def batchnorm_backward(plan: Plan, node: Node) -> None:
    """Sums over rows, merged behind a barrier; then dx."""
    layer = cast(BatchNorm1d, node.layer)
    out, activation = plan.result(node)
    dy, x, sizes = plan.gradients[out], plan.data[node.x], plan.width_and_ld(out.columns)
    before = dy if activation is None else plan.writable(dy)
    blocks, ranks = plan.matrix(out.columns, BLOCK_ROWS * BLOCKS), _synchronised(plan, node)
    replica = plan.statistics[node]
    gamma, beta = (cast(Parameter, plan.parameter(layer, n)) for n in ("weight", "bias"))
    dgamma, dbeta = plan.gradient(gamma), plan.gradient(beta)
    plan.emit(
        "BN_GRADIENTS",
        [blocks, dy, plan.data[out], x, replica, before],
        sizes,
        activation=activation,
    )
    plan.barrier()
    trains = int(plan.graph.trains(layer))
    plan.emit("BN_MERGE_GRAD", [replica, dgamma, dbeta, blocks], [*sizes, trains])
    if ranks is not None:  # dgamma and dbeta are of this rank; dx depends on the rows of all
        plan.call(partial(ranks.sum_statistics, plan, blocks), [blocks])
        all_rows = address(plan.rows_of_all)
        plan.emit("BN_MERGE_GRAD", [replica, None, None, blocks, all_rows], [*sizes, trains])
    if node.x in plan.needed:
        dx = plan.writable(before)
        plan.emit("BN_BACKWARD", [dx, before, x, replica], sizes)
        plan.give(node.x, dx)
    plan.update_parameter(gamma, dgamma)
    plan.update_parameter(beta, dbeta)
