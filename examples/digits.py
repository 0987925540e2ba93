"""Handwritten digits: a network with BatchNorm and dropout, stopped at its best epoch.

Shows validation, early stopping with the best weights, metrics, and the curves of the training,
for one network with and without BatchNorm and dropout. Needs scikit-learn and matplotlib:

    python examples/digits.py [FOLDER]

The figure goes into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib  # noqa: F401  (for the figure: if it is missing, let it be known now)
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import minidl


def plain():
    """Linear layers and ReLU, no more."""
    return minidl.Sequential(
        minidl.Linear(64, 64), minidl.ReLU(),
        minidl.Linear(64, 32), minidl.ReLU(),
        minidl.Linear(32, 10), seed=0,
    )  # fmt: skip


def regularised():
    """The same with BatchNorm and dropout."""
    return minidl.Sequential(
        minidl.Linear(64, 64), minidl.BatchNorm1d(64), minidl.ReLU(), minidl.Dropout(0.2),
        minidl.Linear(64, 32), minidl.BatchNorm1d(32), minidl.ReLU(), minidl.Dropout(0.2),
        minidl.Linear(32, 10), seed=0,
    )  # fmt: skip


def train(model, training, validation):
    """Train until the validation loss has not improved for 15 epochs."""
    trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=3e-3), metrics=["f1"])
    stop = minidl.EarlyStopping("val_loss", patience=15, restore_best_weights=True)
    trainer.fit(
        *training, epochs=200, batch_size=32, seed=0, validation_data=validation, callbacks=[stop]
    )
    return trainer, stop


def main():
    """Train both, show a table, save the figure of the second."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=360, stratify=y, random_state=0)
    X, X_val, y, y_val = train_test_split(X, y, test_size=280, stratify=y, random_state=0)
    print(f"scikit-learn's digits: {len(X)} images to train on, {len(X_val)} for validation, "
          f"{len(X_test)} to test; 8 x 8 pixels, 10 classes\n")  # fmt: skip

    print("network                  epochs   best   validation loss   test accuracy   test F1")
    accuracy = {}
    for name, make in (("plain", plain), ("BatchNorm and dropout", regularised)):
        trainer, stop = train(make(), (X, y), (X_val, y_val))
        test, again = trainer.evaluate(X_test, y_test), trainer.evaluate(X_val, y_val)
        accuracy[name] = test["accuracy"]
        print(f"{name:22}{len(trainer.history):9}{stop.best_epoch:7}{stop.best:18.4f}"
              f"{test['accuracy']:16.4f}{test['f1']:10.4f}")  # fmt: skip
        assert stop.best == min(trainer.history.history["val_loss"])
        assert abs(again["loss"] - stop.best) < 1e-6, "the best weights are back"
    print("\nBoth stopped when the validation loss had not improved for 15 epochs, and went back "
          "to the\nweights of their best epoch.")  # fmt: skip

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minidl-"))
    path = folder / "digits.png"
    trainer.history.plot().savefig(path)
    print(f"The curves of the second: {path}")

    assert min(accuracy.values()) > 0.95
    assert path.stat().st_size > 10_000


if __name__ == "__main__":
    main()
