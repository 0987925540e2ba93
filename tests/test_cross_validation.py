"""Cross-validation: folds, out-of-fold predictions and scores, each fold as if trained alone."""

import pickle

import numpy as np
import pytest
from test_checkpoint import everything

import minidl
from minidl import cross_validation as module

ROWS, COLUMNS, CLASSES = 90, 4, 3
OPTIONS = {"epochs": 4, "batch_size": 16, "seed": 0}


def make_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS))
    return X, (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)


def trainer(fold=0, loss="CrossEntropyLoss", outputs=CLASSES, **options):
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Linear(8, outputs),
        seed=fold,
    )  # fmt: skip
    return minidl.Trainer(model, loss, minidl.Adam(0.01), **options)


X, Y = make_data()

# ------------------------------------------------------------------------------- each fold alone


@pytest.mark.parametrize("weighted", [False, True])
def test_folds_are_as_trained_measured_and_predicted_alone(weighted):
    weight = np.random.default_rng(1).random(ROWS) if weighted else None

    def make(fold):
        return trainer(fold, metrics=["top_2"])

    found = minidl.cross_validate(make, X, Y, cv=4, sample_weight=weight, **OPTIONS)
    predictions = np.empty((ROWS, CLASSES), np.float32)
    for i, (train, test) in enumerate(found.folds):
        alone = make(i)
        of_train, of_test = (None if weight is None else weight[rows] for rows in (train, test))
        alone.fit(X[train], Y[train], sample_weight=of_train, **OPTIONS)
        assert everything(found.trainers[i]) == everything(alone)
        scores = alone.evaluate(X[test], Y[test], sample_weight=of_test)
        assert {name: values[i] for name, values in found.scores.items()} == scores
        predictions[test] = minidl.Ensemble([alone.model], "multiclass").predict(X[test])
    np.testing.assert_array_equal(found.predictions, predictions)
    assert list(found.scores) == ["loss", "accuracy", "top_2"]
    assert [len(history) for history in found.histories] == [4] * 4


@pytest.mark.parametrize(
    ("loss", "y"),
    [("MSELoss", X[:, 0]), ("HuberLoss", X[:, :2]), ("BCEWithLogitsLoss", (Y > 0).astype(int)),
     (lambda p, y: (float(((p - y) ** 2).mean()), 2 * (p - y) / p.size), X[:, :1])],
)  # fmt: skip
def test_losses_of_all_tasks(loss, y):
    outputs = 1 if y.ndim == 1 else y.shape[1]
    found = minidl.cross_validate(lambda i: trainer(i, loss, outputs), X, y, cv=3, **OPTIONS)
    task = found.trainers[0].loss.task
    for one, (_, test) in zip(found.models, found.folds, strict=True):
        expected = minidl.Ensemble([one], task or "regression").predict(X[test])
        np.testing.assert_array_equal(found.predictions[test], expected)
    assert found.ensemble().task == task
    assert found.predictions.shape == (ROWS, outputs)


def test_all_models_predict_together():
    found = minidl.cross_validate(trainer, X, Y, **OPTIONS)
    ensemble = found.ensemble()
    assert ensemble.models == tuple(found.models)
    assert len(ensemble) == 5
    assert (ensemble.predict(X).argmax(axis=1) == Y).mean() > 0.6
    assert repr(found).startswith("CrossValidation(5 folds: loss=")
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predictions, found.predictions)


def test_the_same_seed_gives_the_same():
    one, same, other = (
        minidl.cross_validate(trainer, X, Y, **(OPTIONS | {"seed": seed})) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.predictions, same.predictions)
    assert (one.folds[0][1] != other.folds[0][1]).any()


def test_validation_and_early_stopping():
    stop = minidl.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    found = minidl.cross_validate(
        trainer, X, Y, cv=3, validate=True, callbacks=[stop], **(OPTIONS | {"epochs": 60})
    )
    for i, one in enumerate(found.trainers):
        best = one.callbacks[0].best
        assert best == min(one.history.history["val_loss"])
        assert found.scores["loss"][i] == best
    assert "val_loss" not in minidl.cross_validate(trainer, X, Y).histories[0].history


def test_an_error_in_a_fold_is_raised():
    def make(fold):
        return trainer(fold) if fold != 2 else minidl.Trainer(
            trainer().model, optimizer=minidl.SGD(1e30)
        )  # fmt: skip

    with pytest.raises(minidl.NonFiniteError):
        minidl.cross_validate(make, X, Y, **OPTIONS)


# ----------------------------------------------------------------------------------------- folds


def test_folds_of_labels_have_their_share_of_each_class():
    found = minidl.cross_validate(trainer, X, np.arange(ROWS) % 30 // 25, seed=0)
    for train, test in found.folds:
        assert np.union1d(train, test).tolist() == list(range(ROWS))
        assert len(test) == 18
        counts = np.bincount((np.arange(ROWS) % 30 // 25)[test])
        assert counts.tolist() == [15, 3]
    assert sorted(np.concatenate([test for _, test in found.folds])) == list(range(ROWS))


def test_folds_of_yes_or_no_too_and_of_numbers_not():
    y = (np.arange(ROWS) < 10).astype(float)
    found = minidl.cross_validate(lambda i: trainer(i, "BCEWithLogitsLoss", 1), X, y, cv=10)
    assert [y[test].sum() for _, test in found.folds] == [1.0] * 10
    found = minidl.cross_validate(lambda i: trainer(i, "MSELoss", 1), X, y, cv=10, seed=0)
    assert {y[test].sum() for _, test in found.folds} != {1.0}


@pytest.mark.parametrize("rows", [2, 7, 64])
@pytest.mark.parametrize("count", [2, 5])
def test_rows_are_dealt_evenly(rows, count):
    rng = np.random.default_rng(rows)
    classes = rng.integers(0, 3, rows)
    fold = module.deal(rng.permutation(rows), count, classes)
    sizes = np.bincount(fold, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    for c in range(3):
        of_class = np.bincount(fold[classes == c], minlength=count)
        assert of_class.max() - of_class.min() <= 1


class Halves:
    """A splitter of the user's."""

    def split(self, X, y=None, groups=None):
        self.given = X, y, groups
        yield np.arange(45), np.arange(45, 90)
        yield range(45, 90), list(range(45))


def test_splitters_of_all_kinds():
    halves = Halves()
    found = minidl.cross_validate(trainer, X, Y, cv=halves, groups="mine", **OPTIONS)
    assert halves.given[0] is X
    assert (halves.given[1] == Y).all()
    assert halves.given[2] == "mine"
    pairs = minidl.cross_validate(trainer, X, Y, cv=list(halves.split(X)), **OPTIONS)
    masks = [(np.arange(90) < 45, np.arange(90) >= 45), (np.arange(90) >= 45, np.arange(90) < 45)]
    masked = minidl.cross_validate(trainer, X, Y, cv=iter(masks), **OPTIONS)
    np.testing.assert_array_equal(found.predictions, pairs.predictions)
    np.testing.assert_array_equal(found.predictions, masked.predictions)


def test_splitters_of_scikit_learn():
    selection = pytest.importorskip("sklearn.model_selection")
    groups = np.arange(ROWS) // 10
    for splitter in (
        selection.KFold(3), selection.StratifiedKFold(3), selection.GroupKFold(3),
        selection.TimeSeriesSplit(2), selection.LeavePGroupsOut(8),
    ):  # fmt: skip
        of = groups if "Group" in type(splitter).__name__ else None
        found = minidl.cross_validate(trainer, X, Y, cv=splitter, groups=of)
        expected = list(splitter.split(X, Y, of))
        assert len(found.folds) == len(expected)
        for (train, test), (of_train, of_test) in zip(found.folds, expected, strict=True):
            assert (train.tolist(), test.tolist()) == (of_train.tolist(), of_test.tolist())


def test_rows_that_none_or_several_hold_out():
    everything_else = np.arange(20, ROWS)
    folds = [(everything_else, np.arange(10)), (everything_else, np.arange(5, 15))]
    found = minidl.cross_validate(trainer, X, Y, cv=folds, **OPTIONS)
    first, second = (minidl.Ensemble([m], "multiclass").predict(X).astype(float)
                     for m in found.models)  # fmt: skip
    assert np.isnan(found.predictions[15:]).all()
    np.testing.assert_allclose(found.predictions[:5], first[:5], rtol=1e-6)
    np.testing.assert_allclose(found.predictions[5:10], (first + second)[5:10] / 2, rtol=1e-6)
    np.testing.assert_allclose(found.predictions[10:15], second[10:15], rtol=1e-6)


@pytest.mark.parametrize("kind", ["frame", "memmap", "file", "sparse", "inputs"])
def test_all_kinds_of_data(kind, tmp_path):
    np.save(tmp_path / "X.npy", X)
    given = {
        "frame": lambda: pytest.importorskip("pandas").DataFrame(X),
        "memmap": lambda: np.load(tmp_path / "X.npy", mmap_mode="r"),
        "file": lambda: minidl.NpyFile(tmp_path / "X.npy"),
        "sparse": lambda: pytest.importorskip("scipy.sparse").csr_array(X),
        "inputs": lambda: (X[:, :1], X[:, 1:]),
    }[kind]()
    y = minidl.NpyFile(tmp_path / "y.npy") if kind == "file" and not np.save(
        tmp_path / "y.npy", Y) else Y  # fmt: skip
    expected = minidl.cross_validate(trainer, X, Y, **OPTIONS)
    found = minidl.cross_validate(trainer, given, y, **OPTIONS)
    np.testing.assert_array_equal(found.predictions, expected.predictions)


# ------------------------------------------------------------------------------------- bad input


def shared():
    one = trainer()
    return lambda fold: one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make_trainer": trainer()}, "make_trainer: expected a function, got"),
        ({"make_trainer": lambda: trainer()}, "make_trainer: expected a function of one argument"),
        ({"make_trainer": lambda fold: 3}, "make_trainer: expected a Trainer from it, got 3"),
        ({"make_trainer": shared()}, r"trainers: .* one layer in trainers\[0\] and trainers\[1\]"),
        ({"make_trainer": lambda i: trainer(i, outputs=3 + i)}, "models: expected the same out"),
        ({"make_trainer": lambda i: trainer(i, "MultiMarginLoss" if i else "MSELoss", 1),
          "y": np.zeros(ROWS, int)}, "make_trainer: expected losses of one task"),
        ({"cv": 1}, "cv: expected an integer of at least 2"),
        ({"cv": ROWS + 1}, f"cv: expected at most {ROWS} folds"),
        ({"cv": True}, "cv: expected"),
        ({"cv": 2.5}, "cv: expected a number, an object with split, or pairs"),
        ({"cv": "kfold"}, "cv: expected a number, an object"),
        ({"cv": []}, "cv: expected at least one fold"),
        ({"cv": [3]}, r"cv\[0\]: expected a pair \(train, test\), got 3"),
        ({"cv": [([0, 1], [ROWS])]}, r"cv\[0\]\[1\]: expected rows from 0 to"),
        ({"cv": [([0, 1], [])]}, r"cv\[0\]\[1\]: expected at least one row"),
        ({"seed": -1}, "seed: expected"),
        ({"validate": "yes"}, "validate: expected True or False"),
        ({"epochs": 0.5}, "epochs: expected"),
        ({"X": [(X, Y)], "y": None}, "X: expected rows, got an iterable of batches"),
        ({"y": Y[:5]}, f"y: expected {ROWS} rows"),
        ({"y": Y + 5}, "y: expected labels from 0 to 2"),
        ({"sample_weight": [1.0]}, "sample_weight: expected"),
        ({"callbacks": 3}, "callbacks: expected"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, message):
    given = {"make_trainer": trainer, "X": X, "y": Y} | arguments
    with pytest.raises((TypeError, ValueError), match=message):
        minidl.cross_validate(**given)
