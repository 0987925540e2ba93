"""Tabular estimators in files: one safetensors file, what is no tensor as JSON. No pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

import minidl
from minidl import checks
from minidl.files import (
    MOST_HEADER,
    FormatError,
    Header,
    read_safetensors,
    to_json,
    write_safetensors,
)
from minidl.memory import Array
from minidl.serialization import (
    architecture,
    build,
    finite_state,
    metadata_text,
    read_metadata,
)
from minidl.sklearn.tabular import TabularClassifier, TabularRegressor
from minidl.sklearn.tabular_encoder import CategoricalColumn, NumericColumn, TabularEncoder
from minidl.sklearn.tabular_network import code_columns

FORMAT = "minidl-tabular-1"
Estimator = TabularClassifier | TabularRegressor
ESTIMATORS: dict[str, type[Estimator]] = {
    kind.__name__: kind for kind in (TabularClassifier, TabularRegressor)
}
TARGETS = ("_mean", "_scale", "_low", "_high")  # of a regressor, a number for each column of y


def save_tabular(
    estimator: Estimator, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None
) -> None:
    """Write a fitted tabular estimator to one safetensors file.

    The file is written beside `path`, synced and renamed: whatever happens, `path` is the old file
    or the new one. It holds what predictions need, and the parameters; not the histories.

    Parameters
    ----------
    estimator : TabularClassifier or TabularRegressor
        Fitted. A `random_state` that is neither None nor an integer becomes None in the file.
    path : str or path-like
    metadata : dict, optional
        What JSON can hold; `load_tabular` gives it back as ``estimator.metadata_``.

    Raises
    ------
    TypeError
        The estimator is another one; or a category, a class, a parameter or the metadata are not
        for JSON. Nothing is written.
    NotFittedError
        It is not fitted.
    OSError
        The file cannot be written; what was there is still there.

    Examples
    --------
    >>> import os, tempfile
    >>> from minidl.sklearn import TabularRegressor, load_tabular, save_tabular
    >>> X = [[i, "even" if i % 2 == 0 else "odd"] for i in range(40)]
    >>> model = TabularRegressor(2, max_iter=7, random_state=0).fit(X, range(40))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     save_tabular(model, path)
    ...     same = load_tabular(path)
    >>> bool((same.predict(X) == model.predict(X)).all())
    True
    """
    if type(estimator) not in ESTIMATORS.values():
        raise TypeError(
            "estimator: expected a TabularClassifier or a TabularRegressor, got "
            f"{type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    parameters = estimator.get_params()
    if not isinstance(parameters["random_state"], (int, np.integer)):
        parameters["random_state"] = None
    header = {
        "format": FORMAT,
        "estimator": to_json(type(estimator).__name__),
        "parameters": _json(parameters, "parameters"),
        "encoder": _json(_encoder_state(estimator.encoder_), "categories"),
        "architectures": to_json([architecture(model) for model in estimator.models_]),
        "learned": _json(_learned(estimator), "classes"),
        "metadata": metadata_text(metadata),
    }
    tensors = {
        f"{i}.{name}": value
        for i, model in enumerate(estimator.models_)
        for name, value in finite_state(model).items()
    }
    write_safetensors(path, tensors, header)


def load_tabular(path: str | os.PathLike[str]) -> Estimator:
    """Read a tabular estimator that `save_tabular` has written.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    TabularClassifier or TabularRegressor
        Fitted, without ``histories_``, with ``metadata_``.

    Raises
    ------
    FormatError
        The file is no such file, or is damaged.
    OSError
        It cannot be read.
    """
    header, tensors = read_safetensors(path, FORMAT, "a tabular estimator of minidl")
    with FormatError.explains(path):
        return _estimator(header, tensors)


def _json(value: Any, what: str) -> str:
    """JSON of numbers of NumPy too."""
    try:
        return to_json(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what}: expected what JSON can hold: {error}") from None


def _read(header: Header, name: str) -> Any:
    """The value of a name, if it could be written again: no NaN and no infinity."""
    value = header.read(name)
    _json(value, name)
    return value


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as Python's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"got {value!r:.50} of type {type(value).__name__}")


def _encoder_state(encoder: TabularEncoder) -> dict[str, Any]:
    """What an encoder has learned."""
    labels = encoder._labels
    shown = range(len(encoder.columns_)) if labels is None else labels
    columns: list[dict[str, Any]] = []
    for label, column in zip(shown, encoder.columns_, strict=True):
        if isinstance(column, NumericColumn):
            columns.append(vars(column))
            continue
        for level in column.levels:
            if not _is_plain(level):
                raise TypeError(
                    f"column {label!r}: expected categories that are texts or finite numbers, "
                    f"which a file can hold, got {level!r}"
                )
        columns.append({"levels": column.levels})
    for label in labels or ():
        if not isinstance(label, (str, int)):
            raise TypeError(f"X: expected columns labelled by texts or integers, got {label!r}")
    return {"columns": columns, "labels": encoder._labels}


def _is_plain(level: Any) -> bool:
    """True for None, texts and finite numbers."""
    if level is None or isinstance(level, (str, bool)):
        return True
    return checks.is_number(level) and math.isfinite(level)


def _learned(estimator: Estimator) -> dict[str, Any]:
    """What an estimator has learned beside its networks and encoder."""
    learned = {"n_iter_": estimator.n_iter_, "validation_loss_": estimator.validation_loss_}
    if isinstance(estimator, TabularClassifier):
        classes = estimator.classes_
        return learned | {"classes_": classes.tolist(), "dtype": classes.dtype.str}
    targets = {name: getattr(estimator, name).tolist() for name in TARGETS}
    return learned | targets | {"_flat": estimator._flat}


def _estimator(header: Header, tensors: dict[str, Array]) -> Estimator:
    """The estimator of a file, all its parts held to each other."""
    name = _read(header, "estimator")
    checks.one_of(name, tuple(ESTIMATORS), "estimator")
    parameters = _read(header, "parameters")
    sizes = parameters["hidden_layer_sizes"]
    parameters["hidden_layer_sizes"] = tuple(sizes) if isinstance(sizes, list) else sizes
    estimator = ESTIMATORS[name](**parameters)
    estimator.encoder_ = encoder = _encoder(_read(header, "encoder"), estimator)
    estimator.n_features_in_ = encoder.n_features_in_
    if hasattr(encoder, "feature_names_in_"):
        estimator.feature_names_in_ = encoder.feature_names_in_
    outputs = _take_learned(estimator, _read(header, "learned"))
    estimator.models_ = list(_models(_read(header, "architectures"), tensors))
    if not estimator.models_:
        raise ValueError("architectures: expected at least one")
    width = encoder.n_dense_ + len(encoder.cardinalities_)
    for model in estimator.models_:
        tables = [table.num_embeddings for table in code_columns(model)]
        got = model.in_features_or_none(), model.output_features(width), tables
        if got != (width, outputs, encoder.cardinalities_):
            raise ValueError(
                f"architectures: expected {(width, outputs, encoder.cardinalities_)} columns, "
                f"outputs and codes, got {got}"
            )
        model.eval()
    estimator.metadata_ = read_metadata(header)
    return estimator


def _models(described: Any, tensors: dict[str, Array]) -> Iterator[minidl.Sequential]:
    """The networks of a file."""
    parts: list[dict[str, Array]] = [{} for _ in described]
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        parts[int(number)][rest] = tensor
    for config, state in zip(described, parts, strict=True):
        model = build(config, state)
        model.load_state_dict(state)
        yield model


def _encoder(state: dict[str, Any], estimator: Estimator) -> TabularEncoder:
    """The encoder of a file."""
    encoder = estimator._encoder()
    labels = state["labels"]
    columns = [_column(column) for column in state["columns"]]
    if labels is not None:
        known = {label for label in labels if isinstance(label, (str, int))}
        if len(known) != len(labels) or len(labels) != len(columns):
            raise ValueError(f"encoder: expected {len(columns)} labels, got {labels!r:.50}")
    encoder.restore(columns, labels)
    return encoder


def _column(state: dict[str, Any]) -> NumericColumn | CategoricalColumn:
    """A column of an encoder."""
    if "levels" in state:
        levels = state["levels"]
        for level in levels:
            if not _is_plain(level):
                raise ValueError(f"encoder: expected a category, got {level!r:.50}")
        codes = {level: i for i, level in enumerate(levels, 1)}
        if len(codes) < len(levels):
            raise ValueError("encoder: expected each category once")
        return CategoricalColumn(codes)
    edges = _numbers(state["edges"], "edges")
    if len(edges) and (len(edges) < 3 or not (np.diff(edges) > 0).all()):
        raise ValueError("encoder: expected edges that rise")
    return NumericColumn(
        median=checks.number(state["median"], "median", -np.inf),
        scale=checks.number(state["scale"], "scale", 0, open_low=True),
        varies=checks.flag(state["varies"], "varies"),
        has_missing=checks.flag(state["has_missing"], "has_missing"),
        edges=edges,
    )


def _take_learned(estimator: Estimator, learned: dict[str, Any]) -> int:
    """Give an estimator what it has learned; returns how many outputs its networks have."""
    estimator.n_iter_ = checks.positive_int(learned["n_iter_"], "n_iter_")
    estimator.validation_loss_ = _numbers(learned["validation_loss_"], "validation_loss_").tolist()
    if isinstance(estimator, TabularClassifier):
        dtype = np.dtype(learned["dtype"])
        if dtype.kind not in "biufUO":
            raise ValueError(f"dtype: expected that of numbers or strings, got {dtype}")
        if dtype.itemsize * len(learned["classes_"]) > MOST_HEADER:
            raise ValueError(f"dtype: expected one for shorter strings, got {dtype}")
        estimator.classes_ = np.array(learned["classes_"], dtype)
        if estimator.classes_.ndim != 1 or len(set(estimator.classes_.tolist())) < 2:
            raise ValueError("classes_: expected at least two")
        return len(estimator.classes_)
    values = [_numbers(learned[name], name) for name in TARGETS]
    if len({len(value) for value in values}) > 1:
        raise ValueError(f"{', '.join(TARGETS)}: expected as many numbers of each")
    for name, value in zip(TARGETS, values, strict=True):
        setattr(estimator, name, value)
    estimator._flat = checks.flag(learned["_flat"], "_flat")
    return len(values[0])


def _numbers(values: Sequence[float], name: str) -> Array:
    """A list of finite numbers as an array."""
    return np.array([checks.number(value, name, -np.inf) for value in values], np.float64)
