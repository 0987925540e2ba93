"""Tables with mixed columns: training the tabular estimators, and predicting with them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.cli import data, tables
from minidl.cli.data import Task
from minidl.cli.errors import CliError
from minidl.cli.model import TEST_SHARE, WRITER, check_use
from minidl.cli.results import Result, as_csv, scores_of_classes, scores_of_values

PARAMETERS = {  # of the estimators, for what the command line calls them
    "hidden": "hidden_layer_sizes",
    "epochs": "max_iter",
    "batch_size": "batch_size",
    "lr": "learning_rate_init",
}


def load(path: Path, target: str | None, ignored: Sequence[str]) -> data.Table:
    """Read a table with its target.

    Raises
    ------
    CliError
        Whatever is wrong with the file; a bad value is named by row and column.
    """
    table = tables.read(path)
    target = None if target is None else target.strip()
    if target in ignored:
        raise CliError(f"--ignore: {target!r} is the target")
    if target is None:
        raise CliError(
            f"{path}: --target must name the column to learn: {data.listed(table.column_names)}"
        )
    y = np.array(tables.column(path, table, target))
    if y.dtype.kind not in "biufU":
        raise CliError(f"{path}: column {target!r}: expected numbers or texts, got {y.dtype}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0]) + 1
        raise CliError(f"{path}: row {row}, column {target!r}: {y[row - 1]} is not finite")
    X = tables.without(path, table, [target, *ignored])
    return data.Table(str(path), X.column_names, X, target, y)


def train(
    table: data.Table,
    task: Task,
    categorical: Sequence[str],
    ignored: Sequence[str],
    options: dict[str, Any],
    seed: int,
    progress: bool,
    comm: Any = None,
) -> Result:
    """Hold out a fifth of the rows, train an estimator on the others, test on the fifth.

    `options` are parameters of the estimator. Each rank of `comm` trains some of its networks.

    Raises
    ------
    CliError
        The table does not suit the task, or is too small.
    """
    from minidl.sklearn import TabularClassifier, TabularRegressor, save_tabular

    path = Path(table.source)
    task = data.choose_task(task, table)
    tables.check_columns(path, table.X, categorical)
    rng = np.random.default_rng(seed)
    given = {"random_state": seed, "verbose": progress, **options}
    if categorical:
        given["categorical_features"] = list(categorical)
    y: Any = table.y
    if task is Task.classification:
        y = y.astype(np.int64) if y.dtype.kind == "f" else y
        _, codes = np.unique(y, return_inverse=True)
        training, testing = data.split(len(y), codes, TEST_SHARE, rng)
        estimator = TabularClassifier(**given)
    else:
        y = y.astype(np.float64)
        training, testing = data.split(len(y), None, TEST_SHARE, rng)
        estimator = TabularRegressor(**given)
    start = time.perf_counter()
    with tables.explained(path), estimator.networks_shared_by(comm):
        estimator.fit(table.X.take(training), y[training])
    seconds = time.perf_counter() - start
    held_out = table.X.take(testing)
    if task is Task.classification:
        P = estimator.predict_proba(held_out)
        scores = scores_of_classes(codes[training], codes[testing], P)
    else:
        scores = scores_of_values(y[training], y[testing], estimator.predict(held_out))
    metadata = {
        "writer": WRITER,
        "target": table.target,
        "ignored": list(ignored),
        "types": tables.types_of(table.X),
    }
    facts = {"networks": str(len(estimator.models_)), "epochs": str(estimator.n_iter_)}
    return Result(
        task.value, lambda out: save_tabular(estimator, out, metadata), scores, seconds, facts
    )


def predict(model_path: Path, path: Path, proba: bool, ignored: Sequence[str]) -> str:
    """Return the predictions for the rows of a table as the text of a CSV file.

    Raises
    ------
    CliError
        The model is not one of `minidl train`, or the table does not suit it.
    """
    from minidl.sklearn import TabularClassifier, load_tabular

    estimator = load_tabular(model_path)
    metadata: dict[str, Any] = estimator.metadata_
    classifies = isinstance(estimator, TabularClassifier)
    check_use(model_path, metadata, proba, classifies)
    if path.suffix.lower() not in tables.KINDS:
        raise CliError(f"{path}: want a .csv or .parquet file, as the model was trained with")
    target = metadata["target"]
    X = tables.features(path, [target, *metadata["ignored"]], ignored, metadata["types"])
    with tables.explained(path):
        if not classifies:
            return as_csv(target, estimator.predict(X).tolist())
        P = estimator.predict_proba(X)
    classes = estimator.classes_.tolist()
    labels = [classes[i] for i in P.argmax(axis=1)]
    return as_csv(target, labels, classes, P if proba else None)
