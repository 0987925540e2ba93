"""The loop over epochs: interruptions, callbacks, last batches, accumulation, predictions."""

import copy
import itertools
import os
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
from helpers import assert_close, dtypes, layouts, python, same_bits
from test_checkpoint import (
    BATCH,
    COLUMNS,
    DATA,
    StopAt,
    everything,
    kinds_of_data,
    make_data,
    make_model,
    make_trainer,
    mapped,
    small_blocks,  # noqa: F401
)

import minidl
from minidl.kernels.random import permutation

last_batches = pytest.mark.parametrize("last_batch", ["merge", "keep", "drop"])


def plain_model(dtype="float64", columns=COLUMNS):
    """Without BatchNorm and Dropout: rows are independent of each other."""
    return minidl.Sequential(
        minidl.Linear(columns, 7), minidl.Tanh(), minidl.Linear(7, 3), dtype=dtype, seed=2
    )


def states_close(one, other, rtol=1e-12):
    for a, b in zip(one.model.state().values(), other.model.state().values(), strict=True):
        assert_close(a, b, rtol)


# ------------------------------------------------------------------------- going on


@kinds_of_data
@last_batches
def test_two_fits_are_one(data, last_batch, tmp_path, small_blocks):  # noqa: F811
    X, y = data(tmp_path)
    options = {"batch_size": BATCH, "last_batch": last_batch, "seed": 3}
    one, two = make_trainer(), make_trainer()
    one.fit(X, y, epochs=4, **options)
    for _ in range(2):
        two.fit(X, y, epochs=2, **options)
    assert everything(one) == everything(two)


@pytest.mark.parametrize("data", [DATA["arrays"], mapped])
def test_another_order_begins_the_epoch_anew(data, tmp_path, small_blocks):  # noqa: F811
    """The rest of another permutation would be other rows: some twice, some never."""
    X, y = data(tmp_path)
    trainer = make_trainer()
    trainer.fit(X, y, batch_size=BATCH, seed=0, callbacks=[StopAt(2)])
    assert trainer.progress.batch == 4
    trainer.fit(X, y, batch_size=BATCH, seed=1)
    assert (trainer.epoch, trainer.step) == (1, 2 + 4)


def test_ctrl_c_loses_no_epoch_of_the_history():
    script = """
import os, signal, threading, time
from test_checkpoint import make_data, make_trainer
trainer = make_trainer()
threading.Timer(0.25, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    trainer.fit(*make_data(), epochs=10**6, seed=0, verbose=0)
except KeyboardInterrupt:
    print(trainer.epoch, len(trainer.history), trainer.progress.batch)
"""
    epochs, rows, _ = map(int, python("-c", script).stdout.split())
    assert epochs == rows > 10


@pytest.mark.parametrize("data", [DATA["arrays"], mapped])
def test_an_interrupt_in_a_callback_ends_with_the_same_bits(data, tmp_path, small_blocks):  # noqa: F811
    X, y = data(tmp_path)

    class Interrupt(minidl.Callback):
        every = 5

        def on_train_batch_end(self, step, logs):
            os.kill(os.getpid(), signal.SIGINT)

    whole, part = make_trainer(), make_trainer()
    whole.fit(X, y, epochs=3, batch_size=BATCH, seed=1)
    with pytest.raises(KeyboardInterrupt):
        part.fit(X, y, epochs=3, batch_size=BATCH, seed=1, callbacks=[Interrupt()])
    assert part.step == 5
    part.fit(X, y, epochs=3 - part.epoch, batch_size=BATCH)
    assert everything(part) == everything(whole)


# ------------------------------------------------------------------------- callbacks


class Calls(minidl.Callback):
    def __init__(self, calls, every):
        self.calls, self.every = calls, every

    def on_train_batch_end(self, step, logs):
        assert step == self.trainer.step
        assert np.isfinite(logs["loss"])
        self.calls.append((self.every, step))

    def on_epoch_end(self, epoch, logs):
        self.calls.append((self.every, f"epoch {epoch}"))


@pytest.mark.parametrize("data", [DATA["arrays"], mapped, DATA["batches"]])
def test_callbacks_are_called_at_their_steps(data, tmp_path, small_blocks):  # noqa: F811
    X, y = data(tmp_path)
    calls, expected = [], []
    trainer = make_trainer(accumulate=1)
    trainer.fit(X, y, epochs=3, batch_size=BATCH, callbacks=[Calls(calls, 2), Calls(calls, 3)])
    steps = trainer.step // 3
    for step in range(1, trainer.step + 1):
        expected += [(every, step) for every in (2, 3) if step % every == 0]
        if step % steps == 0:
            expected += [(every, f"epoch {step // steps - 1}") for every in (2, 3)]
    assert calls == expected


@pytest.mark.parametrize("every", [0, -1, 1.5, "x"])
def test_every_is_checked_before_anything_changes(every):
    trainer = make_trainer()
    before = copy.deepcopy(trainer.progress.__dict__)
    with pytest.raises(ValueError, match=r"Calls\.every: expected an integer of at least 1"):
        trainer.fit(*make_data(), callbacks=[Calls([], every)], seed=0)
    assert trainer.progress.__dict__ == before


class Fail(minidl.Callback):
    def __init__(self, where):
        self.where = where
        self.every = 3 if where == "on_train_batch_end" else None
        setattr(self, where, self.fail)

    def fail(self, *arguments):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "where",
    ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"],
)
def test_a_callback_that_fails_leaves_a_trainer_that_goes_on(where):
    X, y = make_data()
    trainer, whole = make_trainer(), make_trainer()
    with pytest.raises(RuntimeError, match="no"):
        trainer.fit(X, y, batch_size=BATCH, seed=0, callbacks=[Fail(where)])
    assert trainer.epoch == len(trainer.history)
    assert all(layer.training for _, layer in trainer.model.tree())
    trainer.fit(X, y, epochs=3 - trainer.epoch, batch_size=BATCH, seed=0)
    whole.fit(X, y, epochs=3, batch_size=BATCH, seed=0)
    assert everything(trainer) == everything(whole)


def test_data_that_fail_leave_a_trainer_that_goes_on():
    X, y = make_data()
    batches = [(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 56, BATCH)]

    def bad():
        yield from batches[:4]
        raise OSError("gone")

    trainer, whole = make_trainer(accumulate=1), make_trainer(accumulate=1)
    with pytest.raises(OSError, match="gone"):
        trainer.fit(bad, batch_size=BATCH)
    for one in (trainer, whole):
        one.fit(batches, epochs=2, batch_size=BATCH)
    assert everything(trainer)[1][:3] == everything(whole)[1][:3]
    if trainer.step == whole.step:
        assert everything(trainer) == everything(whole)


def test_a_nested_fit_changes_nothing():
    X, y = make_data()

    class Nested(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            with pytest.raises(RuntimeError, match="training already"):
                self.trainer.fit(X, y, seed=7, callbacks=[])
            with pytest.raises(RuntimeError, match="training already"):
                self.trainer.train_step(X, y)
            assert self.trainer.callbacks

    one, two = make_trainer(), make_trainer()
    one.fit(X, y, epochs=3, batch_size=BATCH, seed=0, callbacks=[Nested()])
    two.fit(X, y, epochs=3, batch_size=BATCH, seed=0)
    assert one.progress.key == two.progress.key
    assert everything(one) == everything(two)


def test_a_trainer_in_two_threads():
    X, y = make_data(rows=3000)
    trainer, errors, ready = make_trainer(), [], threading.Event()

    class Ready(minidl.Callback):
        every = 1

        def on_train_batch_end(self, step, logs):
            ready.set()

    def other():
        ready.wait(10)
        try:
            trainer.fit(X, y, epochs=1, seed=9)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    trainer.fit(X, y, epochs=60, batch_size=32, seed=0, callbacks=[Ready()])
    thread.join()
    assert errors == ["this trainer is training already, in a callback or another thread"]
    assert trainer.epoch == 60


# ------------------------------------------------------------------------- NaN and infinity


def exploding(kind, path):
    """Data and a trainer that fail in a later epoch, and what to pass to fit."""
    X, y = make_data()
    if kind == "blocks":
        np.save(path / "X.npy", X)
        X = np.load(path / "X.npy", mmap_mode="r")
    return X, y


class Poison(minidl.Callback):
    """Makes a later step fail: a bias becomes huge, within an epoch."""

    every = 1

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, step, logs):
        if step == self.step:
            self.trainer.model[4].bias[0] = np.inf


@pytest.mark.parametrize("kind", ["arrays", "blocks"])
@pytest.mark.parametrize("step", [8, 9, 11])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_last_good_epoch_comes_back(kind, step, clip, tmp_path, small_blocks):  # noqa: F811
    X, y = exploding(kind, tmp_path)
    options = {"batch_size": BATCH, "seed": 0, "last_batch": "merge"}
    good = make_trainer(clip_grad_norm=clip)
    good.fit(X, y, epochs=2, **options)
    bad = make_trainer(clip_grad_norm=clip)
    if step == 8:  # the last of an epoch: found as the next begins, and not this epoch's fault
        step = 7
        good = make_trainer(clip_grad_norm=clip)
        good.fit(X, y, epochs=1, **options)
    with pytest.raises(minidl.NonFiniteError) as caught:
        bad.fit(X, y, epochs=9, callbacks=[Poison(step)], **options)
    assert caught.value.epoch == good.epoch
    assert everything(bad) == everything(good)
    for trainer in (good, bad):
        trainer.fit(X, y, epochs=2, **options)
    assert everything(bad) == everything(good)


def test_a_program_that_grows_within_an_epoch_brings_back_its_beginning():
    """The copies of the epoch's beginning lie with the program that it began with."""
    X, y = make_data()
    good, bad = make_trainer(accumulate=1), make_trainer(accumulate=1)
    for trainer in (good, bad):
        trainer.fit([(X[:8], y[:8])], epochs=2)
    batches = [(X[:8], y[:8]), (X[8:40], y[8:40]), (np.full_like(X[:20], 3e38), y[40:60])]
    with pytest.raises(minidl.NonFiniteError):
        bad.fit(batches)
    assert everything(bad) == everything(good)
    assert (bad.epoch, bad.progress.batch) == (2, 0)


def test_a_gradient_that_is_not_finite_changes_nothing():
    def loss(prediction, y):
        return 0.0, np.full(prediction.shape, np.inf if len(calls) > 20 else 0.1)

    calls = []

    class Count(minidl.Callback):
        every = 1

        def on_train_batch_end(self, step, logs):
            calls.append(step)

    X, y = make_data()
    trainer = make_trainer(loss=loss, accumulate=1)
    saved = {}

    class Keep(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            saved.update(everything(self.trainer)[0])

    with pytest.raises(minidl.NonFiniteError, match="the gradient became"):
        trainer.fit(X, y, epochs=9, batch_size=BATCH, seed=0, callbacks=[Count(), Keep()])
    assert trainer.epoch == len(trainer.history) == 2
    assert everything(trainer)[0] == saved


def test_good_epochs_stay_in_the_history():
    X, _ = make_data()
    trainer = minidl.Trainer(plain_model("float32"), loss=minidl.MSELoss(),
                             optimizer=minidl.SGD(lr=5.0))  # fmt: skip
    with pytest.raises(minidl.NonFiniteError) as caught:
        trainer.fit(X, np.ones((len(X), 3)), epochs=2000, batch_size=len(X), seed=0)
    assert caught.value.epoch == trainer.epoch == len(trainer.history) > 0


def test_on_not_finite_can_take_the_error():
    class Take(Poison):
        def on_not_finite(self, error):
            self.error = error
            return True

    X, y = make_data()
    trainer, take = make_trainer(), Take(5)
    history = trainer.fit(X, y, epochs=9, batch_size=BATCH, seed=0, callbacks=[take])
    assert len(history) == trainer.epoch == take.error.epoch == 1


# ------------------------------------------------------------------------- batches


@last_batches
@pytest.mark.parametrize("rows", [1, 2, BATCH, BATCH + 1])
@pytest.mark.parametrize("kind", ["arrays", "blocks"])
def test_last_batches(rows, last_batch, kind, tmp_path):
    X, y = (part[:rows] for part in make_data())
    if kind == "blocks":
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    steps = {"merge": 1, "keep": -(-rows // BATCH), "drop": rows // BATCH}[last_batch]
    trainer = minidl.Trainer(plain_model())
    if steps == 0:
        with pytest.raises(ValueError, match=r"at least one batch"):
            trainer.fit(X, y, batch_size=BATCH, last_batch=last_batch)
        return
    trainer.fit(X, y, epochs=2, batch_size=BATCH, last_batch=last_batch)
    assert trainer.step == 2 * steps
    normalized = make_trainer()
    before = copy.deepcopy((normalized.progress.__dict__, normalized.model.state_dict()))
    if rows == 1 or (last_batch == "keep" and rows == BATCH + 1):
        with pytest.raises(ValueError, match="at least 2 rows"):
            normalized.fit(X, y, batch_size=BATCH, last_batch=last_batch, seed=0)
        assert normalized.progress.__dict__ == before[0]
        for a, b in zip(normalized.model.state_dict().values(), before[1].values(), strict=True):
            assert same_bits(a, b)
    else:
        normalized.fit(X, y, batch_size=BATCH, last_batch=last_batch)


def test_no_rows_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    none = sparse.csr_matrix((0, COLUMNS), dtype=np.float32)
    y = np.zeros(0, int)
    trainer = make_trainer()
    for X in (none, np.zeros((0, COLUMNS))):
        for do in (trainer.fit, trainer.evaluate, trainer.train_step):
            with pytest.raises(ValueError, match=r"^X: expected at least one row"):
                do(X, y)
        with pytest.raises(ValueError, match=r"^validation_data X: expected at least one row"):
            trainer.fit(*make_data(), validation_data=(X, y))
        assert trainer.model.predict(X).shape == (0, 3)


def numbers(rows):
    """Whole numbers as sample weights, some of them 0."""
    return np.random.default_rng(4).integers(0, 4, rows)


def test_sample_weights_are_repeated_rows():
    X, y = make_data()
    w = numbers(len(X))
    again = np.repeat(X, w, axis=0), np.repeat(y, w)
    one, two = (minidl.Trainer(plain_model()) for _ in range(2))
    for _ in range(3):
        loss = one.train_step(X, y, w), two.train_step(*again)
        assert loss[0] == pytest.approx(loss[1], rel=1e-13)
    one.fit(X, y, epochs=5, batch_size=len(X), sample_weight=w, seed=0)
    two.fit(*again, epochs=5, batch_size=len(again[0]), seed=0)
    states_close(one, two)
    assert_close(one.history.history["loss"], two.history.history["loss"], 1e-12)
    assert one.evaluate(X, y, sample_weight=w)["loss"] == pytest.approx(
        two.evaluate(*again)["loss"], rel=1e-13
    )


def test_a_batch_of_weight_0_counts_nothing():
    X, y = make_data(rows=24)
    w = np.ones(24)
    w[8:16] = 0
    one, two = (minidl.Trainer(plain_model(), optimizer=minidl.SGD(lr=0.1)) for _ in range(2))
    one.fit(X, y, batch_size=8, shuffle=False, sample_weight=w)
    two.fit(X[w > 0], y[w > 0], batch_size=8, shuffle=False)
    states_close(one, two)
    assert_close(one.history.history["loss"], two.history.history["loss"], 1e-12)


def weighted_squares(prediction, y, sample_weight=None):
    """`squares`, with weights."""
    w = np.ones(len(y)) if sample_weight is None else sample_weight
    w = w[:, None] / w.sum() / y.shape[1]
    return (w * (prediction - y) ** 2).sum(), 2 * w * (prediction - y)


class Shift(minidl.Layer):
    """A layer of the user's, with a parameter."""

    def __init__(self):
        super().__init__("float64")
        self.add_parameter("shift", np.zeros(3))

    def forward(self, x):
        return x + self.shift

    def backward(self, dy):
        self.gradient("shift")[...] = dy.sum(axis=0)
        return dy


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("own", ["nothing", "loss", "layer"])
@pytest.mark.parametrize("rows", [48, 53])
def test_accumulated_batches_are_one_larger(weighted, own, rows):
    X, y = make_data(rows)
    y = np.eye(3)[y]
    w = numbers(rows) if weighted else None
    results = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        model = plain_model()
        if own == "layer":
            model = minidl.Sequential(*model, Shift())
        loss = weighted_squares if own == "loss" else minidl.MSELoss()
        trainer = minidl.Trainer(model, loss, minidl.SGD(lr=0.3, momentum=0.5),
                                 accumulate=accumulate, clip_grad_norm=0.05)  # fmt: skip
        trainer.fit(X, y, epochs=4, batch_size=batch_size, sample_weight=w, seed=0)
        results.append(trainer)
    assert results[0].step == results[1].step
    states_close(*results)
    assert_close(results[0].history.history["loss"], results[1].history.history["loss"], 1e-12)


# ------------------------------------------------------------------------- metrics


@last_batches
@pytest.mark.parametrize("kind", ["arrays", "blocks"])
def test_metrics_of_training_are_those_of_its_predictions(
    last_batch, kind, tmp_path, small_blocks  # noqa: F811
):  # fmt: skip
    X, y = make_data()
    y = np.random.default_rng(1).normal(size=(len(X), 1))
    W, b = np.zeros((1, COLUMNS)), np.zeros(1)
    model = minidl.Sequential(minidl.Linear(COLUMNS, 1), dtype="float64")
    model.load_state_dict({"0.weight": W, "0.bias": b})
    trainer = minidl.Trainer(
        model, minidl.MSELoss(), minidl.SGD(lr=0.1), metrics=["mae", "r2"], ema_decay=0.7
    )
    given = X.astype(np.float64)
    if kind == "blocks":
        np.save(tmp_path / "X.npy", given)
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    trainer.fit(given, y, epochs=2, batch_size=12, last_batch=last_batch, seed=0)
    mae, r2, averages = [], [], None
    edges = {"merge": [0, 12, 24, 36, 48, 61], "keep": [0, 12, 24, 36, 48, 60, 61],
             "drop": [0, 12, 24, 36, 48, 60]}[last_batch]  # fmt: skip
    for epoch in range(2):
        order = permutation(len(X), trainer.progress.key, epoch)
        seen, given = [], []
        for start, stop in itertools.pairwise(edges):
            if last_batch == "merge" and start == 60:
                continue
            rows = order[start:stop]
            x, error = X[rows].astype(np.float64), None
            p = x @ W.T + b
            seen.append(y[rows])
            given.append(p)
            error = 2 * (p - y[rows]) / len(rows)
            W, b = W - 0.1 * error.T @ x, b - 0.1 * error.sum(axis=0)
            averages = (W, b) if averages is None else tuple(
                0.7 * old + 0.3 * new for old, new in zip(averages, (W, b), strict=True)
            )  # fmt: skip
        t, p = np.concatenate(seen), np.concatenate(given)
        mae.append(np.abs(t - p).mean())
        r2.append(1 - ((t - p) ** 2).mean() / t.var())
    assert_close(trainer.history.history["mae"], mae, 1e-12)
    assert_close(trainer.history.history["r2"], r2, 1e-12)
    average = trainer.ema_model().state_dict()
    assert_close(average["0.weight"], averages[0], 1e-12)
    assert_close(average["0.bias"], averages[1], 1e-12)


def test_validation_data_in_all_forms():
    X, y = make_data()
    w = numbers(len(X))
    trainer = make_trainer()
    forms = [
        (X, y), [X, y], ((X[:, :2], X[:, 2:]), y), [(X, y)], [(X[:30], y[:30]), (X[30:], y[30:])],
        lambda: iter([(X, y)]),
    ]  # fmt: skip
    for form in forms:
        trainer.fit(X, y, validation_data=form)
        measured = trainer.history.history["val_loss"][-1]
        assert measured == pytest.approx(trainer.evaluate(X, y)["loss"], rel=1e-6)
    trainer.fit(X, y, validation_data=(X, y, w))
    measured = trainer.history.history["val_loss"][-1]
    assert measured == trainer.evaluate(X, y, sample_weight=w)["loss"]
    for form in [(X,), (X, y, w, w)]:
        with pytest.raises(ValueError, match=r"validation_data: expected \(X, y\)"):
            trainer.fit(X, y, validation_data=form)


def test_ema_needs_a_training():
    with pytest.raises(RuntimeError, match="ema_decay"):
        make_trainer().ema_model()
    with pytest.raises(RuntimeError, match="ema_decay"):
        make_trainer(ema_decay=None).ema_model()


# ------------------------------------------------------------------------- recalibration


@pytest.mark.parametrize("kind", ["arrays", "blocks", "batches"])
def test_recalibration_is_what_numpy_computes(kind, tmp_path, small_blocks):  # noqa: F811
    model = minidl.Sequential(
        minidl.BatchNorm1d(COLUMNS), minidl.Linear(COLUMNS, 6), minidl.BatchNorm1d(6),
        minidl.ReLU(), minidl.Dropout(0.5), minidl.Linear(6, 4),
        minidl.Residual(minidl.Sequential(minidl.Linear(4, 4), minidl.BatchNorm1d(4))),
        dtype="float64", seed=0,
    )  # fmt: skip
    X = make_data()[0].astype(np.float64) * 3 + 1
    given = X
    if kind == "blocks":
        np.save(tmp_path / "X.npy", X)
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    if kind == "batches":
        given = lambda: iter([X[:20], X[20:30], X[30:]])  # noqa: E731
    minidl.Trainer(model, minidl.MSELoss()).recalibrate_batchnorm(given, batch_size=16)
    state = model.state_dict()

    def check(name, x):
        mean, var = x.mean(axis=0), x.var(axis=0, ddof=1)
        assert_close(state[f"{name}.running_mean"], mean, 1e-13, scale=1)
        assert_close(state[f"{name}.running_var"], var, 1e-12)
        return (x - mean) / np.sqrt(var + 1e-5)

    x = check("0", X) @ state["1.weight"].T + state["1.bias"]
    x = np.maximum(check("2", x), 0) @ state["5.weight"].T + state["5.bias"]
    check("6.block.1", x @ state["6.block.0.weight"].T + state["6.block.0.bias"])


def test_recalibration_that_fails_changes_nothing():
    model = minidl.Sequential(
        minidl.BatchNorm1d(COLUMNS), minidl.Linear(COLUMNS, 3), minidl.BatchNorm1d(3), seed=0
    )
    trainer, before = minidl.Trainer(model), model.state_dict()
    X = make_data()[0]
    with pytest.raises(ValueError, match="at least 2 rows"):
        trainer.recalibrate_batchnorm(X[:1])
    passes = []

    def fails():
        passes.append(1)
        yield X
        if len(passes) == 2:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        trainer.recalibrate_batchnorm(fails)
    with pytest.raises(ValueError, match=r"^X: an iterator serves one pass, got 2"):
        trainer.recalibrate_batchnorm(iter([X]))
    for name, value in model.state_dict().items():
        assert same_bits(value, before[name])


# ------------------------------------------------------------------------- predictions


def slow(model, x):
    """A prediction that takes no shortcut."""
    return copy.deepcopy(model).predict(x)


@dtypes
@layouts
def test_few_rows_have_the_bits_of_many(layout, dtype):
    model = make_model(dtype)
    X = np.random.default_rng(0).normal(size=(64, COLUMNS)).astype(dtype)
    expected = model.predict(X)
    for rows in range(1, 21):
        x = layout(X[:rows])
        assert same_bits(model.predict(x), expected[:rows])
        assert same_bits(slow(model, x), expected[:rows])


BAD = {
    "NaN": lambda x: np.full_like(x, np.nan),
    "infinity": lambda x: np.full_like(x, np.inf),
    "columns": lambda x: x[:, :-1],
    "more columns": lambda x: np.hstack([x, x]),
    "one dimension": lambda x: x[0],
    "three dimensions": lambda x: x[None],
    "complex": lambda x: x.astype(complex),
    "dates": lambda x: x.astype("datetime64[s]"),
    "strings": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object),
    "bytes": lambda x: b"abc",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_rows_are_refused_quickly_too(bad):
    model = make_model()
    x = make_data()[0][:1]
    for _ in range(2):
        model.predict(x)
    with pytest.raises((ValueError, TypeError), match=r"^x: expected"):
        model.predict(bad(x))
    assert same_bits(model.predict(x), slow(model, x))


def replace(model):
    model._layers[2] = minidl.Sigmoid().eval()


CHANGES = {
    "parameters written": lambda m: m[0].weight.__setitem__(slice(None), 0.5),
    "parameters assigned": lambda m: setattr(m[0], "bias", np.ones(8)),
    "a state": lambda m: m.load_state_dict({k: v * 2 + 1 for k, v in m.state_dict().items()
                                            if "num" not in k} | {"1.num_batches_tracked": 3}),
    "a larger model": lambda m: minidl.Sequential(m, minidl.Linear(3, 2)),
    "another dtype": lambda m: m.set_dtype(np.dtype("float64")),
    "eps": lambda m: setattr(m[1], "eps", 0.5),
    "modes": lambda m: m.eval(),
    "new values": lambda m: m.reset_parameters(np.random.default_rng(5)),
    "a step": lambda m: minidl.Trainer(m).train_step(*make_data()),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_predictions_follow_every_change(change):
    model = make_model()
    x = make_data()[0][:3]
    for _ in range(3):
        model.predict(x)
    keep = change(model)
    for _ in range(3):
        assert same_bits(model.predict(x), slow(model, x))
    del keep


def test_the_quick_path_is_taken():
    model = make_model()
    x = make_data()[0][:3]
    model.predict(x)
    model.predict(x)
    version, quick = model.__dict__["_quick"]
    assert version == minidl.changes.version
    assert same_bits(quick(x), model.predict(x))
    with minidl.set_num_threads(1):
        assert same_bits(quick(x), model.predict(x))


def test_a_small_network_predicts_many_rows_on_the_quick_path():
    model, large = make_model(), minidl.Sequential(minidl.Linear(700, 900, seed=0))
    X = np.tile(make_data()[0], (100, 1))
    whole = model.predict(X)
    quick = model.__dict__["_quick"][1]
    for rows in (17, 50, 80):
        assert same_bits(quick(X[:rows]), whole[:rows])
    assert quick(X) is None
    wide = np.ones((17, 700), np.float32)
    large.predict(wide)
    assert large.__dict__["_quick"][1](wide) is None
    assert large.__dict__["_quick"][1](wide[:16]) is not None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_predict_by_themselves(clone):
    model = make_model()
    x = make_data()[0][:3]
    for _ in range(3):
        before = model.predict(x)
    other = clone(model)
    other[0].weight[...] = 0
    assert not same_bits(other.predict(x), before)
    assert same_bits(model.predict(x), before)


def test_the_quick_path_leaves_a_program_that_is_in_use_alone(monkeypatch):
    """Another thread may come between the moment that it gets its data and its run."""
    from minidl import prediction

    model, feed, given = make_model(), prediction.feed, []
    X = np.tile(make_data()[0], (100, 1))  # too many rows for the quick path
    expected = model.predict(X)
    quick = model.__dict__["_quick"][1]
    assert quick(X[:2]) is not None

    def interrupted(*arguments, **options):
        feed(*arguments, **options)
        given.append(quick(X[:2]))

    monkeypatch.setattr(prediction, "feed", interrupted)
    assert same_bits(model.predict(X), expected)
    assert given == [None]


def test_predictions_in_several_threads():
    model = make_model()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, COLUMNS)).astype(np.float32)
    expected, wrong = model.predict(X), []

    def many():
        for _ in range(40):
            if not same_bits(model.predict(X), expected):
                wrong.append("many")

    def few():
        for i in range(2000):
            if not same_bits(model.predict(X[i : i + 2]), expected[i : i + 2]):
                wrong.append("few")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=f) for f in (many, few, many, few)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize(
    "options",
    [
        {}, {"clip_grad_norm": 0.1}, {"accumulate": 2}, {"micro_batch_size": 8},
        {"clip_grad_norm": 0.1, "ema_decay": 0.9}, {"optimizer": minidl.Adam(0.01, groups=[
            {"params": "0.*", "lr": 1e-3}]), "clip_grad_norm": 0.1},
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("layers", [slice(1, 3), slice(0, 4, 2)], ids=["side by side", "apart"])
def test_a_part_of_a_larger_model_trains_as_it_does_alone(options, layers):
    """And nothing of the others: their gradients do not count, whatever stands there."""
    rng = np.random.default_rng(0)
    whole = minidl.Sequential(
        *(layer for _ in range(2) for layer in (minidl.Linear(6, 6), minidl.PReLU(6))),
        minidl.Linear(6, 2), dtype="float64", seed=0,
    )  # fmt: skip
    part = minidl.Sequential(*[whole[i] for i in range(5)][layers])
    alone, before = copy.deepcopy(part), whole.state_dict()
    X, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 6))
    whole.forward(X)
    whole.backward(np.full((60, 2), 1e3))  # gradients of all
    assert part.store() is whole.store()
    assert alone.store() is not whole.store()
    for model in (part, alone):
        trainer = minidl.Trainer(model, "MSELoss", **copy.deepcopy(options))
        trainer.fit(X, y, epochs=3, batch_size=16, seed=0)
    for one, other in zip(part.parameters(), alone.parameters(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    own = [whole[i] for i in range(5)][layers]
    for name, value in whole.state_dict().items():
        moved = whole[int(name.split(".")[0])] in own
        assert moved != np.array_equal(value, before[name]), name
