"""The training loop as the user sees it; no maths."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks
from minidl.callbacks import Callback, ProgressBar
from minidl.errors import NonFiniteError
from minidl.history import History
from minidl.layers.base import Layer
from minidl.losses import CrossEntropyLoss, Loss, LossFunction, as_loss, feed
from minidl.lowering import BatchProgram, check_rows, mode, signature
from minidl.memory import Array, address
from minidl.optimizers import Adam, Optimizer, OptimizerState

if TYPE_CHECKING:
    import numpy.typing as npt

SLICE = 0.1  # seconds of compiled code before Python looks after Ctrl-C and progress


class Trainer:
    """Trains a model.

    Parameters
    ----------
    model : Layer
        Mostly a `Sequential`.
    loss : Loss or function, default CrossEntropyLoss()
        A function takes (prediction, y) and returns (loss, gradient).
    optimizer : Optimizer, default Adam(lr=1e-3)

    Attributes
    ----------
    stop_training : bool
        Callbacks set it to stop `fit` after the epoch.

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

    def __init__(
        self,
        model: Layer,
        loss: Loss | LossFunction | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
        self.model = model
        self.loss = CrossEntropyLoss() if loss is None else as_loss(loss)
        self.optimizer = Adam() if optimizer is None else optimizer
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        self.stop_training = False
        self._programs: dict[str, tuple[Any, BatchProgram]] = {}
        self._busy = False

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The model in training mode, for one caller at a time."""
        if self._busy:
            raise RuntimeError("this trainer is training already, in a callback or another thread")
        self._busy = True
        try:
            with mode(self.model, True):
                yield
        finally:
            self._busy = False

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without programs."""
        return {**self.__dict__, "_programs": {}, "_busy": False}

    # Data and programs.

    def _data(
        self, X: npt.ArrayLike, y: npt.ArrayLike, prefix: str = ""
    ) -> tuple[Array, Array, Loss]:
        """X and y as the kernels read them, and the form of the loss that suits y."""
        x = checks.matrix(X, self.model.dtype, self.model.in_features_or_none(), f"{prefix}X")
        checks.not_empty(x, f"{prefix}X")
        outputs = self.model.output_features(x.shape[1])
        loss = self.loss.bound(y)
        return x, loss.check(y, len(x), outputs, self.model.dtype, f"{prefix}y"), loss

    def _program(
        self, use: str, x: Array, rows: int, loss: Loss, state: OptimizerState | None
    ) -> BatchProgram:
        """The program for a use, made anew if the model has changed or the batch has grown."""
        key = (
            *signature(self.model, x.shape[1]),
            type(loss),
            loss.integer_labels,
            loss.weighted,
            loss.columns(0),
            self.loss,
            state,
        )
        cached = self._programs.get(use)
        if cached is None or cached[0] != key or cached[1].rows < rows:
            cached = key, BatchProgram(self.model, x.shape[1], rows, loss=loss, state=state)
            self._programs[use] = cached
        return cached[1]

    def _train_program(
        self, x: Array, y: Array, loss: Loss, batch_size: int, **data: Any
    ) -> tuple[BatchProgram, OptimizerState]:
        state = self.optimizer.state_for(self.model.store())
        rows = min(batch_size + 1, len(x))
        batch = self._program("train", x, rows, loss, state)
        check_rows(batch.plan.graph, 1 if min(batch_size, len(x)) == 1 else 2)
        batch.program.set_optimizer(*self.optimizer.numbers())
        feed(batch.program, loss, x, y, batch_size, **data)
        batch.note(len(x), batch_size, data.get("merge_last", False))
        return batch, state

    # Training.

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        validation_data: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: str | int = "auto",
    ) -> History:
        """Train for a number of epochs.

        Parameters
        ----------
        X : array_like of shape (N, in_features)
            Converted to the model's dtype if it has another.
        y : array_like
            Labels (N,) or targets (N, K), as the loss has it.
        epochs : int, default 1
        batch_size : int, default 32
            A last batch of one row joins the one before it.
        shuffle : bool, default True
            A new order of the rows each epoch.
        seed : int, optional
            Seed of the orders; default: fresh entropy.
        validation_data : (X, y), optional
            Evaluated after each epoch: ``val_loss``, ...
        callbacks : sequence of Callback
        verbose : {"auto", 0, 1}
            A progress bar: on a terminal, never, always.

        Returns
        -------
        History

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; nothing has been changed.
        NonFiniteError
            The loss or a parameter became NaN or infinite. Parameters, running averages and
            optimizer are those at the end of the last good epoch.
        KeyboardInterrupt
            On Ctrl-C; the model holds the parameters after some whole step.
        """
        epochs = checks.positive_int(epochs, "epochs", 0)
        batch_size = checks.positive_int(batch_size, "batch_size")
        if seed is not None:
            seed = checks.positive_int(seed, "seed", 0)
        if verbose not in ("auto", 0, 1):
            raise ValueError(f"verbose: expected 'auto', 0 or 1, got {verbose!r}")
        x, targets, loss = self._data(X, y)
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise ValueError("validation_data: expected a pair (X, y)")
            self._data(*validation_data, prefix="validation_data ")
        order = np.empty(len(x), np.intp) if shuffle else None
        key = int(np.random.default_rng(seed).integers(2**63))
        history = History()
        with self._training():
            self.stop_training = False
            batch, state = self._train_program(
                x,
                targets,
                loss,
                batch_size,
                order=address(order),
                merge_last=batch_size > 1,
                seed=key,
            )
            batch.program.seek(0, 0, state.step)
            shown = verbose == 1 or (verbose == "auto" and sys.stderr.isatty())
            bar = ProgressBar(epochs) if shown else None
            try:
                for callback in callbacks:
                    callback.trainer = self
                    callback.on_train_begin()
                self._epochs(batch, state, loss, history, epochs, validation_data, callbacks, bar)
            finally:
                for callback in callbacks:
                    callback.on_train_end()
                if bar is not None:
                    bar.close()
        return history

    def _epochs(
        self,
        batch: BatchProgram,
        state: OptimizerState,
        loss: Loss,
        history: History,
        epochs: int,
        validation_data: tuple[npt.ArrayLike, npt.ArrayLike] | None,
        callbacks: Sequence[Callback],
        bar: ProgressBar | None,
    ) -> None:
        """Run all epochs: many at a time if nobody wants a word in between."""
        alone = not callbacks and validation_data is None
        while len(history) < epochs and not self.stop_training:
            epoch, position, _ = batch.program.position()
            if position == 0:
                for callback in callbacks:
                    callback.on_epoch_begin(epoch)
                batch.program.set_optimizer(*self.optimizer.numbers())
            wanted = epochs - len(history) if alone else 1
            status, losses, shares = batch.program.run(wanted, SLICE, state)
            if status in ("loss", "parameters"):
                self._not_finite(batch, state, status)
            logs: dict[str, float] = {}
            for mean, share in zip(losses, shares, strict=True):
                logs = {"loss": mean} | ({loss.metric: share} if loss.metric else {})
                if validation_data is not None:
                    logs |= {f"val_{k}": v for k, v in self.evaluate(*validation_data).items()}
                history.append(logs)
                for callback in callbacks:
                    callback.on_epoch_end(epoch, logs)
            if bar is not None:
                bar.update(len(losses), logs)

    def _not_finite(self, batch: BatchProgram, state: OptimizerState, status: str) -> None:
        """Restore the last good epoch and say what happened."""
        epoch, position, step = batch.program.position()
        if status == "parameters":  # found at the end of the epoch
            epoch, step = epoch - 1, step - 1
            position = batch.batches - 1
        layer = batch.plan.first_not_finite(batch.rows_of(position))
        batch.restore()
        state.step = step - position
        raise NonFiniteError(
            f"{'the loss' if status == 'loss' else 'a parameter'} became NaN or infinite in epoch "
            f"{epoch}, step {step}, first in {f'layer {layer}' if layer else 'the loss itself'}; "
            "parameters are those of the last good "
            "epoch. Try a lower learning rate, scaled inputs, or BatchNorm1d",
            epoch,
            step,
            layer,
        )

    def train_step(self, X: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """One step on one batch; returns its loss before the update.

        Raises
        ------
        NonFiniteError
            The loss is NaN or infinite; no parameter has been changed.
        """
        x, targets, loss = self._data(X, y)
        with self._training():
            batch, state = self._train_program(x, targets, loss, len(x))
            batch.program.seek(0, 0, state.step)
            status, _, _ = batch.program.run(1, 3600.0, state)
        if status in ("loss", "parameters"):
            self._not_finite(batch, state, status)
        return float(batch.program.last_loss)

    def evaluate(
        self, X: npt.ArrayLike, y: npt.ArrayLike, *, batch_size: int = 1024
    ) -> dict[str, float]:
        """Mean loss, and accuracy if the loss has it, in evaluation mode.

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}``.
        """
        x, targets, loss = self._data(X, y)
        batch_size = checks.positive_int(batch_size, "batch_size")
        with mode(self.model, False):
            batch = self._program("evaluate", x, min(batch_size, len(x)), loss, None)
            feed(batch.program, loss, x, targets, batch_size)
            batch.program.seek(0, 0, 0)
            status = "time"
            while status == "time":
                status, losses, shares = batch.program.run(1, SLICE)
        if status == "loss":
            return {"loss": float("nan")} | ({loss.metric: float("nan")} if loss.metric else {})
        return {"loss": losses[0]} | ({loss.metric: shares[0]} if loss.metric else {})
