"""Numbers and a category side by side: rents of flats, by their measures and their district.

Shows `Parallel` with an `Embedding`, several inputs as a tuple, and what the category is worth. The
data are made up here:

    python examples/tabular_two_inputs.py
"""

import numpy as np

import minidl

DISTRICTS, NUMBERS = 12, 3


def flats(rows, rng):
    """Measures (area, floor, age), standardised, the district, and the rent of each flat.

    A district has a price of its own for each square metre, and another one for the view.
    """
    prices = np.random.default_rng(1).normal(size=(2, DISTRICTS))
    numbers = rng.normal(size=(rows, NUMBERS))
    district = rng.integers(0, DISTRICTS, rows)
    area, floor, age = numbers.T
    rent = (1 + prices[0, district]) * area + prices[1, district] * floor - 0.3 * age**2
    return numbers, district[:, None], rent + rng.normal(0, 0.2, rows)


def with_embedding():
    """Four learned numbers for each district, beside the measures."""
    return minidl.Sequential(
        minidl.Parallel(
            minidl.Linear(NUMBERS, 16), minidl.Embedding(DISTRICTS, 4), columns=[NUMBERS, 1]
        ),
        minidl.Linear(20, 64), minidl.ReLU(),
        minidl.Linear(64, 64), minidl.ReLU(),
        minidl.Linear(64, 1), seed=0,
    )  # fmt: skip


def without():
    """The same without the district."""
    return minidl.Sequential(
        minidl.Linear(NUMBERS, 20),
        minidl.Linear(20, 64), minidl.ReLU(),
        minidl.Linear(64, 64), minidl.ReLU(),
        minidl.Linear(64, 1), seed=0,
    )  # fmt: skip


def r2(model, X, y, X_test, y_test):
    """R2 on the test rows of a model trained on the others."""
    trainer = minidl.Trainer(
        model, minidl.MSELoss(), minidl.Adam(lr=3e-3), metrics=["r2"],
        scheduler=minidl.CosineAnnealingLR(T_max=40),
    )  # fmt: skip
    trainer.fit(X, y, epochs=40, batch_size=64, seed=0)
    return trainer.evaluate(X_test, y_test)["r2"]


def main():
    """Train with the district and without."""
    rng = np.random.default_rng(0)
    numbers, district, y = flats(8000, rng)
    numbers_test, district_test, y_test = flats(2000, rng)

    model = with_embedding()
    print(model)
    ours = r2(model, (numbers, district), y, (numbers_test, district_test), y_test)
    theirs = r2(without(), numbers, y, numbers_test, y_test)
    print(f"\nR2 on {len(y_test)} other flats: {ours:.3f} with the district, {theirs:.3f} without")

    one = model.predict((numbers_test[:1], district_test[:1]))
    same = model.predict(np.concatenate([numbers_test[:1], district_test[:1]], axis=1))
    print(f"rent of the first: {one[0, 0]:.2f} predicted, {y_test[0]:.2f} in truth; the same from "
          "one array of four columns")  # fmt: skip
    try:
        model.predict((numbers_test[:1], np.array([[DISTRICTS]])))
    except ValueError as error:
        print(f"a district that is not there is an error: {error}")
    else:
        raise AssertionError("a district that is not there was taken")

    assert ours > 0.95 > theirs
    assert np.array_equal(one, same)


if __name__ == "__main__":
    main()
