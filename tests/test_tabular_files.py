"""Tabular estimators written to files and read back."""

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")
pd = pytest.importorskip("pandas")

from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402

import minidl  # noqa: E402
from minidl.sklearn import (  # noqa: E402
    MLPClassifier,
    TabularClassifier,
    TabularRegressor,
    load_tabular,
    save_tabular,
)

QUICK = {"n_models": 2, "hidden_layer_sizes": (16, 8), "max_iter": 7, "random_state": 0}


def table(rows=200):
    """Numbers, gaps, booleans, few and many categories, some of them numbers or missing."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
            "flag": rng.random(rows) < 0.5,
            "color": rng.choice(np.array(["red", "blue", None], dtype=object), rows),
            "city": rng.choice([f"city {i}" for i in range(20)], rows),
            "zip": pd.Categorical(rng.choice([10115, 20095, 80331], rows)),
        }
    )


def labels(kind, rows=200):
    return {
        "texts": np.array(["no", "yes", "maybe"])[np.arange(rows) % 3],
        "objects": np.array(["no", "yes"], dtype=object)[np.arange(rows) % 2],
        "integers": np.arange(rows) % 3 - 1,
        "booleans": np.arange(rows) % 2 == 0,
        "floats": (np.arange(rows) % 2) * 2.0 - 1,
    }[kind]


@pytest.mark.parametrize("kind", ["texts", "objects", "integers", "booleans", "floats"])
def test_a_classifier_comes_back(kind, tmp_path):
    X, path = table(), tmp_path / "model.safetensors"
    fitted = TabularClassifier(**QUICK).fit(X, labels(kind))
    save_tabular(fitted, path, {"note": [1, "two"]})
    read = load_tabular(path)
    assert type(read) is TabularClassifier
    new = X.sample(frac=1, random_state=1).assign(city="elsewhere")
    np.testing.assert_array_equal(read.predict_proba(new), fitted.predict_proba(new))
    np.testing.assert_array_equal(read.predict(X), fitted.predict(X))
    assert read.classes_.dtype == fitted.classes_.dtype
    assert read.feature_names_in_.tolist() == list(X)
    assert read.n_features_in_ == 5
    assert (read.n_iter_, read.validation_loss_) == (fitted.n_iter_, fitted.validation_loss_)
    assert read.metadata_ == {"note": [1, "two"]}
    with pytest.raises(ValueError, match="lacks column 'zip'"):
        read.predict(X.drop(columns="zip"))


def test_columns_labelled_by_numbers_come_back(tmp_path):
    X, path = (
        pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2))),
        tmp_path / "m.safetensors",
    )
    X.columns = [2019, 2020]
    fitted = TabularRegressor(**QUICK).fit(X, X[2019])
    save_tabular(fitted, path)
    np.testing.assert_array_equal(load_tabular(path).predict(X[[2020, 2019]]), fitted.predict(X))
    X.columns = [1.5, 2.5]
    with pytest.raises(TypeError, match=r"columns labelled by texts or integers, got 1\.5"):
        save_tabular(TabularRegressor(**QUICK).fit(X, X[1.5]), path)


@pytest.mark.parametrize("columns", [None, 1, 2])
def test_a_regressor_comes_back(columns, tmp_path):
    X, path = table(), tmp_path / "model.safetensors"
    rng = np.random.default_rng(1)
    y = rng.normal(5, 3, 200 if columns is None else (200, columns))
    fitted = TabularRegressor(**QUICK).fit(X, y)
    save_tabular(fitted, path)
    read = load_tabular(path)
    assert type(read) is TabularRegressor
    np.testing.assert_array_equal(read.predict(X), fitted.predict(X))
    assert read.metadata_ == {}


def test_parameters_come_back(tmp_path):
    path = tmp_path / "model.safetensors"
    given = QUICK | {
        "categorical_features": [0], "max_one_hot": np.int64(0), "n_bins": 3, "dropout": 0.25,
        "hidden_layer_sizes": np.int64(8), "random_state": np.random.RandomState(3),
    }  # fmt: skip
    fitted = TabularRegressor(**given).fit(np.arange(40.0).reshape(20, 2), np.arange(20.0))
    save_tabular(fitted, path)
    read = load_tabular(path)
    assert read.get_params() == fitted.get_params() | {"random_state": None}
    assert read.encoder_.cardinalities_ == fitted.encoder_.cardinalities_
    assert not hasattr(read, "feature_names_in_")
    clone(read).fit(np.arange(40.0).reshape(20, 2), np.arange(20.0))


def test_numbers_come_back_to_the_bit(tmp_path):
    x = np.array([5e-324, 1e-300, 0.1, 1 / 3, 1e17, 1.7e300] * 10)[:, None]
    fitted = TabularRegressor(**QUICK).fit(x, x[:, 0] * 1e-300)
    save_tabular(fitted, tmp_path / "m.safetensors")
    read = load_tabular(tmp_path / "m.safetensors")
    mine, theirs = (vars(model.encoder_.columns_[0]) for model in (fitted, read))
    np.testing.assert_equal(mine, theirs)
    np.testing.assert_array_equal(read.predict(x), fitted.predict(x))


def test_what_is_not_written(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("mine")
    X, y = table(40), np.arange(40.0)
    with pytest.raises(NotFittedError):
        save_tabular(TabularRegressor(), path)
    with pytest.raises(TypeError, match="expected a TabularClassifier or a TabularRegressor, got"):
        save_tabular(MLPClassifier(), path)
    fitted = TabularRegressor(**QUICK).fit(X, y)
    with pytest.raises(TypeError, match="metadata: expected"):
        save_tabular(fitted, path, {"x": X})
    with pytest.raises(TypeError, match="metadata: expected a dict"):
        save_tabular(fitted, path, [1])
    X["color"] = [b"red", b"blue"] * 20
    with pytest.raises(TypeError, match=r"column 'color': expected categories that are .* got b'"):
        save_tabular(TabularRegressor(**QUICK).fit(X, y), path)
    assert path.read_text() == "mine"


def test_other_files(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tabular(TabularRegressor(**QUICK).fit(table(40), np.arange(40.0)), path)
    with pytest.raises(minidl.FormatError, match=r"it is for minidl\.sklearn\.load_tabular"):
        minidl.load(path)
    with pytest.raises(minidl.FormatError, match=r"it is for minidl\.sklearn\.load_tabular"):
        minidl.Trainer.resume(path)
    minidl.save(minidl.Sequential(minidl.Linear(1, 1)), path)
    with pytest.raises(minidl.FormatError, match=r"not a tabular .*: it is for minidl\.load"):
        load_tabular(path)
    path.write_text("no file of tensors")
    with pytest.raises(minidl.FormatError, match="not a safetensors file"):
        load_tabular(path)
    with pytest.raises(OSError, match=r"none\.safetensors"):
        load_tabular(tmp_path / "none.safetensors")


def set_at(value, *keys):
    """A change of a value inside of JSON."""

    def change(header):
        inner = header
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def written(path):
    """Metadata and tensors of a file with a classifier."""
    save_tabular(TabularClassifier(**QUICK).fit(table(), labels("objects")), path)
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "change",
    [
        set_at("Pipeline", "estimator"),
        set_at(["TabularRegressor"], "estimator"),
        set_at({"depth": 3}, "parameters"),
        set_at(None, "parameters"),
        set_at(float("inf"), "parameters", "categorical_features"),
        set_at(None, "encoder"),
        set_at(["a"], "encoder", "labels"),
        set_at([1, 2, 3, 4, 4], "encoder", "labels"),
        set_at([1.5, 2, 3, 4, 5], "encoder", "labels"),
        set_at([], "encoder", "columns"),
        set_at(None, "encoder", "columns", 0),
        set_at({}, "encoder", "columns", 0),
        set_at(float("nan"), "encoder", "columns", 0, "median"),
        set_at("1", "encoder", "columns", 0, "median"),
        set_at(0.0, "encoder", "columns", 0, "scale"),
        set_at(float("inf"), "encoder", "columns", 0, "scale"),
        set_at([1, 1, 2], "encoder", "columns", 0, "edges"),
        set_at([1, 2], "encoder", "columns", 0, "edges"),
        set_at(1, "encoder", "columns", 0, "varies"),
        set_at(False, "encoder", "columns", 0, "has_missing"),
        set_at([["red"]], "encoder", "columns", 2, "levels"),
        set_at(["red", "red"], "encoder", "columns", 2, "levels"),
        set_at(["red"], "encoder", "columns", 2, "levels"),
        set_at(["a"], "encoder", "columns", 3, "levels"),
        set_at([], "architectures"),
        set_at([1, 2], "architectures"),
        set_at({}, "learned"),
        set_at("O3", "learned", "dtype"),
        set_at("V8", "learned", "dtype"),
        set_at(["no"], "learned", "classes_"),
        set_at(["no", "no"], "learned", "classes_"),
        set_at([["no"], ["yes"]], "learned", "classes_"),
        set_at(["no", "yes", "maybe"], "learned", "classes_"),
        set_at("many", "learned", "n_iter_"),
        set_at([None], "learned", "validation_loss_"),
        set_at([1], "metadata"),
    ],
)
def test_damaged_files(change, tmp_path):
    path = tmp_path / "model.safetensors"
    metadata, tensors = written(path)
    header = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
    change(header)
    texts = {name: json.dumps(value) for name, value in header.items()}
    save_file(tensors, path, texts | {"format": metadata["format"]})
    with pytest.raises(minidl.FormatError, match=r"model\.safetensors: "):
        load_tabular(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("0.1.weight", np.zeros(2, np.float32)),
        ("0.1.bias", np.full(16, np.nan, np.float32)),
        ("0.9.bias", np.zeros(2, np.float32)),
        ("2.1.bias", np.zeros(2, np.float32)),
        ("bias", np.zeros(2, np.float32)),
    ],
)
def test_other_tensors(name, tensor, tmp_path):
    path = tmp_path / "model.safetensors"
    metadata, tensors = written(path)
    save_file(tensors | {name: tensor}, path, metadata)
    with pytest.raises(minidl.FormatError, match=r"model\.safetensors: "):
        load_tabular(path)


def test_a_tensor_that_is_missing(tmp_path):
    path = tmp_path / "model.safetensors"
    metadata, tensors = written(path)
    del tensors["1.1.bias"]
    save_file(tensors, path, metadata)
    with pytest.raises(minidl.FormatError, match=r"missing \['1.bias'\]"):
        load_tabular(path)
