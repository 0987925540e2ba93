"""What `Trainer` promises: fit, evaluate, train_step, errors, interruption, users' layers."""

import copy
import itertools
import os
import pickle
import signal
import termios
import threading
import time

import numpy as np
import pytest
from helpers import optimizers, python

import minidl
from minidl.kernels.random import permutation

THREADS = [1, 2] if minidl.get_config()["openmp"] else [1]


def make_data(rows=60, features=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    return X, rng.integers(0, classes, rows)


def make_model(features=5, hidden=16, classes=3, *, dtype="float32", dropout=0.2, seed=1):
    return minidl.Sequential(
        minidl.Linear(features, hidden),
        minidl.BatchNorm1d(hidden),
        minidl.ReLU(),
        minidl.Dropout(dropout),
        minidl.Linear(hidden, classes),
        dtype=dtype,
        seed=seed,
    )


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def optimizer_bits(trainer):
    """The optimizer's state: steps made and moments."""
    state = trainer.optimizer._state
    return None if state is None else (state.step, state.moments.tobytes())


class Recorder(minidl.Callback):
    """Notes the order of the calls."""

    def __init__(self, calls, name=""):
        self.calls, self.name = calls, name

    def on_train_begin(self):
        self.calls.append(f"{self.name}train begin")

    def on_epoch_begin(self, epoch):
        self.calls.append(f"{self.name}epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs):
        self.calls.append(f"{self.name}epoch {epoch} end")
        self.logs = logs

    def on_train_end(self):
        self.calls.append(f"{self.name}train end")


class Do(minidl.Callback):
    """Does something at the end of an epoch, counted from the first it sees."""

    def __init__(self, action, epoch=0):
        self.action, self.left = action, epoch

    def on_epoch_end(self, epoch, logs):
        if self.left == 0:
            self.action(self.trainer)
        self.left -= 1


# History, validation and callbacks.


@pytest.mark.parametrize(
    ("loss", "targets", "names"),
    [
        (None, "labels", ["loss", "accuracy"]),
        (minidl.MSELoss(), "numbers", ["loss"]),
        (minidl.BCEWithLogitsLoss(), "bits", ["loss", "accuracy"]),
        (lambda z, y: (0.0, np.zeros_like(z)), "labels", ["loss"]),
    ],
)
@pytest.mark.parametrize("validation", [False, True])
def test_history_has_one_value_an_epoch_of_everything(loss, targets, names, validation):
    X, y = make_data()
    y = {"labels": y, "numbers": X[:, :3], "bits": (X[:, :3] > 0).astype(float)}[targets]
    history = minidl.Trainer(make_model(), loss).fit(
        X, y, epochs=4, validation_data=(X[:9], y[:9]) if validation else None
    )
    wanted = names + [f"val_{name}" for name in names] * validation
    assert list(history.history) == wanted
    assert {len(values) for values in history.history.values()} == {len(history)} == {4}
    assert all(type(v) is float for values in history.history.values() for v in values)


def test_epochs_0_changes_nothing():
    model = make_model()
    before = bits(model)
    calls = []
    history = minidl.Trainer(model).fit(*make_data(), epochs=0, callbacks=[Recorder(calls)])
    assert len(history) == 0
    assert history.history == {}
    assert bits(model) == before
    assert calls == ["train begin", "train end"]


def test_validation_is_evaluate_after_the_epoch():
    X, y = make_data()
    other = make_data(seed=9)
    trainer = minidl.Trainer(make_model())
    found = []
    history = trainer.fit(
        X,
        y,
        epochs=3,
        seed=0,
        validation_data=other,
        callbacks=[Do(lambda t, e=e: found.append(t.evaluate(*other)), e) for e in range(3)],
    )
    assert history.history["val_loss"] == [f["loss"] for f in found]
    assert history.history["val_accuracy"] == [f["accuracy"] for f in found]
    assert len(set(history.history["val_loss"])) == 3


def test_validation_and_callbacks_do_not_change_the_training():
    X, y = make_data()
    plain, watched = make_model(), make_model()
    a = minidl.Trainer(plain).fit(X, y, epochs=4, seed=2)
    b = minidl.Trainer(watched).fit(
        X, y, epochs=4, seed=2, validation_data=make_data(7), callbacks=[minidl.Callback()]
    )
    assert bits(plain) == bits(watched)
    assert a.history["loss"] == b.history["loss"]


def test_callbacks_are_called_in_order():
    calls = []
    one, two = Recorder(calls, "1: "), Recorder(calls, "2: ")
    trainer = minidl.Trainer(make_model())
    history = trainer.fit(*make_data(), epochs=2, callbacks=[one, two])
    events = [
        "train begin",
        *[f"epoch {e} {w}" for e in (0, 1) for w in ("begin", "end")],
        "train end",
    ]
    assert calls == [f"{n}: {event}" for event in events for n in (1, 2)]
    assert one.trainer is trainer
    assert one.logs == {name: values[-1] for name, values in history.history.items()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_on_train_end_is_called_when_a_callback_raises(error):
    def fail(trainer):
        raise error("stop here")

    calls, model = [], make_model()
    with pytest.raises(error, match="stop here"):
        minidl.Trainer(model).fit(*make_data(), epochs=3, callbacks=[Recorder(calls), Do(fail)])
    assert calls == ["train begin", "epoch 0 begin", "epoch 0 end", "train end"]
    same = make_model()
    minidl.Trainer(same).fit(*make_data(), epochs=1, seed=0)
    assert same.training
    assert model.training


def test_on_train_end_is_called_after_a_non_finite_loss():
    calls = []
    model = make_model()
    model[4].weight[0, 0] = np.inf
    with pytest.raises(minidl.NonFiniteError):
        minidl.Trainer(model).fit(*make_data(), callbacks=[Recorder(calls)])
    assert calls == ["train begin", "epoch 0 begin", "train end"]


def test_stop_training_ends_after_the_epoch():
    def stop(trainer):
        trainer.stop_training = True

    model, short = make_model(), make_model()
    trainer = minidl.Trainer(model)
    history = trainer.fit(*make_data(), epochs=10, seed=3, callbacks=[Do(stop, 2)])
    assert len(history) == 3
    minidl.Trainer(short).fit(*make_data(), epochs=3, seed=3)
    assert bits(model) == bits(short)
    assert len(trainer.fit(*make_data(), epochs=2)) == 2  # the next fit starts afresh


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clip_grad_norm", 0.0, r"^clip_grad_norm: expected a number in \(0, inf\), got 0.0"),
        ("clip_grad_value", -1.0, "^clip_grad_value: expected a number"),
        ("accumulate", 0, "^accumulate: expected an integer of at least 1, got 0"),
        ("accumulate", 1.5, "^accumulate: expected an integer of at least 1, got 1.5"),
        ("ema_decay", 1.0, r"^ema_decay: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_a_change_is_checked_as_the_argument_is(name, value, message):
    X, y = make_data()
    trainer = minidl.Trainer(make_model())
    with pytest.raises(ValueError, match=message):
        setattr(trainer, name, value)
    with pytest.raises(ValueError, match=message):
        minidl.Trainer(make_model(), **{name: value})
    trainer.train_step(X, y)


@pytest.mark.parametrize("name", ["clip_grad_norm", "clip_grad_value", "accumulate", "ema_decay"])
def test_what_the_program_is_made_for_stays_while_it_runs(name):
    trainer, values = minidl.Trainer(make_model()), []

    def change(trainer):
        with pytest.raises(AttributeError, match=f"^{name}: cannot be changed while training"):
            setattr(trainer, name, 2 if name == "accumulate" else 0.5)
        values.append(getattr(trainer, name))

    trainer.fit(*make_data(), callbacks=[Do(change)])
    assert values == [1 if name == "accumulate" else None]
    setattr(trainer, name, 2 if name == "accumulate" else 0.5)
    trainer.fit(*make_data())


def test_a_callback_can_change_the_learning_rate():
    def freeze(trainer):
        trainer.optimizer.lr = 0.0

    model, short = make_model(), make_model()
    minidl.Trainer(model).fit(*make_data(), epochs=3, seed=3, callbacks=[Do(freeze)])
    minidl.Trainer(short).fit(*make_data(), epochs=1, seed=3)
    for name in ("0.weight", "0.bias", "1.weight", "4.weight"):
        assert bits(model)[name] == bits(short)[name]


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_rate_in_the_history_is_that_of_the_last_update(interval):
    """Which has been made when a callback changes it at the end of an epoch."""

    class Slower(minidl.Callback):
        every = 4

        def on_train_batch_end(self, step, logs):
            if step == 4:
                self.trainer.optimizer.lr = 0.25

    X, y = np.zeros((64, 5)), np.arange(64) % 3
    schedule = minidl.LambdaLR(lambda t: 1.0, interval=interval)
    trainer = minidl.Trainer(make_model(), optimizer=minidl.SGD(lr=1.0), scheduler=schedule)
    history = trainer.fit(X, y, epochs=3, batch_size=16, callbacks=[Slower()])
    assert history.history["lr"] == [1.0, 0.25, 0.25]


@pytest.mark.parametrize("what", ["fit", "train_step"])
def test_training_inside_a_training_is_an_error(what):
    """It would take the program's data away from under it."""
    X, y = make_data()
    trainer = minidl.Trainer(make_model())
    with pytest.raises(RuntimeError, match="training already"):
        trainer.fit(X, y, callbacks=[Do(lambda t: getattr(t, what)(X, y))])
    trainer.fit(X, y)


def test_a_callback_may_evaluate_and_predict():
    X, y = make_data()
    plain, watched = make_model(), make_model()

    def look(trainer):
        trainer.evaluate(X[:3].tolist(), y[:3].tolist(), batch_size=2)
        trainer.model.predict(X[:5].tolist())
        trainer.model.forward(X[:2])

    minidl.Trainer(plain).fit(X, y, epochs=1, seed=0)
    minidl.Trainer(watched).fit(X, y, epochs=1, seed=0, callbacks=[Do(look)])
    assert bits(plain)["0.weight"] == bits(watched)["0.weight"]


PIPED = """
import numpy as np, minidl
model = minidl.Sequential(minidl.Linear(2, 2), seed=0)
minidl.Trainer(model).fit(np.zeros((8, 2)), np.zeros(8, int), epochs=3, verbose={!r})
"""


@pytest.mark.parametrize(("verbose", "shown"), [("auto", False), (0, False), (1, True)])
def test_the_progress_bar_shows_on_a_terminal_or_if_asked_for(verbose, shown):
    done = python("-c", PIPED.format(verbose))
    assert done.stdout == ""
    assert ("3/3" in done.stderr and "loss=" in done.stderr) if shown else done.stderr == ""


def test_the_progress_bar_shows_on_a_terminal():
    parent, child = os.openpty()
    termios.tcsetwinsize(child, (24, 100))
    done = python("-c", PIPED.format("auto"), capture_output=False, stderr=child, check=False)
    os.close(child)
    written = os.read(parent, 65536).decode()
    os.close(parent)
    assert done.returncode == 0, written
    assert "3/3" in written


# Batches.


def order_of(rows, seed, epoch=0):
    return permutation(rows, int(np.random.default_rng(seed).integers(2**63)), epoch)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("rows", "batch_size", "edges"),
    [(10, 4, [0, 4, 8, 10]), (9, 4, [0, 4, 9]), (8, 4, [0, 4, 8]), (5, 8, [0, 5]), (2, 2, [0, 2])],
)
def test_batches_are_the_rows_in_order(rows, batch_size, edges, shuffle):
    """A last batch of one row joins the one before it."""
    X, y = make_data(rows)
    fitted, stepped = make_model(), make_model()
    minidl.Trainer(fitted).fit(X, y, batch_size=batch_size, shuffle=shuffle, seed=4)
    order = np.array(order_of(rows, 4)) if shuffle else np.arange(rows)
    trainer = minidl.Trainer(stepped)
    for a, b in itertools.pairwise(edges):
        trainer.train_step(X[order[a:b]], y[order[a:b]])
    assert bits(fitted) == bits(stepped)


def test_the_order_changes_with_the_epoch_and_the_seed():
    orders = [order_of(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_without_a_seed_every_fit_has_another_order():
    models = [make_model(dropout=0.0) for _ in range(2)]
    for model in models:
        minidl.Trainer(model).fit(*make_data(), epochs=1)
    assert bits(models[0]) != bits(models[1])


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 32), (5, 1), (1, 1)])
def test_batchnorm_cannot_train_on_one_row(rows, batch_size):
    X, y = make_data(rows)
    model = make_model()
    before = bits(model)
    with pytest.raises(ValueError, match=r"BatchNorm1d: expected at least 2 rows .* got 1"):
        minidl.Trainer(model).fit(X, y, batch_size=batch_size)
    with pytest.raises(ValueError, match="at least 2 rows"):
        minidl.Trainer(model).train_step(X[:1], y[:1])
    with pytest.raises(ValueError, match="at least 2 rows"):
        model.forward(X[:1])
    assert bits(model) == before
    assert model.eval().forward(X[:1]).shape == (1, 3)
    assert model.predict(X[:1]).shape == (1, 3)


@pytest.mark.parametrize(("rows", "batch_size", "steps"), [(1, 32, 1), (5, 1, 5), (1, 1, 1)])
def test_one_row_is_fine_without_batchnorm(rows, batch_size, steps):
    X, y = make_data(rows)
    trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(5, 3), seed=0))
    trainer.fit(X, y, batch_size=batch_size)
    assert trainer.optimizer._state.step == steps


def test_dropout_differs_from_step_to_step_and_from_fit_to_fit():
    X, y = np.ones((4, 5), np.float32), np.zeros(4, int)
    model = minidl.Sequential(minidl.Dropout(0.5), minidl.Linear(5, 3), seed=0)
    trainer = minidl.Trainer(model, optimizer=minidl.SGD(lr=0.0))
    assert len({trainer.train_step(X, y) for _ in range(6)}) > 1
    losses = trainer.fit(X, y, epochs=6, batch_size=4).history["loss"]
    assert len(set(losses)) > 1


def test_new_parameters_bring_new_dropout_masks():
    """reset_parameters draws the layer's key anew: no program may keep the old one."""
    used, fresh = minidl.Dropout(seed=1), minidl.Dropout(seed=2)
    x = np.ones((8, 8))
    assert used(x).tobytes() != fresh(x).tobytes()
    used.reset_parameters(np.random.default_rng(2))
    assert used(x).tobytes() == fresh(x).tobytes()


# Modes, predict and evaluate.


def modes(model):
    return [model.training, *(m for layer in getattr(model, "_layers", []) for m in modes(layer))]


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_they_were(training):
    model = minidl.Sequential(make_model(), minidl.Sequential(minidl.ReLU(), minidl.Dropout()))
    model.train(training)
    model[0][1].training = not training  # a frozen BatchNorm, or the other way round
    before = modes(model)
    X, y = make_data()
    trainer = minidl.Trainer(model)
    trainer.fit(X, y, epochs=2, validation_data=(X, y))
    assert modes(model) == before
    trainer.train_step(X, y)
    trainer.evaluate(X, y)
    model.predict(X)
    assert modes(model) == before
    with pytest.raises(ValueError, match="expected 5 features"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="stop"):
        trainer.fit(X, y, callbacks=[Do(lambda t: (_ for _ in ()).throw(ValueError("stop")))])
    assert modes(model) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", THREADS)
def test_predict_is_the_same_for_every_batch_size(threads, dtype):
    X, y = make_data(2500)
    model = make_model(dtype=dtype)
    minidl.Trainer(model).fit(X, y, epochs=1, seed=0)
    model.eval()
    with minidl.set_num_threads(threads):
        wanted = model.forward(X)
        model.train()
        before = bits(model)
        for batch_size in (None, 1, 2, 7, 1000, 2500, 10**9):
            assert model.predict(X, batch_size=batch_size).tobytes() == wanted.tobytes()
    assert bits(model) == before
    assert model.predict(X[:0]).shape == (0, 3)
    assert wanted.dtype == dtype


def test_predictions_do_not_change_later():
    X, _ = make_data()
    model = make_model()
    one = model.predict(X)
    kept = one.copy()
    model.predict(X + 1)
    np.testing.assert_array_equal(one, kept)


def test_predict_sees_new_values_and_new_modes_at_once():
    X, _ = make_data()
    model = make_model()
    first = model.predict(X)
    model[4].bias += 1
    np.testing.assert_allclose(model.predict(X), first + 1, rtol=1e-5)
    model[4].bias = np.zeros(3)
    model.load_state_dict({k: np.zeros_like(v) for k, v in model.state_dict().items()})
    assert not model.predict(X).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_evaluate_is_what_numpy_computes_from_predict(batch_size, dtype):
    X, y = make_data(200)
    model = make_model(dtype=dtype)
    minidl.Trainer(model).fit(X, y, epochs=2, seed=0)
    before = bits(model)
    z = model.predict(X).astype(np.float64)
    tolerance = 1e-5 if dtype == "float32" else 1e-12

    found = minidl.Trainer(model).evaluate(X, y, batch_size=batch_size)
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert found["loss"] == pytest.approx(-logs[np.arange(200), y].mean(), rel=tolerance)
    assert found["accuracy"] == pytest.approx((z.argmax(axis=1) == y).mean(), rel=1e-12)

    targets = X[:, :3]
    found = minidl.Trainer(model, minidl.MSELoss()).evaluate(X, targets, batch_size=batch_size)
    assert found == {"loss": pytest.approx(((z - targets) ** 2).mean(), rel=tolerance)}

    targets = (X[:, :3] > 0).astype(float)
    found = minidl.Trainer(model, minidl.BCEWithLogitsLoss()).evaluate(
        X, targets, batch_size=batch_size
    )
    expected = (np.log1p(np.exp(z)) - targets * z).mean()
    assert found["loss"] == pytest.approx(expected, rel=tolerance)
    assert bits(model) == before


def test_history_is_the_mean_over_the_rows_of_the_epoch():
    X, y = make_data(50)
    model = make_model(dropout=0.0)
    history = minidl.Trainer(model, optimizer=minidl.SGD(lr=0.0)).fit(
        X, y, batch_size=50, shuffle=False
    )
    model[1].training = True
    z = model.forward(X)
    assert history.history["loss"][0] == minidl.CrossEntropyLoss()(z, y)
    assert history.history["accuracy"][0] == pytest.approx((z.argmax(axis=1) == y).mean())


def test_train_step_returns_the_loss_before_the_update():
    X, y = make_data()
    model = make_model(dropout=0.0)
    loss = minidl.CrossEntropyLoss()(copy.deepcopy(model).forward(X), y)
    trainer = minidl.Trainer(model)
    assert trainer.train_step(X, y) == loss
    assert trainer.train_step(X, y) < loss


def test_train_steps_on_batches_of_all_sizes():
    """One program serves smaller batches and is made anew for larger ones."""
    X, y = make_data(40)
    one, two = make_model(), make_model()
    trainer = minidl.Trainer(one)
    cuts = [3, 10, 2, 40, 7]
    for n in cuts:
        trainer.train_step(X[:n], y[:n])
    optimizer = minidl.Adam()
    for n in cuts:
        loss = minidl.CrossEntropyLoss()
        loss(two.forward(X[:n]), y[:n])
        two.backward(loss.backward())
        optimizer.step(two)
    assert bits(one) == bits(two)


def test_a_trainer_follows_changes_of_the_model_loss_and_optimizer():
    X, y = make_data()
    trainer = minidl.Trainer(make_model())
    trainer.fit(X, y, seed=0)
    trainer.optimizer, trainer.loss = minidl.SGD(lr=0.1), minidl.MSELoss()
    same = minidl.Trainer(copy.deepcopy(trainer.model), minidl.MSELoss(), minidl.SGD(lr=0.1))
    other = trainer.fit(X, X[:, :3], shuffle=False)
    assert other.history == same.fit(X, X[:, :3], shuffle=False).history
    assert bits(trainer.model) == bits(same.model)


def test_a_trainer_evaluates_the_model_that_it_has_now():
    """One that was there before, so that nothing else has changed since."""
    X, y = make_data()
    models = [make_model(), make_model()]
    models[1][0].weight *= 2
    expected = [minidl.Trainer(model).evaluate(X, y) for model in models]
    assert expected[0] != expected[1]
    trainer = minidl.Trainer(models[0])
    assert trainer.evaluate(X, y) == expected[0]
    trainer.model = models[1]
    assert trainer.evaluate(X, y) == expected[1]


# NaN and infinity.


def test_a_too_large_learning_rate_restores_the_last_good_epoch():
    X, _ = make_data()
    targets = X[:, :3]
    model = minidl.Sequential(minidl.Linear(5, 3), seed=0)
    twin = copy.deepcopy(model)
    trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.SGD(lr=6.0, momentum=0.1))
    with pytest.raises(minidl.NonFiniteError, match="lower learning rate") as caught:
        trainer.fit(X, targets, epochs=100, batch_size=13, seed=3)
    error = caught.value
    assert error.epoch > 0
    place = f"layer {error.layer}" if error.layer else "the loss itself"  # squares overflow first
    assert f"epoch {error.epoch}, step {error.step}, first in {place};" in str(error)
    assert error.step // 5 == error.epoch  # 60 rows are five batches
    stopped = minidl.Trainer(twin, minidl.MSELoss(), minidl.SGD(lr=6.0, momentum=0.1))
    stopped.fit(X, targets, epochs=error.epoch, batch_size=13, seed=3)
    assert bits(model) == bits(twin)
    assert optimizer_bits(trainer) == optimizer_bits(stopped)


def test_logits_that_overflow_are_named():
    X, y = make_data()
    model = minidl.Sequential(
        minidl.Linear(5, 8), minidl.ReLU(), minidl.Linear(8, 8), minidl.Linear(8, 3), seed=0
    )
    before = bits(model)
    with pytest.raises(minidl.NonFiniteError) as caught:
        minidl.Trainer(model, optimizer=minidl.SGD(lr=1e25)).fit(X, y, batch_size=20)
    assert caught.value.epoch == 0
    assert caught.value.layer.endswith("(Linear)")
    assert bits(model) == before


@pytest.mark.parametrize("callbacks", [[], [minidl.Callback()]], ids=["alone", "callback"])
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_buffers_and_moments_go_back_too(dtype, threads, callbacks):
    """Adam's moments and steps, running averages, counters: a weight goes bad in epoch 3."""
    X, y = make_data()
    good, bad = make_model(dtype=dtype), make_model(dtype=dtype)

    def huge(z, y):
        """Mean square, until a flag is up: then an infinite gradient with a finite loss."""
        huge.calls += 1
        gradient = 2 * z / z.size
        if huge.calls == huge.fails_at:
            gradient[0, 0] = np.inf
        return float((z**2).mean()), gradient

    with minidl.set_num_threads(threads):
        huge.calls, huge.fails_at = 0, -1
        stopped = minidl.Trainer(good, huge)
        stopped.fit(X, y, epochs=3, batch_size=20, seed=1)
        huge.calls, huge.fails_at = 0, 9  # the last step of epoch 2
        trainer = minidl.Trainer(bad, huge)
        with pytest.raises(minidl.NonFiniteError) as caught:
            trainer.fit(X, y, epochs=6, batch_size=20, seed=1, callbacks=callbacks)
        assert (caught.value.epoch, caught.value.step) == (2, 8)
        assert "a parameter became" in str(caught.value)
        again = minidl.Trainer(make_model(dtype=dtype), huge)
        huge.calls, huge.fails_at = 0, -1
        again.fit(X, y, epochs=2, batch_size=20, seed=1)
        assert bits(bad) == bits(again.model)
        assert optimizer_bits(trainer) == optimizer_bits(again)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("place", "layer"), [(0, "0 (Linear)"), (4, "4 (Linear)")])
def test_a_bad_weight_is_found_and_named(place, layer, value):
    model = make_model()
    model[place].weight[0, 1] = value
    before = bits(model)
    trainer = minidl.Trainer(model)
    with pytest.raises(minidl.NonFiniteError) as caught:
        trainer.fit(*make_data(), epochs=2)
    assert (caught.value.epoch, caught.value.step, caught.value.layer) == (0, 0, layer)
    assert bits(model) == before
    assert trainer.optimizer._state.step == 0
    with pytest.raises(minidl.NonFiniteError):
        trainer.train_step(*make_data())
    assert bits(model) == before
    assert trainer.optimizer._state.step == 0
    assert isinstance(caught.value, FloatingPointError)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.layer, str(copied)) == (layer, str(caught.value))


def test_a_layer_whose_output_overflows_is_named():
    model = minidl.Sequential(minidl.Linear(5, 4), minidl.Linear(4, 3), seed=0)
    model[0].weight[...] = 1e30
    model[1].weight[...] = 1e30
    with pytest.raises(minidl.NonFiniteError) as caught:
        minidl.Trainer(model, minidl.MSELoss()).train_step(np.ones((4, 5)), np.ones((4, 3)))
    assert caught.value.layer == "1 (Linear)"


def test_the_row_that_overflows_need_not_be_the_first():
    """Nor is what an earlier, larger batch left behind taken for this one's."""
    model = minidl.Sequential(minidl.Linear(5, 4), minidl.ReLU(), minidl.Linear(4, 3), seed=0)
    model[0].weight[...] = 1e20
    X = np.zeros((6, 5))
    X[4] = 1e19
    trainer = minidl.Trainer(model)
    with pytest.raises(minidl.NonFiniteError) as caught:
        trainer.train_step(X, np.zeros(6, int))
    assert caught.value.layer == "0 (Linear)"
    model[0].weight[...] = 1.0
    model[2].weight[...] = 1e38
    with pytest.raises(minidl.NonFiniteError) as caught:
        trainer.train_step(np.ones((3, 5)), np.zeros(3, int))
    assert caught.value.layer == "2 (Linear)"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_loss_of_the_users_changes_nothing(value):
    model = make_model()
    before = bits(model)
    trainer = minidl.Trainer(model, lambda z, y: (value, np.ones_like(z)))
    for train in (trainer.train_step, trainer.fit):
        with pytest.raises(minidl.NonFiniteError, match="the loss became NaN or infinite"):
            train(*make_data())
        assert bits(model) == before
    assert optimizer_bits(trainer)[0] == 0


def test_training_goes_on_after_a_non_finite_error():
    model, twin = make_model(), make_model()
    trainer = minidl.Trainer(model)
    X, y = make_data()
    trainer.fit(X, y, epochs=2, seed=0)
    good = model[0].weight[0, 0]
    model[0].weight[0, 0] = np.nan
    with pytest.raises(minidl.NonFiniteError):
        trainer.fit(X, y, epochs=2, seed=1)
    model[0].weight[0, 0] = good
    trainer.fit(X, y, epochs=2, seed=2)
    other = minidl.Trainer(twin)
    other.fit(X, y, epochs=2, seed=0)
    other.fit(X, y, epochs=2, seed=2)
    assert bits(model) == bits(twin)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("bad", [[np.nan, 0], [1, -1]], ids=["NaN", "inf - inf"])
def test_a_bad_output_in_any_column_is_found(column, bad, dtype):
    """Also where it is neither the label's nor the first."""
    model = minidl.Sequential(minidl.Linear(2, 3), seed=0, dtype=dtype)
    model[0].weight[column] = np.multiply(bad, 0.9 * np.finfo(dtype).max)
    X, y = np.full((20, 2), 10.0), np.zeros(20, int)
    trainer = minidl.Trainer(model)
    assert np.isnan(trainer.evaluate(X, y)["loss"])
    with pytest.raises(minidl.NonFiniteError, match="the loss became NaN"):
        trainer.train_step(X, y)
    with pytest.raises(minidl.NonFiniteError, match="the loss became NaN"):
        trainer.fit(X, y)


def test_more_epochs_than_one_run_of_the_program_makes():
    X, y = make_data(4)
    history = minidl.Trainer(make_model()).fit(X, y, epochs=70_000)
    assert len(history) == 70_000


# Ctrl-C.


def interrupt_after(seconds, sent):
    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, send)
    timer.start()
    return timer


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("watched", [False, True], ids=["alone", "callback"])
def test_ctrl_c_leaves_the_parameters_of_a_whole_step(threads, watched):
    rows, batch_size, seed = 2000, 100, 7
    X, y = make_data(rows, 20)
    model, twin = make_model(20, 100), make_model(20, 100)
    trainer, sent = minidl.Trainer(model), []
    with minidl.set_num_threads(threads):
        trainer.fit(X[:200], y[:200], seed=seed)  # the program is made, the threads are there
        start = trainer.optimizer._state.step
        timer = interrupt_after(0.25, sent)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(
                X,
                y,
                epochs=10**7,
                batch_size=batch_size,
                seed=seed,
                callbacks=[minidl.Callback()] if watched else [],
            )
        took = time.monotonic() - sent[0]
        timer.join()
        assert took < 0.2
        epochs, rest = divmod(trainer.optimizer._state.step - start, rows // batch_size)
        assert epochs + rest > 0
        replay = minidl.Trainer(twin)
        replay.fit(X[:200], y[:200], seed=seed)
        replay.fit(X, y, epochs=epochs, batch_size=batch_size, seed=seed)
        order = np.array(order_of(rows, seed, 1 + epochs))
        for i in range(rest):
            part = order[i * batch_size : (i + 1) * batch_size]
            replay.train_step(X[part], y[part])
    assert bits(model) == bits(twin)
    assert optimizer_bits(trainer) == optimizer_bits(replay)
    trainer.fit(X, y)


def test_ctrl_c_inside_one_long_epoch():
    """An epoch may be longer than the patience of the user."""
    X, y = make_data(400_000)
    sent = []
    trainer = minidl.Trainer(make_model())
    interrupt_after(0.3, sent)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, y, epochs=1000, batch_size=8)
    assert time.monotonic() - sent[0] < 0.2
    assert np.isfinite(trainer.model[0].weight).all()


# Layers and losses of the user's.


class Twin(minidl.Layer):
    """A layer of minidl's, called from Python."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner.forward(x)

    def backward(self, dy):
        return self.inner.backward(dy)


class Affine(minidl.Layer):
    """Linear in numpy: parameters, and another number of columns."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.shape = in_features, out_features
        self.add_parameter("weight", np.zeros(self.shape))
        self.add_parameter("bias", np.zeros(out_features))

    def output_features(self, in_features):
        return self.shape[1]

    def in_features_or_none(self):
        return self.shape[0]

    def forward(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, dy):
        self.gradient("weight")[...] = self.x.T @ dy
        self.gradient("bias")[...] = dy.sum(axis=0)
        return dy @ self.weight.T


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("activation", [minidl.ReLU, minidl.Tanh, minidl.GELU])
def test_a_layer_of_the_users_gives_the_bits_of_its_built_in_twin(activation, threads):
    X, y = make_data()

    def model(wrap):
        return minidl.Sequential(
            minidl.Linear(5, 16), wrap(activation()), minidl.Linear(16, 3), seed=0
        )

    one, two = model(lambda a: a), model(Twin)
    with minidl.set_num_threads(threads):
        for m in (one, two):
            minidl.Trainer(m).fit(X, y, epochs=3, seed=0)
    assert bits(one) == bits(two)
    assert one.predict(X).tobytes() == two.predict(X).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [minidl.SGD, minidl.Adam, minidl.AdamW])
def test_a_layer_of_the_users_with_parameters_learns_as_its_built_in_twin(optimizer, dtype):
    X, y = make_data()
    start = np.random.default_rng(0).normal(size=(5, 8))
    one = minidl.Sequential(
        minidl.Linear(5, 8), minidl.Tanh(), minidl.Linear(8, 3), dtype=dtype, seed=0
    )
    two = minidl.Sequential(Affine(5, 8), minidl.Tanh(), minidl.Linear(8, 3), dtype=dtype, seed=0)
    two[2].weight, two[2].bias = one[2].weight, one[2].bias
    one[0].weight, one[0].bias = start.T, np.zeros(8)
    two[0].weight, two[0].bias = start, np.zeros(8)
    for m in (one, two):
        minidl.Trainer(m, optimizer=optimizer(lr=0.01)).fit(X, y, epochs=3, seed=0)
    rtol, atol = (1e-3, 1e-4) if dtype == "float32" else (1e-8, 1e-10)
    np.testing.assert_allclose(one.predict(X), two.predict(X), rtol=rtol, atol=atol)
    assert not np.allclose(two[0].weight, start)


class Wrong(minidl.Layer):
    """Does something wrong."""

    def __init__(self, forward=lambda x: x, backward=lambda dy: dy):
        super().__init__()
        self.functions = forward, backward

    def forward(self, x):
        return self.functions[0](x)

    def backward(self, dy):
        return self.functions[1](dy)


def throw(*_):
    raise ZeroDivisionError("from the user's code")


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Wrong(lambda x: x[:, :2]), ValueError, r"layer 1 \(Wrong\).forward: expected an array of "
         r"shape \(20, 8\), got \(20, 2\); define output_features"),
        (Wrong(lambda x: x.sum()), ValueError, r"forward: expected .* got \(\)"),
        (Wrong(backward=lambda dy: dy[1:]), ValueError, r"layer 1 \(Wrong\).backward: expected an "
         r"array of shape \(20, 8\), got \(19, 8\)"),
        (Wrong(backward=lambda dy: None), ValueError, "backward: expected an array"),
        (Wrong(throw), ZeroDivisionError, "from the user's code"),
        (Wrong(backward=throw), ZeroDivisionError, "from the user's code"),
        (Wrong(lambda x: x.fill(0)), ValueError, "read-only"),
    ],
)  # fmt: skip
def test_a_wrong_layer_of_the_users_is_named_and_leaves_the_parameters(layer, error, message):
    X, y = make_data()
    model = minidl.Sequential(minidl.Linear(5, 8), layer, minidl.Linear(8, 3), seed=0)
    before = bits(model)
    trainer = minidl.Trainer(model)
    with pytest.raises(error, match=message):
        trainer.fit(X, y, batch_size=20)
    assert bits(model) == before
    assert model.training
    layer.functions = (lambda x: x), (lambda dy: dy)
    trainer.fit(X, y, epochs=2)  # the trainer is as good as new
    assert bits(model) != before


def test_an_exception_later_leaves_the_parameters_of_a_whole_step():
    X, y = make_data()

    def model():
        return minidl.Sequential(minidl.Linear(5, 8), Wrong(), minidl.Linear(8, 3), seed=0)

    failing, stepped = model(), model()
    calls = []
    failing[1].functions = (
        lambda x: calls.append(0) or (throw() if len(calls) == 5 else x),
        lambda dy: dy,
    )
    trainer = minidl.Trainer(failing)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(X, y, epochs=9, batch_size=20, seed=0)
    assert trainer.optimizer._state.step == 4
    replay = minidl.Trainer(stepped)
    replay.fit(X, y, epochs=1, batch_size=20, seed=0)
    first = order_of(60, 0, 1)[:20]
    replay.train_step(X[first], y[first])
    assert bits(failing) == bits(stepped)


def cross_entropy(z, y):
    """CrossEntropyLoss by itself: the built-in twin of a function."""
    loss = minidl.CrossEntropyLoss()
    return loss(z, y), loss.backward()


def squares(z, y):
    loss = minidl.MSELoss()
    return loss(z, y), loss.backward()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "built_in", "kind"),
    [(cross_entropy, minidl.CrossEntropyLoss, "labels"), (squares, minidl.MSELoss, "numbers")],
)
def test_a_loss_function_gives_the_bits_of_its_built_in_twin(function, built_in, kind, dtype):
    X, y = make_data()
    targets = y if kind == "labels" else X[:, :3]
    seen = []

    def watched(z, t):
        seen.append((z.dtype, t.dtype, t.shape))
        return function(z, t)

    one, two = make_model(dtype=dtype), make_model(dtype=dtype)
    a = minidl.Trainer(one, built_in()).fit(X, targets, epochs=2, batch_size=30, seed=0)
    b = minidl.Trainer(two, watched).fit(X, targets, epochs=2, batch_size=30, seed=0)
    assert bits(one) == bits(two)
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-12)
    wanted = (np.dtype(np.int64), (30,)) if kind == "labels" else (np.dtype(dtype), (30, 3))
    assert set(seen) == {(np.dtype(dtype), *wanted)}
    assert minidl.Trainer(two, watched).evaluate(X, targets)["loss"] == pytest.approx(
        minidl.Trainer(one, built_in()).evaluate(X, targets)["loss"], rel=1e-12
    )


def test_targets_of_a_function_are_as_wide_as_the_user_gives_them():
    X, _ = make_data()
    shapes = set()

    def weighted(z, y):
        shapes.add(y.shape)
        return float((z * y[:, -1:]).sum()), y[:, -1:] * np.ones_like(z)

    trainer = minidl.Trainer(make_model(), weighted)
    trainer.fit(X, X[:, :4], batch_size=60)
    trainer.evaluate(X, X[:, 0])
    assert shapes == {(60, 4), (60, 1)}


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda z, y: 1.0, TypeError, r"loss: expected a pair \(loss, gradient\), got float"),
        (lambda z, y: (1.0, z[:3]), ValueError, r"loss: expected a gradient of shape \(60, 3\)"),
        (throw, ZeroDivisionError, "from the user's code"),
    ],
)
def test_a_wrong_loss_function_leaves_the_parameters(function, error, message):
    X, y = make_data()
    model = minidl.Sequential(minidl.Linear(5, 3), seed=0)
    before = bits(model)
    with pytest.raises(error, match=message):
        minidl.Trainer(model, function).fit(X, y, batch_size=60)
    assert bits(model) == before


# Pickle and copy.


@optimizers
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copied_trainer_goes_on_to_the_bit(clone, optimizer):
    """In the middle of an epoch, with all that has a state."""
    X, y = make_data()
    trainer = minidl.Trainer(
        minidl.Sequential(
            minidl.Linear(5, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(0.3),
            minidl.Linear(8, 3), seed=0,
        ),
        optimizer=optimizer.make(), clip_grad_norm=1.0, accumulate=2, ema_decay=0.9,
        metrics=["f1"], scheduler=minidl.ReduceLROnPlateau(patience=0, threshold=0.5,
                                                           monitor="loss"),
    )  # fmt: skip

    class Stop(minidl.Callback):
        every = 7

        def on_train_batch_end(self, step, logs):
            self.trainer.stop_training = True

    trainer.fit(X, y, epochs=9, batch_size=8, seed=0, callbacks=[Stop()])
    assert trainer.progress.batch > 0
    twin = clone(trainer)
    for one in (trainer, twin):
        one.fit(X, y, epochs=3, batch_size=8)
    assert bits(twin.model) == bits(trainer.model)
    assert bits(twin.ema_model()) == bits(trainer.ema_model())
    assert twin.history.history == trainer.history.history
    assert (twin.step, twin.epoch, twin.lr) == (trainer.step, trainer.epoch, trainer.lr)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copied_trainer_trains_by_itself(clone):
    X, y = make_data()
    trainer = minidl.Trainer(make_model(), optimizer=minidl.SGD(lr=0.1))
    trainer.fit(X, y, epochs=2, seed=0)
    twin = clone(trainer)
    before = bits(trainer.model)
    assert bits(twin.model) == before
    twin.fit(X, y, epochs=2, seed=1)
    assert bits(trainer.model) == before
    assert bits(twin.model) != before
