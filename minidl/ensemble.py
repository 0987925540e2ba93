"""Ensembles: models of one task, whose predictions are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl import checks, losses, parallel
from minidl.evaluation import blocks_of
from minidl.files import FormatError, read_safetensors, to_json, write_safetensors
from minidl.inputs import open_inputs
from minidl.kernels import threads
from minidl.layers import Layer
from minidl.memory import Array, check_room
from minidl.metrics.convert import Task, predicted_labels, probabilities
from minidl.prediction import CACHED_ROWS, OUTPUT, predict_rows
from minidl.serialization import (
    MOST_LAYERS,
    architecture,
    build,
    finite_state,
    metadata_text,
    read_metadata,
    record_of_training,
)

if TYPE_CHECKING:
    from minidl.data.rows import Data

FORMAT = "minidl-ensemble-1"
TASKS = ("multiclass", "binary", "regression")
BLOCK = 16 << 20  # bytes of the predictions of all models for a block of rows
SMALL_WORK = 20_000_000  # floating-point operations for which no threads are started


class Uncertainty(NamedTuple):
    """Entropies in nats, each (N,), as `Ensemble.uncertainty` gives them.

    Attributes
    ----------
    total : ndarray
        Of the mean of the probabilities.
    data : ndarray
        The mean of the models' own entropies: what they agree is not known (aleatoric).
    model : ndarray
        The rest, which is the mutual information of the class and the model: how much they disagree
        (epistemic).
    """

    total: Array
    data: Array
    model: Array


class Ensemble:
    """Several models, whose predictions are averaged; those of classes as probabilities.

    Parameters
    ----------
    models : sequence of Layer
        With the same inputs, outputs and dtype; mostly `Sequential`.
    task : {"multiclass", "binary", "regression"}, optional
        What the outputs are: logits of one class among several, logits of yes or no in each column,
        numbers. Default: what the loss that the models were trained with takes them for, as their
        `training_record` says; if there is none, or the loss was a function, numbers.

    Attributes
    ----------
    models : tuple of Layer
    task : str or None
    metadata : dict
        Of the file, if it was loaded.

    Raises
    ------
    ValueError, TypeError
        An argument does not fit, the models differ in inputs, outputs or dtype, or were trained for
        different tasks.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation
    Using Deep Ensembles, NeurIPS 2017. Depeweg et al., Decomposition of Uncertainty in Bayesian
    Deep Learning, ICML 2018: the entropies.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> X = np.random.default_rng(0).normal(size=(300, 2)); y = (X[:, 0] > X[:, 1]).astype(int)
    >>> models = [
    ...     minidl.Sequential(minidl.Linear(2, 16), minidl.ReLU(), minidl.Linear(16, 2), seed=i)
    ...     for i in range(4)]
    >>> trainers = [minidl.Trainer(model) for model in models]
    >>> results = minidl.fit_many(trainers, X, y, epochs=60, seed=range(4))
    >>> ensemble = minidl.Ensemble(models)
    >>> mean, std = ensemble.predict([[2.0, -2.0], [0.1, 0.1]], return_std=True)
    >>> bool(mean[0, 1] > 0.95), bool(std[0].max() < std[1].max())
    (True, True)
    >>> ensemble.vote([[2.0, -2.0], [-2.0, 2.0]])
    array([1, 0])
    """

    def __init__(self, models: Sequence[Layer], task: str | None = None) -> None:
        listed = models if isinstance(models, (list, tuple)) else [models]
        wrong = [model for model in listed if not isinstance(model, Layer)]
        if wrong or listed is not models or not listed:
            got = f"{wrong[0]!r:.100}" if wrong else f"{models!r:.100}"
            raise TypeError(f"models: expected a list of models, got {got}")
        if task is not None:
            checks.one_of(task, TASKS, "task")
        self.models = tuple(models)
        _check_alike(self.models)
        self.task: Task = _task_of(self.models) if task is None else task  # type: ignore[assignment]
        self.metadata: dict[str, Any] = {}

    def __len__(self) -> int:
        """Models."""
        return len(self.models)

    def __repr__(self) -> str:
        """How many models, and the first of them."""
        return f"Ensemble({len(self)} models, task={self.task!r}, the first: {self.models[0]!r})"

    def predict(self, x: Any, batch_size: int | None = None, *, return_std: bool = False) -> Any:
        """The mean of the models' predictions, in evaluation mode.

        Probabilities of classes, (N, C); of yes in each column, (N, K); numbers, (N, K).

        Parameters
        ----------
        x
            As for `Trainer.fit`, in one pass, block by block; models are shared out to the cores.
        batch_size : int, optional
            Rows at a time; default: as many as keep the activations in cache.
        return_std : bool, default False
            Give the standard deviation over the models too (that of all of them, as `numpy.std`).

        Returns
        -------
        mean : ndarray of shape (N, out_features)
            In the models' dtype.
        std : ndarray of shape (N, out_features)
            If `return_std`.
        """
        if checks.flag(return_std, "return_std"):
            return tuple(self._through(x, batch_size, lambda p: (p.mean(axis=0), p.std(axis=0))))
        return self._through(x, batch_size, lambda p: (p.mean(axis=0),))[0]

    def vote(self, x: Any, batch_size: int | None = None) -> Array:
        """The class that most models predict; of equals, that of the least number.

        Returns
        -------
        ndarray of shape (N,), intp
            Of a binary task zeros and ones, (N, K), or (N,) for one column: a tie is 0.

        Raises
        ------
        ValueError
            The task is none of classes.
        """
        task = self._classes("vote")

        def count(outputs: Array) -> tuple[Array]:
            labels = np.stack([predicted_labels(one, task) for one in outputs])
            if task == "binary":
                return ((2 * labels.sum(axis=0) > len(labels)).astype(np.intp),)
            votes = np.stack([(labels == c).sum(axis=0) for c in range(outputs.shape[2])])
            return (votes.argmax(axis=0),)

        return self._through(x, batch_size, count, as_they_are=True)[0]

    def uncertainty(self, x: Any, batch_size: int | None = None) -> Uncertainty:
        """How uncertain the class is, and why: entropies, in nats.

        Of a binary task with several columns, the sum over the columns.

        Returns
        -------
        Uncertainty
            ``total``, ``data`` and ``model``, each (N,): total = data + model.

        Raises
        ------
        ValueError
            The task is none of classes.

        Examples
        --------
        >>> import numpy as np
        >>> import minidl
        >>> sure, other = (minidl.Sequential(minidl.Linear(1, 2)) for _ in range(2))
        >>> sure[0].weight, sure[0].bias = np.zeros((2, 1)), [9.0, -9.0]
        >>> other[0].weight, other[0].bias = np.zeros((2, 1)), [-9.0, 9.0]
        >>> found = minidl.Ensemble([sure, other], "multiclass").uncertainty([[0.0]])
        >>> found.total.round(3), found.data.round(3), found.model.round(3)
        (array([0.693]), array([0.]), array([0.693]))
        """
        task = self._classes("uncertainty")

        def entropies(p: Array) -> tuple[Array, ...]:
            total, data = _entropy(p.mean(axis=0), task), _entropy(p, task).mean(axis=0)
            return total, data, np.maximum(total - data, 0.0)

        found = self._through(x, batch_size, entropies, dtype=np.dtype(np.float64))
        return Uncertainty(*found)

    def save(self, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Write all models to one safetensors file, as `minidl.save` writes one.

        Parameters
        ----------
        path : str or path-like
        metadata : dict, optional
            What JSON can hold; `load` gives it back as ``ensemble.metadata``.

        Raises
        ------
        TypeError, ValueError, OSError
            As `minidl.save`; there is one limit of layers, and of what names and metadata take, for
            all models together. Nothing is written.
        """
        models: Any = self.models
        header = {
            "metadata": metadata_text(metadata),
            "format": FORMAT,
            "task": to_json(self.task),
            "architecture": to_json([architecture(model) for model in models]),
            "training": to_json([model.__dict__.get("training_record") for model in models]),
        }
        _check_size(sum(1 for model in models for _ in model.tree()))
        state = {
            f"{i}.{name}": value
            for i, model in enumerate(models)
            for name, value in finite_state(model).items()
        }
        write_safetensors(path, state, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ensemble:
        """Read an ensemble that `save` has written; its models are in evaluation mode.

        Raises
        ------
        FormatError
            The file is not an ensemble of minidl, or is damaged.
        OSError
            It cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> import minidl
        >>> models = [minidl.Sequential(minidl.Linear(2, 1), seed=i) for i in range(3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     minidl.Ensemble(models).save(f"{folder}/three.safetensors")
        ...     same = minidl.Ensemble.load(f"{folder}/three.safetensors")
        >>> same.predict([[1.0, 2.0]]) == minidl.Ensemble(models).predict([[1.0, 2.0]])
        array([[ True]])
        """
        header, tensors = read_safetensors(path, FORMAT, "an ensemble of minidl")
        with FormatError.explains(path):
            described, records = header.read("architecture"), header.read("training")
            if not isinstance(described, list) or not isinstance(records, list):
                raise ValueError("architecture, training: expected lists")
            state: dict[str, dict[str, Array]] = {str(i): {} for i in range(len(described))}
            for name, value in tensors.items():
                number, _, rest = name.partition(".")
                state[number][rest] = value
            models, layers = [], 0
            for config, own, record in zip(described, state.values(), records, strict=True):
                model = build(config, own)
                layers += sum(1 for _ in model.tree())
                _check_size(layers)
                model.load_state_dict(own)
                model.__dict__["training_record"] = record_of_training(record)
                models.append(model.eval())
            ensemble = cls(models, "regression")
            ensemble.task = header.read("task")
            checks.one_of(ensemble.task, (None, *TASKS), "task")
            ensemble.metadata = read_metadata(header)
        return ensemble

    # One pass.

    def _classes(self, what: str) -> Task:
        """The task, which must be one of classes."""
        if self.task not in ("multiclass", "binary"):
            raise ValueError(
                f"{what}: expected models of classes, got task {self.task!r}; name it: "
                'Ensemble(models, task="multiclass")'
            )
        return self.task

    def _through(
        self,
        x: Any,
        batch_size: int | None,
        reduce: Callable[[Array], tuple[Array, ...]],
        *,
        as_they_are: bool = False,
        dtype: np.dtype[Any] | None = None,
    ) -> list[Array]:
        """What `reduce` makes of the predictions of all models (models, rows, out_features).

        They are float64, and probabilities if the task is one of classes, unless `as_they_are`.
        """
        if batch_size is not None:
            batch_size = checks.positive_int(batch_size, "batch_size")
        first = self.models[0]
        data = open_inputs(first, x, names=("x", "y", "sample_weight"), targets=False)
        if data.rows == 0:
            data.load()
        found: list[list[Array]] = []
        with _Cores(len(self.models)) as cores:
            for part, start in self._parts(data, batch_size):
                small = 2 * first.store().trainable * len(part[0]) * len(self) < SMALL_WORK
                if small and len(part) == 1 and start == 0:  # a few rows may be predicted at once
                    made = [model.predict(part[0], batch_size) for model in self.models]
                else:
                    work = partial(predict_rows, x=part, batch_size=batch_size, first=start)
                    made = cores.map(work, self.models, small)
                outputs = np.stack(made, dtype=np.float64)
                if data.rows is not None and not found:
                    check_room(data.rows * outputs.shape[2] * first.dtype.itemsize, OUTPUT)
                if not as_they_are:
                    for one in outputs:
                        one[...] = as_predictions(one, self.task)
                kept = first.dtype if dtype is None else dtype
                found.append(
                    [one.astype(kept) if one.dtype.kind == "f" else one for one in reduce(outputs)]
                )
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _parts(self, data: Data, batch_size: int | None) -> Iterator[tuple[list[Array], int]]:
        """Rows of the inputs, as many as there is room for predictions, and where they begin."""
        least = batch_size or CACHED_ROWS
        with blocks_of(data, least) as blocks:
            for block in blocks:
                columns = self.models[0].output_features(sum(x.shape[1] for x in block.x))
                size = max(BLOCK // (8 * len(self) * max(columns, 1)), least)
                for start in range(0, max(len(block.x[0]), 1), size):
                    yield [x[start : start + size] for x in block.x], block.start + start


class _Cores:
    """Threads, as many as there are cores for the models, once there is work for them."""

    def __init__(self, models: int) -> None:
        self.cores = parallel.get_num_threads()
        self.workers = min(self.cores, models)
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Cores:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self, work: Callable[[Layer], Array], models: Sequence[Layer], small: bool
    ) -> list[Array]:
        """What the work gives for each model; in this thread if it is a small one."""
        if small or self.workers == 1:
            return [work(model) for model in models]
        if self.pool is None:
            share = max(1, self.cores // self.workers)
            self.pool = ThreadPoolExecutor(
                self.workers, "minidl.Ensemble", threads.limit_own, (share, self.cores)
            )
        return list(self.pool.map(work, models))


def as_predictions(outputs: Array, task: Task) -> Array:
    """What is averaged: probabilities in float64 if the task is one of classes, else outputs."""
    if task not in ("multiclass", "binary"):
        return outputs
    return probabilities(outputs, task).reshape(outputs.shape)


def _check_alike(models: Sequence[Layer]) -> None:
    """All models have the same inputs, outputs and dtype."""
    forms = [
        {
            "inputs": model.in_features_or_none(),
            "outputs": model.output_features(model.in_features_or_none() or 0),
            "dtype": str(model.dtype),
            "flattening of rows": model.flattens(),
        }
        for model in models
    ]
    for i, form in enumerate(forms):
        for what, value in form.items():
            if value != forms[0][what]:
                raise ValueError(
                    f"models: expected the same {what} in all, got {forms[0][what]} in models[0] "
                    f"and {value} in models[{i}]"
                )


def _task_of(models: Sequence[Layer]) -> Task:
    """What the losses that models were trained with take their outputs for."""
    records = [model.__dict__.get("training_record") or {} for model in models]
    names = {str(record.get("loss")).partition("(")[0] for record in records}
    tasks = sorted({losses.ALL[name].task or "" for name in names if name in losses.ALL})
    if len(tasks) > 1:
        raise ValueError(
            f"models: expected models of one task, got some of {' and '.join(tasks)}; name it: "
            "Ensemble(models, task=...)"
        )
    return tasks[0] or None if tasks else None


def _check_size(layers: int) -> None:
    if layers > MOST_LAYERS:
        raise ValueError(f"models: expected at most {MOST_LAYERS} layers in all, got {layers}")


def _entropy(p: Array, task: Task) -> Array:
    """Entropy of probabilities, over the last axis."""

    def part(q: Array) -> Array:
        return -q * np.log(np.where(q > 0, q, 1.0))

    terms = part(p) if task == "multiclass" else part(p) + part(1 - p)
    total: Array = terms.sum(axis=-1)
    return total
