"""Many trainings at once: each on a core, in a thread of Python, over data that are opened once.

The compiled program runs without the GIL, and a training that nobody looks at stays in it for
`loop.SLICE` seconds at a time; so threads of Python, which share data without copies, are enough.
The longest trainings begin first. When fewer are left than there are cores, those that still run
take more threads, at their next slice: their programs have room for all. Bits do not depend on any
of this.
"""

from __future__ import annotations

import os
from _thread import start_new_thread
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Event, Lock
from time import sleep
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl import checks, losses, parallel
from minidl.callbacks import Callback, ProgressBar, as_callbacks
from minidl.data.opening import open_weights
from minidl.data.rows import RowData
from minidl.history import History
from minidl.inputs import open_inputs
from minidl.kernels import threads
from minidl.loop import SLICE, Loop
from minidl.trainer import Options, Trainer, parts_of

if TYPE_CHECKING:
    from minidl.data.rows import Data
    from minidl.losses import Loss
    from minidl.memory import Array

UPDATE_WORK = 20  # floating-point operations for a parameter in an update, about


class FitResult(NamedTuple):
    """What became of a training.

    Attributes
    ----------
    trainer : Trainer
    history : History
        Of the epochs that it made.
    error : Exception or None
        What ended it, such as a `NonFiniteError`.
    """

    trainer: Trainer
    history: History
    error: Exception | None


def fit_many(
    trainers: Sequence[Trainer],
    X: Any,
    y: Any = None,
    *,
    epochs: int | Sequence[int] = 1,
    batch_size: int | Sequence[int] = 32,
    shuffle: bool | Sequence[bool] = True,
    seed: int | Sequence[int | None] | None = None,
    rows: Any = None,
    sample_weight: Any = None,
    validation_data: Any = None,
    validation_rows: Any = None,
    last_batch: str | Sequence[str] = "merge",
    total_epochs: int | Sequence[int | None] | None = None,
    callbacks: Sequence[Callback] | Sequence[Sequence[Callback]] = (),
    n_threads: int | None = None,
    on_error: str = "record",
    verbose: str | int = "auto",
) -> list[FitResult]:
    """Train many models over the same data, each on a core of its own.

    Each trainer does what ``trainer.fit`` does, to the bit: trainings may differ in anything. The
    data are converted and checked once and never copied, folds included.

    Parameters
    ----------
    trainers : sequence of Trainer
        Each with a model and an optimizer of its own.
    X, y
        As for `Trainer.fit`, for all.
    epochs, batch_size, shuffle, seed, last_batch, total_epochs
        As for `Trainer.fit`: one value for all, or a sequence of one for each.
    rows : array_like of int or bool, or a sequence of these or None, optional
        Numbers of the rows that are trained on, in any order and as often as they stand there, or a
        mask of all rows; for all trainers, or for each. Default: all rows.
    sample_weight : array_like of shape (N,), or a sequence of these or None, optional
        Weights of all rows of X; for all trainers, or for each.
    validation_data : (X, y) or (X, y, sample_weight), or a list of these or None, optional
        For all trainers, or a list of one for each. Batches come from a function that makes them.
    validation_rows : as `rows`, optional
        Rows of X that are evaluated after each epoch, in place of `validation_data`.
    callbacks : sequence of Callback, or a sequence of such sequences
        Of one for all each trainer gets copies, which are its ``trainer.callbacks``. They are
        called in the thread that trains.
    n_threads : int, optional
        The most threads of all trainings together; default and most: `get_num_threads`.
    on_error : {"record", "raise"}, default "record"
        An error in a training leaves the others alone and stands in its result; or it stops them
        after the step that they are at, and is raised.
    verbose : {"auto", 0, 1}
        One progress bar of all epochs: on a terminal, never, always.

    Returns
    -------
    list of FitResult
        (trainer, history, error) of each, in the order given.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit, or the data do not suit a trainer (a note of the error says which,
        as ``trainers[i]``); nothing has been changed. What data that are read on demand hold is
        known later, and is the error of a training.
    KeyboardInterrupt
        On Ctrl-C; each model holds the parameters after some whole step.

    Examples
    --------
    Seeds and learning rates:

    >>> import numpy as np
    >>> import minidl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2)); y = (X[:, 0] > X[:, 1]).astype(int)
    >>> def trainer(seed, lr):
    ...     model = minidl.Sequential(
    ...         minidl.Linear(2, 16), minidl.ReLU(), minidl.Linear(16, 2), seed=seed)
    ...     return minidl.Trainer(model, optimizer=minidl.Adam(lr))
    >>> trainers = [trainer(seed, lr) for seed in range(3) for lr in (0.01, 0.1)]
    >>> results = minidl.fit_many(trainers, X, y, epochs=20, seed=0)
    >>> all(result.history.history["accuracy"][-1] > 0.9 for result in results)
    True

    Bootstrap samples, each measured on the rows that it left out; one diverges:

    >>> trainers = [trainer(seed, lr) for seed, lr in enumerate([0.01, 1e30])]
    >>> samples = [rng.integers(0, 200, 200) for _ in trainers]
    >>> others = [~np.isin(np.arange(200), sample) for sample in samples]
    >>> results = minidl.fit_many(
    ...     trainers, X, y, rows=samples, validation_rows=others, epochs=20, seed=[0, 1])
    >>> results[0].history.history["val_accuracy"][-1] > 0.8
    True
    >>> [type(result.error).__name__ for result in results]
    ['NoneType', 'NonFiniteError']
    """
    return fit_over(
        Shared(X, y), trainers, epochs=epochs, batch_size=batch_size, shuffle=shuffle, seed=seed,
        rows=rows, sample_weight=sample_weight, validation_data=validation_data,
        validation_rows=validation_rows, last_batch=last_batch, total_epochs=total_epochs,
        callbacks=callbacks, n_threads=n_threads, on_error=on_error, verbose=verbose,
    )  # fmt: skip


def fit_over(
    data: Shared,
    trainers: Sequence[Trainer],
    *,
    rows: Any,
    sample_weight: Any,
    validation_data: Any,
    validation_rows: Any,
    callbacks: Any,
    n_threads: int | None,
    on_error: str,
    verbose: str | int,
    **values: Any,
) -> list[FitResult]:
    """What `fit_many` does, over data that may be open already."""
    trainers = _own_of_each(trainers)
    count = len(trainers)
    checks.one_of(on_error, ("record", "raise"), "on_error")
    checks.one_of(verbose, ("auto", 0, 1), "verbose")
    cores = parallel.get_num_threads()
    if n_threads is not None:
        cores = min(cores, checks.positive_int(n_threads, "n_threads"))
    if validation_data is not None and validation_rows is not None:
        raise ValueError("validation_rows: expected None, since there is validation_data")
    each = {name: _for_each(value, count, name, _is_list(value)) for name, value in values.items()}
    each["callbacks"] = _callbacks_of_each(callbacks, count)
    options = []
    for i in range(count):
        with _about(i):
            options.append(Options(**{name: each[name][i] for name in each}).checked())
    data.passes = sum(option.epochs for option in options)
    arrays = {"rows": rows, "validation_rows": validation_rows, "sample_weight": sample_weight}
    own = {name: _for_each(v, count, name, _are_arrays(v)) for name, v in arrays.items()}
    validation = _validation_of_each(validation_data, count, data.passes)
    jobs = []
    for i, (trainer, option) in enumerate(zip(trainers, options, strict=True)):
        with _about(i):
            trainer._check_free()
            weight, tested = own["sample_weight"][i], own["validation_rows"][i]
            trained = data.of(trainer, option.epochs, weight, own["rows"][i], "rows")
            held_out = None
            if tested is not None:
                held_out = data.of(trainer, option.epochs, weight, tested, "validation_rows")
            elif validation[i] is not None:
                other, weight = validation[i]
                held_out = other.of(trainer, option.epochs, weight)
            loop = trainer._loop_over(*trained, held_out, option)
            jobs.append(_Job(trainer, loop, option.epochs))
    crew = _Crew(jobs, cores, stops_at_error=on_error == "raise")
    if not ProgressBar.wanted(verbose):
        crew.run(None)
    else:
        with closing(ProgressBar(data.passes)) as bar:
            crew.run(bar)
    return [FitResult(job.trainer, job.history, job.error) for job in jobs]


# Arguments: one value for all trainers, or one for each.


def _for_each(value: Any, count: int, name: str, several: bool) -> list[Any]:
    """The value of each trainer."""
    if not several:
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}: expected one for all trainers or a sequence of {count}, one for each, got "
            f"{len(value)} of them"
        )
    return list(value)


def _is_list(value: Any) -> bool:
    """True for several numbers or names."""
    return isinstance(value, (list, tuple, range)) or (
        isinstance(value, np.ndarray) and value.ndim == 1
    )


def _are_arrays(value: Any) -> bool:
    """True for several arrays, of which some may be None."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(one is None or hasattr(one, "__len__") for one in value)
    )


def _own_of_each(trainers: Any) -> list[Trainer]:
    """The trainers, none of which shares with another what it changes."""
    if not isinstance(trainers, (list, tuple)):
        raise TypeError(f"trainers: expected a list of Trainer, got {type(trainers).__name__}")
    owners: dict[int, int] = {}
    for i, trainer in enumerate(trainers):
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainers: expected Trainer objects, got {trainer!r:.200}")
        if trainer.comm is not None:
            raise ValueError(
                f"trainers: expected trainers of this process alone, got one with comm in place {i}"
            )
        store = trainer.model.store()
        parts = {id(layer): "layer" for _, layer in trainer.model.tree()}
        parts |= {id(store): "layer"} if store.parameters else {}
        parts |= {id(trainer.optimizer): "optimizer", id(trainer): "trainer"}
        for part, what in parts.items():
            if owners.setdefault(part, i) != i:
                raise ValueError(
                    "trainers: expected a model and an optimizer of its own for each, got one "
                    f"{what} in trainers[{owners[part]}] and trainers[{i}]"
                )
    return list(trainers)


def _callbacks_of_each(callbacks: Any, count: int) -> list[Any]:
    """Lists of callbacks; of one list for all, copies."""
    nested = isinstance(callbacks, (list, tuple)) and len(callbacks) > 0
    if nested and all(isinstance(one, (list, tuple)) for one in callbacks):
        lists = [as_callbacks(one) for one in _for_each(callbacks, count, "callbacks", True)]
    else:
        lists = [_copies(as_callbacks(callbacks)) for _ in range(count)]
    found = [callback for one in lists for callback in one]
    times, paths = Counter(map(id, found)), Counter(callback.writes_to() for callback in found)
    for callback in found:
        path = callback.writes_to()
        if times[id(callback)] > 1:
            raise ValueError(
                "callbacks: expected callbacks of its own for each trainer, got one "
                f"{type(callback).__name__} more than once"
            )
        if path is not None and paths[path] > 1:
            raise ValueError(
                "callbacks: expected a file of its own for each trainer, as lists of callbacks "
                f"for each can have them, got {path!r} more than once"
            )
    return lists


def _copies(callbacks: tuple[Callback, ...]) -> tuple[Callback, ...]:
    """Copies of callbacks."""
    from copy import deepcopy

    try:
        return deepcopy(callbacks)
    except TypeError as error:
        raise TypeError(
            f"callbacks: expected some that can be copied, or a list for each trainer: {error}"
        ) from None


def _validation_of_each(validation_data: Any, count: int, passes: int) -> list[Any]:
    """Validation data and their weights for each trainer, or None."""
    several = isinstance(validation_data, list)
    given = _for_each(validation_data, count, "validation_data", several)
    shared: dict[int, Any] = {id(None): None}
    for one in given:
        if id(one) not in shared:
            X, y, weight = parts_of(one)
            shared[id(one)] = Shared(X, y, "validation_data ", passes), weight
    return [shared[id(one)] for one in given]


@contextmanager
def _about(number: int) -> Iterator[None]:
    """Errors within the block get a note of the trainer that they are about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"trainers[{number}]")
        raise


# Data.


class Shared:
    """X and y, opened once for each form that models take, checked once for each kind of loss.

    Parameters
    ----------
    X, y
        As for `fit_many`.
    prefix : str
        What the names of the arguments begin with, in errors.
    passes : int
        How often they are gone through: what an iterable needs to know.
    """

    def __init__(self, X: Any, y: Any, prefix: str = "", passes: int = 1) -> None:
        self.X, self.y, self.prefix, self.passes = X, y, prefix, passes
        self.names = [f"{prefix}{name}" for name in ("X", "y", "sample_weight")]
        self.opened: dict[Any, Data] = {}
        self.made: dict[int, tuple[Any, Any]] = {}  # weights and numbers of rows: given, converted
        self.suited: dict[Any, tuple[Loss, Array]] = {}
        self.targets: dict[Any, Array] = {}  # by dtype and shape: those alike hold the same

    def of(
        self,
        trainer: Trainer,
        epochs: int,
        weight: Any = None,
        chosen: Any = None,
        name: str = "rows",
    ) -> tuple[Data, Loss]:
        """The data as `Trainer._open` gives them, and the loss as it suits them.

        `weight` are weights of all rows; `chosen`, called `name`, is what `fit_many` has as `rows`.
        """
        model = trainer.model
        form = model.dtype, repr(model.in_features_or_none()), model.flattens()
        data = self.opened.get(form)
        if data is None:
            data = open_inputs(model, self.X, self.y, None, self.names, self.passes)
            self.opened[form] = data
        if not isinstance(data, RowData):  # an iterable: each goes through it by itself
            if chosen is not None:
                raise ValueError(f"{name}: expected None, since X gives batches")
            return trainer._open(self.X, self.y, weight, self.prefix, epochs)
        rows, weighted = data.all_rows, weight is not None
        own = data.part(
            self._once(chosen, lambda: checks.indices(chosen, rows, name)),
            self._once(weight, lambda: open_weights(weight, rows, self.names[2])),
        )
        if not data.in_memory:
            return own, trainer._suit(own, weighted, self.names)
        columns = trainer._columns(data)
        loss: Any = trainer.loss
        shipped = losses.ALL.get(type(loss).__name__) is type(loss)
        key = (
            form, repr(loss) if shipped else id(loss), model.output_features(columns),
            tuple(model.categories(0, columns)), weighted,
        )  # fmt: skip
        if key not in self.suited:
            suited = trainer._suit(own, weighted, self.names)
            y: Any = own.y
            if shipped or isinstance(loss, losses.FunctionLoss):  # others may change what is in y
                y = self.targets.setdefault((y.dtype, y.shape), y)
            self.suited[key] = suited, y
        suited, own.y = self.suited[key]
        trainer._check_metrics(suited, weighted)
        return own, suited

    def _once(self, given: Any, convert: Callable[[], Any]) -> Any:
        """What an argument is converted to, once for all trainers that share it."""
        if given is None:
            return None
        if id(given) not in self.made:
            self.made[id(given)] = given, convert()
        return self.made[id(given)][1]


# Running.


class _Job:
    """One training."""

    def __init__(self, trainer: Trainer, loop: Loop, epochs: int) -> None:
        self.trainer, self.epochs, self.history = trainer, epochs, loop.history
        self.loop: Loop | None = loop  # until it has ended: it has the order of all rows
        self.made = 0  # epochs
        self.error: Any = None
        self.ended = False
        # Floating-point operations of all steps, roughly: more of float64 take more time.
        store = trainer.model.store()
        tested = 0 if loop.validation is None else loop.validation[0].rows or 0
        a_weight = 6 * (loop.data.rows or 1) + UPDATE_WORK * (loop.updates or 1) + 2 * tested
        self.work = epochs * a_weight * store.trainable * store.dtype.itemsize

    def run(self, crew: _Crew) -> None:
        """Train; what fails is noted."""

        def tell(epochs: int, logs: dict[str, float]) -> None:
            self.made += epochs
            crew.look_after(self)

        loop, self.loop = self.loop, None
        assert loop is not None
        try:
            crew.look_after(self)
            with self.trainer._training():
                loop.get_ready()
                self.trainer._run(loop, self.epochs, tell)
        except BaseException as error:
            self.error = error
            clear_frames(error.__traceback__)  # of arrays
        self.trainer._programs.clear()  # memory goes with the trainings that run, not with all
        self.made, self.ended = self.epochs, True


class _Crew:
    """Threads that train what is waiting, and the cores that they share."""

    def __init__(self, jobs: list[_Job], cores: int, stops_at_error: bool) -> None:
        self.jobs, self.cores, self.stops_at_error = jobs, cores, stops_at_error
        self.waiting = deque(sorted(jobs, key=lambda job: job.work, reverse=True))
        self.running: dict[_Job, int] = {}  # threads of each
        self.lock = Lock()  # of these two, and of `stopped`
        self.stopped = False
        self.shown = 0  # epochs
        self.over = Event()
        self.process = os.getpid()

    def run(self, bar: ProgressBar | None) -> None:
        """Train all; raise what stops all."""
        try:
            for _ in range(min(len(self.jobs), self.cores)):
                start_new_thread(self._work, ())  # `Thread.start` must not be interrupted
            while self.jobs and not self.over.wait(SLICE):
                self._show(bar)
        finally:
            self._stop()
            while self.running:  # until the step that they are at is made
                sleep(1e-3)
        self._show(bar)
        for job in self.jobs:
            if self._stops(job):
                raise job.error

    def look_after(self, job: _Job) -> None:
        """In its own thread, now and then: tell a training to stop; share the cores out anew."""
        if self.process != os.getpid():  # forked in a callback; the lock may be held for ever
            raise RuntimeError("fit_many: trainings go on in the process that began them alone")
        with self.lock:
            if self.stopped:
                job.trainer.stop_training = True
            left = len(self.running) + len(self.waiting)
            others = sum(self.running.values()) - self.running[job]
            remainder = list(self.running).index(job) < self.cores % left
            fair = self.cores // left + remainder
            share = self.running[job] = max(1, min(fair, self.cores - others))
        threads.limit_own(share, self.cores)

    def _work(self) -> None:
        """What a thread does."""
        while True:
            with self.lock:
                if not self.waiting:
                    break
                job = self.waiting.popleft()
                self.running[job] = 1
            job.run(self)
            if self.process != os.getpid():
                break
            if self._stops(job):
                self._stop()
            with self.lock:
                del self.running[job]
                if not self.running and not self.waiting:
                    self.over.set()

    def _stop(self) -> None:
        """Begin no more trainings, and tell those that run to end."""
        with self.lock:
            self.stopped = True
            self.waiting.clear()

    def _stops(self, job: _Job) -> bool:
        """True if a training ended with what stops all."""
        if isinstance(job.error, Exception):
            return self.stops_at_error
        return job.error is not None

    def _show(self, bar: ProgressBar | None) -> None:
        """Show epochs that were not shown yet; a training that has ended counts with all of its."""
        if bar is None:
            return
        before, self.shown = self.shown, sum(job.made for job in self.jobs)
        ended = [job for job in self.jobs if job.ended]
        failed = sum(job.error is not None for job in ended)
        bar.update(self.shown - before, {"trained": len(ended) - failed, "failed": failed})
