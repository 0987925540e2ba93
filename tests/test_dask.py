"""Searches over the estimators on Dask's workers: who trains, what is sent, what a kill costs."""

import json
import os
import signal
import time

import numpy as np
import pytest
from helpers import python

pytest.importorskip("distributed")
pytest.importorskip("sklearn")

from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, StratifiedKFold

import minidl
from minidl.sklearn import MLPClassifier, TabularClassifier

ALPHAS = [1e-4, 1.0]
FOLDS = 3
FITS = len(ALPHAS) * FOLDS
PENALTIES = [0.01, 0.1]


class Note(minidl.Callback):
    """Appends to a file who has trained what, and with how many threads.

    With `kill_after`, the process of the first fit that comes to its end is killed there, when so
    many fits have been noted.
    """

    def __init__(self, path, kill_after=None):
        self.path, self.kill_after = str(path), kill_after

    def on_train_end(self):
        time.sleep(0.21)  # from 0.2 seconds on, joblib makes a task of each fit
        note = {
            "process": os.getpid(), "threads": minidl.get_num_threads(),
            "loss": self.trainer.history.history["loss"][-1],  # no two fits have the same
        }  # fmt: skip
        with open(self.path, "a", encoding="utf-8") as file:
            first = file.tell() == 0
            file.write(json.dumps(note) + "\n")
        if first and self.kill_after is not None:
            end = time.monotonic() + 20
            while len(notes(self.path)) < self.kill_after and time.monotonic() < end:
                time.sleep(0.02)
            if self.kill_after > 1:
                time.sleep(1)  # for Dask to drop copies of data that nobody seems to need
            os.kill(os.getpid(), signal.SIGKILL)


def notes(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def make_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 40))
    return X, (X[:, 0] > rng.normal(size=6000)).astype(int)


def make_folds():
    return list(StratifiedKFold(FOLDS).split(*make_data()))


def classifier(**options):
    """Quick, and without a warning that it has not converged."""
    schedule = minidl.CosineAnnealingLR(4)
    return MLPClassifier((8,), max_iter=4, learning_rate=schedule, random_state=0, **options)


def grid_search(folds, alphas=ALPHAS, **options):
    return GridSearchCV(classifier(**options), {"alpha": alphas}, cv=folds, refit=False)


def other_searches():
    tabular = TabularClassifier(hidden_layer_sizes=(8,), max_iter=1, n_models=2, random_state=0)
    return [
        GridSearchCV(tabular, {"weight_decay": PENALTIES}, cv=2),
        HalvingRandomSearchCV(
            classifier(), {"alpha": [1e-4, 1e-2, 1.0]}, n_candidates=3, cv=2, random_state=0,
            min_resources=2000,
        ),
    ]  # fmt: skip


def scores(search):
    """What each fit gave, in order."""
    names = [name for name in search.cv_results_ if name.endswith("_test_score")]
    return [search.cv_results_[name].tolist() for name in names if name.startswith("split")]


# In a process of its own, whose warnings are errors: all searches, and what was seen of them.
SEARCHES = """
import itertools, json, sys
import dask, joblib
from distributed import Client, LocalCluster
from distributed.comm.tcp import TCP
from test_dask import (
    ALPHAS, FITS, Note, classifier, grid_search, make_data, make_folds, other_searches, scores)

folder = sys.argv[1]
sent, write = 0, TCP.write

async def counting_write(self, *arguments, **options):
    global sent  # by the client and the scheduler, which live in this process
    count = await write(self, *arguments, **options)
    sent += count
    return count

def fit(search, scatter):
    with joblib.parallel_config("dask", scatter=scatter):
        return search.fit(X, y)

def in_processes():
    found = {}
    dask.config.set({"distributed.scheduler.active-memory-manager.interval": "100ms"})
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.amm.stop()
        for alphas in ALPHAS, [i / 10 for i in range(12)]:
            before, search = sent, grid_search(folds, alphas)
            fit(search, [X, y, search, *itertools.chain(*folds)])
            found[f"sent for {len(alphas) * len(folds)} fits"] = (sent - before) / X.nbytes
        others = [fit(search, [X, y]) for search in other_searches()]
        found["others"] = [scores(search) for search in others]
        for name, kill_after in ("whole", None), ("early", 1), ("late", FITS):
            client.wait_for_workers(2, timeout=30)  # one that was killed comes again
            search = grid_search(folds, callbacks=[Note(f"{folder}/{name}", kill_after)])
            fit(search, [X, y, search, *itertools.chain(*folds)])
            found[name] = scores(search)
    return found

def in_threads():
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster):
        fit(grid_search(2, callbacks=[Note(f"{folder}/threads")]), [X, y])

if __name__ == "__main__":
    X, y = make_data()
    folds = make_folds()
    TCP.write = counting_write
    found = in_processes()
    in_threads()
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the searches gave; what they noted, by their names; who started them."""
    folder = tmp_path_factory.mktemp("dask")
    script = folder / "searches.py"
    script.write_text(SEARCHES, encoding="utf-8")
    done = python("-W", "error", script, folder, environment={"OMP_NUM_THREADS": None}, timeout=120)
    seen = {name: notes(folder / name) for name in ("whole", "early", "late", "threads")}
    return json.loads(done.stdout), seen


def test_each_fit_is_made_once_by_one_of_two_workers_with_one_thread(found):
    seen = found[1]["whole"]
    assert len(seen) == FITS == len({note["loss"] for note in seen})
    assert len({note["process"] for note in seen}) == 2
    assert {note["threads"] for note in seen} == {1}


def test_results_are_those_of_this_process(found):
    X, y = make_data()
    assert found[0]["whole"] == scores(grid_search(make_folds()).fit(X, y))
    assert found[0]["others"] == [scores(search.fit(X, y)) for search in other_searches()]


def test_data_are_sent_once_and_not_with_each_fit(found):
    """The client sends them to the scheduler, and that to the workers: at most three times."""
    given = found[0]
    assert 1 < given["sent for 6 fits"] < 3.5
    assert given["sent for 36 fits"] - given["sent for 6 fits"] < 0.5


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_worker_that_is_killed_costs_the_fit_that_it_was_making(when, found):
    """Early, when it alone may have some of the data; late, when the other has nothing to do."""
    seen = found[1][when]
    again = [note for note in seen if note["loss"] == seen[0]["loss"]]
    assert len(seen) == FITS + 1
    assert len({note["loss"] for note in seen}) == FITS
    assert len({note["process"] for note in again}) == len(again) == 2
    assert found[0][when] == found[0]["whole"]


def test_workers_that_are_threads_of_a_process_get_one_thread_each(found):
    seen = found[1]["threads"]
    assert len(seen) == 2 * len(ALPHAS)
    assert len({note["process"] for note in seen}) == 1
    assert {note["threads"] for note in seen} == {1}
