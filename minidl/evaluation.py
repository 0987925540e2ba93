"""Loss and metrics of a model on data, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from minidl.lowering import feed, mode
from minidl.memory import Array, check_room, empty

if TYPE_CHECKING:
    from minidl.data.rows import Data
    from minidl.distributed import Ranks
    from minidl.losses import Loss
    from minidl.metrics import Metric
    from minidl.trainer import Trainer


OUTPUTS = "the outputs that metrics are taken of"  # in errors


class Outputs(NamedTuple):
    """Targets, what the network gave for them, and weights of the rows."""

    y: Array
    predicted: Array
    weight: Array | None


@contextmanager
def blocks_of(data: Data, batch_size: int, last: str = "keep") -> Iterator[Iterator[Any]]:
    """Parts of the data with x, y and weight: one, if they lie in memory; else read ahead.

    `last` is that of `Data.blocks`.
    """
    if data.in_memory:
        yield iter([data])
        return
    from minidl.data.background import ahead

    with ahead(data.blocks(None, batch_size, last=last)) as blocks:
        yield blocks


def evaluate(trainer: Trainer, data: Data, loss: Loss, batch_size: int) -> dict[str, float]:
    """What `Trainer.evaluate` returns."""
    ranks = trainer._ranks
    sums, outputs = go_through(trainer, data, loss, batch_size, bool(trainer.metrics))
    if ranks is not None:
        sums = ranks.sum_of(sums)
    return results(loss, sums) | measure(trainer.metrics, outputs, loss, ranks)


def go_through(
    trainer: Trainer, data: Data, loss: Loss, batch_size: int, wanted: bool
) -> tuple[list[float], list[Outputs]]:
    """All rows in evaluation mode: the sums that `results` takes, and the outputs if `wanted`."""
    model, sums = trainer.model, np.zeros(4)
    outputs: list[Outputs] = []
    with mode(model, False), blocks_of(data, batch_size) as blocks:
        for block in blocks:
            # Those in memory have been checked when they were opened.
            y = cast("Array", data.y)
            if not data.in_memory:
                loss, y = trainer._targets(data, loss, block)
            chosen, weight = block.chosen, block.weight
            rows = len(block.x[0] if chosen is None else chosen)
            size = min(batch_size, rows)
            batch = trainer._program("evaluate", trainer._columns(block), size, loss)
            if wanted and data.rows is not None and not outputs:  # is there room for all of them?
                check_room(data.rows * batch.columns * model.dtype.itemsize, OUTPUTS)
            out = empty((rows, batch.columns), model.dtype, OUTPUTS) if wanted else None
            feed(batch.program, loss, block.x, y, size, weight=weight, out=out, chosen=chosen)
            batch.program.seek(0, 0, 0, 0)
            status = "time"
            while status == "time":
                status, _, _ = batch.program.run(1, 0.1)
            sums += batch.program.sums if status == "done" else np.nan
            if out is not None:
                weight = None if weight is None else block.pick(weight)
                outputs.append(Outputs(block.pick(y), out, weight))
    return sums.tolist(), outputs


def results(loss: Loss, sums: Sequence[float]) -> dict[str, float]:
    """Mean loss, and the share of right rows if the loss has it."""
    total, right, weight, of_rows = sums
    logs = {"loss": total / weight if weight else (0.0 if total == 0 else float("nan"))}
    return logs | ({loss.metric: right / of_rows if of_rows else 0.0} if loss.metric else {})


def measure(
    metrics: Sequence[Metric],
    outputs: Sequence[Outputs],
    loss: Loss,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """The metrics of all outputs, of all ranks; that which comes with the loss is left out."""
    wanted = [metric for metric in metrics if metric.name != loss.metric]
    if not wanted:
        return {}
    if ranks is not None:
        gathered: dict[str, float] = ranks.at_rank_0(
            lambda given: measure(wanted, list(chain.from_iterable(given)), loss), outputs
        )
        return gathered
    y, predicted = (np.concatenate([getattr(o, n) for o in outputs]) for n in ("y", "predicted"))
    weights = [o.weight for o in outputs if o.weight is not None]
    weight = np.concatenate(weights) if weights else None
    return {metric.name: metric(y, predicted, loss.task, weight) for metric in wanted}
