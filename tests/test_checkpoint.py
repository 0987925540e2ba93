"""Checkpoints: a training that was stopped goes on to the bit; damaged files are refused."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers import (
    FEATURES,
    LAYERS,
    OPTIMIZERS,
    THREADS,
    losses_of,
    optimizers,
    python,
    same_bits,
    start_python,
)
from safetensors import safe_open
from safetensors.numpy import save_file

import minidl
from minidl import layers

ROWS, COLUMNS, BATCH = 61, 5, 8


def make_model(dtype="float32"):
    return minidl.Sequential(
        minidl.Linear(COLUMNS, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(0.3),
        minidl.Linear(8, 3), dtype=dtype, seed=1,
    )  # fmt: skip


ADAMW = next(o for o in OPTIMIZERS if o.name == "AdamW" and "betas" in o.params)


def make_data(rows=ROWS):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    return X, rng.integers(0, 3, rows)


def make_trainer(optimizer=ADAMW, model=None, loss=None, **options):
    """A trainer with all that has a state."""
    options = {
        "accumulate": 2, "clip_grad_norm": 1.0, "clip_grad_value": 0.5, "ema_decay": 0.9,
    } | options  # fmt: skip
    return minidl.Trainer(model or make_model(), loss, optimizer.make(), **options)


def everything(trainer):
    """All that two trainings have in common if they are the same: arrays and numbers."""
    state = trainer.optimizer._state
    arrays = trainer.model.state_dict() | {"moments": state.moments, "average": state.average}
    if trainer.ema_decay is not None:
        arrays |= {f"ema {k}": v for k, v in trainer.ema_model().state_dict().items()}
    numbers = (
        state.step, state.tick, trainer.epoch, trainer.progress.batch, trainer.lr,
        {name: np.array(v).tobytes() for name, v in trainer.history.history.items()},
    )  # fmt: skip
    return {k: v if v is None else v.tobytes() for k, v in arrays.items()}, numbers


class Save(minidl.Callback):
    """Writes a checkpoint after an epoch, or every so many steps."""

    def __init__(self, path, epoch=None, every=None):
        self.path, self.epoch, self.every = path, epoch, every

    def on_epoch_end(self, epoch, logs):
        if epoch == self.epoch:
            self.trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, step, logs):
        self.trainer.save_checkpoint(self.path)


class StopAt(minidl.Callback):
    """Stops training after a step, wherever in an epoch that is."""

    def __init__(self, step):
        self.every = step

    def on_train_batch_end(self, step, logs):
        self.trainer.stop_training = True


# ------------------------------------------------------------------------ going on to the bit


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few batches."""
    from minidl.data import blocks

    monkeypatch.setattr(blocks, "BLOCK", 4 * BATCH * COLUMNS * 4)
    monkeypatch.setattr(blocks, "SCATTERED", 4 * BATCH * COLUMNS * 4)


def mapped(path):
    X, y = make_data()
    np.save(path / "X.npy", X)
    return np.load(path / "X.npy", mmap_mode="r"), y


def several(path):
    X, y = make_data()
    return (X[:, :2], X[:, 2:].astype(np.float64)), y


def stream(path):
    X, y = make_data()
    return [(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 56, BATCH)], None


DATA = {"arrays": lambda path: make_data(), "memmap": mapped, "tuple": several, "batches": stream}
kinds_of_data = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


@optimizers
def test_a_resumed_training_ends_with_the_same_bits(optimizer, tmp_path):
    X, y = make_data()
    whole = make_trainer(optimizer, metrics=["f1"])
    whole.fit(X, y, epochs=5, batch_size=BATCH, seed=3, validation_data=(X, y),
              callbacks=[Save(tmp_path / "c", epoch=1)])  # fmt: skip
    resumed = minidl.Trainer.resume(tmp_path / "c")
    assert resumed.epoch == 2
    assert resumed.step == 8
    resumed.fit(X, y, epochs=3, batch_size=BATCH, validation_data=(X, y))
    assert everything(resumed) == everything(whole)
    assert repr(resumed.optimizer) == repr(whole.optimizer)
    assert same_bits(resumed.model.predict(X), whole.model.predict(X))


@kinds_of_data
@pytest.mark.parametrize("last_batch", ["merge", "keep", "drop"])
@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_checkpoint_within_an_epoch(data, last_batch, step, tmp_path, small_blocks):
    X, y = data(tmp_path)
    options = {"batch_size": BATCH, "last_batch": last_batch, "seed": 3}
    whole = make_trainer()
    whole.fit(X, y, epochs=3, **options)
    part = make_trainer()
    part.fit(X, y, epochs=3, callbacks=[StopAt(step)], **options)
    assert part.step == step
    part.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c")
    assert everything(resumed) == everything(part)
    for trainer in (part, resumed):
        trainer.fit(X, y, epochs=3 - trainer.epoch, **options)
        assert everything(trainer) == everything(whole)


@pytest.mark.parametrize("before", THREADS)
def test_threads_may_change(before, tmp_path):
    X, y = make_data(rows=600)
    with minidl.set_num_threads(before):
        trainer = make_trainer()
        trainer.fit(X, y, epochs=2, batch_size=200, seed=0)
        trainer.save_checkpoint(tmp_path / "c")
    with minidl.set_num_threads(THREADS[-1]):
        resumed = minidl.Trainer.resume(tmp_path / "c")
        resumed.fit(X, y, epochs=2, batch_size=200)
    trainer.fit(X, y, epochs=2, batch_size=200)
    assert everything(resumed) == everything(trainer)


def squares(prediction, y):
    """A loss of the user's."""
    difference = prediction - y
    return (difference**2).mean(), 2 * difference / difference.size


class Scale(minidl.Layer):
    """A layer of the user's, with a parameter."""

    def __init__(self):
        super().__init__()
        self.add_parameter("scale", np.ones(4))

    def forward(self, x):
        self.x = x
        return x * self.scale

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x).sum(axis=0)
        return dy * self.scale


def own_model():
    return minidl.Sequential(minidl.Linear(COLUMNS, 4), Scale(), minidl.Linear(4, 1), seed=0)


def test_code_of_the_users_is_given_again(tmp_path):
    X, y = make_data()
    y = y.astype(np.float32)[:, None]
    trainer = make_trainer(model=own_model(), loss=squares)
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c", model=own_model(), loss=squares)
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)
    for given in ({}, {"loss": squares}, {"model": own_model()}):
        with pytest.raises(minidl.FormatError, match=r"(model|loss): expected .*resume\(path, "):
            minidl.Trainer.resume(tmp_path / "c", **given)


def test_metrics_of_the_users_are_given_again(tmp_path):
    def third(y_true, y_pred):
        return 1 / 3

    X, y = make_data()
    trainer = make_trainer(metrics=[third, "f1"])
    trainer.fit(X, y, batch_size=BATCH, seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    with pytest.raises(minidl.FormatError, match=r"metrics: expected .*resume\(path, metrics="):
        minidl.Trainer.resume(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c", metrics=[third, "f1"])
    for one in (trainer, resumed):
        one.fit(X, y, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)


@pytest.mark.parametrize("subclass", ["MSELoss", "Adam"])
def test_a_subclass_with_a_name_of_minidls_is_not_taken_for_it(subclass, tmp_path):
    own = type(subclass, (getattr(minidl, subclass),), {})()
    name = "loss" if subclass == "MSELoss" else "optimizer"
    trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(2, 1)), **{name: own})
    trainer.save_checkpoint(tmp_path / "c")
    with pytest.raises(minidl.FormatError, match=rf"{name}: expected the one"):
        minidl.Trainer.resume(tmp_path / "c")
    assert minidl.Trainer.resume(tmp_path / "c", **{name: own}).epoch == 0


def test_a_checkpoint_before_the_first_fit(tmp_path):
    X, y = make_data()
    trainer = make_trainer()
    trainer.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c")
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, seed=5)
    assert everything(resumed) == everything(trainer)


def test_callbacks_go_on_from_their_state(tmp_path):
    X, y = make_data()

    def make(patience=3):
        return minidl.EarlyStopping("loss", min_delta=10.0, patience=patience)

    whole = make_trainer()
    stop = make()
    whole.fit(X, y, epochs=20, seed=0, callbacks=[stop, Save(tmp_path / "c", epoch=1)])
    assert whole.epoch == 4
    resumed = minidl.Trainer.resume(tmp_path / "c")
    again = make()
    resumed.fit(X, y, epochs=18, callbacks=[again])
    assert (again.best, again.best_epoch, again.wait) == (stop.best, stop.best_epoch, stop.wait)
    assert everything(resumed) == everything(whole)


def test_a_checkpoint_at_the_last_step_of_an_epoch(tmp_path):
    """The epoch's results are not known yet: they come when training goes on."""
    X, y = make_data()
    options = {"batch_size": BATCH, "seed": 0, "validation_data": (X, y)}
    whole = make_trainer()
    stop = minidl.EarlyStopping("val_loss", min_delta=10.0, patience=3)
    whole.fit(X, y, epochs=9, **options, callbacks=[Save(tmp_path / "c", every=4), stop])
    minidl.Trainer.resume(tmp_path / "c")
    for epochs in (1, 2):
        part = make_trainer()
        early = minidl.EarlyStopping("val_loss", min_delta=10.0, patience=3)
        callbacks = [early, StopAt(4 * epochs), Save(tmp_path / "c", every=4 * epochs)]
        part.fit(X, y, epochs=9, **options, callbacks=callbacks)
        resumed = minidl.Trainer.resume(tmp_path / "c")
        assert (resumed.epoch, len(resumed.history)) == (epochs, epochs - 1)
        early = minidl.EarlyStopping("val_loss", min_delta=10.0, patience=3)
        again = resumed.fit(X, y, epochs=9 - epochs, **options, callbacks=[early])
        assert len(again) == whole.epoch - epochs
        assert everything(resumed) == everything(whole)


def test_what_callbacks_log_is_in_the_checkpoint(tmp_path):
    class Log(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["number"] = epoch

    X, y = make_data()
    trainer = make_trainer()
    trainer.fit(X, y, epochs=2, seed=0, callbacks=[Log(), Save(tmp_path / "c", epoch=1)])
    history = minidl.Trainer.resume(tmp_path / "c").history.history
    assert history["number"] == [0, 1]


SCHEDULES = [
    minidl.StepLR(2),
    minidl.MultiStepLR([1, 4]),
    minidl.ExponentialLR(0.9),
    minidl.CosineAnnealingLR(24, interval="step"),
    minidl.CosineAnnealingWarmRestarts(2, 2),
    minidl.LinearLR(total_iters=10, interval="step"),
    minidl.ConstantLR(total_iters=3),
    minidl.PolynomialLR(total_iters=6),
    minidl.OneCycleLR(0.05, 24),
    minidl.SequentialLR([minidl.LinearLR(total_iters=2), minidl.ExponentialLR(0.5)], [2]),
    minidl.ChainedScheduler([minidl.LinearLR(total_iters=2), minidl.StepLR(2)]),
    minidl.ReduceLROnPlateau(patience=0, threshold=0.5, monitor="loss"),
    minidl.LambdaLR(lambda epoch: 1 / (1 + epoch)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_schedule_goes_on(schedule, tmp_path):
    X, y = make_data()
    whole = make_trainer(scheduler=schedule)
    whole.fit(X, y, epochs=6, batch_size=BATCH, seed=0,
              callbacks=[Save(tmp_path / "c", every=9)])  # fmt: skip
    given = schedule if isinstance(schedule, minidl.LambdaLR) else None
    resumed = minidl.Trainer.resume(tmp_path / "c", scheduler=given)
    assert resumed.step == 18
    resumed.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(whole)


@losses_of(3)
def test_every_loss_goes_on(case, columns, tmp_path):
    X = make_data()[0]
    y = case.targets(np.random.default_rng(1), ROWS, columns)
    model = minidl.Sequential(minidl.Linear(COLUMNS, columns), minidl.Softplus(), seed=0)
    trainer = minidl.Trainer(model, case.make(columns))
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c")
    assert repr(resumed.loss) == repr(trainer.loss)
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_goes_on(layer, dtype, tmp_path):
    check_that_it_goes_on(
        minidl.Sequential(minidl.Linear(FEATURES, FEATURES), layer(), dtype=dtype, seed=0),
        make_data()[0],
        tmp_path,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_inputs_go_on(dtype, tmp_path):
    model = minidl.Sequential(
        minidl.Parallel(
            minidl.Linear(COLUMNS, 3), minidl.Embedding(7, 2), columns=[COLUMNS, 2]
        ),
        minidl.Dropout(0.2), minidl.Linear(7, 1), dtype=dtype, seed=0,
    )  # fmt: skip
    codes = np.random.default_rng(1).integers(0, 7, (ROWS, 2))
    check_that_it_goes_on(model, (make_data()[0], codes), tmp_path)


def check_that_it_goes_on(model, X, folder):
    """With the mean squares of what it gives as the loss; from within an epoch."""
    rows = len(X[0]) if isinstance(X, tuple) else len(X)
    y = np.ones((rows, model.output_features(model.in_features_or_none())))
    trainer = make_trainer(model=model, loss=minidl.MSELoss())
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0, callbacks=[StopAt(5)])
    trainer.save_checkpoint(folder / "c")
    resumed = minidl.Trainer.resume(folder / "c")
    assert everything(resumed) == everything(trainer)
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)


@pytest.mark.parametrize(
    "groups",
    [{"decay_bias_and_norm": False}, {"groups": [{"params": "0.*", "lr": 0.0}]},
     {"groups": [{"params": ["*.bias", "1.*"], "lr": 0.1, "weight_decay": 0.5}]}],
)  # fmt: skip
def test_groups_of_parameters_go_on(groups, tmp_path):
    """Layers that are held fast among them."""
    X, y = make_data()
    trainer = minidl.Trainer(make_model(), optimizer=minidl.AdamW(lr=0.01, **groups))
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c")
    assert repr(resumed.optimizer) == repr(trainer.optimizer)
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)


class Fixed(Scale):
    """A layer of the user's, with a parameter that is not trained."""

    def __init__(self):
        minidl.Layer.__init__(self)
        self.add_parameter("scale", np.linspace(1, 2, COLUMNS), trainable=False)

    def backward(self, dy):
        return dy * self.scale


def test_a_parameter_that_is_not_trained(tmp_path):
    X, y = make_data()

    def model():
        return minidl.Sequential(Fixed(), minidl.Linear(COLUMNS, 3), seed=0)

    trainer = make_trainer(model=model())
    trainer.model[0].scale = np.full(COLUMNS, 3.0)
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    resumed = minidl.Trainer.resume(tmp_path / "c", model=model())
    assert (resumed.model[0].scale == 3).all()
    for one in (trainer, resumed):
        one.fit(X, y, epochs=2, batch_size=BATCH)
    assert everything(resumed) == everything(trainer)


def test_every_schedule_is_resumed():
    shipped = {name for name in minidl.schedulers.NAMES if name != "Scheduler"}
    assert shipped == {type(schedule).__name__ for schedule in SCHEDULES}


# ----------------------------------------------------------------------------------- killing

TRAIN = """
from test_checkpoint import BATCH, OPTIMIZERS, Save, make_data, make_trainer
trainers = [make_trainer(optimizer) for optimizer in OPTIMIZERS]
X, y = make_data()
while True:
    for i, trainer in enumerate(trainers):
        trainer.fit(X, y, batch_size=BATCH, seed=3, callbacks=[Save({path!r} + str(i), every=3)])
"""


def kill_while(script, ready, seconds):
    """Run a script in a new process; when `ready` and some seconds later, SIGKILL."""
    process = start_python("-c", script, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        assert process.poll() is None, process.stderr.read()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_killed_process_goes_on_in_another(tmp_path):
    path = str(tmp_path / "c")
    files = [f"{path}{i}" for i in range(len(OPTIMIZERS))]
    script = TRAIN.format(path=path)
    kill_while(script, lambda: all(map(os.path.exists, files)), random.uniform(0, 0.3))
    X, y = make_data()
    for file, optimizer in zip(files, OPTIMIZERS, strict=True):
        resumed = minidl.Trainer.resume(file)
        epochs = resumed.epoch + 2
        assert resumed.step % 3 == 0
        resumed.fit(X, y, epochs=2, batch_size=BATCH, seed=3)
        whole = make_trainer(optimizer)
        whole.fit(X, y, epochs=epochs, batch_size=BATCH, seed=3)
        assert everything(resumed) == everything(whole), str(optimizer)


def test_a_kill_while_saving_leaves_a_whole_file(tmp_path):
    """30 processes, forked one from the other, that write the same file in a loop."""
    path = str(tmp_path / "c")
    assert python("-c", KILLED.format(path=path)).stdout.split() == ["1"] * 30


KILLED = """
import os, random, signal, time
from test_checkpoint import everything, make_data, make_trainer
import minidl
minidl.set_num_threads(1)
trainer = make_trainer()
trainer.fit(*make_data(), seed=0)
trainer.save_checkpoint({path!r})
for _ in range(30):
    child = os.fork()
    if child == 0:
        while True:
            trainer.save_checkpoint({path!r})
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(int(everything(minidl.Trainer.resume({path!r})) == everything(trainer)))
"""


# ---------------------------------------------------------------------------- damaged files


@pytest.fixture
def saved(tmp_path):
    X, y = make_data()
    trainer = make_trainer(metrics=["f1"])
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0, callbacks=[StopAt(5)])
    trainer.save_checkpoint(tmp_path / "c")
    return tmp_path / "c"


def refused(path):
    """The file is refused, with an error that names it."""
    with pytest.raises(minidl.FormatError, match=f"^{path}: "):
        minidl.Trainer.resume(path)


def parts_of(path):
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


CHANGED = {
    "missing": lambda t, name: t.pop(name),
    "of another shape": lambda t, name: t.update({name: np.zeros((2, 9), t[name].dtype)}),
    "of another dtype": lambda t, name: t.update({name: t[name].astype(np.float64) * 1.0}),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize(
    "name", ["model.0.weight", "moment0.0.weight", "moment1.4.bias", "average.1.weight"]
)
def test_a_tensor_that_does_not_fit(change, name, saved):
    header, tensors = parts_of(saved)
    change(tensors, name)
    save_file(tensors, saved, header)
    refused(saved)


@pytest.mark.parametrize("name", ["more", "model.5.weight", "moment2.0.weight", "moment0.9.bias",
                                  "average.0.more"])  # fmt: skip
def test_a_tensor_too_many(name, saved):
    header, tensors = parts_of(saved)
    save_file(tensors | {name: np.zeros(2, np.float32)}, saved, header)
    refused(saved)


def test_no_average_where_there_should_be_one(saved):
    header, tensors = parts_of(saved)
    kept = {k: v for k, v in tensors.items() if not k.startswith("average.")}
    save_file(kept, saved, header)
    refused(saved)


OTHERS = [None, True, -1, 2.5, 10**30, "x", [], [1], [[1]], {}, {"x": 1}, {"x": {"x": []}}]
# What a part may be replaced with, without harm.
HARMLESS = {
    "scheduler": [None],
    "metrics": [[]],
    "callbacks": [[], {}],
    "training": [None],
}


PARTS = ["architecture", "loss", "optimizer", "scheduler", "has_scheduler", "metrics", "options",
         "state", "progress", "keys", "history", "callbacks", "training"]  # fmt: skip


def test_all_parts_are_damaged_here(saved):
    assert sorted(PARTS) == sorted(parts_of(saved)[0].keys() - {"format"})


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_something_else(part, saved):
    header, tensors = parts_of(saved)
    for other in (*OTHERS, "no JSON"):
        text = "{" if other == "no JSON" else json.dumps(other)
        save_file(tensors, saved, header | {part: text})
        if other in HARMLESS.get(part, []) and type(other) is not bool:
            minidl.Trainer.resume(saved)
        else:
            refused(saved)
    del header[part]
    save_file(tensors, saved, header)
    refused(saved)


def leaves(value, path=()):
    """Places of all values inside a JSON value."""
    if isinstance(value, (dict, list)) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    elif path:
        yield path


@pytest.mark.parametrize("part", PARTS)
def test_a_value_inside_a_part_that_is_something_else(part, saved):
    """Refused, or harmless: training then goes on, or says what is wrong."""
    header, tensors = parts_of(saved)
    X, y = make_data()
    for place in leaves(json.loads(header[part])):
        for other in (None, -1, 2.5, 10**9, 10**30, "x", [1], {"x": 1}):
            value = json.loads(header[part])
            inside = value
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = other
            save_file(tensors, saved, header | {part: json.dumps(value)})
            try:
                resumed = minidl.Trainer.resume(saved)
            except minidl.FormatError as error:
                assert str(error).startswith(f"{saved}: ")  # noqa: PT017 (some are harmless)
                continue
            assert str(resumed.model)
            # A loss that does not fit the data, a rate far too high.
            with contextlib.suppress(ValueError, minidl.NonFiniteError):
                resumed.fit(X, y, batch_size=BATCH)


def test_damaged_bytes_of_the_header(saved):
    data = bytearray(saved.read_bytes())
    length = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    count = 0
    for place in rng.integers(0, length, 300):
        damaged = data.copy()
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        try:
            minidl.Trainer.resume(saved)
        except minidl.FormatError:
            count += 1
    assert count > 200


def test_models_and_checkpoints_are_told_apart(saved, tmp_path):
    minidl.save(make_model(), tmp_path / "m")
    refused(tmp_path / "m")
    with pytest.raises(minidl.FormatError, match=f"^{saved}: .* not a minidl model"):
        minidl.load(saved)


def test_a_model_that_is_given_must_fit(saved):
    with pytest.raises(minidl.FormatError, match=f"^{saved}: "):
        minidl.Trainer.resume(saved, model=minidl.Sequential(minidl.Linear(2, 3)))
    with pytest.raises(minidl.FormatError, match=f"^{saved}: .*float64"):
        minidl.Trainer.resume(saved, model=make_model("float64"))


@pytest.mark.parametrize("name", ["model", "loss", "optimizer", "scheduler", "metrics"])
def test_a_wrong_argument_is_not_the_files_fault(name, saved):
    with pytest.raises((TypeError, ValueError), match=f"^{name}") as caught:
        minidl.Trainer.resume(saved, **{name: 3})
    assert not isinstance(caught.value, minidl.FormatError)


def test_an_optimizer_of_another_kind_is_refused(saved):
    with pytest.raises(minidl.FormatError, match=f"^{saved}: "):
        minidl.Trainer.resume(saved, optimizer=minidl.SGD())


def test_files_that_cannot_be_read_or_written(saved, tmp_path):
    with pytest.raises(FileNotFoundError):
        minidl.Trainer.resume(tmp_path / "none")
    trainer = minidl.Trainer.resume(saved)
    with pytest.raises(FileNotFoundError):
        trainer.save_checkpoint(tmp_path / "none" / "c")


def test_a_full_disk_leaves_the_old_file(saved, monkeypatch):
    trainer, before = minidl.Trainer.resume(saved), saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_what_a_callback_keeps_must_be_json(saved):
    class Bad(minidl.Callback):
        def state(self):
            return {"x": np.zeros(2)}

        def on_train_begin(self):
            self.trainer.save_checkpoint(saved)

    before = saved.read_bytes()
    with pytest.raises(TypeError, match="ndarray"):
        make_trainer().fit(*make_data(), callbacks=[Bad()])
    assert saved.read_bytes() == before


# ----------------------------------------------------------------------- files of nested models


NESTED = {
    "Residual": lambda: layers.Residual(
        minidl.Sequential(minidl.Linear(4, 4), minidl.BatchNorm1d(4), minidl.Dropout(0.1))
    ),
    "Concat": lambda: layers.Concat(minidl.Identity(), minidl.Linear(4, 2), minidl.ReLU()),
    "Parallel": lambda: layers.Parallel(minidl.Linear(3, 2), minidl.Identity(), columns=[3, 1]),
    "Flatten": lambda: minidl.Sequential(layers.Flatten(), minidl.Linear(4, 2)),
    "all": lambda: layers.Residual(
        layers.Concat(
            layers.Parallel(minidl.Sequential(minidl.Linear(2, 1), minidl.BatchNorm1d(1)),
                            layers.Residual(minidl.Tanh()), columns=[2, 2]),
            minidl.Sequential(layers.Residual(minidl.Linear(4, 4)), minidl.Linear(4, 1)),
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nested_models_come_back(kind, dtype, tmp_path):
    model = minidl.Sequential(minidl.Sequential(NESTED[kind]()), dtype=dtype, seed=0)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(dtype)
    model(x)  # moves running averages
    minidl.save(model, tmp_path / "m")
    loaded = minidl.load(tmp_path / "m")
    assert repr(loaded) == repr(model)
    assert loaded.dtype == model.dtype
    assert same_bits(loaded.predict(x), model.predict(x))
    for name, value in model.state_dict().items():
        assert same_bits(loaded.state_dict()[name], value)
    trainer = minidl.Trainer(model, loss=minidl.MSELoss())
    trainer.fit(x, np.zeros((9, model.output_features(4))), seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    assert everything(minidl.Trainer.resume(tmp_path / "c")) == everything(trainer)


def test_a_file_that_claims_to_be_huge_costs_nothing(tmp_path):
    import tracemalloc

    for change in (
        {"in_features": 2**29}, {"out_features": 2**29},
        {"in_features": 2**29, "out_features": 2**29}, {"in_features": 10**12},
    ):  # fmt: skip
        for write, read in (
            (minidl.save, minidl.load),
            (lambda m, p: minidl.Trainer(m).save_checkpoint(p), minidl.Trainer.resume),
        ):
            write(make_model(), tmp_path / "m")
            header, tensors = parts_of(tmp_path / "m")
            architecture = json.loads(header["architecture"])
            architecture["layers"][0].update(change)
            save_file(tensors, tmp_path / "m",
                      header | {"architecture": json.dumps(architecture)})  # fmt: skip
            tracemalloc.start()
            try:
                said = r"0\.weight: expected shape|in_features: expected .* at most"
                with pytest.raises(minidl.FormatError, match=said):
                    read(tmp_path / "m")
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()


def test_a_loaded_model_shows_how_it_was_trained(tmp_path):
    X, y = make_data()
    trainer = make_trainer(metrics=["f1"], scheduler=minidl.StepLR(1))
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0, validation_data=(X, y))
    minidl.save(trainer.model, tmp_path / "m")
    trainer.save_checkpoint(tmp_path / "c")
    shown = str(trainer.model)
    for words in ("AdamW(lr=0.01", "CrossEntropyLoss()", "epochs: 2", "steps: 8", "batch_size: 8",
                  "StepLR(", "clip_grad_norm: 1.0", "clip_grad_value: 0.5", "accumulate: 2",
                  "ema_decay: 0.9", " loss=", " f1=", "val_loss=", "val_f1="):  # fmt: skip
        assert words in shown
    assert str(minidl.load(tmp_path / "m")) == shown
    assert str(minidl.Trainer.resume(tmp_path / "c").model) == shown
    assert str(make_model()) == repr(make_model())
