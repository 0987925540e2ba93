"""The loop over epochs: runs of the compiled program, and what Python does between them.

Data in memory are one block, and the program goes through it epoch after epoch by itself if nobody
wants a word in between. Other data come in blocks that are read ahead; an epoch is then a run a
block. Either way Python comes back every `SLICE` seconds, for Ctrl-C and the progress bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from minidl import checks
from minidl.errors import NonFiniteError
from minidl.evaluation import OUTPUTS, Outputs, evaluate, measure
from minidl.history import History
from minidl.lowering import BatchProgram, Graph, feed
from minidl.memory import check_room, empty
from minidl.schedulers import ReduceLROnPlateau, Scheduler

if TYPE_CHECKING:
    from minidl.callbacks import Callback
    from minidl.data.blocks import Block
    from minidl.data.rows import Data
    from minidl.distributed import Ranks
    from minidl.losses import Loss
    from minidl.memory import Array
    from minidl.optimizers import OptimizerState
    from minidl.schedulers import ReduceLROnPlateau
    from minidl.trainer import Trainer

Tell: TypeAlias = "Callable[[int, dict[str, float]], None]"  # of epochs, and results

SLICE = 0.1  # seconds of compiled code before Python looks after Ctrl-C and progress
SOON = 0.1  # seconds until Python takes what was seen from within
RATES = 65536  # updates whose rates are computed at once
VALIDATION_ROWS = 1024  # of a batch of validation
ORDER = "the order of the rows"  # in errors
NO_SUMS = (0.0, 0.0, 0.0, 0.0)
NO_RATES = ((None, None), 0, np.empty((0, 2)))


class Progress:
    """Where a training is: what a checkpoint holds beside the model and the optimizer's state.

    Attributes
    ----------
    epoch : int
        Epochs made.
    batch : int
        Batches made of the epoch that is under way.
    first_batch : int
        Of them, those made before the block that the program works on.
    sums : tuple of float
        Of that epoch, over its rows: loss, right rows, weight in the loss, sample weight.
    ended : list of (float, float)
        Mean loss and share of right rows of epochs that have ended and stand in no history yet.
    key : int or None
        Seed of the orders of the rows; None before the first `fit`.
    kind : tuple or None
        What the batches of that epoch are made of; an epoch goes on only with the same.
    plateau : object
        State of `ReduceLROnPlateau`.
    """

    def __init__(self) -> None:
        self.epoch = self.batch = self.first_batch = 0
        self.sums = NO_SUMS
        self.ended: list[tuple[float, float]] = []
        self.key: int | None = None
        self.kind: tuple[Any, ...] | None = None
        self.plateau: Any = None

    def to_dict(self) -> dict[str, Any]:
        """All this, as JSON can hold it."""
        plateau = None if self.plateau is None else self.plateau.to_dict()
        return {**self.__dict__, "plateau": plateau, "first_batch": 0}

    def load(self, stored: dict[str, Any]) -> None:
        """Go to where `to_dict` was called; the state of a schedule must have been begun."""
        self.epoch = checks.count(stored["epoch"], "epoch")
        self.batch = checks.count(stored["batch"], "batch")
        loss, right, weight, of_rows = map(float, stored["sums"])
        self.sums = loss, right, weight, of_rows
        self.ended = [(float(loss), float(share)) for loss, share in stored["ended"]]
        self.key = None if stored["key"] is None else checks.seed(stored["key"], "key")
        self.kind = None if stored["kind"] is None else tuple(stored["kind"])
        if self.plateau is not None and stored["plateau"] is not None:
            self.plateau.from_dict(stored["plateau"])


class Loop:
    """One call of `fit`."""

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        loss: Loss,
        *,
        batch_size: int,
        shuffle: bool,
        last_batch: str,
        key: int,
        validation: tuple[Data, Loss] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.trainer, self.data, self.loss = trainer, data, loss
        self.batch_size, self.shuffle, self.last_batch = batch_size, shuffle, last_batch
        self.validation, self.callbacks = validation, callbacks
        self.history = History(trainer.epoch)
        self.state: OptimizerState = trainer._state()
        self.progress = trainer.progress
        batches = data.batches(batch_size, last_batch)
        if batches == 0:
            raise ValueError(
                f"X: expected at least one batch, got {data.rows} rows with "
                f"batch_size={batch_size}, last_batch={last_batch!r}"
            )
        self.batches = batches
        self.updates: int | None = None if batches is None else -(-batches // trainer.accumulate)
        self.outputs: list[Outputs] = []
        self.key = key
        order = key if shuffle else None
        self.kind: tuple[Any, ...] = (
            data.rows, batch_size, order, last_batch, trainer.accumulate
        )  # fmt: skip
        self.begun = False
        self.watching: list[Callback] = []  # from within the program
        self.taken = perf_counter()  # when what they have seen was, last
        self.entered = (-1, 0, NO_SUMS)  # epoch, batch and sums, if it was under way before
        self.resumes = False
        # Rates that are known: for which schedule and rate, from which update on.
        self.known: tuple[tuple[Any, ...], int, Array] = NO_RATES
        self.least = 1 if self._has_one() else 2  # rows of a batch
        if self.least == 1:
            columns = sum(k for k in data.columns if k is not None)
            trainer._check_rows(Graph(trainer.model, columns, training=True), 1)
        # What there is no room for is said before anything is touched.
        if shuffle and data.rows is not None:
            check_room(8 * data.rows, ORDER)
        if trainer.metrics and data.rows is not None:
            outputs = trainer.model.output_features(sum(k for k in data.columns if k is not None))
            check_room(data.rows * outputs * trainer.model.dtype.itemsize, OUTPUTS)
        if trainer._ranks is None:
            self._check_ranks()

    def get_ready(self) -> None:
        """Ask for the program's memory, if it is known how much, before anything is touched."""
        if self.data.in_memory:
            self._make_program()

    def join(self, ranks: Ranks, arguments: dict[str, Any]) -> None:
        """Go through the epochs in step with the other ranks.

        Raises
        ------
        ValueError
            They have other arguments, or another number of batches.
        """
        loss, callbacks = self.loss, self.callbacks
        alike = {
            **arguments, "batch_size": self.batch_size, "shuffle": self.shuffle,
            "last_batch": self.last_batch, "columns of X": sum(k or 0 for k in self.data.columns),
            "y": (type(loss).__name__, loss.integer_labels, loss.columns(0)),
            "sample_weight": loss.weighted or self.data.weight is not None,
            "validation_data": self.validation is not None,
            "callbacks": [(type(c).__name__, c.every) for c in callbacks],
        }  # fmt: skip
        rows = ranks.meet(alike, self.data.rows)
        ranks.stopping, ranks.wants_to_stop = False, lambda: self.trainer.stop_training
        self.key, total = ranks.of_rank_0(self.key), None
        if None not in rows:
            total = sum(rows)
            self._agree_on_batches(ranks, rows)
        elif self.trainer.accumulate > 1:
            raise ValueError("accumulate: expected 1 where ranks read iterables of batches")
        order = self.key if self.shuffle else None
        kind = self.kind
        self.kind = (total, self.batch_size, order, kind[3], kind[4], ranks.size)
        self._check_ranks()

    def _agree_on_batches(self, ranks: Ranks, rows: list[int]) -> None:
        """As many batches on all ranks, though some have a row more: `last_batch` is that of all.

        A single last row is a batch of its own if other ranks have more in their last batch, and
        joins the batch before it if they have none.
        """
        from minidl.data.blocks import count_batches

        size, last = self.batch_size, self.last_batch
        counts = [count_batches(n, size, last) for n in rows]
        other = {"merge": "keep", "keep": "merge"}.get(last, last)
        if other == "merge" or ranks.sync_batchnorm:
            wanted = max(counts) if other == "keep" else min(counts)
            policies = [last if count == wanted else other for count in counts]
            counts = [count_batches(n, size, p) for n, p in zip(rows, policies, strict=True)]
            self.last_batch = policies[ranks.rank]
        if len(set(counts)) > 1:
            ranks.meet({"batches of X": counts[ranks.rank]})
        self.batches = counts[0]
        self.updates = -(-counts[0] // self.trainer.accumulate)
        self.least = 1 if self._has_one() else 2

    def _check_ranks(self) -> None:
        """An epoch that is under way goes on with as many ranks."""
        known, progress = self.progress.kind, self.progress
        if progress.batch and known is not None and known[5:] != self.kind[5:]:
            before, now = (kind[5] if len(kind) > 5 else 1 for kind in (known, self.kind))
            raise ValueError(
                f"comm: expected {before} ranks to go on within an epoch, of which they have made "
                f"{progress.batch} batches, got {now}; from the end of an epoch any number goes on"
            )

    @property
    def _stops(self) -> bool:
        """True if no step may follow; several ranks have agreed on it."""
        ranks = self.trainer._ranks
        return self.trainer.stop_training if ranks is None else ranks.stopping

    def _stop(self) -> None:
        """Let no step follow."""
        self.trainer.stop_training = True
        if self.trainer._ranks is not None:
            self.trainer._ranks.stopping = True

    @property
    def made(self) -> int:
        """Updates made of the epoch that is under way, if it can go on."""
        return self.progress.batch // self.trainer.accumulate if self._goes_on() else 0

    def _goes_on(self) -> bool:
        """True if the epoch that is under way has the same batches."""
        batch = self.progress.batch
        fits = self.data.rows is None or batch % self.trainer.accumulate == 0
        known = self.batches is None or batch < self.batches
        return self.progress.kind == self.kind and fits and known

    def _has_one(self) -> bool:
        """True if a batch is known to be a single row."""
        rows, size = self.data.rows, self.batch_size
        if rows is None:
            return False
        return size == 1 or rows == 1 or (self.last_batch == "keep" and rows % size == 1)

    # Epochs.

    def run(self, epochs: int, tell: Tell | None) -> None:
        """Make so many epochs; one that is under way is finished first, and counts.

        `tell` is called with the epochs that have ended and the last results, now and then.
        """
        progress = self.progress
        self._take_up()
        self.last = last = progress.epoch + epochs
        try:
            self._note()  # of an epoch that ended just before a checkpoint
            while progress.epoch < last and not self._stops:
                if progress.batch == 0:
                    for callback in self.callbacks:
                        callback.on_epoch_begin(progress.epoch)
                for _ in self._in_memory(last) if self.data.in_memory else self._in_blocks():
                    ended = len(progress.ended)
                    logs = self._note()
                    if tell is not None:
                        tell(ended, logs)
        finally:
            if self.watching:
                self.program.program.watch(())
            while progress.ended:  # an interrupt came first
                self._enter_results()

    def _take_up(self) -> None:
        """Go on with the epoch that is under way, if its batches are the same."""
        progress = self.progress
        if not self._goes_on():
            progress.kind, progress.batch = self.kind, 0
        progress.key = self.key
        self.resumes = progress.batch > 0

    def _in_memory(self, last: int) -> Iterator[None]:
        """Epochs up to `last` of data in memory; gives way when there may be results."""
        data, trainer, progress = self.data, self.trainer, self.progress
        if not self.begun:
            self.begun = True
            rows = cast("int", data.rows)
            self.program = self.keeper = self._make_program()
            self.order = empty((rows,), np.intp, ORDER) if self.shuffle else None
            self.out = self._room(rows) if trainer.metrics else None
            arrays = data.x, cast("Array", data.y), data.weight
            self._feed(*arrays, self.batch_size, self.last_batch, self.order, self.out)
            self._enter(progress.batch)
        status = "time"
        while status == "time" and not self._stops:
            status = self._go(last - progress.epoch if self._alone else 1)
            if self.out is not None and progress.ended:
                self._visited(self.order, self.out)
            yield

    def _make_program(self) -> BatchProgram:
        """The program for data in memory; made once, since the trainer keeps it."""
        rows = cast("int", self.data.rows)
        merged = self.last_batch == "merge" and rows % self.batch_size == 1
        rows = min(self.batch_size + merged, rows)
        columns = self.trainer._columns(self.data)
        return self.trainer._train_program(columns, self.loss, rows, self.least)

    @property
    def _alone(self) -> bool:
        """True if nobody wants a word between the epochs."""
        trainer = self.trainer
        watched = self.callbacks or self.validation or trainer.metrics or self._plateau
        return not watched and trainer._ranks is None

    def _in_blocks(self) -> Iterator[None]:
        """One epoch of data that come in blocks; gives way after each."""
        from minidl.data.background import ahead

        trainer, progress = self.trainer, self.progress
        order = None
        if self.shuffle and self.data.rows is not None:
            order = _order(self.data.rows, self._own_key, progress.epoch)
        blocks = self.data.blocks(
            order,
            self.batch_size,
            start_batch=progress.batch,
            last=self.last_batch,
            group=trainer.accumulate,
            depth=2,
        )
        epoch = progress.epoch
        with ahead(blocks) as made:
            for block, ends in _with_last(made):
                self._block(block, ends)
                yield
                if self._stops:
                    return
        if progress.epoch == epoch:
            raise ValueError(
                f"X: expected more than {progress.batch} batches, those made of this epoch before "
                "it was interrupted"
            )

    def _block(self, block: Block, ends: bool) -> None:
        """All batches of a block."""
        trainer, progress = self.trainer, self.progress
        rows = max(block.last_rows, min(block.batch_size, block.rows))
        loss, y = trainer._targets(self.data, self.loss, block)
        batch = trainer._train_program(trainer._columns(block), loss, rows, block.last_rows)
        before = self.program if self.begun else None
        self.program, self.begun = batch, True
        out = self._room(block.rows) if trainer.metrics else None
        opens = progress.batch == 0
        policy = "merge" if block.last_rows > block.batch_size else "keep"
        self._feed(block.x, y, block.weight, block.batch_size, policy, None, out, opens, ends, loss)
        progress.first_batch = progress.batch
        whole, rest = divmod(block.rows, block.batch_size)
        self.block_batches: int = max(whole + (rest > 0 and policy == "keep"), 1)
        if opens or (before is batch and not self.resumes):
            batch.program.seek(progress.epoch, 0, self.state.step, self.state.tick)
        else:
            self._enter(0)
        if opens:
            self.keeper = batch
        status = "time"
        while status == "time" and not self._stops:
            status = self._go(1)
        if out is not None:
            weight = None if block.weight is None else block.weight.copy()
            self.outputs.append(Outputs(y.copy(), out, weight))

    def _enter(self, batch: int) -> None:
        """Go to a batch of the program's data; within an epoch if one is under way."""
        program, progress = self.program.program, self.progress
        program.seek(progress.epoch, batch, self.state.step, self.state.tick)
        if progress.batch > 0:
            program.enter_epoch(progress.sums)
        if self.resumes:
            self.entered = progress.epoch, progress.batch, progress.sums
            self.keeper = self.program
        self.resumes = False

    def _feed(
        self,
        x: Sequence[Array],
        y: Array,
        weight: Array | None,
        batch_size: int,
        last_batch: str,
        order: Array | None,
        out: Array | None,
        opens: bool = True,
        ends: bool = True,
        loss: Loss | None = None,
    ) -> None:
        self.fed = partial(  # keeps the arrays alive
            feed,
            loss=loss or self.loss,
            x=x,
            y=y,
            batch_size=batch_size,
            weight=weight,
            out=out,
            order=order,
            last_batch=last_batch,
            seed=self._own_key,
            opens=opens,
            ends=ends,
            chosen=self.data.chosen if self.data.in_memory else None,
            rank_row=self.trainer.rank * batch_size,
        )
        self.fed(self.program.program)
        watches = [(c, c._watch(self)) for c in self.callbacks]
        self.watching = [callback for callback, watch in watches if watch is not None]
        self.program.program.watch(watch for _, watch in watches if watch is not None)

    @property
    def _own_key(self) -> int:
        """Key of the orders of this rank."""
        key, ranks = self.progress.key or 0, self.trainer._ranks
        return key if ranks is None else ranks.key(key)

    # Runs of the program.

    def _go(self, epochs: int) -> str:
        """A run of the program: until the epochs end, a callback is due, or time is up."""
        program, state = self.program.program, self.state
        self._set_rates()
        asking = [c for c in self.callbacks if c.looks_at_steps()]
        due = [c.every - state.step % c.every for c in asking if c.every]
        before = state.step
        status, _, _ = program.run(epochs, SLICE, state, self.progress, min(due, default=0))
        if status in ("loss", "parameters", "gradient"):
            self._not_finite(status)
        if self.watching and (program.logs_full or perf_counter() > self.taken + SOON):
            self.taken = perf_counter()
            for callback in self.watching:
                callback._take_looks()
        if self._stops:
            self.trainer.stop_training = True
        if state.step > before:
            for callback in asking:
                if callback.every and state.step % callback.every == 0:
                    callback.on_train_batch_end(state.step, {"loss": program.last_loss})
        return status

    def _set_rates(self) -> None:
        """Tell the program the rates of the updates of its next run, and of those behind it."""
        trainer, state = self.trainer, self.state
        program = self.program.program
        scheduler, base = trainer.scheduler, trainer.optimizer.lr
        if scheduler is None or self._plateau:
            self.known = NO_RATES
            trainer._set_optimizer(program)
            return
        trainer._set_optimizer(program, lr=base)  # the rates follow
        # Data in blocks may end an epoch when they like; the rates are then those of one epoch.
        within = None if self.data.in_memory else self.progress.epoch
        known = scheduler, base, trainer.optimizer.numbers()["beta1"], within
        first, rates = self.known[1:]
        if self.known[0] != known or not first <= state.step < first + len(rates):
            rates = self._rates(scheduler, base, min(self._updates_ahead(), RATES))
            first = state.step
            self.known = known, first, rates
        program.set_rates(rates, first)

    def _updates_ahead(self) -> int:
        """Updates that are known to follow: a schedule is not asked what comes after them."""
        progress, group = self.progress, self.trainer.accumulate
        if self.data.in_memory:
            epochs = self.last - progress.epoch
            return epochs * (self.updates or 1) - progress.batch // group
        return -(-(self.block_batches - (progress.batch - progress.first_batch)) // group)

    def _rates(self, scheduler: Scheduler, base: float, count: int) -> Array:
        """Rate and momentum of each of the next updates, (count, 2)."""
        turn, first = np.arange(count), self.state.step
        if scheduler.interval == "epoch":
            first = self.progress.epoch
            within = (turn + self.made) // (self.updates or 1)
            turn = within if self.data.in_memory else turn * 0
        times = int(turn[-1]) + 1
        rates = np.full((count, 2), self.trainer.optimizer.numbers()["beta1"])
        rates[:, 0] = scheduler.rates(base, first, times)[turn]
        momenta = scheduler.momenta(first, times)
        if momenta is not None:
            own = np.isnan(momenta)[turn]
            rates[~own, 1] = momenta[turn][~own]
        return rates

    @property
    def _plateau(self) -> ReduceLROnPlateau | None:
        """The schedule, if it follows what is measured."""
        scheduler = self.trainer.scheduler
        return scheduler if isinstance(scheduler, ReduceLROnPlateau) else None

    def _not_finite(self, status: str) -> None:
        """Go back to the last good epoch; raise, unless a callback takes the error."""
        progress = self.progress
        error = not_finite(self.program, status, self.state, self.keeper, self.trainer._ranks)
        progress.epoch, _, _ = self.keeper.program.saved_position
        entered = self.entered if self.entered[0] == progress.epoch else (0, 0, NO_SUMS)
        _, progress.batch, progress.sums = entered
        self._note()
        taken = [callback.on_not_finite(error) for callback in self.callbacks]
        if not any(taken):
            raise error
        self._stop()

    # Results.

    def _room(self, rows: int) -> Array:
        """An array for predictions."""
        columns = self.program.columns
        return empty((rows, columns), self.trainer.model.dtype, OUTPUTS)

    def _visited(self, order: Array | None, out: Array) -> None:
        """Note the predictions of an epoch: those of the rows that it has visited."""
        data, rows = self.data, len(out)
        y = data.pick(cast("Array", data.y))
        weight = None if data.weight is None else data.pick(data.weight)
        if self.last_batch == "drop":
            rows -= rows % self.batch_size  # of a batch left out
        epoch, batch, _ = self.entered
        first = batch * self.batch_size if epoch == self.progress.epoch - 1 else 0
        if first or rows < len(out):
            seen = np.arange(first, rows) if order is None else order[first:rows]
            y, out, weight = y[seen], out[seen], None if weight is None else weight[seen]
        self.outputs = [Outputs(y, out, weight)]

    def _note(self) -> dict[str, float]:
        """Results of epochs that have ended: history, validation, callbacks."""
        if self._alone:
            return self._enter_all()
        logs: dict[str, float] = {}
        while self.progress.ended:
            epoch, histories, logs = self._enter_results()
            logs |= self._measured(epoch)
            if self._plateau is not None:
                self._follow(self._plateau, logs)
            self._merge(histories, logs)
            for callback in self.callbacks:
                before = dict(logs)
                callback.on_epoch_end(epoch, logs)
                if logs != before:
                    self._merge(histories, logs)
            ranks = self.trainer._ranks
            if ranks is not None:
                ranks.end_epoch(self.trainer.model.store())
                self.trainer.stop_training |= ranks.stopping
        return logs

    def _enter_all(self) -> dict[str, float]:
        """Enter the results of all epochs that have ended, where nobody adds anything: quickly."""
        progress, ended = self.progress, self.progress.ended
        if not ended:
            return {}
        first = progress.epoch - len(ended)
        columns = {"loss": [mean for mean, _ in ended]}
        if self.loss.metric:
            columns[self.loss.metric] = [share for _, share in ended]
        if self.trainer.scheduler is not None:
            columns["lr"] = [self._rate_of(epoch) for epoch in range(first, progress.epoch)]
        for history in (self.history, self.trainer.history):
            known = max(history.first + len(history) - first, 0)
            history.extend({name: values[known:] for name, values in columns.items()})
        del ended[:]
        return {name: values[-1] for name, values in columns.items()}

    def _enter_results(self) -> tuple[int, list[History], dict[str, float]]:
        """Enter what the program has measured of an epoch; its number, where, and what it is.

        An interrupt may come anywhere: what is entered already is not entered again.
        """
        progress = self.progress
        epoch = progress.epoch - len(progress.ended)
        mean, share = progress.ended[0]
        logs = {"loss": mean} | ({self.loss.metric: share} if self.loss.metric else {})
        histories = [h for h in (self.history, self.trainer.history) if h.first <= epoch]
        for history in histories:
            if history.first + len(history) <= epoch:
                history.append(logs)
        del progress.ended[0]
        return epoch, histories, logs

    def _measured(self, epoch: int) -> dict[str, float]:
        """What else there is to say of an epoch."""
        trainer = self.trainer
        logs: dict[str, float] = {}
        if trainer.metrics and self.outputs:
            logs |= measure(trainer.metrics, self.outputs, self.loss, trainer._ranks)
            self.outputs = []
        if self.validation is not None:
            measured = evaluate(trainer, *self.validation, VALIDATION_ROWS)
            logs |= {f"val_{name}": value for name, value in measured.items()}
        if trainer.scheduler is not None:
            logs["lr"] = self._rate_of(epoch)
        return logs

    @staticmethod
    def _merge(histories: list[History], logs: dict[str, float]) -> None:
        for history in histories:
            history.merge_last(logs)

    def _follow(self, scheduler: ReduceLROnPlateau, logs: dict[str, float]) -> None:
        """Show `ReduceLROnPlateau` what it follows."""
        progress, name = self.progress, scheduler.monitor
        if name not in logs:
            raise ValueError(
                f"scheduler: expected {name!r} among what is measured each epoch, got "
                f"{sorted(logs)}"
            )
        if progress.plateau is None:
            progress.plateau = scheduler.start()
        progress.plateau.step(logs[name])

    def _rate_of(self, epoch: int) -> float:
        """The rate of the last update of an epoch that has just ended."""
        scheduler, trainer = self.trainer.scheduler, self.trainer
        if scheduler is None or self._plateau:
            return trainer.lr
        later = (self.progress.epoch - 1 - epoch) * (self.updates or 0) + self.made
        step = max(self.state.step - 1 - later, 0)
        _, first, rates = self.known
        if 0 <= step - first < len(rates):
            return float(rates[step - first, 0])  # what the program had
        t = epoch if scheduler.interval == "epoch" else step
        return scheduler.rate(trainer.optimizer.lr, t)


def not_finite(
    batch: BatchProgram,
    status: str,
    state: OptimizerState,
    keeper: BatchProgram,
    ranks: Ranks | None = None,
) -> NonFiniteError:
    """Bring back what `keeper` has saved, and say what happened in `batch`, on whatever rank."""
    program = batch.program
    epoch, position, step, tick = program.position()
    if status == "parameters":  # found at the end of the epoch
        epoch, step, tick, position = epoch - 1, step - 1, tick - 1, -1
    find, where = partial(batch.plan.first_not_finite, position, step, tick), ""
    if ranks is None:
        layer = find()
    else:
        layer, where = ranks.first_not_finite(batch.plan, find)
    what = {"loss": "the loss", "parameters": "a parameter", "gradient": "the gradient"}[status]
    if status == "parameters" and np.isfinite(state.store.values).all():
        what = "a moment of the optimizer"
    keeper.restore()
    _, state.step, state.tick = keeper.program.saved_position
    place = f"layer {layer}" if layer else "the loss itself"
    return NonFiniteError(
        f"{what} became NaN or infinite in epoch {epoch}, step {step}{where}, first in {place}; "
        "parameters are those of the last good epoch. Try a lower learning rate, scaled inputs, or "
        "BatchNorm1d",
        epoch,
        step,
        layer,
    )


def _order(rows: int, seed: int, epoch: int) -> Array:
    """The order in which an epoch visits the rows: the program's own."""
    from minidl.kernels.random import shuffle_into

    order = empty((rows,), np.intp, ORDER)
    shuffle_into(order.ctypes.data, rows, seed, epoch)
    return order


def _with_last(items: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Items, each with whether it is the last."""
    held = next(items, None)
    while held is not None:
        following = next(items, None)
        yield held, following is None
        held = following
