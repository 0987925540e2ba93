"""minidl's estimators in scikit-learn's tools, in files, and in joblib's workers."""

import copy
import json
import os
import pickle
import threading
import time
import warnings

import numpy as np
import pytest
from helpers import OPENMP, python

pytest.importorskip("sklearn")

import joblib
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import minidl
from minidl import parallel
from minidl.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, Y = X[ORDER], np.array(["a", "b", "c"])[Y[ORDER]]
VALUES = X[:, 0] * X[:, 1]
SCALED = StandardScaler().fit_transform(X)
CPUS = parallel.available()[0]


def classifier(**options):
    quick = {"max_iter": 30, "random_state": 0, "learning_rate_init": 0.02}
    return MLPClassifier((8,), **quick | options)


def regressor(**options):
    quick = {"max_iter": 30, "random_state": 0, "learning_rate_init": 0.02}
    return MLPRegressor(hidden_layer_sizes=(8,), **quick | options)


# Tools.


def test_clone_has_equal_parameters_and_nothing_else():
    made = classifier(
        solver=minidl.Adam(lr=0.01), learning_rate=minidl.StepLR(3), activation=[minidl.GELU()],
        loss=minidl.CrossEntropyLoss(label_smoothing=0.1), callbacks=[minidl.TimeLimit(9.0)],
    )  # fmt: skip
    fitted = made.fit(SCALED, Y)
    other = clone(fitted)
    assert not hasattr(other, "coefs_")
    assert repr(other.get_params()["solver"]) == repr(made.solver)
    assert other.solver is not made.solver
    assert np.array_equal(other.fit(SCALED, Y).predict_proba(SCALED), fitted.predict_proba(SCALED))


def test_pipeline_and_cross_val_score():
    scores = cross_val_score(make_pipeline(StandardScaler(), classifier(max_iter=100)), X, Y, cv=3)
    assert scores.shape == (3,)
    assert scores.min() > 0.85


def test_grid_search():
    grid = {"alpha": [1e-4, 100.0], "solver": ["adam", minidl.AdamW(lr=0.02)]}
    search = GridSearchCV(classifier(), grid, cv=2).fit(SCALED, Y)
    assert search.best_params_["alpha"] == 1e-4
    assert search.best_estimator_.score(SCALED, Y) > 0.85
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


def test_calibration():
    calibrated = CalibratedClassifierCV(classifier(), cv=2, method="sigmoid").fit(SCALED, Y)
    np.testing.assert_allclose(calibrated.predict_proba(SCALED).sum(axis=1), 1)
    hinge = CalibratedClassifierCV(classifier(loss="MultiMarginLoss"), cv=2).fit(SCALED, Y)
    assert hinge.score(SCALED, Y) > 0.85


def test_permutation_importance():
    rng = np.random.default_rng(0)
    noisy = np.column_stack([SCALED, rng.normal(size=len(X))])
    found = permutation_importance(
        classifier(max_iter=100).fit(noisy, Y), noisy, Y, n_repeats=3, random_state=0
    )
    assert found.importances_mean.argmax() in (2, 3)
    assert found.importances_mean[4] < found.importances_mean.max() / 4


def test_ensembles():
    bagging = BaggingClassifier(classifier(), n_estimators=3, random_state=0).fit(SCALED, Y)
    voting = VotingClassifier(
        [("a", classifier()), ("b", classifier(batch_norm=True))], voting="soft"
    )
    assert bagging.score(SCALED, Y) > 0.85
    assert voting.fit(SCALED, Y).score(SCALED, Y) > 0.85


def test_regression_inside_others():
    both = np.column_stack([VALUES, -VALUES])
    several = MultiOutputRegressor(regressor(max_iter=200)).fit(SCALED, both)
    scaled = TransformedTargetRegressor(regressor(max_iter=200), transformer=StandardScaler())
    assert several.predict(SCALED).shape == (150, 2)
    assert scaled.fit(SCALED, VALUES).score(SCALED, VALUES) > 0.8


def test_metadata_routing_of_sample_weight():
    weight = np.where(Y == "a", 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            classifier(max_iter=200).set_fit_request(sample_weight=True),
        ).fit(X, Y, sample_weight=weight)
        assert "a" not in routed.predict(X)
        requests = classifier().set_fit_request(X_val=True, y_val=True).get_metadata_routing()
        assert requests.fit.requests["X_val"] is True
        assert requests.partial_fit.requests["classes"] is None
        scores = cross_validate(
            classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
            SCALED, Y, cv=2, params={"sample_weight": weight},
        )  # fmt: skip
    assert np.isfinite(scores["test_score"]).all()


def test_set_output():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    pipeline.fit(frame, Y)
    assert list(pipeline[-1].feature_names_in_) == list("abcd")
    assert pipeline.predict(frame).shape == (150,)


def test_html():
    text = classifier(batch_norm=True)._repr_html_()
    assert "MLPClassifier" in text
    assert "batch_norm" in text
    assert "MLPClassifier" in make_pipeline(StandardScaler(), classifier())._repr_html_()


def test_repr():
    assert repr(MLPClassifier(alpha=0.5, dropout=0.1)) == "MLPClassifier(alpha=0.5, dropout=0.1)"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    lib = pytest.importorskip(library)
    frame = lib.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    y = lib.Series("y", Y) if library == "polars" else lib.Series(Y)
    clf = classifier(early_stopping=True).fit(frame, y)
    assert list(clf.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(
        clf.predict(frame), classifier(early_stopping=True).fit(X, Y).predict(X)
    )
    reordered = frame[["b", "a", "c", "d"]]
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(reordered)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.predict(X)


# Files.


def same_predictions(a, b):
    return np.array_equal(a.predict_proba(SCALED), b.predict_proba(SCALED))


def fitted():
    return classifier(batch_norm=True, dropout=0.1, activation=["gelu"]).fit(SCALED, Y)


def through_joblib(clf, folder):
    joblib.dump(clf, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def through_pickle(clf, folder):
    return pickle.loads(pickle.dumps(clf))


def through_copy(clf, folder):
    return copy.deepcopy(clf)


def through_skops(clf, folder):
    io = pytest.importorskip("skops.io")
    io.dump(clf, folder / "model.skops")
    unknown = io.get_untrusted_types(file=folder / "model.skops")
    assert all(name.startswith("minidl.") or name == "numpy.dtype" for name in unknown)
    return io.load(folder / "model.skops", trusted=unknown)


@pytest.mark.parametrize("way", [through_joblib, through_pickle, through_copy, through_skops])
def test_persistence(way, tmp_path):
    """Predictions are the same, and `partial_fit` goes on as if nothing had been."""
    clf = fitted()
    other = way(clf, tmp_path)
    assert same_predictions(clf, other)
    assert other.loss_curve_ == clf.loss_curve_
    for one in (clf, other):
        one.partial_fit(SCALED, Y)
    assert same_predictions(clf, other)
    other.coefs_[0][...] = 0
    assert not same_predictions(clf, other)


def test_views_are_pickled_as_arrays():
    coefs = pickle.loads(pickle.dumps(fitted().coefs_))
    assert type(coefs) is list
    assert coefs[0].shape == (4, 8)


def test_what_is_kept_is_small():
    """No data, no workspace."""
    clf = classifier().fit(np.repeat(SCALED, 50, axis=0), np.repeat(Y, 50))
    assert len(pickle.dumps(clf)) < 30_000


def test_a_clone_of_a_fitted_estimator_is_small():
    """Its callbacks do not bring the network: a search sends a clone to each of its workers."""
    clf = classifier(callbacks=[minidl.TimeLimit(9.0)])
    before = len(pickle.dumps(clone(clf)))
    assert len(pickle.dumps(clone(clf.fit(SCALED, Y)))) < before + 100


# Threads.


def native_threads():
    """Threads of this process that Python does not know: those of compiled code."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


BEFORE = native_threads()  # those of other libraries


class Threads(minidl.Callback):
    """Notes in a file who trains, from when to when, and with how many threads."""

    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self):
        self.start = time.monotonic()

    def on_train_end(self):
        time.sleep(0.05)  # long enough for the other worker to come
        note = [os.getpid(), threading.get_ident(), self.start, time.monotonic(),
                minidl.get_num_threads(), native_threads() - BEFORE]  # fmt: skip
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


SEARCH = """
import sys, warnings
import joblib, numpy as np
from minidl.lowering import plan
from minidl.sklearn import MLPClassifier
from sklearn.experimental import enable_halving_search_cv
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV
from test_sklearn_tools import Threads

plan.WORK_PER_THREAD = 0  # programs use all threads that they may
warnings.simplefilter("ignore")
backend, jobs, path = sys.argv[1:]
rng = np.random.default_rng(0)
X, y = rng.normal(size=(400, 20)), rng.integers(0, 2, 400)
clf = MLPClassifier((16,), max_iter=5, callbacks=[Threads(path)])
alphas = {"alpha": [1e-4, 1e-3, 1e-2, 0.1]}
halving = {"n_candidates": 4, "factor": 2, "min_resources": 200}  # 4 with 200 rows, 2 with 400
with joblib.parallel_config(backend=backend, n_jobs=int(jobs)):
    GridSearchCV(clf, alphas, cv=3, refit=False).fit(X, y)
    HalvingRandomSearchCV(clf, alphas, **halving, cv=2, refit=False).fit(X, y)
"""


def search(folder, backend, jobs):
    """What `Threads` has noted of the two searches in a process of its own, 12 fits each."""
    path, script = folder / "threads.jsonl", folder / "search.py"
    script.write_text(SEARCH, encoding="utf-8")
    # The other libraries have one thread, so that all native ones are minidl's.
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": None}
    python(script, backend, jobs, path, environment=alone)
    notes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(notes) == 24
    return notes[:12], notes[12:]


def overlap(notes):
    """True if two workers trained at the same time."""
    return any(a[:2] != b[:2] and a[2] < b[3] and b[2] < a[3] for a in notes for b in notes)


def test_one_job_uses_all_cores(tmp_path):
    expected = CPUS if OPENMP else 1
    for notes in search(tmp_path, "threading", 1):
        assert {note[4] for note in notes} == {expected}
        assert max(note[5] for note in notes) == expected - 1


def test_two_threads_of_joblib_have_one_thread_each(tmp_path):
    for notes in search(tmp_path, "threading", 2):
        assert overlap(notes)
        assert {note[4] for note in notes} == {1}
        assert max(note[5] for note in notes) == 0  # no threads but Python's own


def test_two_processes_of_joblib_share_the_cores(tmp_path):
    share = max(CPUS // 2, 1) if OPENMP else 1
    for notes in search(tmp_path, "loky", 2):
        assert overlap(notes)
        assert {note[4] for note in notes} == {share}
        assert max(note[5] for note in notes) == share - 1


def test_threads_of_ones_own_are_not_limited():
    found = []

    class Count(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            found.append(minidl.get_num_threads())

    clf = classifier(max_iter=1, callbacks=[Count()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=clf.fit, args=(SCALED, Y))
        thread.start()
        thread.join()
    assert found == [minidl.get_num_threads()]


# Without scikit-learn.


def test_the_missing_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import minidl\n"
        "try:\n    import minidl.sklearn\nexcept ImportError as error:\n    print(error)\n"
    )
    assert python("-c", code).stdout.strip() == (
        "minidl.sklearn needs sklearn: pip install 'minidl[sklearn]'"
    )
