"""Callbacks on a trainer that plays back results: what each does, and what it refuses."""

import contextlib
import copy
import csv
import io
import json
import pickle
import sys
import threading
import time

import numpy as np
import pytest
from helpers import python

import minidl
from minidl.callbacks.monitor import Monitor
from minidl.callbacks.tensorboard import histogram

NAN = float("nan")


class Playback:
    """What callbacks see of a trainer; epochs end with given results."""

    def __init__(self, steps=4, lr=0.1):
        self.model = minidl.Sequential(minidl.Linear(2, 1, seed=0))
        self.stop_training = False
        self.epoch = self.step = 0
        self.steps, self.lr, self.rank = steps, lr, 0
        self.history = minidl.History()
        self.checkpoints = []

    def save_checkpoint(self, path):
        """Notes where, and the states of the callbacks."""
        self.checkpoints.append((path, [c.state() for c in self.callbacks]))

    def fit(self, results, *callbacks, error=None):
        """Run epochs with these results, which also mark the model; then maybe fail."""
        self.stop_training = False
        self.callbacks = callbacks
        try:
            for callback in callbacks:
                callback.trainer = self
                callback.on_train_begin()
            for logs in results:
                self._epoch(dict(logs), callbacks)
                if self.stop_training:
                    break
            if error is not None:
                raise error
        finally:
            for callback in callbacks:
                callback.on_train_end()

    def _epoch(self, logs, callbacks):
        for callback in callbacks:
            callback.on_epoch_begin(self.epoch)
        for _ in range(self.steps):
            self.step += 1
            for callback in callbacks:
                if callback.every and self.step % callback.every == 0:
                    callback.on_train_batch_end(self.step, {"loss": float(self.step)})
        mark(self.model, self.epoch)
        self.epoch += 1
        self.history.append(logs)
        for callback in callbacks:
            callback.on_epoch_end(self.epoch - 1, logs)
        self.history.merge_last(logs)


def mark(model, number):
    model[0].bias[...] = number


def marked(model):
    return float(model[0].bias[0])


def losses(*values):
    return [{"loss": 0.0, "val_loss": value} for value in values]


def test_the_base_does_nothing():
    callback = minidl.Callback()
    trainer = Playback()
    trainer.fit(losses(1, 2), callback)
    assert callback.on_not_finite(minidl.NonFiniteError("", 0, 0, None)) is False
    assert callback.state() == {}
    callback.load_state({})
    assert trainer.history.history == {"loss": [0, 0], "val_loss": [1, 2]}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_has_all_but_the_trainer(way):
    stop = minidl.EarlyStopping(patience=3)
    Playback().fit(losses(3, 2), stop)
    other = way(stop)
    assert (other.best, other.best_epoch, other.patience) == (2, 1, 3)
    assert not hasattr(other, "trainer")
    Playback().fit(losses(1), other)
    assert other.best == 1


# Monitor.


@pytest.mark.parametrize(
    "name",
    ["accuracy", "val_accuracy", "acc", "auc", "f1", "r2", "balanced_accuracy", "top_k",
     "val_top_3", "precision", "recall", "average_precision", "precision_at_5", "macro_f1",
     "r2_score", "cohen_kappa_score", "binary_accuracy"],
)  # fmt: skip
def test_auto_is_max_for_scores(name):
    assert Monitor(name).mode == "max"


@pytest.mark.parametrize(
    "name",
    ["loss", "val_loss", "mae", "rmse", "val_rmse", "lr", "mean_squared_error", "log_loss",
     "recall_loss", "anything", "stop"],
)  # fmt: skip
def test_auto_is_min_for_all_else(name):
    assert Monitor(name).mode == "min"


def test_nan_is_never_better():
    for mode in ("min", "max"):
        monitor = Monitor("x", mode)
        assert not monitor.better(NAN, None)
        assert not monitor.better(NAN, 1.0)
        assert monitor.better(1.0, None)


WATCHING = [
    minidl.EarlyStopping,
    lambda *args, **options: minidl.ModelCheckpoint("x", *args, save_best_only=True, **options),
]
watching = pytest.mark.parametrize("make", WATCHING, ids=["EarlyStopping", "ModelCheckpoint"])


@watching
def test_a_result_that_is_not_there(make):
    trainer = Playback()
    with pytest.raises(ValueError, match="expected one of 'loss', 'f1', got 'val_loss'; it needs"):
        trainer.fit([{"loss": 1.0, "f1": 0.5}], make("val_loss"))
    with pytest.raises(ValueError, match=r"expected one of 'loss', got 'f1'$"):
        trainer.fit([{"loss": 1.0}], make("f1"))
    assert trainer.epoch == 2  # each at the end of the first epoch


@watching
def test_watching_what_cannot_be_watched(make):
    with pytest.raises(ValueError, match="mode: expected 'auto', 'min' or 'max', got 'least'"):
        make(mode="least")
    with pytest.raises(TypeError, match="monitor: expected a name, got 3"):
        make(3)


# EarlyStopping.


@pytest.mark.parametrize(
    ("options", "values", "stopped", "best"),
    [
        ({}, [3, 2, 2.5, 1], 2, 1),
        ({}, [3, 3, 1], 1, 0),
        ({"patience": 1}, [3, 2, 2.5, 1], 2, 1),
        ({"patience": 2}, [3, 2, 2.5, 1, 5, 5, 0], 5, 3),
        ({"patience": 9}, [3, 2, 2.5, 4], None, 1),
        ({"min_delta": 0.5}, [3, 2, 1.5, 0], 2, 1),
        ({"min_delta": 0.5}, [3, 2, 1.25, 0], None, 3),
        ({"mode": "max"}, [1, 2, 1.5, 3], 2, 1),
        ({"mode": "max", "min_delta": 0.5}, [1, 2, 2.5, 9], 2, 1),
        ({"patience": 2, "baseline": 1.0}, [5, 4, 3, 2.5, 3], 4, 3),
        ({"patience": 2, "baseline": 1.0}, [5, 0.5, 3, 0.25], None, 3),
        ({"start_from_epoch": 2}, [1, 2, 3, 4, 0], 3, 2),
        ({}, [NAN, 2, 1, 3], 3, 2),
        ({}, [2, NAN, 1], 1, 0),
        ({"patience": 2}, [NAN, NAN, NAN, 1], 1, None),
        ({}, [NAN], None, None),
    ],
)
def test_early_stopping(options, values, stopped, best):
    trainer, callback = Playback(), minidl.EarlyStopping(**options)
    trainer.fit(losses(*values), callback)
    assert callback.stopped_epoch == stopped
    assert trainer.epoch == (len(values) if stopped is None else stopped + 1)
    assert callback.best_epoch == best
    assert callback.best == (None if best is None else values[best])


def test_early_stopping_goes_by_the_name():
    trainer, callback = Playback(), minidl.EarlyStopping("val_accuracy")
    trainer.fit([{"val_accuracy": v} for v in (0.1, 0.5, 0.4, 0.9)], callback)
    assert (callback.stopped_epoch, callback.best_epoch) == (2, 1)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("values", [(3, 2, 4, 5), (3, 2, 4)], ids=["patience", "last epoch"])
def test_the_best_weights_come_back_however_training_ends(values, error):
    trainer = Playback()
    stop = minidl.EarlyStopping(patience=2, restore_best_weights=True)
    raises = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with raises:
        trainer.fit(losses(*values), stop, error=error)
    assert marked(trainer.model) == stop.best_epoch == 1


def test_the_last_weights_stay_unless_asked():
    trainer, stop = Playback(), minidl.EarlyStopping(patience=2)
    trainer.fit(losses(3, 2, 4, 5), stop)
    assert marked(trainer.model) == 3


def test_the_best_weights_are_copies():
    trainer, stop = Playback(), minidl.EarlyStopping(patience=9, restore_best_weights=True)
    trainer.fit(losses(1, 2, 3), stop)
    assert marked(trainer.model) == 0


def test_early_stopping_begins_anew_with_each_training():
    trainer = Playback()
    stop = minidl.EarlyStopping(patience=1, restore_best_weights=True)
    trainer.fit(losses(0.5, 1), stop)
    assert (stop.best, stop.stopped_epoch) == (0.5, 1)
    trainer.fit(losses(9, 8, 9), stop)
    assert (stop.best, stop.best_epoch, stop.stopped_epoch) == (8, 3, 4)
    assert marked(trainer.model) == 3


class Fails(minidl.Callback):
    """Cannot begin."""

    def on_train_begin(self):
        raise RuntimeError("no")


def test_the_best_weights_of_an_earlier_training_do_not_come_back():
    trainer, stop = Playback(), minidl.EarlyStopping(restore_best_weights=True)
    trainer.fit(losses(1), stop)
    mark(trainer.model, 7)
    with pytest.raises(RuntimeError):
        trainer.fit(losses(1), Fails(), stop)
    assert marked(trainer.model) == 7


@pytest.mark.parametrize("when", ["before", "after"])
def test_early_stopping_goes_on_from_its_state(when):
    """Loaded before or after on_train_begin, which the trainer may choose."""

    class Loads(minidl.Callback):
        def on_train_begin(self):
            resumed.load_state(state)

    stop = minidl.EarlyStopping(patience=3)
    trainer = Playback()
    trainer.fit(losses(2, 3, 4), stop)
    state = json.loads(json.dumps(stop.state()))
    assert state == {"wait": 2, "best": 2, "best_epoch": 0}
    resumed = minidl.EarlyStopping(patience=3)
    if when == "before":
        resumed.load_state(state)
        trainer.fit(losses(5, 6), resumed)
    else:
        trainer.fit(losses(5, 6), resumed, Loads())
    assert (resumed.stopped_epoch, resumed.best_epoch) == (3, 0)
    trainer.fit(losses(9, 8), resumed)
    assert resumed.best == 8


def test_best_weights_from_before_a_checkpoint_are_lost_with_a_warning():
    stop = minidl.EarlyStopping(patience=9, restore_best_weights=True)
    stop.load_state({"wait": 0, "best": 1.0, "best_epoch": 4})
    trainer = Playback()
    with pytest.warns(RuntimeWarning, match="the best epoch, 4, lies before the checkpoint"):
        trainer.fit(losses(2, 3), stop)
    assert marked(trainer.model) == 1
    stop.load_state({"wait": 0, "best": 1.0, "best_epoch": 4})
    trainer.fit(losses(0.5, 3), stop)
    assert marked(trainer.model) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": -1}, "patience: expected an integer of at least 0, got -1"),
        ({"patience": 1.5}, "patience: expected an integer"),
        ({"min_delta": -0.1}, "min_delta: expected a number"),
        ({"min_delta": NAN}, "min_delta: expected a number"),
        ({"baseline": "x"}, "baseline: expected a number"),
        ({"start_from_epoch": -1}, "start_from_epoch: expected an integer"),
    ],
)
def test_arguments_of_early_stopping(options, message):
    with pytest.raises(ValueError, match=message):
        minidl.EarlyStopping(**options)


# ModelCheckpoint.


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_for_each_epoch(tmp_path):
    saver = minidl.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}.safetensors")
    Playback().fit(losses(3, 2.5), saver)
    assert names(tmp_path) == ["01-3.00.safetensors", "02-2.50.safetensors"]
    assert marked(minidl.load(tmp_path / "02-2.50.safetensors")) == 1
    assert saver.last_path == str(tmp_path / "02-2.50.safetensors")


def test_one_file_is_written_over(tmp_path):
    Playback().fit(losses(3, 2, 5), minidl.ModelCheckpoint(tmp_path / "m"))
    assert marked(minidl.load(tmp_path / "m")) == 2


@pytest.mark.parametrize(("mode", "best"), [("auto", 1), ("max", 2)])
def test_save_best_only(tmp_path, mode, best):
    saver = minidl.ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True, mode=mode)
    Playback().fit(losses(3, 2, 5, NAN), saver)
    assert marked(minidl.load(saver.last_path)) == best
    assert saver.best == [3, 2, 5][best]
    assert len(names(tmp_path)) == 2


def test_the_best_lives_through_trainings_and_states(tmp_path):
    saver = minidl.ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True)
    trainer = Playback()
    trainer.fit(losses(3, 2), saver)
    trainer.fit(losses(2.5), saver)
    again = minidl.ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True)
    again.load_state(json.loads(json.dumps(saver.state())))
    trainer.fit(losses(2.25, 1), again)
    assert names(tmp_path) == ["1", "2", "5"]


def test_save_each_time_some_steps_are_made(tmp_path):
    saver = minidl.ModelCheckpoint(tmp_path / "{epoch}-{step}-{loss}", save_freq=3)
    Playback(steps=4).fit(losses(1, 1), saver)
    assert names(tmp_path) == ["1-3-3.0", "2-6-6.0"]


def test_checkpoints_hold_the_new_best(tmp_path):
    saver = minidl.ModelCheckpoint(tmp_path / "a" / "{epoch}", save_best_only=True, checkpoint=True)
    trainer = Playback()
    trainer.fit(losses(3, 4, 2), saver)
    assert trainer.checkpoints == [
        (str(tmp_path / "a" / "1"), [{"best": 3}]),
        (str(tmp_path / "a" / "3"), [{"best": 2}]),
    ]


def test_what_could_not_be_saved_is_not_the_best(tmp_path):
    (tmp_path / "file").touch()
    saver = minidl.ModelCheckpoint(tmp_path / "file" / "m", save_best_only=True)
    with pytest.raises(OSError, match="file"):
        Playback().fit(losses(3), saver)
    assert saver.best is None
    assert saver.last_path is None


def test_folders_are_made(tmp_path):
    Playback().fit(losses(3), minidl.ModelCheckpoint(tmp_path / "a" / "{epoch}" / "m"))
    assert (tmp_path / "a" / "1" / "m").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{val_acc}", "filepath: expected the fields loss, val_loss, epoch, got '{val_acc}'"),
        ("{epoch:s}", "filepath: expected the fields"),
    ],
)
def test_fields_that_are_not_there(path, message):
    with pytest.raises(ValueError, match=message):
        Playback().fit(losses(3), minidl.ModelCheckpoint(path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("{epoch",), ValueError, "filepath: expected '}'"),
        (("{}",), ValueError, "filepath: expected a path with fields such as {epoch}"),
        (("{epoch.real}",), ValueError, "filepath: expected a path with fields"),
        (("",), ValueError, "filepath: expected the path of a file"),
        ((3,), TypeError, "filepath: expected a path, got int"),
        (("x", "loss", False, "auto", "batch"), ValueError, "save_freq: expected 'epoch' or"),
        (("x", "loss", False, "auto", 0), ValueError, "save_freq: expected an integer"),
    ],
)
def test_arguments_of_model_checkpoint(arguments, error, message):
    with pytest.raises(error, match=message):
        minidl.ModelCheckpoint(*arguments)


# LearningRateMonitor.


class Schedule(minidl.Callback):
    """A tenth of the rate with each epoch."""

    def on_epoch_end(self, epoch, logs):
        self.trainer.lr /= 10


def test_the_rate_is_that_of_the_epoch():
    trainer = Playback(lr=1.0)
    monitor = minidl.LearningRateMonitor()
    trainer.fit(losses(1, 1, 1), Schedule(), monitor)
    assert trainer.history.history["lr"] == [1.0, 0.1, 0.01]
    assert monitor.steps == monitor.rates == []


def test_rates_by_steps():
    trainer = Playback(lr=1.0)
    monitor = minidl.LearningRateMonitor(every=3)
    trainer.fit(losses(1, 1), monitor, Schedule())
    trainer.fit(losses(1), monitor)
    assert monitor.steps == [3, 6, 9, 12]
    assert monitor.rates == [1.0, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("make", [minidl.LearningRateMonitor, minidl.TensorBoard])
@pytest.mark.parametrize("every", [0, -1, 1.5, "epoch"])
def test_numbers_of_steps(make, every):
    if make is minidl.TensorBoard:
        pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="every: expected an integer of at least 1"):
        make(every=every)


# CSVLogger.


def read(path, separator=","):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=separator))


class Look(minidl.Callback):
    """Notes a file's lines at the end of each epoch."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def on_epoch_end(self, epoch, logs):
        self.seen.append(len(read(self.path)))


def test_rows_are_there_after_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    look = Look(path)
    Playback().fit(losses(3, 1 / 3), minidl.CSVLogger(path), look)
    assert read(path) == [
        ["epoch", "loss", "val_loss"],
        ["0", "0.0", "3"],
        ["1", "0.0", str(1 / 3)],
    ]
    assert look.seen == [2, 3]


def test_columns_are_those_of_the_first_epoch(tmp_path):
    path = tmp_path / "log.csv"
    results = [{"a": 1.0, "b": 2.0}, {"b": 3.0, "c": 4.0}, {"a": NAN}]
    Playback().fit(results, minidl.CSVLogger(path, separator=";"))
    assert read(path, ";") == [["epoch", "a", "b"], ["0", "1.0", "2.0"], ["1", "", "3.0"],
                               ["2", "nan", ""]]  # fmt: skip


def test_a_file_is_replaced_or_gone_on_with(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old\n")
    trainer = Playback()
    logger = minidl.CSVLogger(path)
    trainer.fit(losses(3), logger)
    assert len(read(path)) == 2
    trainer.fit(losses(2), logger)  # the same object goes on
    trainer.fit([{"val_loss": 1, "new": 5}], minidl.CSVLogger(path, append=True))
    assert read(path)[1:] == [["0", "0.0", "3"], ["1", "0.0", "2"], ["2", "", "1"]]


@pytest.mark.parametrize("there", [False, True])
def test_append_where_there_is_nothing_yet(tmp_path, there):
    path = tmp_path / "log.csv"
    if there:
        path.touch()
    Playback().fit(losses(3), minidl.CSVLogger(path, append=True))
    assert read(path) == [["epoch", "loss", "val_loss"], ["0", "0.0", "3"]]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "epoch;loss\n0;1\n"])
def test_append_to_another_file(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="filename: expected a file to append to whose first col"):
        Playback().fit(losses(3), minidl.CSVLogger(path, append=True))
    assert path.read_text() == text


def test_the_file_is_closed_when_training_fails(tmp_path):
    logger = minidl.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(KeyboardInterrupt):
        Playback().fit(losses(3), logger, error=KeyboardInterrupt())
    assert logger._file is None
    assert len(read(tmp_path / "log.csv")) == 2
    with pytest.raises(RuntimeError):
        Playback().fit(losses(3), Fails(), minidl.CSVLogger(tmp_path / "b.csv"))


@pytest.mark.parametrize("separator", ["", ", ", "\n", '"', 3])
def test_separators(separator):
    with pytest.raises(ValueError, match="separator: expected one character"):
        minidl.CSVLogger("x", separator)


# TensorBoard.


def events(path):
    """What TensorBoard itself reads of a run."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(path), {"histograms": 0, "scalars": 0})
    found.Reload()
    return found


def scalars(run):
    return {
        tag: [(e.step, e.value) for e in run.Scalars(tag)]
        for tag in run.Tags()["scalars"]
    }  # fmt: skip


def test_tensorboard_reads_its_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    board = minidl.TensorBoard(tmp_path)
    trainer = Playback(lr=0.5)
    trainer.fit([{"loss": 2.0, "f1": 0.5, "val_loss": 3.0, "val_f1": 0.25}], board)
    time.sleep(0.01)
    trainer.fit([{"loss": 1.0, "f1": 0.75}], minidl.LearningRateMonitor(), board)
    assert names(tmp_path) == ["train", "validation"]
    assert scalars(events(tmp_path / "train")) == {
        "epoch_loss": [(0, 2.0), (1, 1.0)],
        "epoch_f1": [(0, 0.5), (1, 0.75)],
        "epoch_learning_rate": [(0, 0.5), (1, 0.5)],
    }
    assert scalars(events(tmp_path / "validation")) == {
        "epoch_loss": [(0, 3.0)],
        "epoch_f1": [(0, 0.25)],
    }


def test_tensorboard_by_steps(tmp_path):
    pytest.importorskip("tensorboard")
    Playback(lr=0.5).fit(losses(1, 1), minidl.TensorBoard(tmp_path, every=3))
    found = scalars(events(tmp_path / "train"))
    assert found["batch_loss"] == [(3, 3.0), (6, 6.0)]
    assert found["batch_learning_rate"] == [(3, 0.5), (6, 0.5)]


def test_tensorboard_shows_results_while_training(tmp_path):
    pytest.importorskip("tensorboard")

    class Reads(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            assert len(scalars(events(tmp_path / "train"))["epoch_loss"]) == epoch + 1

    Playback().fit(losses(1, 1), minidl.TensorBoard(tmp_path), Reads())


def test_tensorboard_reads_its_histograms(tmp_path):
    pytest.importorskip("tensorboard")
    trainer = Playback()
    trainer.fit(losses(1, 1, 1), minidl.TensorBoard(tmp_path, histogram_freq=2))
    run = events(tmp_path / "train")
    assert run.Tags()["histograms"] == ["0.weight/histogram", "0.bias/histogram"]
    assert [e.step for e in run.Histograms("0.weight/histogram")] == [0, 2]
    value = run.Histograms("0.bias/histogram")[1].histogram_value
    assert (value.min, value.max, value.num, value.sum) == (2, 2, 1, 2)
    weight = trainer.model[0].weight
    value = run.Histograms("0.weight/histogram")[1].histogram_value
    assert value.sum == pytest.approx(weight.sum(dtype=float))
    assert sum(value.bucket) == weight.size


def test_a_histogram_counts_each_value_once():
    x = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    found = histogram(x)
    assert sum(found["bucket"]) == found["num"] == 77
    assert found["bucket_limit"][-1] == found["max"] == x.max()
    assert found["sum_squares"] == pytest.approx((x.astype(float) ** 2).sum())
    below = np.searchsorted(found["bucket_limit"], 0.0)
    assert abs(sum(found["bucket"][: below + 1]) - (x < 0).sum()) <= found["bucket"][below]


def test_tensorboard_closes_its_files(tmp_path):
    pytest.importorskip("tensorboard")
    before = threading.active_count()  # each file has a thread
    with pytest.raises(ValueError, match="stop"):
        Playback().fit(losses(1), minidl.TensorBoard(tmp_path), error=ValueError("stop"))
    assert threading.active_count() == before


def test_arguments_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="histogram_freq: expected an integer of at least 0"):
        minidl.TensorBoard(tmp_path, histogram_freq=-1)


def test_without_tensorboard():
    code = "import sys; sys.modules['tensorboard'] = None; import minidl; minidl.TensorBoard()"
    done = python("-c", code, check=False)
    message = "TensorBoard needs tensorboard: pip install 'minidl[tensorboard]'"
    assert f"ImportError: {message}" in done.stderr


# TimeLimit.


@pytest.mark.parametrize(("steps", "made"), [(64, 32), (4, 4)], ids=["batch", "epoch"])
def test_time_is_up_after_some_steps_or_the_epoch(monkeypatch, steps, made):
    """The clock goes on by one second each time it is looked at."""
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    limit = minidl.TimeLimit(2 if steps == 64 else 1)
    trainer = Playback(steps=steps)
    seen = []

    class Note(minidl.Callback):
        every = 1

        def on_train_batch_end(self, step, logs):
            if not trainer.stop_training:
                seen.append(step)

    trainer.fit(losses(*[1] * 9), Note(), limit)
    assert limit.stopped
    assert len(seen) == made
    assert trainer.epoch == 1


def test_each_training_has_its_own_time():
    limit = minidl.TimeLimit(0.05)
    trainer = Playback()
    trainer.fit(losses(1), limit)
    assert not limit.stopped
    time.sleep(0.06)
    trainer.fit(losses(1), limit)
    assert not limit.stopped
    zero = minidl.TimeLimit(0)
    trainer.fit(losses(1, 1), zero)
    assert zero.stopped
    assert trainer.epoch == 3
    zero.seconds = 100.0
    trainer.fit(losses(1), zero)
    assert not zero.stopped


@pytest.mark.parametrize("seconds", [-1, NAN, "1", None])
def test_seconds(seconds):
    with pytest.raises(ValueError, match="seconds: expected a number"):
        minidl.TimeLimit(seconds)


# TerminateOnNaN.


def test_terminate_on_nan():
    error = minidl.NonFiniteError("the loss became NaN", 3, 7, None)
    with pytest.warns(RuntimeWarning, match="training ended: the loss became NaN") as warned:
        assert minidl.TerminateOnNaN().on_not_finite(error) is True
    assert len(warned) == 1


# ProgressBar.


def test_the_bar_shows_epochs_and_results(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = minidl.ProgressBar(3)
    bar.update(2, {"loss": 0.25})
    bar.update(0, {"loss": 9.0})
    bar.close()
    assert "2/3" in sys.stderr.getvalue()
    assert "loss=0.25" in sys.stderr.getvalue()


def test_who_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not minidl.ProgressBar.suits()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert minidl.ProgressBar.suits()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert minidl.ProgressBar.suits()
