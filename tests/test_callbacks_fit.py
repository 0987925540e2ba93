"""Callbacks, metrics and history in real trainings."""

import csv
import math
import os
import time

import numpy as np
import pytest

import minidl


def make_data(rows=64, seed=0):
    """Two classes, of which one in five labels is wrong."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3)).astype(np.float32)
    return X, ((X[:, 0] > 0) ^ (rng.random(rows) < 0.2)).astype(int)


def make_trainer(**options):
    model = minidl.Sequential(
        minidl.Linear(3, 32), minidl.BatchNorm1d(32), minidl.ReLU(), minidl.Linear(32, 2), seed=1
    )
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=0.02), **options)


def fit(trainer, *callbacks, epochs=20, **options):
    """4 steps an epoch."""
    return trainer.fit(
        *make_data(), epochs=epochs, batch_size=16, seed=0, validation_data=make_data(seed=1),
        callbacks=callbacks, **options,
    )  # fmt: skip


class Do(minidl.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_epoch_end(self, epoch, logs):
        if epoch == self.epoch:
            self.action()


def fail(error):
    raise error


# Hooks.


class Calls(minidl.Callback):
    """Notes all calls, and checks what it is told."""

    def __init__(self, every=None):
        self.every, self.calls = every, []

    def on_train_begin(self):
        self.calls.append("begin")

    def on_epoch_begin(self, epoch):
        assert epoch == self.trainer.epoch
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_end(self, step, logs):
        assert step == self.trainer.step
        assert type(logs["loss"]) is float
        assert math.isfinite(logs["loss"])
        self.trainer.model.load_state_dict(self.trainer.model.state_dict())
        self.calls.append(step)

    def on_epoch_end(self, epoch, logs):
        assert epoch + 1 == self.trainer.epoch == len(self.trainer.history)
        assert self.trainer.history.history["loss"][-1] == logs["loss"]
        self.calls.append(f"end {epoch}")

    def on_train_end(self):
        self.calls.append("end")


@pytest.mark.parametrize(
    ("every", "calls"),
    [
        (None, ["begin", "epoch 0", "end 0", "epoch 1", "end 1", "end"]),
        (3, ["begin", "epoch 0", 3, "end 0", "epoch 1", 6, "end 1", "end"]),
        (4, ["begin", "epoch 0", 4, "end 0", "epoch 1", 8, "end 1", "end"]),
        (1, ["begin", "epoch 0", 1, 2, 3, 4, "end 0", "epoch 1", 5, 6, 7, 8, "end 1", "end"]),
    ],
)
def test_order_of_the_calls(every, calls):
    watch = Calls(every)
    fit(make_trainer(), watch, epochs=2)
    assert watch.calls == calls


def test_epochs_and_steps_count_over_the_life_of_the_trainer():
    trainer, watch = make_trainer(), Calls(every=3)
    fit(trainer, watch, epochs=1)
    watch.calls.clear()
    fit(trainer, watch, epochs=1)
    assert watch.calls == ["begin", "epoch 1", 6, "end 1", "end"]
    assert len(trainer.history) == trainer.epoch == 2
    assert trainer.step == 8


def test_callbacks_by_steps_see_each_step_and_change_nothing():
    plain, watched, other = make_trainer(), make_trainer(), make_trainer()
    fit(plain, epochs=3)
    fit(watched, Calls(1), Calls(3), Calls(), epochs=3)
    fit(other, Calls(), epochs=3)
    for name, value in plain.model.state_dict().items():
        np.testing.assert_array_equal(value, watched.model.state_dict()[name])
        np.testing.assert_array_equal(value, other.model.state_dict()[name])
    assert plain.history.history == watched.history.history == other.history.history


def test_the_batch_loss_is_that_of_the_batch():
    """With one batch an epoch, the epoch's loss."""

    class Keep(minidl.Callback):
        every = 1
        seen: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, step, logs):
            self.seen.append(logs["loss"])

    keep, trainer = Keep(), make_trainer()
    history = trainer.fit(*make_data(), epochs=3, batch_size=64, seed=0, callbacks=[keep])
    assert keep.seen == pytest.approx(history.history["loss"], rel=1e-6)


def test_a_method_for_batches_is_called_after_each_step_unless_told_otherwise():
    """As in Keras."""

    class Watch(minidl.Callback):
        def __init__(self):
            self.steps = []

        def on_train_batch_end(self, step, logs=None):
            self.steps.append(step)

    watch = Watch()
    fit(make_trainer(), watch, epochs=2)
    assert watch.steps == list(range(1, 9))


@pytest.mark.parametrize(
    "given",
    [minidl.TerminateOnNaN(), None, "TimeLimit", [object()], [minidl.EarlyStopping], [print], {}],
    ids=["alone", "None", "str", "object", "class", "function", "dict"],
)
def test_what_is_no_list_of_callbacks(given):
    trainer = make_trainer()
    before = trainer.model.state_dict()
    with pytest.raises(TypeError, match=r"^callbacks: expected a list of Callback objects, got "):
        trainer.fit(*make_data(), callbacks=given)
    assert all((before[k] == v).all() for k, v in trainer.model.state_dict().items())
    assert trainer.progress.key is None


def test_callbacks_may_come_from_an_iterator():
    calls = Calls()
    fit(make_trainer(), epochs=1)
    make_trainer().fit(*make_data(), callbacks=iter([calls]))
    assert calls.calls == ["begin", "epoch 0", "end 0", "end"]


class FailsTo(Calls):
    """Fails when training begins, or ends."""

    def __init__(self, name, error):
        super().__init__()
        self.name, self.error = name, error

    def on_train_begin(self):
        super().on_train_begin()
        if self.name == "begin":
            raise self.error

    def on_train_end(self):
        super().on_train_end()
        if self.name == "end":
            raise self.error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_callback_that_fails_at_the_end_keeps_no_other_from_its_end(error):
    before, after, trainer = Calls(), Calls(), make_trainer()
    with pytest.raises(type(error)):
        fit(trainer, before, FailsTo("end", error), after, epochs=1)
    assert before.calls == after.calls == ["begin", "epoch 0", "end 0", "end"]


def test_an_error_at_the_end_has_that_which_ended_the_training():
    with pytest.raises(OSError, match="full") as caught:
        fit(
            make_trainer(),
            Do(0, lambda: fail(ZeroDivisionError())),
            FailsTo("end", OSError("full")),
        )
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_only_callbacks_that_have_begun_end():
    before, failing, after = Calls(), FailsTo("begin", OSError("no folder")), Calls()
    with pytest.raises(OSError, match="no folder"):
        fit(make_trainer(), before, failing, after)
    assert before.calls == failing.calls == ["begin", "end"]
    assert after.calls == []


# EarlyStopping.


def evaluate(trainer):
    return trainer.evaluate(*make_data(seed=1))


@pytest.mark.parametrize("ends", ["patience", "last epoch", "Ctrl-C", "exception", "NaN"])
def test_the_best_weights_come_back(ends):
    trainer = make_trainer()
    patience = 3 if ends == "patience" else 1000
    stop = minidl.EarlyStopping(patience=patience, restore_best_weights=True)
    action = {
        "patience": lambda: None,
        "last epoch": lambda: None,
        "Ctrl-C": lambda: fail(KeyboardInterrupt),
        "exception": lambda: fail(ValueError("x")),
        "NaN": lambda: setattr(trainer.optimizer, "lr", 1e30),
    }[ends]
    raised = None
    try:
        fit(trainer, stop, Do(18, action), epochs=30)
    except (KeyboardInterrupt, ValueError, minidl.NonFiniteError) as error:
        raised = error
    assert (raised is None) == (ends in ("patience", "last epoch"))
    values = trainer.history.history["val_loss"]
    assert stop.best == min(values) == values[stop.best_epoch]
    assert stop.best_epoch < len(values) - 2
    assert evaluate(trainer)["loss"] == stop.best
    if ends == "patience":
        assert stop.stopped_epoch == stop.best_epoch + 3 == len(values) - 1


def test_early_stopping_in_two_trainings():
    trainer, stop = make_trainer(), minidl.EarlyStopping(patience=3, restore_best_weights=True)
    fit(trainer, stop, epochs=100)
    first = stop.best_epoch
    fit(trainer, stop, epochs=100)
    values = trainer.history.history["val_loss"]
    assert stop.best_epoch > first + 3
    assert stop.best == values[stop.best_epoch]
    assert evaluate(trainer)["loss"] == stop.best


def test_a_result_that_is_not_there_ends_the_first_epoch():
    trainer = make_trainer()
    with pytest.raises(ValueError, match="monitor: expected one of 'loss', 'accuracy', got 'val_"):
        trainer.fit(*make_data(), epochs=5, callbacks=[minidl.EarlyStopping()])
    assert len(trainer.history) == 1


# ModelCheckpoint.


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_step_that_ends_in_infinity_is_not_saved(checkpoint, tmp_path):
    """The loss says so at the next step: until then, the last good file is still there."""
    X = np.random.default_rng(0).normal(size=(40, 2))
    trainer = minidl.Trainer(
        minidl.Sequential(minidl.Linear(2, 1, seed=0)), minidl.MSELoss(), minidl.SGD(1e-3)
    )

    class Explode(minidl.Callback):
        every = 3

        def on_train_batch_end(self, step, logs):
            self.trainer.model[0].weight[...] = np.inf

    saver = minidl.ModelCheckpoint(tmp_path / "{step}", save_freq=1, checkpoint=checkpoint)
    with pytest.raises(minidl.NonFiniteError):
        trainer.fit(X, X[:, :1], epochs=2, batch_size=8, seed=0, callbacks=[Explode(), saver])
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]
    assert saver.last_path == str(tmp_path / "2")
    assert np.isfinite(trainer.model[0].weight).all()


def test_the_best_model_is_in_the_file(tmp_path):
    trainer = make_trainer()
    saver = minidl.ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    fit(trainer, saver)
    best = min(trainer.history.history["val_loss"])
    found = minidl.Trainer(minidl.load(saver.last_path)).evaluate(*make_data(seed=1))
    assert found["loss"] == saver.best == best


@pytest.mark.parametrize("checkpoint", [False, True])
def test_files_by_epochs_and_by_steps(tmp_path, checkpoint):
    by_epoch = minidl.ModelCheckpoint(tmp_path / "e{epoch}", checkpoint=checkpoint)
    by_step = minidl.ModelCheckpoint(tmp_path / "s{step}", save_freq=5, checkpoint=checkpoint)
    fit(make_trainer(), by_epoch, by_step, epochs=3)
    assert {path.name for path in tmp_path.iterdir()} == {"e1", "e2", "e3", "s5", "s10"}


# What is added to the results.


def test_the_learning_rate_is_in_the_history_and_the_file(tmp_path):
    trainer = make_trainer()
    rates = minidl.LearningRateMonitor(every=2)
    logger = minidl.CSVLogger(tmp_path / "log.csv")
    lower = Do(1, lambda: setattr(trainer.optimizer, "lr", 0.005))
    history = fit(trainer, rates, logger, lower, epochs=3)
    assert history.history["lr"] == trainer.history.history["lr"] == [0.02, 0.02, 0.005]
    assert rates.steps == [2, 4, 6, 8, 10, 12]
    assert rates.rates == [0.02] * 4 + [0.005] * 2
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr"]
    assert [int(row.pop("epoch")) for row in rows] == [0, 1, 2]
    for name, values in history.history.items():
        assert [float(row[name]) for row in rows] == values


def test_tensorboard_has_the_history(tmp_path):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = make_trainer()
    board = minidl.TensorBoard(tmp_path, every=2, histogram_freq=1)
    history = fit(trainer, board, epochs=3).history
    runs = {}
    for name in ("train", "validation"):
        runs[name] = module.EventAccumulator(str(tmp_path / name), {"histograms": 0})
        runs[name].Reload()
    for run, key in [("train", "loss"), ("train", "accuracy"),
                     ("validation", "loss"), ("validation", "accuracy")]:  # fmt: skip
        values = [e.value for e in runs[run].Scalars(f"epoch_{key}")]
        prefix = "val_" if run == "validation" else ""
        assert values == pytest.approx(history[prefix + key], rel=1e-6)
    assert [e.step for e in runs["train"].Scalars("batch_loss")] == [2, 4, 6, 8, 10, 12]
    assert len(runs["train"].Histograms("0.weight/histogram")) == 3


# Ends.


def test_time_limit_ends_within_an_epoch_or_after_it():
    X, y = make_data(rows=200_000)
    trainer, limit = make_trainer(), minidl.TimeLimit(0.2)
    start = time.monotonic()
    trainer.fit(X, y, epochs=10**6, batch_size=4, callbacks=[limit])
    assert limit.stopped
    assert time.monotonic() - start < 20
    assert trainer.step % 16 == 0 or trainer.step % 50_000 == 0
    many = make_trainer()
    many.fit(*make_data(), epochs=10**9, callbacks=[minidl.TimeLimit(0.1)])
    assert many.epoch > 1


def test_terminate_on_nan():
    trainer = make_trainer()
    blow = Do(2, lambda: setattr(trainer.optimizer, "lr", 1e30))
    with pytest.warns(RuntimeWarning, match="training ended: .* became NaN or infinite"):
        history = fit(trainer, blow, minidl.TerminateOnNaN())
    assert 3 <= len(history) < 20
    assert all(np.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_without_it_not_finite_is_an_error():
    trainer = make_trainer()
    with pytest.raises(minidl.NonFiniteError):
        fit(trainer, Do(2, lambda: setattr(trainer.optimizer, "lr", 1e30)))


# Metrics.


def worst(y_true, y_pred):
    return float(np.max(y_true != y_pred))


def test_metrics_of_the_validation():
    functions = pytest.importorskip("sklearn.metrics")
    trainer = make_trainer(metrics=["f1", "auc", functions.cohen_kappa_score, worst])
    history = fit(trainer, minidl.EarlyStopping("val_f1", patience=30), epochs=10).history
    X, y = make_data(seed=1)
    p = trainer.model.predict(X).argmax(axis=1)
    assert history["val_f1"][-1] == pytest.approx(functions.f1_score(y, p, average="macro"))
    assert history["val_cohen_kappa_score"][-1] == functions.cohen_kappa_score(y, p)
    assert history["val_worst"][-1] == 1
    assert evaluate(trainer)["auc"] == history["val_auc"][-1] > 0.6


@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        (minidl.CrossEntropyLoss(), ["balanced_accuracy", "top_2"]),
        (minidl.BCEWithLogitsLoss(), ["f1", "auc"]),
        (minidl.MSELoss(), ["mae", "rmse", "r2"]),
        (lambda z, y: (float(((z - y) ** 2).mean()), 2 * (z - y) / z.size), ["rmse"]),
    ],
)
def test_metrics_of_every_loss(loss, metrics):
    if set(metrics) & {"balanced_accuracy", "f1", "auc"}:
        pytest.importorskip("sklearn")
    X, y = make_data()
    if not isinstance(loss, minidl.CrossEntropyLoss):
        y = np.stack([y, 1 - y], axis=1).astype(np.float32)
    model = minidl.Sequential(minidl.Linear(3, 2), seed=0)
    found = minidl.Trainer(model, loss, metrics=metrics).evaluate(X, y)
    assert set(metrics) <= set(found)
    assert all(math.isfinite(found[name]) for name in metrics)
    if "rmse" in found:
        error = model.predict(X) - y
        expected = np.sqrt((error.astype(float) ** 2).mean(axis=0)).mean()
        assert found["rmse"] == pytest.approx(expected, rel=1e-6)
