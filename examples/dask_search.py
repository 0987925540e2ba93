"""A sweep on Dask: scikit-learn's search over minidl's estimators, on the workers of a cluster.

A cluster of two processes on this machine, or one that is there: then workers need minidl, and may
be on any machines. Needs scikit-learn and Dask (the package distributed):

    python examples/dask_search.py
    python examples/dask_search.py tcp://scheduler:8786
"""

import sys
from contextlib import nullcontext
from itertools import chain

import joblib
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split

import minidl
from minidl.sklearn import MLPClassifier

EPOCHS = 20


def new_search(folds):
    """Widths, rates and dropout of a network for the digits."""
    net = MLPClassifier(
        max_iter=EPOCHS, learning_rate=minidl.CosineAnnealingLR(EPOCHS), random_state=0
    )
    grid = {
        "hidden_layer_sizes": [(32,), (64,), (64, 32)],
        "learning_rate_init": [1e-3, 1e-2],
        "dropout": [0.0, 0.2],
    }
    return GridSearchCV(net, grid, cv=folds)


def local_cluster():
    """Two processes. A task of Dask's is one thread: the estimators keep to it."""
    return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)


def main():
    """Search on the cluster and in this process, and compare."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, random_state=0, stratify=y)
    folds = list(StratifiedKFold(3).split(X, y))
    search = new_search(folds)
    address = sys.argv[1] if len(sys.argv) > 1 else None
    with nullcontext(address) if address else local_cluster() as cluster, Client(cluster) as client:
        # All that a task needs is sent to each worker once, the rows of the folds and the search
        # itself too. What is only on a worker that is killed would be lost, and the search with it;
        # and Dask must not drop copies that look superfluous.
        client.amm.stop()
        with joblib.parallel_config("dask", scatter=[X, y, search, *chain(*folds)]):
            search.fit(X, y)
        workers = len(client.scheduler_info()["workers"])
    results = search.cv_results_
    print(f"{len(results['params'])} settings, {len(folds)} folds, {workers} workers")
    print(f"best: {search.best_params_}, {search.best_score_:.4f} in cross-validation, "
          f"{search.score(X_test, y_test):.4f} on other rows")  # fmt: skip

    here = new_search(folds).fit(X, y)
    same = (here.cv_results_["mean_test_score"] == results["mean_test_score"]).all()
    print(f"the same scores as in one process, to the bit: {same}")
    assert same
    assert search.score(X_test, y_test) > 0.95


if __name__ == "__main__":
    main()
