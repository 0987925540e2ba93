"""scikit-learn's own checks of estimators, and its tests of its MLP, on minidl's estimators."""

import importlib

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

from minidl.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


ESTIMATORS = [
    kind(max_iter=100, batch_norm=batch_norm)
    for kind in (MLPClassifier, MLPRegressor)
    for batch_norm in (False, True)
]


def expected_to_fail(estimator):
    """With mini-batches of BatchNorm a row of weight 2 is not two rows."""
    reason = "the mean and variance of a batch count its rows, not their weights"
    names = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    return dict.fromkeys(names, reason) if estimator.batch_norm else {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_to_fail)
def test_checks(estimator, check):
    check(estimator)


# The tests of scikit-learn's MLP, as they are installed, with our classes in place of its own.

PRIVATE = {  # of the tests, those that read attributes which are no part of the interface
    "test_gradient": "_loss_grad_lbfgs",
    "test_learning_rate_warmstart": "_optimizer",
    "test_adaptive_learning_rate": "_optimizer",
}


def theirs():
    """The module with the tests, which has found our classes."""
    module = importlib.import_module("sklearn.neural_network.tests.test_mlp")
    module.MLPClassifier, module.MLPRegressor = MLPClassifier, MLPRegressor
    return module


def with_our_classes(function):
    """The test, with the parameters that are classes replaced."""
    ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            mark.args[1][:] = [ours.get(getattr(v, "__name__", None), v) for v in mark.args[1]]
    return function


@pytest.fixture
def global_random_seed():
    """What scikit-learn's own configuration of pytest gives."""
    return 42


MODULE = theirs()
for name, test in vars(MODULE).items():
    if name.startswith("test_") and name not in PRIVATE:
        globals()[f"test_of_theirs_{name.removeprefix('test_')}"] = with_our_classes(test)


def test_the_tests_of_theirs_are_there():
    found = [name for name in globals() if name.startswith("test_of_theirs_")]
    assert len(found) >= 40
    assert all(name in vars(MODULE) for name in PRIVATE)
