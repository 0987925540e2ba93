"""What minidl's estimators have beyond scikit-learn's."""

import time
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight

import minidl
from minidl.layers import ACTIVATIONS
from minidl.losses import ALL as LOSSES
from minidl.optimizers import ALL as OPTIMIZERS
from minidl.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, NUMBERS = load_iris(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, NUMBERS = (X[ORDER] - X.mean(axis=0)) / X.std(axis=0), NUMBERS[ORDER]
Y = np.array(["a", "b", "c"])[NUMBERS]
BINARY = NUMBERS > 0
LABELS = np.column_stack([NUMBERS > 0, NUMBERS > 1, X[:, 1] > 0]).astype(int)
VALUES = X[:, 0] * X[:, 1] + 2 * X[:, 2]

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 30, "random_state": 0, "learning_rate_init": 0.02}


def classifier(**options):
    return MLPClassifier(**QUICK | options)


def regressor(**options):
    return MLPRegressor(**QUICK | options)


def same(a, b):
    """Two estimators have the same weights."""
    pairs = zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


class Seen(minidl.Callback):
    """What callbacks see."""

    def __init__(self):
        self.logs, self.rates, self.weights = [], [], []

    def on_epoch_end(self, epoch, logs):
        self.logs.append(dict(logs))
        self.rates.append(self.trainer.optimizer.lr)
        self.weights.append(self.trainer.model.state_dict())


# Layers.


def test_batch_norm():
    clf = classifier(batch_norm=True, hidden_layer_sizes=(8, 6)).fit(X, Y)
    assert [type(layer).__name__ for _, layer in clf.model_.children()] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear",
    ]  # fmt: skip
    assert [w.shape for w in clf.coefs_] == [(4, 8), (8, 6), (6, 3)]
    assert clf.score(X, Y) > 0.95
    assert not same(clf, classifier(hidden_layer_sizes=(8, 6)).fit(X, Y))


def test_batch_norm_and_a_last_batch_of_one_row():
    clf = classifier(batch_norm=True, batch_size=30, max_iter=2).fit(X[:121], Y[:121])
    assert clf.model_[1].num_batches_tracked == 8  # it joins the one before it


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"solver": "lbfgs", "rows": 1}])
def test_batch_norm_needs_two_rows(options):
    rows = options.pop("rows", 20)
    with pytest.raises(ValueError, match="1 sample"):
        regressor(batch_norm=True, **options).fit(X[:rows], VALUES[:rows])


def test_batch_norm_with_lbfgs():
    """All rows are a batch, and the averages are those of all rows."""
    reg = regressor(batch_norm=True, solver="lbfgs", max_iter=100).fit(X, VALUES)
    assert reg.score(X, VALUES) > 0.98
    hidden = X @ reg.coefs_[0] + reg.intercepts_[0]
    np.testing.assert_allclose(reg.model_[1].running_mean, hidden.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(reg.model_[1].running_var, hidden.var(axis=0, ddof=1), rtol=1e-9)


def test_validation_of_batch_norm_with_lbfgs():
    """After each iteration with the averages that belong to its weights."""
    found = []
    for most in range(1, 7):
        reg = regressor(batch_norm=True, solver="lbfgs", max_iter=most)
        reg.fit(X[:100], VALUES[:100], X_val=X[100:], y_val=VALUES[100:])
        found.append(0.5 * np.mean((VALUES[100:] - reg.predict(X[100:])) ** 2))
    np.testing.assert_allclose(reg.validation_loss_curve_, found, rtol=1e-7)
    plain = regressor(batch_norm=True, solver="lbfgs", max_iter=most).fit(X[:100], VALUES[:100])
    assert same(reg, plain)


def test_batch_norm_with_lbfgs_and_sparse_rows():
    import scipy.sparse

    with pytest.raises(ValueError, match=r"^batch_norm: expected False with solver"):
        regressor(batch_norm=True, solver="lbfgs").fit(scipy.sparse.csr_array(X), VALUES)


def test_dropout():
    plain, dropped, again = (
        classifier(dropout=p, hidden_layer_sizes=(8, 6)).fit(X, Y) for p in (0.0, 0.3, 0.3)
    )
    assert [type(layer).__name__ for _, layer in dropped.model_.children()][1:3] == [
        "ReLU", "Dropout",
    ]  # fmt: skip
    assert same(dropped, again)
    assert not same(dropped, plain)
    assert np.array_equal(dropped.predict_proba(X), dropped.predict_proba(X))
    assert dropped.model_[2].key != dropped.model_[5].key


def test_dropout_and_lbfgs():
    with pytest.raises(ValueError, match=r'^dropout: expected 0 with solver="lbfgs"'):
        classifier(dropout=0.1, solver="lbfgs").fit(X, Y)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_all_activations(name):
    clf = classifier(activation=name.lower(), max_iter=60).fit(X, Y)
    assert type(clf.model_[1]).__name__ == name
    assert clf.score(X, Y) > 0.8
    assert same(clf, classifier(activation=ACTIVATIONS[name](), max_iter=60).fit(X, Y))


def test_an_activation_for_each_layer():
    own = minidl.LeakyReLU(0.2)
    clf = classifier(hidden_layer_sizes=(5, 4, 3), activation=["tanh", own, "logistic"]).fit(X, Y)
    assert [type(clf.model_[i]).__name__ for i in (1, 3, 5)] == ["Tanh", "LeakyReLU", "Sigmoid"]
    assert clf.model_[3] is not own
    assert clf.model_[3].negative_slope == 0.2


def test_wrong_number_of_activations():
    with pytest.raises(ValueError, match=r"one for each of the 2 hidden layers, got 3"):
        classifier(hidden_layer_sizes=(5, 4), activation=["tanh"] * 3).fit(X, Y)


def test_no_hidden_layer():
    clf = classifier(hidden_layer_sizes=(), max_iter=200).fit(X, Y)
    assert clf.n_layers_ == 2
    assert clf.score(X, Y) > 0.9


# Optimizers and schedules.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_optimizers_by_name(name):
    rate = {"Lion": 0.005, "Adagrad": 0.1, "SGD": 0.1}.get(name, 0.02)
    clf = classifier(solver=name.lower(), learning_rate_init=rate, max_iter=60).fit(X, Y)
    assert type(clf._trainer.optimizer).__name__ == name
    assert clf.loss_ < 0.8 * clf.loss_curve_[0]


def test_alpha_of_other_optimizers():
    seen = {}
    for name in ("Adam", "RMSprop", "AdamW", "Lion"):
        clf = classifier(solver=name, alpha=0.5, batch_size=50, max_iter=1).fit(X, Y)
        optimizer = clf._trainer.optimizer
        assert not optimizer.decay_bias_and_norm
        seen[name] = optimizer.weight_decay
    assert seen == {"Adam": 0.01, "RMSprop": 0.01, "AdamW": 0.5, "Lion": 0.5}


def test_an_optimizer_object_has_its_own_numbers():
    own = minidl.Adam(lr=0.02, weight_decay=0.0)
    clf = classifier(solver=own, learning_rate_init=9.0, alpha=9.0, beta_1=0.1).fit(X, Y)
    assert same(clf, classifier(alpha=0.0).fit(X, Y))
    assert own._state is None
    assert clf.solver is own


def test_the_loss_of_an_optimizer_object_has_no_penalty():
    clf = classifier(solver=minidl.SGD(lr=0.0), alpha=9.0, max_iter=1, shuffle=False).fit(X, Y)
    assert clf.loss_ == pytest.approx(log_loss(Y, clf.predict_proba(X)))


def test_a_schedule():
    monitor = minidl.LearningRateMonitor()
    clf = classifier(
        learning_rate=minidl.StepLR(2, 0.5), max_iter=5, n_iter_no_change=99, callbacks=[monitor]
    ).fit(X, Y)
    assert clf._trainer.history.history["lr"] == [0.02, 0.02, 0.01, 0.01, 0.005]
    by_function = classifier(
        learning_rate=lambda epoch: 0.5 ** (epoch // 2), max_iter=5, n_iter_no_change=99
    )
    assert same(clf, by_function.fit(X, Y))


def test_a_schedule_that_ends_is_no_reason_for_a_warning():
    clf = classifier(learning_rate=minidl.CosineAnnealingLR(30), n_iter_no_change=99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit(X, Y)
    assert clf.n_iter_ == 30
    with pytest.warns(ConvergenceWarning):
        clf.set_params(learning_rate=minidl.StepLR(3)).fit(X, Y)


def test_a_schedule_that_is_longer_than_the_training():
    with pytest.raises(ValueError, match="CosineAnnealingLR takes 40 epochs, the training has 30"):
        classifier(learning_rate=minidl.CosineAnnealingLR(40)).fit(X, Y)


def test_a_schedule_over_calls_of_partial_fit():
    clf = classifier(learning_rate=minidl.CosineAnnealingLR(4))
    for _ in range(4):
        clf.partial_fit(X, Y, classes=["a", "b", "c"])
    expected = minidl.CosineAnnealingLR(4).rates(0.02, 0, 4)
    np.testing.assert_allclose(clf._trainer.history.history["lr"], expected)


def test_a_schedule_that_follows_validation_data():
    schedule = minidl.ReduceLROnPlateau(patience=0, threshold=10.0)
    reg = regressor(learning_rate=schedule, max_iter=4)
    reg.fit(X[:100], VALUES[:100], X_val=X[100:], y_val=VALUES[100:])
    np.testing.assert_allclose(
        reg._trainer.history.history["lr"], [0.02, 0.002, 0.0002, 0.00002], rtol=1e-9
    )


# Losses.


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_suits_or_says_that_it_does_not(name):
    """By name, in both estimators."""
    suited = {
        "CrossEntropyLoss": (True, True, False), "MultiMarginLoss": (True, True, False),
        "BCEWithLogitsLoss": (True, False, False), "HingeLoss": (True, False, False),
        "KLDivLoss": (False, False, False),
    }.get(name, (False, False, True))  # fmt: skip
    for fits, estimator, y in zip(
        suited, (classifier(loss=name), classifier(loss=name), regressor(loss=name.lower())),
        (BINARY, Y, np.abs(VALUES)), strict=True,
    ):  # fmt: skip
        if not fits:
            with pytest.raises(ValueError, match=r"^loss: expected one that suits"):
                estimator.fit(X, y)
        else:
            estimator.set_params(max_iter=100).fit(X, y)
            assert estimator.score(X, y) > 0.5


def test_losses_of_several_labels():
    for loss in ("BCEWithLogitsLoss", "HingeLoss"):
        clf = classifier(loss=loss, max_iter=100).fit(X, LABELS)
        assert clf.score(X, LABELS) > 0.8
    with pytest.raises(ValueError, match="suits several labels, got CrossEntropyLoss"):
        classifier(loss="CrossEntropyLoss").fit(X, LABELS)


def test_a_loss_is_the_trainers():
    """With label smoothing: the same model, batches and steps as by hand."""
    loss = minidl.CrossEntropyLoss(label_smoothing=0.2)
    clf = classifier(loss=loss, alpha=0.0, shuffle=False, max_iter=7, batch_size=30).fit(X, Y)
    start = classifier(loss=loss, alpha=0.0, max_iter=1, solver=minidl.SGD(lr=0.0)).fit(X, Y)
    trainer = minidl.Trainer(start.model_, loss, minidl.Adam(lr=0.02))
    history = trainer.fit(X, NUMBERS, epochs=7, batch_size=30, shuffle=False, last_batch="keep")
    assert same(clf, start)
    assert clf.loss_curve_ == history.history["loss"]


@pytest.mark.parametrize(("loss", "y"), [("HingeLoss", BINARY), ("MultiMarginLoss", Y)])
def test_hinge_losses_have_scores_in_place_of_probabilities(loss, y):
    clf = classifier(loss=loss).fit(X, y)
    assert not hasattr(clf, "predict_proba")
    assert not hasattr(clf, "predict_log_proba")
    scores = clf.decision_function(X)
    best = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[best.astype(int)])
    assert not hasattr(classifier().fit(X, y), "decision_function")


def test_quantiles():
    reg = regressor(loss=minidl.QuantileLoss([0.1, 0.5, 0.9]), max_iter=300).fit(X, VALUES)
    assert reg.predict(X).shape == (150, 3)
    below = (VALUES[:, None] < reg.predict(X)).mean(axis=0)
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.12)


def test_functions_as_losses():
    def squared(prediction, y):
        d = prediction - y
        return float((d**2).mean()), 2 * d / d.size

    by_function = regressor(loss=squared, max_iter=3).fit(X, VALUES)
    by_name = regressor(loss="MSELoss", max_iter=3).fit(X, VALUES)
    np.testing.assert_allclose(by_function.predict(X), by_name.predict(X), rtol=1e-9, atol=1e-12)

    def margin(prediction, y):
        own = np.eye(3)[y] - 1 / 3
        return -float((own * prediction).mean()), -own / prediction.size

    assert classifier(loss=margin).fit(X, Y).score(X, Y) > 0.7


# Weights of classes.


@pytest.mark.parametrize("weights", ["balanced", {"a": 1.0, "b": 3.0, "c": 0.5}])
def test_class_weight(weights):
    own = np.linspace(0.5, 1.5, 150)
    by_class = classifier(class_weight=weights).fit(X, Y, sample_weight=own)
    by_row = classifier().fit(X, Y, sample_weight=own * compute_sample_weight(weights, Y))
    assert same(by_class, by_row)


def test_class_weight_of_several_labels():
    weights = [{0: 1, 1: 2}, {0: 1, 1: 5}, {0: 3, 1: 1}]
    by_class = classifier(class_weight=weights).fit(X, LABELS)
    assert same(
        by_class, classifier().fit(X, LABELS, sample_weight=compute_sample_weight(weights, LABELS))
    )


def plain_accuracy(estimator, rows, y):
    """A scorer that takes no weights."""
    return accuracy_score(y, estimator.predict(rows))


@pytest.mark.parametrize("scoring", [None, "loss", "accuracy", plain_accuracy])
@pytest.mark.parametrize("weights", ["balanced", {"a": 1.0, "b": 9.0, "c": 0.1}])
def test_weights_of_classes_are_for_training_alone(weights, scoring):
    """The part that is held out counts as validation data that are given: by the user's weights."""
    held = []

    class Keeps(MLPClassifier):
        def _split(self, *arguments):
            train, rest = super()._split(*arguments)
            held.append(rest)
            return train, rest

    clf = Keeps(**QUICK | {"max_iter": 5, "validation_fraction": 0.3})
    clf.set_params(early_stopping=True, scoring=scoring, class_weight=weights, alpha=0.0)
    skewed = np.repeat(np.arange(150), np.where(Y == "b", 3, 1))
    found = []
    for given in ({}, {"X_val": X[30:70], "y_val": Y[30:70]}):
        clf.fit(X[skewed], Y[skewed], **given)
        rows, y = (X[30:70], Y[30:70]) if given else (held[0].X, held[0].labels)
        right, loss = clf.score(rows, y), log_loss(y, clf.predict_proba(rows))
        found.append((clf.best_validation_score_, -loss if scoring == "loss" else right))
        best = int(np.argmax(clf.validation_scores_))
        found.append((clf.validation_loss_curve_[best], loss))
    assert len(held) == 1
    np.testing.assert_allclose(*np.transpose(found))


def test_weights_of_the_user_count_in_the_part_held_out():
    """As scikit-learn has it; and with weights of classes, they alone."""
    own = np.linspace(0.1, 2, 150)
    seen = []

    def score(estimator, rows, y, sample_weight):
        seen.append(sample_weight)
        return 0.0

    for weights in (None, "balanced"):
        classifier(
            early_stopping=True, scoring=score, class_weight=weights, max_iter=1
        ).fit(X, Y, sample_weight=own)  # fmt: skip
    np.testing.assert_array_equal(*seen)
    assert set(seen[0]) < set(own)


def test_class_weight_helps_the_rare():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 3))
    rare = rows[:, 0] + rng.normal(size=600) > 2.2
    scores = [
        balanced_accuracy_score(rare, classifier(class_weight=w).fit(rows, rare).predict(rows))
        for w in (None, "balanced")
    ]
    assert scores[1] > scores[0] + 0.1


def test_balanced_weights_and_partial_fit():
    with pytest.raises(ValueError, match=r"^class_weight: expected weights or None"):
        classifier(class_weight="balanced").partial_fit(X, Y, classes=["a", "b", "c"])


# Validation.


def test_validation_data_are_measured():
    clf = classifier(max_iter=4).fit(X[:100], Y[:100], X_val=X[100:], y_val=Y[100:])
    assert len(clf.validation_loss_curve_) == 4
    assert clf.validation_loss_curve_[-1] == pytest.approx(
        log_loss(Y[100:], clf.predict_proba(X[100:]))
    )
    assert clf.validation_scores_ is None
    assert same(clf, classifier(max_iter=4).fit(X[:100], Y[:100]))
    assert classifier(max_iter=4).fit(X, Y).validation_loss_curve_ is None


def test_the_loss_on_validation_data_is_weighted():
    weight = np.linspace(0, 2, 50)
    clf = classifier(max_iter=2).fit(
        X[:100], Y[:100], X_val=X[100:], y_val=Y[100:], sample_weight_val=weight
    )
    expected = log_loss(Y[100:], clf.predict_proba(X[100:]), sample_weight=weight)
    assert clf.validation_loss_curve_[-1] == pytest.approx(expected)


def test_validation_data_of_lbfgs():
    reg = regressor(solver="lbfgs", max_iter=9)
    reg.fit(X[:100], VALUES[:100], X_val=X[100:], y_val=VALUES[100:])
    assert len(reg.validation_loss_curve_) == len(reg.loss_curve_) == reg.n_iter_ == 9
    expected = 0.5 * np.mean((VALUES[100:] - reg.predict(X[100:])) ** 2)
    assert reg.validation_loss_curve_[-1] == pytest.approx(expected)


def test_sparse_validation_data():
    import scipy.sparse

    found = [
        classifier(max_iter=3, early_stopping=True).fit(
            form(X[:100]), Y[:100], X_val=form(X[100:]), y_val=Y[100:]
        )
        for form in (np.asarray, scipy.sparse.csr_array)
    ]
    assert found[0].validation_scores_ == found[1].validation_scores_
    np.testing.assert_allclose(*(f.validation_loss_curve_ for f in found), rtol=1e-12)


@pytest.mark.parametrize("missing", ["X_val", "y_val"])
def test_half_of_the_validation_data(missing):
    given = {"X_val": X, "y_val": Y}
    given[missing] = None
    with pytest.raises(ValueError, match=rf"^{missing}: expected one, since"):
        classifier().fit(X, Y, **given)


def test_validation_data_with_another_class():
    with pytest.raises(ValueError, match="classes not in"):
        classifier().fit(X, Y, X_val=X, y_val=np.where(Y == "a", "z", Y))


def test_validation_data_need_not_have_all_classes():
    """Nor when training goes on, where the data to train on must."""
    few = Y != "a"
    clf = classifier(max_iter=2, warm_start=True).fit(X, Y, X_val=X[few], y_val=Y[few])
    clf.fit(X, Y, X_val=X[few], y_val=Y[few])
    assert len(clf.validation_loss_curve_) == 4


def test_early_stopping_takes_validation_data_that_are_given():
    seen = Seen()
    clf = classifier(early_stopping=True, max_iter=100, n_iter_no_change=3, callbacks=[seen])
    clf.fit(X[:100], Y[:100], X_val=X[100:], y_val=Y[100:])
    assert clf.t_ == 100 * clf.n_iter_
    best = int(np.argmax(clf.validation_scores_))
    assert best + 4 == clf.n_iter_ - 1 or clf.n_iter_ == 100
    assert clf.best_validation_score_ == accuracy_score(Y[100:], clf.predict(X[100:]))
    state = clf.model_.state_dict()
    assert all(np.array_equal(state[name], seen.weights[best][name]) for name in state)


def test_early_stopping_brings_running_averages_back():
    seen = Seen()
    clf = classifier(
        early_stopping=True, max_iter=60, n_iter_no_change=3, callbacks=[seen], batch_norm=True
    ).fit(X, Y)
    best = int(np.argmax(clf.validation_scores_))
    assert best < len(seen.weights) - 1
    for name in ("1.running_mean", "1.running_var", "1.weight"):
        assert np.array_equal(clf.model_.state_dict()[name], seen.weights[best][name])


def negative_log_loss(estimator, rows, y, sample_weight=None):
    return -log_loss(y, estimator.predict_proba(rows), sample_weight=sample_weight)


@pytest.mark.parametrize("scoring", ["loss", "neg_log_loss", negative_log_loss])
@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_by_the_loss_and_by_scorers(scoring, weighted):
    weight = np.linspace(0.5, 1.5, 150) if weighted else None
    clf = classifier(early_stopping=True, scoring=scoring, max_iter=20)
    clf.fit(X, Y, sample_weight=weight)
    np.testing.assert_allclose(
        clf.validation_scores_, -np.array(clf.validation_loss_curve_), rtol=1e-9
    )


def test_scorers_see_no_frame_and_do_not_mind():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf = classifier(early_stopping=True, scoring="f1_macro", max_iter=5).fit(frame, Y)
    assert list(clf.feature_names_in_) == list("abcd")
    assert len(clf.validation_scores_) == 5


def test_an_unknown_scorer():
    with pytest.raises(ValueError, match="acuracy"):
        classifier(early_stopping=True, scoring="acuracy").fit(X, Y)


def test_a_score_that_is_not_a_number_is_no_improvement():
    """Training stops, the best weights come back, and there is one warning."""

    def score(estimator, rows, y):
        seen.append(estimator.predict_proba(X))
        return [0.5, 0.7, 0.6][len(seen) - 1] if len(seen) < 4 else np.nan

    seen = []
    clf = classifier(early_stopping=True, scoring=score, n_iter_no_change=4, max_iter=200)
    with pytest.warns(
        UndefinedMetricWarning, match=r"^scoring: .* was NaN in 4 of 7 epochs"
    ) as said:
        clf.fit(X, Y)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert clf.n_iter_ == 7
    assert clf.best_validation_score_ == 0.7
    np.testing.assert_array_equal(clf.predict_proba(X), seen[1])


def test_scores_of_which_none_is_a_number():
    clf = classifier(early_stopping=True, scoring=lambda *_: np.nan, n_iter_no_change=2)
    with pytest.warns(UndefinedMetricWarning, match="NaN in 3 of 3 epochs"):
        clf.fit(X, Y)
    assert clf.best_validation_score_ == -np.inf
    assert np.isfinite(clf.predict_proba(X)).all()


# Callbacks, threads, dtype, time.


def test_callbacks():
    seen = Seen()
    clf = classifier(callbacks=[seen], max_iter=5, early_stopping=True).fit(X, Y)
    assert [logs["val_loss"] for logs in seen.logs] == clf.validation_loss_curve_
    assert [logs["val_score"] for logs in seen.logs] == clf.validation_scores_


def test_a_callback_of_minidl_stops_the_training():
    stop = minidl.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    reg = regressor(callbacks=[stop], max_iter=500, learning_rate_init=0.3)
    reg.fit(X[:100], VALUES[:100], X_val=X[100:], y_val=VALUES[100:])
    assert reg.n_iter_ == stop.best_epoch + 3 < 500
    loss = 0.5 * np.mean((VALUES[100:] - reg.predict(X[100:])) ** 2)
    assert loss == pytest.approx(min(reg.validation_loss_curve_))


def test_n_threads():
    found = []

    class Threads(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            found.append(minidl.get_num_threads())

    before = minidl.get_num_threads()
    one, two = (
        classifier(n_threads=n, callbacks=[Threads()], max_iter=1).fit(X, Y) for n in (1, None)
    )
    assert found == [1, before]
    assert minidl.get_num_threads() == before
    assert same(one, two)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_dtype(dtype, solver):
    clf = classifier(dtype=dtype, solver=solver).fit(X, Y)
    assert {w.dtype for w in clf.coefs_ + clf.intercepts_} == {np.dtype("float32")}
    assert clf.predict_proba(X).dtype == np.float32
    assert clf.score(X, Y) > 0.9
    assert same(clf, classifier(solver=solver).fit(X.astype(np.float32), Y))


def test_a_wrong_dtype():
    with pytest.raises(ValueError, match="dtype"):
        classifier(dtype="float16").fit(X, Y)
    with pytest.raises(ValueError, match="dtype"):
        classifier(dtype=np.int32).fit(X, Y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_time_limit(solver):
    reg = regressor(
        time_limit=0.02, max_iter=10**7, max_fun=10**9, tol=0.0, n_iter_no_change=np.inf,
        solver=solver,
    )  # fmt: skip
    start = time.monotonic()
    rng = np.random.default_rng(0)
    with pytest.warns(ConvergenceWarning, match=r"(?i)time limit \(0\.02 s\) reached"):
        reg.fit(rng.normal(size=(400, 8)), rng.normal(size=400))
    assert time.monotonic() - start < 10
    assert 0 < len(reg.loss_curve_) < 10**7
    assert reg.loss_curve_[-1] == reg.loss_


def test_time_that_is_up_within_the_first_epoch():
    reg = regressor(time_limit=1e-9, batch_size=1, max_iter=3).fit(X, VALUES)
    assert reg.n_iter_ == len(reg.loss_curve_) == 1
    assert np.isfinite(reg.loss_)


# Attributes.


@pytest.mark.parametrize("early_stopping", [False, True])
def test_attributes_of_lbfgs(early_stopping, capsys):
    """It knows no early stopping."""
    reg = regressor(
        solver="lbfgs", max_iter=6, early_stopping=early_stopping, warm_start=True, verbose=True
    )
    for times in (1, 2):
        reg.fit(X, VALUES)
        assert reg.n_iter_ == 6
        assert len(reg.loss_curve_) == 6 * times
        assert reg.best_loss_ == min(reg.loss_curve_)
        assert reg.validation_scores_ is reg.best_validation_score_ is None
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"Iteration {i + 1}, loss = {loss:.8f}" for i, loss in enumerate(reg.loss_curve_[-6:])
        ]


def test_another_loss_when_training_goes_on():
    """Its name is on what is trained, on what is reported, and on what the outputs are."""
    clf = classifier(warm_start=True).fit(X, BINARY)
    clf.set_params(loss="HingeLoss").fit(X, BINARY)
    assert clf.out_activation_ == "identity"
    assert not hasattr(clf, "predict_proba")
    reg = regressor(loss="poisson", alpha=0.0, shuffle=False, solver="sgd", batch_size=150)
    reg.fit(X, VALUES**2)
    reg.set_params(loss="squared_error").partial_fit(X, VALUES**2)
    before = reg.predict(X)
    reg.set_params(loss=minidl.HuberLoss(0.1)).partial_fit(X, VALUES**2)
    assert reg.loss_ == pytest.approx(minidl.HuberLoss(0.1)(before[:, None], VALUES**2))
    assert reg._trainer.loss.delta == 0.1


def test_weights_can_be_written_to():
    reg = regressor(activation="identity").fit(X, VALUES)
    reg.coefs_[0] = np.eye(4, 8)
    reg.coefs_[1][...] = 1
    reg.intercepts_ = [np.zeros(8), [3.0]]
    np.testing.assert_allclose(reg.predict(X), X.sum(axis=1) + 3)
    np.testing.assert_allclose(reg.predict(X[:2]), X[:2].sum(axis=1) + 3)
    reg.coefs_[0][:, 0] = 0
    np.testing.assert_allclose(reg.predict(X), X[:, 1:].sum(axis=1) + 3)


def test_weights_of_a_wrong_shape():
    reg = regressor().fit(X, VALUES)
    before = reg.predict(X)
    with pytest.raises(ValueError, match=r"^coefs_\[0\]: expected shape \(4, 8\)"):
        reg.coefs_[0] = np.ones((8, 4))
    with pytest.raises(ValueError, match=r"^intercepts_: expected 2 arrays, got 1"):
        reg.intercepts_ = [np.ones(8)]
    with pytest.raises(ValueError, match=r"^coefs_\[1\]: expected shape \(8, 1\)"):
        reg.coefs_ = [np.ones((4, 8)), np.ones(8)]
    np.testing.assert_array_equal(reg.predict(X), before)


def test_training_from_weights_that_are_given():
    first = regressor(max_iter=20).fit(X, VALUES)
    second = regressor(solver=minidl.SGD(lr=0.0), max_iter=1, warm_start=True)
    second.coefs_, second.intercepts_ = first.coefs_, first.intercepts_
    second.fit(X, VALUES)
    np.testing.assert_array_equal(second.predict(X), first.predict(X))


def test_the_network_itself(tmp_path):
    clf = classifier(batch_norm=True).fit(X, Y)
    minidl.save(clf.model_, tmp_path / "model.safetensors")
    logits = minidl.load(tmp_path / "model.safetensors").predict(X)
    np.testing.assert_array_equal(clf.predict(X), np.array(["a", "b", "c"])[logits.argmax(axis=1)])
    assert not clf.model_.training


def test_plot_loss_curve():
    pytest.importorskip("matplotlib")
    reg = regressor(early_stopping=True, max_iter=5).fit(X, VALUES)
    axes = reg.plot_loss_curve(figsize=(6, 3)).axes
    assert [a.get_ylabel() for a in axes] == ["loss", "score"]
    lines = {line.get_label(): line.get_ydata() for line in axes[0].lines}
    np.testing.assert_allclose(lines["training"], reg.loss_curve_)
    np.testing.assert_allclose(lines["validation"], reg.validation_loss_curve_)


def test_plot_of_nothing():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        regressor().plot_loss_curve()


# What is not finite.


def test_a_diverging_training():
    reg = regressor(solver="sgd", learning_rate_init=1e30, activation="identity")
    with pytest.raises(ValueError, match=r"^Solver produced non-finite") as caught:
        reg.fit(X, VALUES)
    assert isinstance(caught.value.__cause__, minidl.NonFiniteError)


def test_early_stopping_survives_it():
    class Break(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 3:
                self.trainer.optimizer.lr = 1e300

    reg = regressor(early_stopping=True, solver="sgd", learning_rate_init=1e-3, callbacks=[Break()])
    with pytest.warns(ConvergenceWarning, match="met NaN or infinity, .* best weights"):
        reg.fit(X, VALUES)
    assert np.isnan(reg.validation_scores_[-1])
    assert np.isfinite(reg.predict(X)).all()
    assert reg.n_iter_ == len(reg.loss_curve_) == len(reg.validation_scores_) < 30


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [1, 40])
def test_predictions_of_what_is_not_finite(wrong, rows):
    clf = classifier().fit(X, Y)
    bad = X[:rows].copy()
    bad[0, 2] = wrong
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        clf.predict(bad)
