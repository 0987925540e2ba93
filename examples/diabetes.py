"""Regression on scikit-learn's diabetes data: two losses, a linear model, and prediction intervals.

The data are 442 patients, 10 measurements each, and how far the disease went on in a year. First,
squared error and Huber's loss beside a linear model, by cross-validation; then, three quantiles
from one network, and how many of the test rows lie inside. Needs scikit-learn:

    python examples/diabetes.py
"""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

import minidl

QUANTILES = (0.1, 0.5, 0.9)


def network(outputs=1):
    """A small network: the data are few, and nearly linear."""
    return minidl.Sequential(
        minidl.Linear(10, 16), minidl.Tanh(), minidl.Dropout(0.1), minidl.Linear(16, outputs),
        seed=0,
    )  # fmt: skip


def fitted(loss, X, y, outputs=1):
    """A network trained with a loss."""
    model = network(outputs)
    trainer = minidl.Trainer(model, loss, minidl.AdamW(lr=3e-3, weight_decay=0.3))
    trainer.fit(X, y, epochs=40, batch_size=16, seed=0)
    return model


def linear_by_minidl(X, y):
    """Least squares as a network of one layer, to check the machinery against scikit-learn."""
    model = minidl.Sequential(minidl.Linear(10, 1), seed=0, dtype="float64")
    optimizer = minidl.SGD(lr=0.1, momentum=0.9, nesterov=True)
    trainer = minidl.Trainer(model, minidl.MSELoss(), optimizer)
    trainer.fit(X, y, epochs=2000, batch_size=len(X), seed=0)
    return model


def folds(X, y):
    """Ten times: training and test rows, standardised by what the training rows say."""
    for train, test in KFold(10, shuffle=True, random_state=0).split(X):
        inputs, target = StandardScaler().fit(X[train]), StandardScaler().fit(y[train, None])
        yield [
            (inputs.transform(X[rows]), target.transform(y[rows, None])[:, 0])
            for rows in (train, test)
        ]


def compare(X, y):
    """Mean R2 on rows that were not trained on, for each way to predict."""
    ways = {
        "linear model of scikit-learn": lambda X, y: LinearRegression().fit(X, y),
        "linear model of minidl": linear_by_minidl,
        "network, MSELoss": lambda X, y: fitted(minidl.MSELoss(), X, y),
        "network, HuberLoss": lambda X, y: fitted(minidl.HuberLoss(delta=0.5), X, y),
    }
    return {
        name: np.mean([
            r2_score(test[1], np.ravel(way(*train).predict(test[0]))) for train, test in folds(X, y)
        ])
        for name, way in ways.items()
    }  # fmt: skip


def intervals(X, y):
    """Share of the test rows between the outer quantiles, and how far apart these are, on average:
    those of the network, and those of the training targets alone.
    """
    inside, width, alone = [], [], []
    for train, (X_test, y_test) in folds(X, y):
        model = fitted(minidl.QuantileLoss(QUANTILES), *train, outputs=len(QUANTILES))
        low, _, high = model.predict(X_test).T
        inside.extend((low <= y_test) & (y_test <= high))
        width.extend(high - low)
        alone.append(np.quantile(train[1], QUANTILES[-1]) - np.quantile(train[1], QUANTILES[0]))
    return np.mean(inside), np.mean(width), np.mean(alone)


def main():
    """Both parts, in words and figures."""
    X, y = load_diabetes(return_X_y=True)
    print(f"{len(X)} patients, {X.shape[1]} measurements; inputs and target standardised\n")
    r2 = compare(X, y)
    print("R2 on rows not trained on, mean of ten folds")
    for name, value in r2.items():
        print(f"  {name:30}{value:.4f}")
    print("The data are few and nearly linear: a network gains little or nothing over a linear "
          "model.\n")  # fmt: skip

    share, width, alone = intervals(X, y)
    print(f"Intervals from the quantiles {QUANTILES[0]} and {QUANTILES[-1]}, one network for all "
          f"three: {share:.1%} of\nthe test rows lie inside, where 80 % should. They are "
          f"{width:.2f} standard deviations wide on average,\nwhere those that know of no "
          f"measurement are {alone:.2f} wide.")  # fmt: skip

    linear = r2["linear model of scikit-learn"]
    assert abs(r2["linear model of minidl"] - linear) < 1e-6, "the same least squares"
    assert min(r2.values()) > 0.4
    assert 0.7 < share < 0.9
    assert width < 0.8 * alone


if __name__ == "__main__":
    main()
