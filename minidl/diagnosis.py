"""`diagnose`: one pass over data, in which everything that a training step does is looked at."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.data.blocks import Block, count_batches
from minidl.evaluation import blocks_of
from minidl.health import NAN, HealthReport, Thresholds
from minidl.layers.base import Layer
from minidl.losses import LossFunction
from minidl.lowering import Plan, Updates, check_rows, feed
from minidl.observation import Look, Observer, layers_of, places
from minidl.optimizers import Optimizer
from minidl.trainer import Trainer

if TYPE_CHECKING:
    from minidl.data.rows import Data
    from minidl.losses import Loss


def diagnose(
    model: Layer,
    X: Any,
    y: Any = None,
    *,
    loss: Loss | LossFunction | str | None = None,
    optimizer: Optimizer | str | None = None,
    sample_weight: Any = None,
    batch_size: int = 256,
    training: bool = True,
    vanishing: float = 1e-3,
    exploding: float = 1e3,
    dead: float = 0.5,
    saturated: float = 0.5,
    large_update: float = 0.3,
) -> HealthReport:
    """Look at a network on some data: activations, gradients, an update, and what is wrong.

    Forward, loss, backward and one update are made on a copy, with the kernels of training. The
    model keeps its parameters, running averages, gradients, modes and seeds, to the bit; the
    optimizer keeps its state.

    Parameters
    ----------
    model : Layer
    X, y, sample_weight
        As for `Trainer.fit`; gone through once, batch by batch. Some hundred rows tell enough.
    loss : Loss, function or str, default CrossEntropyLoss()
    optimizer : Optimizer or str, default Adam()
        For the ratio of update to weight. One that has trained this model goes on from its state,
        for one update with the gradient of all rows.
    batch_size : int, default 256
        Rows at a time. In training mode BatchNorm sees one batch at a time.
    training : bool, default True
        Training mode: BatchNorm has the statistics of each batch, Dropout its masks. False:
        evaluation mode.
    vanishing, exploding : float, default 1e-3 and 1e3
        A finding if the gradient at the output of the first layer with weights, over that at the
        last, is below the one or above the other.
    dead : float, default 0.5
        A finding if at least this share of a layer's units gives 0 for every row; of ReLU.
    saturated : float, default 0.5
        A finding if at least this share of a layer's output lies where tanh or sigmoid is flat:
        where its derivative is below a twentieth of its greatest.
    large_update : float, default 0.3
        A finding if the update of a weight matrix has at least this norm, relative to the weights'.

    Returns
    -------
    HealthReport
        ``print(report)`` shows a table with a row for each layer, and the verdict; it has
        ``.layers``, ``.findings``, ``.factor``, ``.plot()`` and ``.to_pandas()``.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> layers = []
    >>> for _ in range(10):
    ...     layers += [minidl.Linear(8, 8), minidl.Sigmoid()]
    >>> model = minidl.Sequential(*layers, minidl.Linear(8, 2), seed=0)
    >>> rng = np.random.default_rng(0)
    >>> report = minidl.diagnose(model, rng.normal(size=(100, 8)), rng.integers(0, 2, 100))
    >>> [finding.kind for finding in report.findings], report.factor < 0.25
    (['vanishing'], True)
    """
    batch_size = checks.count(batch_size, "batch_size", 1)
    training = checks.flag(training, "training")
    thresholds = Thresholds.checked(
        vanishing=vanishing, exploding=exploding, dead=dead, saturated=saturated,
        large_update=large_update,
    )  # fmt: skip
    trainer = Trainer(model, loss, optimizer)
    data, form = trainer._open(X, y, sample_weight)
    totals = _Totals(trainer, training)
    with blocks_of(data, batch_size, "merge") as blocks:
        for block in blocks:
            totals.add(data, block, form, batch_size)
    spots, look = totals.end()
    return HealthReport(layers_of(spots, look), look.rows, look.loss, thresholds)


class _Totals:
    """Sums over the blocks of the data."""

    def __init__(self, trainer: Trainer, training: bool) -> None:
        self.trainer, self.training = trainer, training
        self.observer: Observer
        self.key: tuple[Any, ...] | None = None
        self.values: Any = 0.0
        self.gradient: Any = 0.0
        self.active: Any = False
        self.loss = self.weight = 0.0
        self.rows = self.batches = 0

    def add(self, data: Data, block: Data | Block, form: Loss, batch_size: int) -> None:
        """Go through a block; its gradients count by the weight of its rows."""
        form, y = self.trainer._targets(data, form, block)
        rows = len(block.x[0])
        if isinstance(block, Block):
            size, batches = min(block.batch_size, rows), block.batches
        else:
            size = min(batch_size, rows)
            batches = count_batches(rows, size, "merge")
        last = rows - (batches - 1) * size
        observer = self._observer(block, form, max(size, last))
        check_rows(observer.plan.graph, min(size, last))
        program = observer.program
        feed(program, form, block.x, y, size, weight=block.weight, last_batch="merge")
        optimizer = self.trainer.optimizer
        program.set_optimizer(**optimizer.numbers(), accumulate=batches, groups=optimizer.rates())
        loss, _, weight, _ = program.sums
        finite = True
        for batch in range(batches):
            finite &= not program.visit(batch, 0, self.batches + batch)
        loss, weight = program.sums[0] - loss, program.sums[2] - weight
        own = observer.store.gradients.astype(np.float64) if finite else NAN
        self.gradient = self.gradient + own * weight
        values, _, active = observer.total()
        values[observer.gradients] *= weight**2
        self.values = self.values + values
        self.active = self.active | active
        self.loss += loss
        self.weight += weight
        self.rows += rows
        self.batches += batches

    def _observer(self, block: Data | Block, form: Loss, rows: int) -> Observer:
        """One that suits the block."""
        columns = self.trainer._columns(block)
        key = columns, type(form), form.integer_labels, form.weighted, form.columns(0)
        if self.key != key or self.observer.rows < rows:
            model = self.trainer.model
            self.observer = Observer(
                model, columns, rows, form, deepcopy(model), training=self.training
            )
            self.key = key
        return self.observer

    def end(self) -> tuple[list[Any], Look]:
        """All that was measured, with the update that the whole gradient makes."""
        observer, weight = self.observer, self.weight or 1.0
        observer.store.gradients[...] = self.gradient / weight
        self._update()
        _, moves, _ = observer.total()
        values = self.values
        values[observer.gradients] /= weight**2
        return observer.spots, Look(values, moves, self.active, self.rows, self.loss / weight)

    def _update(self) -> None:
        """The update that the optimizer makes of the observer's gradient, in its other copy."""
        observer, model = self.observer, self.observer.after
        live, optimizer = self.trainer.optimizer._state, copy(self.trainer.optimizer)
        state = optimizer.state_for(model)
        if live is not None and live.store is self.trainer.model.store():
            state.step = live.step
            for there, here in places(self.trainer.model, model, trainable=True):
                state.moments[:, here] = live.moments[:, there]
        model.store().gradients[...] = observer.store.gradients
        updates = Updates(state, optimizer.group_of, whole=True)
        plan = Plan(model, observer.plan.graph.input.columns, 1, model.dtype, updates=updates)
        plan.update()
        program = plan.build()
        program.set_optimizer(**optimizer.numbers(), groups=optimizer.rates())
        program.execute(0, len(plan.operations), 1, state.step)
