"""Training takes the memory that the program says, and never copies the data whole."""

import tracemalloc

import numpy as np
import pytest

import minidl

MARGIN = 1.15
OBJECTS = 100_000  # bytes of Python objects, which come and go
BATCH_SIZE = 64
ROWS, FEATURES, CLASSES = 30_000, 40, 3


def network(seed=0):
    return minidl.Sequential(
        minidl.Linear(FEATURES, 100), minidl.BatchNorm1d(100), minidl.ReLU(),
        minidl.Linear(100, CLASSES), seed=seed,
    )  # fmt: skip


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


LAYOUTS = {
    "C": lambda: numbers(ROWS, FEATURES),
    "Fortran": lambda: numbers(FEATURES, ROWS).T,
    "every second row": lambda: numbers(2 * ROWS, FEATURES)[::2],
    "every second column": lambda: numbers(ROWS, 2 * FEATURES)[:, ::2],
    "rows backwards": lambda: numbers(ROWS, FEATURES)[::-1],
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)
LABELS = np.arange(ROWS) % CLASSES


def traced_peak(function):
    """Bytes that a call takes at most, arrays of NumPy included."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def needs(*programs):
    """Bytes that programs of one model say they need, beside its parameters."""
    return sum(n for p in programs for kind, n in p.memory().items() if kind != "parameters")


def program(trainer, use):
    return trainer._programs[use][2]


@layouts
def test_fit_gathers_batch_by_batch(layout):
    X = LAYOUTS[layout]()
    trainer = minidl.Trainer(network())
    peak = traced_peak(
        lambda: trainer.fit(X, LABELS, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    )
    assert peak < MARGIN * needs(program(trainer, "train")) + OBJECTS < X.nbytes / 2


def test_the_order_of_rows_takes_eight_bytes_a_row():
    X = LAYOUTS["C"]()
    trainer = minidl.Trainer(network())
    peak = traced_peak(lambda: trainer.fit(X, LABELS, batch_size=BATCH_SIZE, verbose=0))
    assert peak < MARGIN * (needs(program(trainer, "train")) + 8 * ROWS) + OBJECTS < X.nbytes / 2


@layouts
def test_validation_gathers_batch_by_batch(layout):
    X = LAYOUTS[layout]()
    trainer = minidl.Trainer(network())
    peak = traced_peak(
        lambda: trainer.fit(
            X[:100], LABELS[:100], batch_size=BATCH_SIZE, validation_data=(X, LABELS), verbose=0
        )
    )
    both = needs(program(trainer, "train"), program(trainer, "evaluate"))
    assert peak < MARGIN * both + OBJECTS < X.nbytes


@layouts
def test_predict_gathers_batch_by_batch(layout):
    X = LAYOUTS[layout]()
    model = network()
    peak = traced_peak(lambda: model.predict(X, batch_size=BATCH_SIZE))
    output = ROWS * CLASSES * X.itemsize
    assert peak < MARGIN * (needs(model._predictor[1]) + output) + OBJECTS < X.nbytes / 2


# What the program says; `test_footprint.py` holds it to the byte.


def trained(optimizer):
    trainer = minidl.Trainer(network(), optimizer=optimizer)
    trainer.fit(numbers(200, FEATURES), LABELS[:200], verbose=0)
    return trainer


def test_kinds_of_memory():
    trainer = trained(minidl.Adam())
    memory = program(trainer, "train").memory()
    values = 4 * sum(p.array.size for _, p in trainer.model.named_parameters())
    trainable = 4 * sum(p.size for p in trainer.model.parameters())
    assert values <= memory["parameters"] < 1.5 * values
    assert 2 * trainable <= memory["optimizer"] < 3 * trainable
    assert memory["saved"] == memory["parameters"] + memory["optimizer"] + 8  # batches tracked
    assert memory["gradients"] == 0  # used up as they are made


def test_evaluation_needs_less():
    trainer = trained(minidl.Adam())
    trainer.evaluate(numbers(50, FEATURES), LABELS[:50])
    memory = program(trainer, "evaluate").memory()
    assert memory["optimizer"] == memory["gradients"] == memory["saved"] == 0
    assert memory["workspace"] > 0


def test_sgd_has_one_moment():
    adam, sgd = (
        program(trained(optimizer), "train").memory()
        for optimizer in (minidl.Adam(), minidl.SGD(momentum=0.9))
    )
    assert 2 * sgd["optimizer"] == adam["optimizer"]
    assert sgd["saved"] == adam["saved"] - sgd["optimizer"]


def test_training_makes_no_gradients_of_parameters():
    trainer = trained(minidl.Adam())
    size = sum(g.nbytes for g in trainer.model.gradients())  # makes them
    assert program(trainer, "train").memory()["gradients"] >= size
