"""What training and prediction are said to take is what they take, to the byte; and limits hold."""

import io
import itertools
import sys

import numpy as np
import pytest
from helpers import THREADS, python

import minidl
from minidl.footprint import Way, as_bytes


def network(*widths, normalized=False, seed=0):
    layers = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [minidl.Linear(a, b), *[minidl.BatchNorm1d(b)] * normalized, minidl.ReLU()]
    return minidl.Sequential(*layers, minidl.Linear(*widths[-2:]), seed=seed)


def data(rows, model, columns):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, columns)).astype(model.dtype), np.arange(rows) % 3


# The report.

WAYS = {
    "plain": {},
    "SGD": {"optimizer": "SGD"},
    "clipping": {"clip_grad_norm": 1.0},
    "accumulate": {"accumulate": 2},
    "average": {"ema_decay": 0.9},
    "parts": {"micro_batch_size": 10},
    "recomputed": {"checkpoint": 2},
    "both": {"micro_batch_size": 10, "checkpoint": "sqrt"},
    "limit": {"memory_limit": 90_000},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", THREADS[:2])
def test_what_is_said_is_what_is_there(way, count):
    """Of each kind: what the arrays of the program, the model and the optimizer take."""
    model = network(12, 30, 20, 30, 20, 3)
    X, y = data(128, model, 12)
    with minidl.set_num_threads(count):
        trainer = minidl.Trainer(model, **WAYS[way])
        said = trainer.memory(64)
        trainer.fit(X, y, batch_size=64, verbose=0)
        assert trainer.memory(64).training == said.training
        model.predict(X, batch_size=64)
    state, plan = trainer._state(), trainer._programs["train"][2].plan
    average = 0 if state.average is None else state.average.nbytes
    assert said.training == {
        "parameters": model.store().values.nbytes,
        "gradients": model.store().gradient_bytes,
        "optimizer": state.moments.nbytes + average,
        "saved": sum(copy.nbytes for _, copy in plan.saved),
        "workspace": plan.workspace.nbytes,
    }
    assert said.prediction["workspace"] == model._predictor[1].plan.workspace.nbytes
    assert (trainer.way.micro_batch_size, trainer.way.checkpoint) == (
        said.micro_batch_size, said.checkpoint,
    )  # fmt: skip


def test_layers():
    """Parameters and states are padded to cache lines; what is kept has a row for each of 100."""
    model = minidl.Sequential(
        minidl.Linear(16, 64), minidl.BatchNorm1d(64), minidl.ReLU(), minidl.Linear(64, 32),
        minidl.SiLU(), minidl.Dropout(0.5), minidl.Linear(32, 16),
    )  # fmt: skip
    report = model.memory(100)
    linear, norm, relu, second, silu, dropout, last = report.layers
    assert (linear.name, linear.type, linear.columns) == ("0", "Linear", 64)
    assert linear.parameters == 4 * (16 * 64 + 64)
    assert linear.optimizer == 2 * linear.parameters
    assert norm.parameters == 4 * 4 * 64
    assert norm.optimizer == 2 * 4 * 2 * 64
    assert relu.parameters == silu.parameters == 0
    assert linear.kept == 4 * 100 * 64  # what BatchNorm reads
    assert relu.kept - 4 * 100 * 64 < 20_000  # with the statistics
    assert (norm.kept, second.kept) == (0, 0)  # the activations run inside
    assert silu.kept == 2 * 4 * 100 * 32 - 4 * 100 * 32 * 1  # its input, not its output
    assert dropout.kept == 4 * 100 * 32
    assert last.kept == 0
    assert sum(layer.parameters for layer in report.layers) == report.training["parameters"]
    assert sum(layer.optimizer for layer in report.layers) == report.training["optimizer"]


def test_the_saving_is_shown():
    report = network(20, 200, 200, 200, 3).memory(1000)
    assert report.training["workspace"] < 0.85 * report.unshared["training"]
    assert report.prediction["workspace"] < 0.8 * report.unshared["prediction"]
    text = str(report)
    for line in ("layer", "kept for backward", "training, 1000 rows", "prediction, 1000 rows",
                 "if no buffers shared memory"):  # fmt: skip
        assert line in text
    assert "<table>" in report._repr_html_()


def test_growth():
    """Training: with layers times rows; prediction: with rows alone."""
    sizes = {
        (depth, rows): network(64, *[64] * depth, 3).memory(rows) for depth in (10, 20)
        for rows in (1000, 2000)
    }  # fmt: skip
    trained = {k: r.training["workspace"] for k, r in sizes.items()}
    predicted = {k: r.prediction["workspace"] for k, r in sizes.items()}
    assert 1.7 < trained[20, 1000] / trained[10, 1000] < 2
    assert 1.9 < trained[10, 2000] / trained[10, 1000] < 2
    assert 1 <= predicted[20, 1000] / predicted[10, 1000] < 1.05
    assert 1.9 < predicted[10, 2000] / predicted[10, 1000] < 2


def test_asking_changes_nothing():
    model = network(12, 30, 3)
    X, y = data(50, model, 12)
    optimizer = minidl.Adam()
    trainer = minidl.Trainer(model, optimizer=optimizer, ema_decay=0.9)
    trainer.fit(X, y, verbose=0)
    before = trainer._state(), trainer._programs["train"], trainer._state().average_from
    network(5, 7, 3).memory(10, optimizer=optimizer)
    model.memory(10, optimizer=optimizer, loss="MSELoss")
    trainer.memory(1000)
    after = trainer._state(), trainer._programs["train"], trainer._state().average_from
    assert all(a is b for a, b in zip(before[:2], after[:2], strict=True))
    assert before[2] == after[2]


def test_what_would_not_fit_can_be_asked():
    report = network(100, 1000, 3).memory(10**12)
    assert report.training["workspace"] > 4 * 1000 * 10**12


def test_bad_arguments():
    model = network(12, 30, 3)
    with pytest.raises(ValueError, match="batch_size: expected an integer of at least 1, got 0"):
        model.memory(0)
    with pytest.raises(ValueError, match="in_features: expected 12 or None, got 13"):
        model.memory(1, in_features=13)
    with pytest.raises(ValueError, match="in_features: expected a number"):
        minidl.Sequential(minidl.ReLU()).memory(1)
    with pytest.raises(TypeError, match="optimizer: expected an Optimizer, got 3"):
        model.memory(1, optimizer=3)
    for wrong in (0, -1, 1.5, "12", "MB", "1.5.0MB", "0MB", "12 XB", True):
        with pytest.raises(ValueError, match="memory_limit: expected"):
            minidl.Trainer(model, memory_limit=wrong)
    for wrong in (0, 1, -2, "root", 2.5, True):
        with pytest.raises(ValueError, match="checkpoint: expected"):
            minidl.Trainer(model, checkpoint=wrong)
    for wrong in (0, -1, 2.5, "8"):
        with pytest.raises(ValueError, match="micro_batch_size: expected"):
            minidl.Trainer(model, micro_batch_size=wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512 * 10**6), ("2 GiB", 2**31), ("1.5kb", 1500), ("100B", 100), (4096, 4096),
     ("1TB", 10**12), ("64mib", 2**26)],
)  # fmt: skip
def test_units(text, size):
    assert as_bytes(text, "memory_limit") == size
    assert minidl.Trainer(network(2, 3, 3), memory_limit=text).memory_limit == size


# Limits.


def deep(rows=2048, normalized=False, **arguments):
    model = network(*[64] * 30, 3, normalized=normalized)
    return minidl.Trainer(model, **arguments), rows


def total(report):
    return sum(report.training.values())


def test_the_fastest_that_fits_is_chosen():
    trainer, rows = deep()
    plain = total(trainer.memory(rows))
    trainer.memory_limit = plain
    assert trainer.memory(rows).micro_batch_size is None
    trainer.memory_limit = plain - 1
    parts = trainer.memory(rows)
    assert parts.checkpoint is None
    assert 32 <= parts.micro_batch_size < rows
    larger = minidl.Trainer(trainer.model, micro_batch_size=parts.micro_batch_size + 1)
    assert total(parts) <= trainer.memory_limit < total(larger.memory(rows))
    # Parts of a few rows are slow: recomputing comes first.
    trainer.memory_limit = total(
        minidl.Trainer(trainer.model, micro_batch_size=32).memory(rows)
    ) - 1  # fmt: skip
    both = trainer.memory(rows)
    assert both.micro_batch_size >= 32
    assert both.checkpoint is not None


def test_with_batchnorm_activations_are_recomputed():
    """Fewest segments first, since each repeats more of the forward pass."""
    trainer, rows = deep(normalized=True)
    sizes = {n: total(minidl.Trainer(trainer.model, checkpoint=n).memory(rows)) for n in (2, 3, 4)}
    assert sizes[2] > sizes[3] > sizes[4]
    for n, size in sizes.items():
        trainer.memory_limit = size
        report = trainer.memory(rows)
        assert (report.micro_batch_size, report.checkpoint) == (None, n)


def test_what_is_given_stays():
    trainer, rows = deep(checkpoint=2)
    trainer.memory_limit = total(trainer.memory(rows)) - 1
    report = trainer.memory(rows)
    assert report.checkpoint == 2
    assert report.micro_batch_size < rows
    trainer, rows = deep(micro_batch_size=512)
    trainer.memory_limit = total(trainer.memory(rows)) - 1
    report = trainer.memory(rows)
    assert report.micro_batch_size == 512
    assert report.checkpoint == 2


@pytest.mark.parametrize("normalized", [False, True])
def test_the_least_that_would_fit_is_said(normalized):
    trainer, rows = deep(normalized=normalized, memory_limit=1000)
    X, y = data(rows, trainer.model, 64)
    before = trainer.model.state_dict()
    with pytest.raises(ValueError, match="memory_limit: expected at least") as raised:
        trainer.fit(X, y, batch_size=rows, verbose=0)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert trainer.epoch == trainer.step == 0
    least = int(str(raised.value).split("at least ")[1].split(" bytes")[0].replace(",", ""))
    trainer.memory_limit = least
    trainer.fit(X, y, batch_size=rows, verbose=0)
    assert total(trainer.memory(rows)) == least
    trainer.memory_limit = least - 1
    with pytest.raises(ValueError, match=f"expected at least {least:,}"):
        trainer.memory(rows)


def test_training_within_a_limit_is_the_same_training():
    plain, rows = deep(256)
    X, y = data(600, plain.model, 64)
    limited, _ = deep(256)
    limited.memory_limit = total(plain.memory(rows)) - 100_000
    for trainer in (plain, limited):
        trainer.fit(X, y, epochs=3, batch_size=rows, seed=0, verbose=0)
    assert limited.chosen == str(Way(limited.way.micro_batch_size))
    assert plain.chosen == ""
    for one, other in zip(plain.model.parameters(), limited.model.parameters(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_the_bar_says_what_was_chosen(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    trainer, rows = deep(256)
    X, y = data(256, trainer.model, 64)
    trainer.memory_limit = total(trainer.memory(rows)) - 100_000
    trainer.fit(X, y, epochs=2, batch_size=rows, verbose=1)
    assert f"micro_batch_size={trainer.way.micro_batch_size}" in sys.stderr.getvalue()


def test_a_new_limit_counts_at_once():
    trainer, rows = deep(256)
    X, y = data(256, trainer.model, 64)
    trainer.fit(X, y, batch_size=rows, verbose=0)
    trainer.memory_limit = total(trainer.memory(rows)) - 100_000
    trainer.fit(X, y, batch_size=rows, verbose=0)
    assert trainer._programs["train"][2].rows == trainer.way.micro_batch_size < rows


# What the system sees.

CODE = """
import re, sys
import numpy as np
import minidl

def status(name):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(name + r":\\s+(\\d+)", file.read())[1])

options, width, depth, rows, predicts = eval(sys.argv[1])
layers = [layer for _ in range(depth) for layer in (minidl.Linear(width, width), minidl.ReLU())]
model = minidl.Sequential(*layers, minidl.Linear(width, 10), seed=0)
X = np.random.default_rng(0).standard_normal((width, rows), np.float32).T  # to be gathered
y = np.arange(rows) % 10
model.predict(X[:1])
minidl.Trainer(minidl.Sequential(minidl.Linear(2, 2))).fit(X[:9, :2], y[:9] % 2)
trainer = minidl.Trainer(model, **options)
report = trainer.memory(rows)
before = status("VmRSS")
if predicts:
    model.predict(X, batch_size=rows)
    needed = report.prediction["workspace"] + 4 * 10 * rows  # and what it gives
else:
    trainer.fit(X, y, batch_size=rows, shuffle=False, verbose=0)
    needed = sum(report.training.values()) - report.training["parameters"]
print(status("VmRSS") - before, needed)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(bool(minidl.get_config()["sanitizers"]), reason="sanitizers replace malloc")
@pytest.mark.parametrize(
    "case",
    [({}, 512, 16, 4096, False), ({}, 512, 16, 4096, True),
     ({"checkpoint": "sqrt"}, 512, 25, 4096, False),
     ({"micro_batch_size": 512}, 512, 30, 4096, False), ({}, 1500, 6, 1000, False)],
    ids=str,
)  # fmt: skip
def test_resident_memory(case):
    """Within 5 % of what is said, beside the parameters, which are there before."""
    done = python("-c", CODE, repr(case), timeout=300)
    grown, needed = map(int, done.stdout.split())
    assert 0.95 * needed < grown < 1.05 * needed
