"""Ensembles: means, votes and spread against NumPy, one pass, one file, bad input."""

import pickle
import threading

import numpy as np
import pytest
from helpers import OPENMP, assert_close
from test_many import filed, framed, mapped

import minidl
from minidl import ensemble as module
from minidl.metrics.convert import probabilities

COLUMNS = 4


def model(seed=0, outputs=3, dtype="float32", width=6):
    return minidl.Sequential(
        minidl.Linear(COLUMNS, width), minidl.BatchNorm1d(width), minidl.Tanh(),
        minidl.Dropout(0.5), minidl.Linear(width, outputs), dtype=dtype, seed=seed,
    )  # fmt: skip


def models(count=5, **options):
    return [model(seed, width=5 + seed, **options) for seed in range(count)]


def rows(count=50):
    return np.random.default_rng(0).normal(size=(count, COLUMNS)).astype(np.float32) * 3


def outputs(members, X):
    return np.stack([one.predict(X).astype(np.float64) for one in members])


def softmax(z):
    return np.stack([probabilities(one, "multiclass") for one in z])


def entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


# -------------------------------------------------------------------------------- against NumPy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers(dtype):
    members, X = models(dtype=dtype), rows()
    z = outputs(members, X)
    ensemble = minidl.Ensemble(members)
    mean, std = ensemble.predict(X, return_std=True)
    assert mean.dtype == std.dtype == dtype
    assert ensemble.task is None
    np.testing.assert_array_equal(mean, z.mean(axis=0).astype(dtype))
    np.testing.assert_array_equal(std, z.std(axis=0).astype(dtype))
    np.testing.assert_array_equal(ensemble.predict(X), mean)
    assert all(layer.training for _, layer in members[0].layers())  # as it was


def test_classes():
    members, X = models(), rows()
    p = softmax(outputs(members, X))
    ensemble = minidl.Ensemble(members, "multiclass")
    mean, std = ensemble.predict(X, return_std=True)
    assert_close(mean, p.mean(axis=0), 1e-7)
    assert_close(std, p.std(axis=0), 1e-6)
    assert_close(mean.sum(axis=1), np.ones(len(X)), 1e-6)
    labels = p.argmax(axis=2)
    votes = [np.bincount(column, minlength=3).argmax() for column in labels.T]
    assert ensemble.vote(X).tolist() == votes
    found = ensemble.uncertainty(X)
    assert_close(found.total, entropy(p.mean(axis=0)), 1e-12)
    assert_close(found.data, entropy(p).mean(axis=0), 1e-12)
    assert_close(found.total - found.data, found.model, 1e-9)
    assert found.model.min() >= 0
    assert found.total.dtype == np.float64


@pytest.mark.parametrize("columns", [1, 3])
def test_yes_or_no(columns):
    members, X = models(outputs=columns), rows()
    z = outputs(members, X)
    p = 1 / (1 + np.exp(-z))
    ensemble = minidl.Ensemble(members, "binary")
    assert_close(ensemble.predict(X), p.mean(axis=0), 1e-7)
    votes = (z > 0).sum(axis=0) > 2.5
    np.testing.assert_array_equal(ensemble.vote(X), votes[:, 0] if columns == 1 else votes)
    found = ensemble.uncertainty(X)
    both = np.stack([p, 1 - p], axis=-1)
    assert_close(found.total, entropy(both.mean(axis=0)).sum(axis=-1), 1e-9)
    assert_close(found.data, entropy(both).sum(axis=-1).mean(axis=0), 1e-9)


def constant(*logits):
    """A model that always says the same."""
    one = minidl.Sequential(minidl.Linear(1, len(logits)))
    one[0].weight, one[0].bias = np.zeros((len(logits), 1)), logits
    return one


def test_ties_go_to_the_least_class():
    assert minidl.Ensemble([constant(0, 1, 0), constant(1, 0, 0)], "multiclass").vote([[0.0]]) == 0
    assert minidl.Ensemble([constant(0, 0, 2), constant(0, 2, 0)], "multiclass").vote([[0.0]]) == 1
    assert minidl.Ensemble([constant(1), constant(-1)], "binary").vote([[0.0]]) == 0


def test_sure_models_that_agree_are_certain_and_those_that_do_not_are_not():
    alike = minidl.Ensemble([constant(900.0, -900.0)] * 2, "multiclass").uncertainty([[0.0]])
    assert [float(x[0]) for x in alike] == [0.0, 0.0, 0.0]
    apart = minidl.Ensemble([constant(900, -900), constant(-900, 900)], "multiclass")
    total, data, of_models = apart.uncertainty([[0.0]])
    assert (total[0], data[0], of_models[0]) == (np.log(2), 0.0, np.log(2))


# --------------------------------------------------------------------------------------- the task


@pytest.mark.parametrize(
    ("loss", "task"),
    [("CrossEntropyLoss", "multiclass"), ("MSELoss", "regression"), ("HingeLoss", "binary"),
     (minidl.CrossEntropyLoss(label_smoothing=0.1), "multiclass"), ("KLDivLoss", None),
     (lambda p, y: (0.0, 0 * p), None)],
)  # fmt: skip
def test_the_task_is_that_of_the_loss(loss, task, tmp_path):
    X = rows()
    y = np.arange(50) % 3 if task == "multiclass" else np.full((50, 3), 1.0)
    members = models(3)
    for member in members[:2]:  # the third is not known
        minidl.Trainer(member, loss).fit(X, y)
    assert minidl.Ensemble(members).task == task
    assert minidl.Ensemble(members, "regression").task == "regression"
    minidl.save(members[0], tmp_path / "m")
    assert minidl.Ensemble([minidl.load(tmp_path / "m")]).task == task
    assert minidl.Ensemble([members[0].fuse()]).task == task


def test_models_of_different_tasks_are_refused():
    members, X = models(2), rows()
    minidl.Trainer(members[0]).fit(X, np.arange(50) % 3)
    minidl.Trainer(members[1], "MSELoss").fit(X, np.ones((50, 3)))
    with pytest.raises(ValueError, match="of one task, got some of multiclass and regression"):
        minidl.Ensemble(members)
    assert minidl.Ensemble(members, "multiclass").task == "multiclass"


# ---------------------------------------------------------------------------------------- one pass


def in_batches(X, folder):
    return [(X[i : i + 7],) for i in range(0, len(X), 7)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", [lambda X, folder: X, mapped, filed, in_batches, framed])
def test_all_kinds_of_data_in_blocks_on_all_cores(kind, threads, tmp_path, monkeypatch):
    """The same bits."""
    members, X = models(), rows(3000)
    expected = softmax(outputs(members, X))
    monkeypatch.setattr(module, "SMALL_WORK", 0)
    monkeypatch.setattr(module, "BLOCK", 8 * 5 * 3 * 1024)
    ensemble, sizes, predict_rows = minidl.Ensemble(members, "multiclass"), [], module.predict_rows

    def noted(model, x, **named):
        sizes.append(len(x[0]))
        return predict_rows(model, x, **named)

    monkeypatch.setattr(module, "predict_rows", noted)
    with minidl.set_num_threads(threads):
        mean, std = ensemble.predict(kind(X, tmp_path), return_std=True)
    np.testing.assert_array_equal(mean, expected.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(std, expected.std(axis=0).astype(np.float32))
    assert max(sizes) <= 1024  # what all models give for so many is kept at once


def test_a_batch_size_changes_nothing():
    ensemble, X = minidl.Ensemble(models()), rows(100)
    np.testing.assert_array_equal(ensemble.predict(X, 7), ensemble.predict(X))


@pytest.mark.parametrize("count", [0, 1, 16])
def test_few_rows(count):
    members, X = models(), rows(50)[:count]
    for _ in range(2):  # the second time they are predicted at once
        mean, std = minidl.Ensemble(members).predict(X, return_std=True)
    assert mean.shape == std.shape == (count, 3)
    if count:
        np.testing.assert_array_equal(mean, outputs(members, X).mean(axis=0).astype(np.float32))


def test_several_inputs_and_categories():
    def two(seed):
        return minidl.Sequential(
            minidl.Parallel(minidl.Linear(2, 3), minidl.Embedding(4, 2), columns=[2, 1]),
            minidl.Linear(5, 2), seed=seed,
        )  # fmt: skip

    members = [two(0), two(1)]
    X = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40)[:, None] % 4
    expected = np.mean([one.predict(X).astype(float) for one in members], axis=0)
    np.testing.assert_array_equal(minidl.Ensemble(members).predict(X), expected.astype(np.float32))
    with pytest.raises(ValueError, match=r"x: expected categories, .* got 9.0 in row 3"):
        minidl.Ensemble(members).predict((X[0], np.where(np.arange(40) == 3, 9, 0)[:, None]))


@pytest.mark.skipif(not OPENMP, reason="serial build")
def test_models_run_side_by_side_with_a_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(module, "SMALL_WORK", 0)
    found, predict_rows = [], module.predict_rows

    def noted(*arguments, **named):
        found.append((threading.get_ident(), minidl.get_num_threads()))
        return predict_rows(*arguments, **named)

    monkeypatch.setattr(module, "predict_rows", noted)
    with minidl.set_num_threads(4):
        minidl.Ensemble(models(2)).predict(rows())
        minidl.Ensemble(models(9)).predict(rows())
        assert minidl.get_num_threads() == 4
    assert [limit for _, limit in found] == [2] * 2 + [1] * 9
    assert threading.get_ident() not in dict(found)


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("task", [None, "multiclass", "binary", "regression"])
def test_one_file(task, tmp_path):
    members, X, path = models(), rows(), tmp_path / "five.safetensors"
    minidl.Trainer(members[1]).fit(X, np.arange(50) % 3)
    before = minidl.Ensemble(members, task)
    before.save(path, metadata={"classes": ["a", "b", "c"]})
    after = minidl.Ensemble.load(path)
    assert after.task == before.task
    assert len(after) == 5
    assert after.metadata == {"classes": ["a", "b", "c"]}
    assert repr(after) == repr(before)
    assert str(after.models[1]) == str(members[1])
    assert not any(layer.training for one in after.models for _, layer in one.layers())
    np.testing.assert_array_equal(after.predict(X), before.predict(X))
    assert list(tmp_path.iterdir()) == [path]


def test_each_file_has_its_reader(tmp_path):
    minidl.Ensemble(models()).save(tmp_path / "five")
    minidl.save(model(), tmp_path / "one")
    with pytest.raises(minidl.FormatError, match=r"not a minidl model: it is for minidl\.Ensemble"):
        minidl.load(tmp_path / "five")
    with pytest.raises(minidl.FormatError, match=r"not an ensemble of minidl: it is for minidl"):
        minidl.Ensemble.load(tmp_path / "one")


def test_what_cannot_be_written(tmp_path):
    class Own(minidl.Layer):
        pass

    path = tmp_path / "file"
    bad = model(1)
    bad[0].weight[...] = np.nan
    deep = minidl.Sequential(*[minidl.Linear(COLUMNS, 3), *[minidl.ReLU() for _ in range(5000)]])
    for members, error, message in (
        (
            [model(), minidl.Sequential(minidl.Linear(COLUMNS, 3), Own())],
            TypeError,
            "Own is not one",
        ),
        ([model(), bad], ValueError, "0.weight: expected finite numbers"),
        ([deep, deep], ValueError, "models: expected at most 10000 layers in all"),
        ([minidl.Linear(COLUMNS, 3)], TypeError, "model: expected a Sequential"),
    ):
        with pytest.raises(error, match=message):
            minidl.Ensemble(members).save(path)
    with pytest.raises(TypeError, match="metadata: expected a dict"):
        minidl.Ensemble([model()]).save(path, metadata=[1])
    assert not path.exists()


def test_pickles():
    ensemble = minidl.Ensemble(models(), "multiclass")
    again = pickle.loads(pickle.dumps(ensemble))
    assert again.task == "multiclass"
    np.testing.assert_array_equal(again.predict(rows()), ensemble.predict(rows()))


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], r"models: expected a list of models, got \[\]"),
        (model(), "models: expected a list of models, got Sequential"),
        ([model(), 3], "models: expected a list of models, got 3"),
        ([model(), minidl.Sequential(minidl.Linear(2, 3))],
         r"same inputs in all, got 4 in models\[0\] and 2 in models\[1\]"),
        ([model(), model(), model(outputs=2)], r"same outputs in all, got 3 .* 2 in models\[2\]"),
        ([model(), model(dtype="float64")], "same dtype in all, got float32 in"),
        ([minidl.Sequential(minidl.Flatten(), model()), model()], "same flattening of rows"),
    ],
)  # fmt: skip
def test_models_that_do_not_go_together(members, message):
    with pytest.raises((TypeError, ValueError), match=message):
        minidl.Ensemble(members)


def test_bad_arguments():
    ensemble = minidl.Ensemble(models())
    for call, message in (
        (lambda: minidl.Ensemble(models(), "classes"), "task: expected 'multiclass', 'binary' or"),
        (lambda: ensemble.predict(rows()[:, :2]), "x: expected 4 features"),
        (lambda: ensemble.predict(rows(), 0), "batch_size: expected"),
        (lambda: ensemble.predict(rows(), return_std=1), "return_std: expected True or False"),
        (lambda: ensemble.predict(rows() * np.nan), "x: expected finite numbers"),
        (lambda: ensemble.vote(rows()), "vote: expected models of classes, got task None"),
        (lambda: ensemble.uncertainty(rows()), "uncertainty: expected models of classes"),
        (lambda: ensemble.save(""), "path: expected"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
