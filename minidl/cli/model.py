"""Training a network on arrays, and predicting with one."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import minidl
from minidl.cli import data, tables
from minidl.cli.data import Table, Task
from minidl.cli.errors import CliError
from minidl.cli.results import Result, as_csv, scores_of_classes, scores_of_values

TEST_SHARE = 0.2
WRITER = "minidl train"  # marks the metadata of models that `predict` can read


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults suit the digits."""

    hidden: Sequence[int] = (256, 64)
    epochs: int = 25
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0


def mlp(sizes: Sequence[int], batch_norm: bool, seed: int) -> minidl.Sequential:
    """Return Linear(-BatchNorm1d)-ReLU layers and a last Linear; sizes from inputs to outputs."""
    layers: list[minidl.Layer] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers.append(minidl.Linear(inputs, outputs))
        if batch_norm:
            layers.append(minidl.BatchNorm1d(outputs))
        layers.append(minidl.ReLU())
    layers.append(minidl.Linear(sizes[-2], sizes[-1]))
    return minidl.Sequential(*layers, seed=seed)


def train(table: Table, task: Task, settings: Settings, progress: bool, comm: Any = None) -> Result:
    """Hold out a fifth of the rows, train on the others, test on the fifth.

    Each rank of `comm` trains on its part of the rows, with its part of each batch.

    Raises
    ------
    CliError
        The table does not suit the task, or is too small.
    """
    task = data.choose_task(task, table)
    metadata: dict[str, Any] = {
        "writer": WRITER,
        "task": task.value,
        "features": table.features,
        "target": table.target,
    }
    loss: minidl.Loss
    if task is Task.classification:
        classes, numbers = np.unique(table.y, return_inverse=True)
        metadata["classes"] = [int(c) if isinstance(c, float) else c for c in classes.tolist()]
        outputs, loss = len(classes), minidl.CrossEntropyLoss()
        y: npt.NDArray[Any] = numbers
    else:
        outputs, loss = 1, minidl.MSELoss()
        y = table.y.astype(np.float64)[:, None]

    rng = np.random.default_rng(settings.seed)
    stratify = y if task is Task.classification else None
    training, testing = data.split(len(y), stratify, TEST_SHARE, rng)
    mean, scale = data.moments(table.X[training], table.same_unit)
    metadata |= {"mean": mean.tolist(), "scale": scale.tolist()}
    X = data.standardise(table.X, mean, scale)
    if task is Task.regression:
        target_mean, target_scale = data.moments(y[training])
        y = data.standardise(y, target_mean, target_scale)
        metadata |= {"target_mean": float(target_mean[0]), "target_scale": float(target_scale[0])}

    model = mlp([X.shape[1], *settings.hidden, outputs], batch_norm=True, seed=settings.seed)
    trainer = minidl.Trainer(model, loss=loss, optimizer=minidl.Adam(lr=settings.lr), comm=comm)
    ranks = 1 if comm is None else comm.Get_size()
    if len(training) < ranks:
        raise CliError(f"{len(training)} rows to train on are too few for {ranks} processes")
    own = training[trainer.rank :: ranks]
    X_train, y_train = X[own], y[own]
    start = time.perf_counter()
    trainer.fit(
        X_train,
        y_train,
        epochs=settings.epochs,
        batch_size=max(2, -(-settings.batch_size // ranks)),
        seed=settings.seed,
        verbose="auto" if progress else 0,
    )
    seconds = time.perf_counter() - start
    outputs_of_test = model.predict(X[testing]).astype(np.float64)
    if task is Task.regression:
        mean, scale = metadata["target_mean"], metadata["target_scale"]
        values = table.y.astype(np.float64)
        scores = scores_of_values(
            values[training], values[testing], outputs_of_test[:, 0] * scale + mean
        )
    else:
        scores = scores_of_classes(y[training], y[testing], probabilities(outputs_of_test))
    samples = len(training) * settings.epochs
    facts = {"epochs": str(settings.epochs), "samples per second": f"{samples / seconds:,.0f}"}
    facts |= {} if ranks == 1 else {"processes": str(ranks)}
    return Result(task.value, lambda out: minidl.save(model, out, metadata), scores, seconds, facts)


def probabilities(outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the softmax of each row."""
    shares: npt.NDArray[np.float64] = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def predict(model_path: Path, path: Path, proba: bool, ignored: Sequence[str]) -> str:
    """Return the predictions for the rows of a table as the text of a CSV file.

    Raises
    ------
    CliError
        The model is not one of `minidl train`, or the table does not suit it.
    FormatError
        The file of the model is damaged.
    """
    model = minidl.load(model_path)
    metadata: dict[str, Any] = model.metadata
    check_use(model_path, metadata, proba, metadata.get("classes") is not None)
    with minidl.FormatError.explains(model_path, "metadata: "):
        features, target = [str(name) for name in metadata["features"]], str(metadata["target"])
        mean, scale = (
            np.broadcast_to(np.array(metadata[name], np.float64), len(features))
            for name in ("mean", "scale")
        )
        classes: list[Any] | None = None
        if metadata.get("classes") is not None:
            classes = list(metadata["classes"])
        else:
            factor, shift = float(metadata["target_scale"]), float(metadata["target_mean"])
        wanted, given = 1 if classes is None else len(classes), model.output_features(len(features))
        if given != wanted:
            raise ValueError(f"expected a model with {wanted} outputs, got {given}")
    X = _features(path, features, target, ignored)
    scaled = data.standardise(X, mean, scale)
    outputs = model.predict(scaled).astype(np.float64)
    if classes is None:
        values = outputs[:, 0] * factor + shift
        return as_csv(target, values.tolist())
    labels = [classes[i] for i in outputs.argmax(axis=1)]
    return as_csv(target, labels, classes, probabilities(outputs) if proba else None)


def check_use(path: Path, metadata: dict[str, Any], proba: bool, classifies: bool) -> None:
    """Refuse models that `minidl train` has not written, and probabilities of values.

    Raises
    ------
    CliError
    """
    if metadata.get("writer") != WRITER:
        raise CliError(f"{path}: not written by `{WRITER}`")
    if proba and not classifies:
        raise CliError("--proba is for classification; this model predicts a value")


def _features(path: Path, names: Sequence[str], target: str, ignored: Sequence[str]) -> data.Floats:
    """Read the columns to predict from: by place from an .npz file, else by name."""
    if path.suffix.lower() in tables.KINDS:
        return tables.numbers(path, tables.features(path, [target], ignored), names)
    if path.suffix.lower() != ".npz":
        raise CliError(f"{path}: want a .csv, .parquet or .npz file")
    X = data.load_X(path)
    if X.shape[1] != len(names):
        raise CliError(f"{path}: X has {X.shape[1]} columns, the model wants {len(names)}")
    return X
