"""The trainer: what it takes and gives; no maths. The loop over epochs stands in `loop.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from minidl import changes, checks, ending, losses, optimizers
from minidl.callbacks import Callback, ProgressBar, as_callbacks
from minidl.checkpoint import (
    OPTIONS,
    described,
    go_on_from_rank_0,
    restore_state,
    resume,
    save_checkpoint,
    state_tensors,
)
from minidl.evaluation import evaluate
from minidl.footprint import Way, as_bytes, as_checkpoint, choose
from minidl.history import History
from minidl.inputs import open_inputs
from minidl.layers.base import Layer
from minidl.layers.batchnorm import BatchNorm1d
from minidl.loop import Loop, Progress, Tell, not_finite
from minidl.losses import CrossEntropyLoss, Loss, LossFunction, as_loss
from minidl.lowering import BatchProgram, Updates, check_rows, feed, mode, signature
from minidl.memory import Array
from minidl.metrics import Metric, as_metrics
from minidl.optimizers import Adam, Optimizer, OptimizerState
from minidl.parallel import room
from minidl.recalibration import recalibrate
from minidl.schedulers import ReduceLROnPlateau, Scheduler, as_scheduler

if TYPE_CHECKING:
    from minidl.data.blocks import Block
    from minidl.data.rows import Data
    from minidl.distributed import Ranks
    from minidl.kernels.program import Program
    from minidl.lowering import Graph
    from minidl.memory_report import MemoryReport


def parts_of(data: Any) -> tuple[Any, Any, Any]:
    """X, y and sample_weight of validation data; a list of tuples is one of batches."""
    batches = isinstance(data, list) and all(isinstance(item, tuple) for item in data)
    if isinstance(data, (tuple, list)) and not batches:
        if len(data) in (2, 3):
            return data[0], data[1], data[2] if len(data) == 3 else None
        got = f"{len(data)} of them"
    elif not hasattr(data, "shape"):
        return data, None, None
    else:
        got = type(data).__name__
    raise ValueError(
        "validation_data: expected (X, y), (X, y, sample_weight), or an iterable of batches, got "
        f"{got}"
    )


def _layer(value: Any, name: str) -> Layer:
    """The model."""
    if not isinstance(value, Layer):
        raise TypeError(f"{name}: expected a Layer, got {type(value).__name__}")
    return value


def _loss(value: Any, name: str) -> Loss:
    """The loss, of a name, a function or None too."""
    if isinstance(value, str):
        return losses.by_name(value)
    return CrossEntropyLoss() if value is None else as_loss(value)


def _optimizer(value: Any, name: str) -> Optimizer:
    """The optimizer, of a name or None too."""
    if isinstance(value, str):
        return optimizers.by_name(value)
    if value is not None and not isinstance(value, Optimizer):
        raise TypeError(f"{name}: expected an Optimizer, got {value!r}")
    return Adam() if value is None else value


class Options(NamedTuple):
    """Arguments of `fit` besides the data."""

    epochs: int
    batch_size: int
    shuffle: bool
    seed: int | None
    last_batch: str
    total_epochs: int | None
    callbacks: Sequence[Callback]

    def checked(self) -> Options:
        """The same, or an error that names the argument."""
        checks.one_of(self.last_batch, ("merge", "keep", "drop"), "last_batch")
        return self._replace(
            epochs=checks.count(self.epochs, "epochs"),
            batch_size=checks.count(self.batch_size, "batch_size", 1),
            shuffle=checks.flag(self.shuffle, "shuffle"),
            seed=None if self.seed is None else checks.positive_int(self.seed, "seed", 0),
            callbacks=as_callbacks(self.callbacks),
        )


def _comm(value: Any, name: str) -> Any:
    """The communicator of the processes that train together, or None."""
    if value is None:
        return None
    from minidl.distributed import as_comm

    return as_comm(value, name)


# Those that the program has.
NUMBERS = (
    "clip_grad_norm", "clip_grad_value", "accumulate", "ema_decay", "micro_batch_size",
    "checkpoint", "memory_limit",
)  # fmt: skip
_positive = checks.optional(checks.bounds(0, open_low=True))


class Trainer(checks.Checked):
    """Trains a model.

    Parameters
    ----------
    model : Layer
        Mostly a `Sequential`.
    loss : Loss, function or str, default CrossEntropyLoss()
        A function takes (prediction, y) and returns (loss, gradient); a name, in capitals or not,
        stands for a loss with its defaults.
    optimizer : Optimizer or str, default Adam(lr=1e-3)
        A name stands for an optimizer with its defaults.
    scheduler : Scheduler or function, optional
        The learning rate over epochs or steps; a function gives the factor of the optimizer's rate
        for each epoch, from 0, as in `LambdaLR`.
    metrics : sequence of str, Metric or function, default ()
        Measured each epoch on training and validation data, and by `evaluate`: see
        `minidl.metrics`. On training data they are those of the predictions made while training;
        of an epoch that was interrupted, of those made since.
    clip_grad_norm : float, optional
        The greatest norm of the gradient of all parameters; a larger one is scaled down.
    clip_grad_value : float, optional
        The greatest size of each element of the gradient.
    accumulate : int, default 1
        Batches whose gradients are summed before an update: memory of a small batch, the gradient
        of one `accumulate` times as large (but BatchNorm's, which sees one batch at a time).
    ema_decay : float in [0, 1), optional
        Keep a moving average of the parameters with this decay, for `ema_model`.
    micro_batch_size : int, optional
        The most rows of a batch that are gone through at a time. Gradients are summed over the
        parts, so updates are those of the whole batch, to rounding, and so are the masks of
        Dropout; activations take the memory of a part. BatchNorm normalises each part by its own
        statistics, and averages over the parts: with it the results are those of smaller batches,
        and parts must have at least 3 rows. Gradients of parameters take memory of their own.
    checkpoint : int or "sqrt", optional
        Recompute activations: forward keeps what is between so many segments of the model, and
        backward computes the rest of a segment anew before it goes through it. ``"sqrt"``: as many
        as the root of the number of layers with weights, which takes the least memory where layers
        are alike. Parameters are the same to the bit; a step takes up to a third longer. Layers in
        Python are called twice, and must give the same.
    memory_limit : int or str, optional
        Bytes, or text like ``"512MB"`` or ``"2GiB"``, that training may take: parameters,
        gradients, optimizer, copies and workspace, as `memory` has them, but not the data, nor what
        validation takes. If a batch takes more, the fastest that fits is chosen of
        `micro_batch_size` (not with BatchNorm) and `checkpoint`, as far as they are not given;
        `memory` and the progress bar say which. It depends on the number of threads, whose scratch
        counts: for the same bits everywhere give `micro_batch_size` itself.
    comm : mpi4py.MPI.Comm, optional
        The processes (ranks) that train this model together, such as ``MPI.COMM_WORLD`` under
        `mpiexec`: each makes the same trainer, and calls `fit`, `evaluate`, `train_step` and
        `recalibrate_batchnorm` with rows of its own; see `minidl.distributed`. `batch_size` is that
        of a rank: a step is made from a batch of each. All go on from the state of rank 0, and have
        the same results; rank 0 shows them and writes files. It stays as it is; a copy has none.
    sync_batchnorm : bool, default True
        With `comm`, BatchNorm's statistics are those of the batches of all ranks; else each rank
        has its own, and running averages are averaged at the end of an epoch. It stays as it is.

    Attributes
    ----------
    stop_training : bool
        Callbacks set it to stop `fit` after the epoch, or the steps they are called after.
    history : History
        One value an epoch of all that was measured, over all calls of `fit`.
    epoch, step : int
        Epochs and updates made so far.
    rank : int
        Number of this process in `comm`; 0 without.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2)); y = (X[:, 0] > X[:, 1]).astype(int)
    >>> model = minidl.Sequential(minidl.Linear(2, 16), minidl.ReLU(), minidl.Linear(16, 2), seed=0)
    >>> trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01))
    >>> history = trainer.fit(X, y, epochs=50, batch_size=32, seed=0)
    >>> history.history["accuracy"][-1] > 0.9
    True
    """

    # The arguments may be changed between calls of `fit`, and are checked then too.
    _checked: ClassVar[Mapping[str, checks.Check]] = {
        "model": _layer,
        "loss": _loss,
        "optimizer": _optimizer,
        "scheduler": checks.optional(as_scheduler),
        "metrics": lambda value, name: as_metrics(value),
        "clip_grad_norm": _positive,
        "clip_grad_value": _positive,
        "accumulate": lambda value, name: checks.count(value, name, 1),
        "ema_decay": checks.optional(checks.bounds(0, 1, open_high=True)),
        "micro_batch_size": checks.optional(lambda value, name: checks.count(value, name, 1)),
        "checkpoint": checks.optional(as_checkpoint),
        "memory_limit": checks.optional(as_bytes),
        "stop_training": checks.flag,
        "comm": _comm,
        "sync_batchnorm": checks.flag,
    }
    _fixed = ("comm", "sync_batchnorm")
    model: Layer
    loss: Loss
    optimizer: Optimizer
    scheduler: Scheduler | None
    metrics: list[Metric]
    memory_limit: int | str | None

    def __init__(
        self,
        model: Layer,
        loss: Loss | LossFunction | str | None = None,
        optimizer: Optimizer | str | None = None,
        *,
        scheduler: Scheduler | Any = None,
        metrics: Sequence[str | Metric | Any] = (),
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        accumulate: int = 1,
        ema_decay: float | None = None,
        micro_batch_size: int | None = None,
        checkpoint: int | str | None = None,
        memory_limit: int | str | None = None,
        comm: Any = None,
        sync_batchnorm: bool = True,
    ) -> None:
        self.progress = Progress()
        parts = {"model": model, "loss": loss, "optimizer": optimizer, "scheduler": scheduler}
        for name, value in parts.items():
            setattr(self, name, value)
        self.metrics = metrics  # type: ignore[assignment]  # made of names and functions
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value
        self.accumulate = accumulate
        self.ema_decay = ema_decay
        self.micro_batch_size = micro_batch_size
        self.checkpoint = checkpoint
        self.memory_limit = memory_limit
        self.comm = comm
        self.sync_batchnorm = sync_batchnorm
        self._ranks = self._make_ranks()
        self.stop_training = False
        self.history = History()
        self.callbacks: Sequence[Callback] = ()
        self.resumed_callbacks: list[tuple[str, dict[str, Any]]] = []
        self._programs: dict[str, tuple[Any, int, BatchProgram]] = {}
        self._known: dict[str, tuple[Any, ...]] = {}  # for what a program is known to be right
        self.way = Way()  # how batches are gone through
        self._busy = False
        self._loop: Loop | None = None  # of the `fit` that runs

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what may be set, to what fits; numbers that the program has stay while it runs."""
        if name in NUMBERS and self.__dict__.get("_busy"):
            self._checked[name](value, name)
            raise AttributeError(f"{name}: cannot be changed while training")
        super().__setattr__(name, value)
        if name == "scheduler":  # begins anew
            new = self.scheduler
            self.progress.plateau = new.start() if isinstance(new, ReduceLROnPlateau) else None

    def _make_ranks(self) -> Ranks | None:
        """The processes that train together, if they are several."""
        if self.comm is None or self.comm.Get_size() == 1:
            return None
        from minidl.distributed import Ranks

        return Ranks(self.comm, self.sync_batchnorm)

    @property
    def rank(self) -> int:
        """Number of this process among those that train together."""
        return 0 if self._ranks is None else self._ranks.rank

    @property
    def epoch(self) -> int:
        """Epochs made so far."""
        return self.progress.epoch

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self._state().step

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        scheduler, base = self.scheduler, self.optimizer.lr
        if scheduler is None:
            return base
        if isinstance(scheduler, ReduceLROnPlateau):
            return scheduler.rate_after(base, self.progress.plateau)
        return scheduler.rate(base, self._time)

    @property
    def _time(self) -> int:
        """What the schedule counts."""
        return self.step if self.scheduler and self.scheduler.interval == "step" else self.epoch

    def _state(self) -> OptimizerState:
        """What the optimizer keeps for the model."""
        return self.optimizer.state_for(self.model)

    def _check_free(self) -> None:
        """Raise if it trains."""
        if self._busy:
            raise RuntimeError("this trainer is training already, in a callback or another thread")

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The model in training mode, for one caller at a time."""
        self._check_free()
        own = self.__dict__  # written to without a call: no interrupt comes between
        try:
            own["_busy"] = True
            ending.running.add(self)
            with mode(self.model, True):
                yield
        finally:
            own["_busy"] = False
            ending.running.discard(self)

    # Data and programs.

    def _open(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        prefix: str = "",
        epochs: int = 1,
        load: bool = False,
    ) -> tuple[Data, Loss]:
        """The data, checked as far as they lie in memory, and the loss as it suits them."""
        names = [f"{prefix}{name}" for name in ("X", "y", "sample_weight")]
        data = open_inputs(self.model, X, y, sample_weight, names, epochs)
        if load:
            data.load()
        return data, self._suit(data, sample_weight is not None, names)

    def _suit(self, data: Data, weighted: bool, names: Sequence[str]) -> Loss:
        """The loss as it suits data that were opened, and their targets as it takes them."""
        loss = self.loss if data.y_like is None else self.loss.bound(data.y_like)
        self._check_metrics(loss, weighted)
        if data.rows == 0 and not data.in_memory:
            raise ValueError(f"{names[0]}: expected at least one row, got none")
        if data.in_memory:
            checks.not_empty(data.x[0], names[0])
            loss, data.y = self._targets(data, loss, data, names)
        return loss

    def _check_metrics(self, loss: Loss, weighted: bool) -> None:
        """Raise if a metric does not suit the loss, or sample weights."""
        for metric in self.metrics:
            metric.check(loss.task, weighted)

    def _targets(
        self, data: Data, loss: Loss, block: Data | Block, names: Sequence[str] = ("X", "y")
    ) -> tuple[Loss, Array]:
        """The targets of a block as the kernels read them, and the loss as it suits them."""
        wanted = self.model.categories(0, self._columns(block))
        checks.categories(block.x, wanted, names[0], getattr(block, "numbers", 0))
        form = self.loss.bound(block.y, block.weight is not None)
        outputs = self.model.output_features(self._columns(block))
        rows = len(block.x[0])
        return form, form.check(block.y, rows, outputs, self.model.dtype, names[1])

    @staticmethod
    def _columns(block: Data | Block) -> int:
        """Columns of all inputs."""
        return sum(part.shape[1] for part in block.x)

    def _program(
        self,
        use: str,
        columns: int,
        rows: int,
        loss: Loss,
        made_of: tuple[Any, ...] = (),
        make: Callable[[], BatchProgram] | None = None,
    ) -> BatchProgram:
        """The program for a use, made anew if the model has changed or the batch has grown.

        Each use has its mode of the layers, so what a program depends on stays the same as long as
        no attribute of a layer changes, and need not be compared.
        """
        cached = self._programs.get(use)
        quick = (changes.version, self.model, room(), columns, loss, self.loss, made_of)
        if cached is not None and cached[1] >= rows and self._known.get(use) == quick:
            return cached[2]
        key = (
            *signature(self.model, columns),
            type(loss),
            loss.integer_labels,
            loss.weighted,
            loss.columns(0),
            self.loss,
            made_of,
        )
        if cached is None or cached[0] != key or cached[1] < rows:
            made = make() if make else BatchProgram(self.model, columns, rows, loss=loss)
            cached = key, rows, made
            self._programs[use] = cached
        self._known[use] = (changes.version, *quick[1:])
        return cached[2]

    def _updates(self) -> Updates:
        """How gradients become new weights."""
        return Updates(
            self._state(),
            self.optimizer.group_of,
            self.clip_grad_norm or 0.0,
            self.accumulate,
            self.ema_decay or 0.0,
            ranks=self._ranks,
        )

    def _way(self, columns: int, rows: int, loss: Loss, updates: Updates) -> Way:
        """How a batch of so many rows is gone through."""
        own = Way(self.micro_batch_size, self.checkpoint)
        if self.memory_limit is None:
            return own
        limit = as_bytes(self.memory_limit, "memory_limit")
        return choose(limit, own, self.model, columns, rows, loss, updates)

    @property
    def chosen(self) -> str:
        """What `memory_limit` has made the last program do, as arguments; empty if nothing."""
        return "" if self.memory_limit is None else str(self.way)

    def _train_program(self, columns: int, loss: Loss, rows: int, smallest: int) -> BatchProgram:
        """The program of training, for batches of up to `rows` rows and at least `smallest`."""
        state = self._state()
        if self.ema_decay is not None:
            state.begin_average()
        updates = self._updates()
        options = self.micro_batch_size, self.checkpoint, self.memory_limit

        def make() -> BatchProgram:
            self.way = self._way(columns, rows, loss, updates)
            return self.way.program(self.model, columns, rows, loss, updates, build=True)

        made_of = (state, *updates[2:], *options)
        batch = self._program("train", columns, rows, loss, made_of, make)
        if batch.rows < rows:
            self._check_parts(batch)
        self._check_rows(batch.plan.graph, smallest)
        self._set_optimizer(batch.program)
        return batch

    def _check_parts(self, batch: BatchProgram) -> None:
        """Batches in parts have BatchNorm's statistics of each part."""
        if not any(isinstance(layer, BatchNorm1d) for _, layer in self.model.layers()):
            return
        if batch.rows < 3:
            raise ValueError(
                f"micro_batch_size: expected at least 3 rows with BatchNorm1d, got {batch.rows}"
            )
        if self._ranks is not None and self.sync_batchnorm:
            raise ValueError(
                "micro_batch_size: expected whole batches, since BatchNorm1d has the statistics of "
                f"all ranks (sync_batchnorm), got parts of {batch.rows} rows"
            )

    def _check_rows(self, graph: Graph, rows: int) -> None:
        """BatchNorm cannot train on one row; of each of several ranks, it can."""
        if self._ranks is None or not self.sync_batchnorm:
            check_rows(graph, rows)

    def _set_optimizer(self, program: Program, lr: float | None = None) -> None:
        """Tell a program the optimizer's numbers; with `lr` for updates whose rates follow."""
        scheduled = None
        if lr is None:
            lr = self.lr
            scheduled = self.scheduler.momentum(self._time) if self.scheduler else None
        program.set_optimizer(
            **self.optimizer.numbers() | {"lr": lr},
            scheduled=scheduled,
            clip=self.clip_grad_value or 0.0,
            accumulate=self.accumulate,
            groups=self.optimizer.rates(),
        )

    # Training.

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        sample_weight: Any = None,
        validation_data: Any = None,
        last_batch: str = "merge",
        total_epochs: int | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: str | int = "auto",
    ) -> History:
        """Train for a number of epochs.

        Epochs, steps and schedules count on from one call to the next: ``fit(epochs=2)`` twice with
        one seed does what ``fit(epochs=4)`` does. An epoch that was interrupted is finished first,
        and counts, if data and batches are the same.

        Parameters
        ----------
        X : array_like, frame, table, sparse matrix, `NpyFile`, tuple of these, or iterable
            Rows of in_features columns, or a tuple or list of several inputs whose columns add up
            to them; or an iterable of batches ``(X, y)`` or ``(X, y, sample_weight)``, or a
            function that returns one, with y left out. Arrays are converted to the model's dtype
            if they have another; memory maps, files, tables and sparse matrices are read block by
            block.
        y : array_like
            Labels (N,) or targets (N, K), as the loss has it.
        epochs : int, default 1
        batch_size : int, default 32
        shuffle : bool, default True
            A new order of the rows each epoch; of iterables, none.
        seed : int, optional
            Seed of the orders; default: that of the last `fit`, at first fresh entropy.
        sample_weight : array_like of shape (N,), optional
            Weights of the rows in the loss, which is then their weighted mean, and in the metrics.
        validation_data : (X, y) or (X, y, sample_weight), or an iterable of batches, optional
            Evaluated after each epoch: ``val_loss``, ...
        last_batch : {"merge", "keep", "drop"}
            A last batch that is smaller than the others: if it is a single row, which BatchNorm
            could not train on, it joins the batch before it; it stays; it is left out. Of an
            iterable, whose batches are what it makes them, none is left out.
        total_epochs : int, optional
            Epochs of the whole training, if this is a part of it; default: those made and `epochs`.
            A schedule must end within them.
        callbacks : sequence of Callback
        verbose : {"auto", 0, 1}
            A progress bar: on a terminal, never, always.

        Returns
        -------
        History
            Of these epochs; ``trainer.history`` has all.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; nothing has been changed.
        NonFiniteError
            The loss, a gradient that is to be clipped, a parameter, or Lion's momentum became NaN
            or infinite. Parameters, running averages and optimizer are those at the end of the last
            good epoch.
        KeyboardInterrupt
            On Ctrl-C; the model holds the parameters after some whole step.

        Notes
        -----
        With `comm`, ranks must be alike in all but their rows, of which each must have as many
        batches: what differs is a ValueError before the first step. An exception that not all
        ranks have ends all processes within seconds, with its traceback. `stop_training` of one
        rank stops all, with the next update. Of validation data a rank may have any rows; metrics
        are taken of the outputs of all ranks, on rank 0.
        """
        options = Options(
            epochs, batch_size, shuffle, seed, last_batch, total_epochs, callbacks
        ).checked()
        checks.one_of(verbose, ("auto", 0, 1), "verbose")
        epochs = options.epochs

        def loop_of_this_rank() -> Loop:
            data, loss = self._open(X, y, sample_weight, epochs=epochs)
            validation = None
            if validation_data is not None:
                validation = self._open(*parts_of(validation_data), "validation_data ", epochs)
            loop = self._loop_over(data, loss, validation, options)
            loop.get_ready()
            return loop

        with self._together(), self._training():
            loop = self._agreed(
                loop_of_this_rank, epochs=epochs, total_epochs=total_epochs, seed=seed
            )
            if self._ranks is not None:  # as many batches as all have
                self._check_schedule(loop, epochs, total_epochs)
            if self.rank > 0 or not ProgressBar.wanted(verbose):
                self._run(loop, epochs, None)
            else:
                with closing(ProgressBar(epochs)) as bar:
                    self._run(loop, epochs, lambda n, logs: bar.update(n, logs, self.chosen))
        return loop.history

    def _loop_over(
        self,
        data: Data,
        loss: Loss,
        validation: tuple[Data, Loss] | None,
        options: Options,
    ) -> Loop:
        """The loop over data that were opened; nothing is changed by it."""
        loop = Loop(
            self,
            data,
            loss,
            batch_size=options.batch_size,
            shuffle=options.shuffle,
            last_batch=options.last_batch,
            key=self._key(options.seed),
            validation=validation,
            callbacks=options.callbacks,
        )
        if self._ranks is None:
            self._check_schedule(loop, options.epochs, options.total_epochs)
        return loop

    def _together(self) -> AbstractContextManager[None]:
        """What all ranks do."""
        return nullcontext() if self._ranks is None else self._ranks.together()

    def _meet(self) -> None:
        """Where ranks train together: find out whether they are alike, and go on from rank 0."""
        if self._ranks is not None:
            self._ranks.meet(described(self))
            go_on_from_rank_0(self, self._ranks)
            self._ranks.met = True

    def _agreed(self, make: Callable[[], Loop], **arguments: Any) -> Loop:
        """The loop, as all ranks have one; an error in making it is everybody's."""
        self._meet()
        if self._ranks is None:
            return make()
        try:
            loop = make()
        except Exception as error:
            self._ranks.meet({}, error=error)
            raise
        loop.join(self._ranks, arguments)
        return loop

    def _run(self, loop: Loop, epochs: int, tell: Tell | None) -> None:
        """Run the loop, between what callbacks do before and after."""
        self._take_callbacks(loop.callbacks)
        self.stop_training = ending.begun()
        begun: list[Callback] = []
        self._loop = loop
        with ExitStack() as ends:  # all of them, whichever fails
            try:
                for callback in loop.callbacks:
                    callback.trainer = self
                    begun.append(callback)
                    callback.on_train_begin()
                loop.run(epochs, tell)
            finally:
                ends.callback(setattr, self, "_loop", None)
                for callback in reversed(begun):
                    ends.callback(callback.on_train_end)
                self._record(loop.batch_size)

    def _key(self, seed: int | None) -> int:
        """Key of the orders of the rows: of a seed, of the last `fit`, or fresh."""
        if seed is None and self.progress.key is not None:
            return self.progress.key
        return int(np.random.default_rng(seed).integers(2**63))

    def _take_callbacks(self, callbacks: Sequence[Callback]) -> None:
        """Note the callbacks; those of a training that is resumed get back what they had kept."""
        self.callbacks = callbacks
        for callback in callbacks:
            for i, (name, kept) in enumerate(self.resumed_callbacks):
                if name == type(callback).__name__:
                    callback.load_state(kept)
                    del self.resumed_callbacks[i]
                    break

    def _record(self, batch_size: int) -> None:
        """Note with the model how it was trained: `save` writes it, ``print(model)`` shows it."""
        scheduler = {} if self.scheduler is None else {"scheduler": repr(self.scheduler)}
        options = {name: getattr(self, name) for name in OPTIONS}
        self.model.__dict__["training_record"] = {
            "loss": repr(self.loss),
            "optimizer": repr(self.optimizer),
            **scheduler,
            **{name: value for name, value in options.items() if value is not None},
            "epochs": self.epoch,
            "steps": self.step,
            "batch_size": batch_size,
            "results": {k: v[-1] for k, v in self.history.history.items() if v},
        }

    def _check_schedule(self, loop: Loop, epochs: int, total_epochs: int | None) -> None:
        """Raise if the schedule is longer than the training."""
        total = self.epoch + epochs
        if total_epochs is not None:
            total = checks.positive_int(total_epochs, "total_epochs", total)
        if self.scheduler is None or epochs == 0:
            return
        monitor = getattr(self.scheduler, "monitor", "")
        if monitor.startswith("val_") and loop.validation is None:
            raise ValueError(
                f"scheduler: {self.scheduler!r} follows {monitor!r}, but there is no "
                "validation_data"
            )
        if self.scheduler.interval == "epoch":
            self.scheduler.check(total)
        elif loop.updates is not None:
            self.scheduler.check(self.step + (total - self.epoch) * loop.updates - loop.made)

    def train_step(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """One update from one batch; returns its loss before the update.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`, but no iterables; all rows are read.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; nothing has been changed.
        NonFiniteError
            The loss is NaN or infinite; no parameter has been changed.
        """
        with self._together():
            data, loss = self._open(X, y, sample_weight, load=True)
            rows = len(data.x[0])
            if self._ranks is not None and not self._ranks.met:
                self._meet()
            with self._training():
                state = self._state()
                batch = self._train_program(self._columns(data), loss, rows, rows)
                first = self.rank * rows
                feed(batch.program, loss, data.x, data.y, rows, weight=data.weight, rank_row=first)
                batch.program.seek(self.epoch, 0, state.step, state.tick)
                status, _, _ = batch.program.run(1, 3600.0, state)
            if status != "done":
                raise not_finite(batch, status, state, batch, self._ranks)
            return batch.program.last_loss

    def recalibrate_batchnorm(self, X: Any, *, batch_size: int = 1024) -> None:
        """Set the running statistics of all BatchNorm1d layers to those of the data.

        The running averages of training lag behind parameters that still move, and weigh the last
        batches most. This replaces them by mean and unbiased variance of what each layer reads in
        evaluation mode, over all rows: one pass over X for each BatchNorm1d, in order of execution,
        so that all fit together.

        Parameters
        ----------
        X
            As for `fit`; at least two rows.
        batch_size : int, default 1024
            Rows at a time.
        """
        batch_size = checks.positive_int(batch_size, "batch_size")
        passes = sum(isinstance(layer, BatchNorm1d) for _, layer in self.model.layers())
        with self._together():
            data = open_inputs(self.model, X, epochs=passes, targets=False)
            with mode(self.model, False):
                recalibrate(self.model, data, batch_size, passes, self._ranks)

    def memory(self, batch_size: int = 32, *, in_features: int | None = None) -> MemoryReport:
        """What `fit` and `predict` take with batches of so many rows: see `Layer.memory`.

        All that this trainer does counts: clipping, `accumulate`, `ema_decay`, `micro_batch_size`,
        `checkpoint`, and what `memory_limit` makes it choose.

        Parameters
        ----------
        batch_size : int, default 32
        in_features : int, optional
            Columns of the input, needed if no layer fixes it.

        Raises
        ------
        ValueError
            An argument does not fit, or what is needed is more than `memory_limit`.

        Examples
        --------
        >>> import minidl
        >>> model = minidl.Sequential(minidl.Linear(256, 256), minidl.ReLU(), minidl.Linear(256, 9))
        >>> trainer = minidl.Trainer(model, memory_limit="8MB")
        >>> 1000 < trainer.memory(4096).micro_batch_size < 2000
        True
        """
        from minidl.memory_report import MemoryReport

        rows = checks.count(batch_size, "batch_size", 1)
        columns = self.model.columns_of_input(in_features)
        updates = self._updates()
        way = self._way(columns, rows, self.loss, updates)
        training = way.program(self.model, columns, rows, self.loss, updates, build=False)
        prediction = BatchProgram(self.model, columns, rows, training=False, build=False)
        return MemoryReport(rows, way, training, prediction)

    def ema_model(self) -> Layer:
        """A copy of the model with the moving average of the parameters, in evaluation mode.

        Running averages are the model's own, as in `torch.optim.swa_utils.AveragedModel`.

        Raises
        ------
        RuntimeError
            The trainer was made without `ema_decay`, or has made no update.
        """
        average = self._state().average
        if average is None:
            raise RuntimeError("ema_model: expected a trainer with ema_decay that has been trained")
        from copy import deepcopy

        model = deepcopy(self.model)
        for (_, own), (_, copy) in zip(
            self.model.named_parameters(), model.named_parameters(), strict=True
        ):
            if own.trainable:
                copy.array[...] = own.view(average)
        return model.eval()

    # Keeping.

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that the training needs to go on to one safetensors file; see `resume`.

        Parameters, optimizer state, schedule, moving average, seeds, the place inside the epoch,
        history, and what callbacks keep. May be called between calls of `fit` or by a callback, at
        the end of an epoch or within it; one that saves at the end of an epoch stands last among
        the callbacks, since those behind it have not seen the epoch yet. The file is written beside
        `path`, synced and renamed: whatever happens, `path` is the old file or the new one. Of
        several ranks that train together, rank 0 writes.

        Raises
        ------
        ValueError
            A parameter is NaN or infinite; what was there is still there.
        TypeError
            What a callback keeps is not for JSON.
        OSError
            The file cannot be written; what was there is still there.
        """
        if self.rank == 0:
            save_checkpoint(self, path)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Layer | None = None,
        loss: Loss | LossFunction | None = None,
        optimizer: Optimizer | None = None,
        scheduler: Scheduler | Any = None,
        metrics: Sequence[str | Metric | Any] | None = None,
        comm: Any = None,
        sync_batchnorm: bool = True,
    ) -> Trainer:
        """The trainer of a checkpoint; ``fit`` then goes on as if it had never stopped, to the bit.

        Pass the same data, batch size and seed (or none); ``epochs`` counts those that are still to
        be made, the one that was under way among them.

        Parameters
        ----------
        path : str or path-like
        model, loss, optimizer, scheduler, metrics : optional
            Needed where they are code of yours, which is not in the file: layers, losses or
            schedules in Python. Others are made as they were.
        comm, sync_batchnorm
            As for `Trainer`. At the end of an epoch any number of ranks may go on; within an epoch,
            as many as there were.

        Raises
        ------
        FormatError
            The file is no checkpoint, is damaged, does not fit the model, or needs one of the
            arguments above.
        OSError
            It cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import minidl
        >>> X = np.random.default_rng(0).normal(size=(100, 3)); y = (X[:, 0] > 0).astype(int)
        >>> trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(3, 2), seed=0))
        >>> _ = trainer.fit(X, y, epochs=2, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer.save_checkpoint(f"{folder}/training.ckpt")
        ...     other = minidl.Trainer.resume(f"{folder}/training.ckpt")
        >>> a, b = trainer.fit(X, y, epochs=3), other.fit(X, y, epochs=3)
        >>> a.history == b.history, other.epoch
        (True, 5)
        """
        return resume(
            cls, path, model=model, loss=loss, optimizer=optimizer, scheduler=scheduler,
            metrics=metrics, ranks={"comm": comm, "sync_batchnorm": sync_batchnorm},
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without programs, with the optimizer's state."""
        state = self._state()
        kept = {name: getattr(state, name) for name in ("step", "tick", "average_from")}
        tensors = state_tensors(self.model, state)
        own = {
            "_programs": {},
            "_known": {},
            "_busy": False,
            "_loop": None,
            "comm": None,
            "_ranks": None,
            "callbacks": (),
            "_kept": (kept, tensors),
        }
        return {**self.__dict__, **own}

    def __setstate__(self, stored: dict[str, Any]) -> None:
        """Put the optimizer's state back."""
        kept, tensors = stored.pop("_kept")
        self.__dict__.update(stored)
        state = self._state()
        restore_state(self.model, state, tensors)
        state.__dict__.update(kept)

    # Measuring.

    def evaluate(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, batch_size: int = 1024
    ) -> dict[str, float]:
        """Mean loss, accuracy if the loss has it, and the metrics, in evaluation mode.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        batch_size : int, default 1024
            Rows at a time.

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}`` and one value for each metric.
        """
        batch_size = checks.positive_int(batch_size, "batch_size")
        with self._together():
            return evaluate(self, *self._open(X, y, sample_weight), batch_size)
