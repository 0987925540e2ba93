"""NaN and infinity in data, labels, weights and rates, and diverging trainings: what comes of it.

What is refused at the door changes nothing. What shows only while training runs leaves the trainer
as it was after a whole step, or at the beginning of the epoch that went wrong. Beside these,
`test_inputs.py` has all that is wrong with arrays, `test_data.py` all sources, `test_trainer.py`
and `test_loop.py` the place that an error names.
"""

import contextlib

import numpy as np
import pytest
from helpers import (
    OPTIMIZERS,
    SCHEDULES,
    dtypes,
    losses,
    make_schedule,
    optimizers,
    same_bits,
)

import minidl
from minidl.data import blocks

ROWS, COLUMNS, OUTPUTS, BATCH = 40, 5, 3, 8
values = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")


def make_trainer(optimizer=None, loss=None, dtype="float32", **options):
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, 8), minidl.BatchNorm1d(8), minidl.ReLU(),
        minidl.Linear(8, OUTPUTS), dtype=dtype, seed=0,
    )  # fmt: skip
    return minidl.Trainer(model, loss or minidl.MSELoss(), optimizer, **options)


def make_data(dtype="float32"):
    """X, y and weights."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(ROWS, COLUMNS)), rng.normal(size=(ROWS, OUTPUTS))
    return X.astype(dtype), y.astype(dtype), rng.uniform(0.5, 2, ROWS)


def everything(trainer):
    """All that a training changes."""
    state = trainer.optimizer.state_for(trainer.model)
    arrays = [*trainer.model.state_dict().values(), state.moments]
    return [a.tobytes() for a in arrays], (state.step, state.tick), trainer.history.history


def broken(array, value, row):
    """A copy with one number that is not finite."""
    array = array.copy()
    array.reshape(len(array), -1)[row, -1] = value
    return array


# ---------------------------------------------------------------------------- data and weights

PLACES = ["X", "y", "sample_weight"]


@values
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("validation", [False, True], ids=["training", "validation"])
def test_arrays_are_refused_before_anything_changes(place, validation, value):
    trainer, data = make_trainer(), make_data()
    trainer.fit(*data[:2], batch_size=BATCH, seed=0)
    before = everything(trainer)
    bad = dict(zip(PLACES, data, strict=True))
    bad[place] = broken(bad[place], value, 33)
    prefix = "validation_data " if validation else ""
    given = dict(zip(PLACES, data, strict=True)) | {"validation_data": tuple(bad.values())}
    message = rf"^{prefix}{place}: expected finite numbers, got .*row 33"
    with pytest.raises(ValueError, match=message):
        trainer.fit(**given if validation else bad, epochs=2)
    assert everything(trainer) == before
    trainer.fit(*data[:2], batch_size=BATCH, seed=0)
    twice = make_trainer()
    twice.fit(*data[:2], epochs=2, batch_size=BATCH, seed=0)
    assert everything(trainer) == everything(twice)


@values
@pytest.mark.parametrize("place", PLACES)
def test_files_are_refused_when_the_block_comes(place, value, tmp_path, monkeypatch):
    """The steps on the blocks before are made; the trainer goes on from there."""
    for name in ("BLOCK", "SCATTERED"):
        monkeypatch.setattr(blocks, name, BATCH * COLUMNS * 4)
    data = dict(zip(PLACES, make_data(), strict=True))
    bad = data | {place: broken(data[place], value, 33)}  # in the last batch but none
    for name, array in bad.items():
        np.save(tmp_path / f"{name}.npy", array)
    bad = {name: minidl.NpyFile(tmp_path / f"{name}.npy") for name in bad}
    trainer = make_trainer()
    options = {"batch_size": BATCH, "shuffle": False, "seed": 0}
    with pytest.raises(ValueError, match=rf"^{place}: expected finite numbers, got .*row 33"):
        trainer.fit(**bad, **options)
    made = trainer.step
    assert made <= 4
    twin = make_trainer()
    for i in range(made):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        twin.train_step(*(array[rows] for array in data.values()))
    assert everything(trainer)[:2] == everything(twin)[:2]
    assert len(trainer.history) == 0
    with pytest.raises(ValueError, match=rf"^{place}: expected finite numbers, got .*row 33"):
        trainer.evaluate(**bad, batch_size=BATCH)
    assert everything(trainer)[:2] == everything(twin)[:2]


@values
def test_weights_that_are_not_finite_show_in_their_own_outputs(value):
    """A prediction is not checked: a column of NaN, or of infinities where inputs are not 0."""
    trainer = make_trainer()
    model, (X, y, _) = trainer.model, make_data()
    before = model.predict(X)
    model[3].weight[1, 4] = value
    hidden = hidden_of(model, X)
    after = model.predict(X)
    assert same_bits(after[:, [0, 2]], before[:, [0, 2]])
    with np.errstate(invalid="ignore"):
        expected = hidden[:, 4] * np.float32(value)  # 0 times infinity is NaN
    assert np.array_equal(after[:, 1], expected, equal_nan=True)
    assert np.isnan(trainer.evaluate(X, y)["loss"]) or np.isinf(trainer.evaluate(X, y)["loss"])


def hidden_of(model, X):
    """What the last layer reads."""
    model.eval()
    for layer in list(model)[:3]:
        X = layer(X)
    return X


@values
def test_values_that_are_not_finite_are_not_loaded(value):
    model = make_trainer().model
    before = model.state_dict()
    for name in before:
        if before[name].dtype.kind == "f":
            state = before | {name: broken(before[name], value, 0)}
            with pytest.raises(ValueError, match=rf"^{name}: expected finite numbers"):
                model.load_state_dict(state)
    assert all(same_bits(a, before[name]) for name, a in model.state_dict().items())


# -------------------------------------------------------------------------------------- rates


@optimizers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_rates_that_are_none(optimizer, value):
    """To make an optimizer, to change it, in a group, and by a callback amid a training."""
    kind = getattr(minidl, optimizer.name)
    message = r"^lr: expected a number in \[0, inf\), got "
    with pytest.raises(ValueError, match=message):
        kind(**optimizer.params | {"lr": value})
    with pytest.raises(ValueError, match=r"lr.*: expected a number in \[0, inf\), got "):
        kind(**optimizer.params, groups=[{"params": "0.*", "lr": value}])
    own = optimizer.make()
    with pytest.raises(ValueError, match=message):
        own.lr = value
    assert own.lr == optimizer.params["lr"]

    class Change(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            self.trainer.optimizer.lr = value

    trainer, whole = make_trainer(own), make_trainer(optimizer.make())
    X, y, _ = make_data()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, y, epochs=3, batch_size=BATCH, seed=0, callbacks=[Change()])
    assert trainer.epoch == 1
    trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0)
    whole.fit(X, y, epochs=3, batch_size=BATCH, seed=0)
    assert everything(trainer) == everything(whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_schedules_that_become_none_end_a_training_at_a_whole_step(value):
    X, y, _ = make_data()
    bad = minidl.LambdaLR(lambda t: 1.0 if t < 7 else value, interval="step")
    trainer, whole = make_trainer(scheduler=bad), make_trainer()
    with pytest.raises(ValueError, match=rf"<lambda>\(7\): expected a number in .* got {value}"):
        trainer.fit(X, y, epochs=3, batch_size=BATCH, seed=0)
    made = trainer.step
    assert made <= 7
    trainer.scheduler = None
    trainer.fit(X, y, epochs=3 - trainer.epoch, batch_size=BATCH, seed=0)
    whole.fit(X, y, epochs=3, batch_size=BATCH, seed=0)
    assert everything(trainer)[:2] == everything(whole)[:2]


@pytest.mark.parametrize("case", SCHEDULES, ids=[f"{i}-{n}" for i, (n, _) in enumerate(SCHEDULES)])
@pytest.mark.parametrize("base", [np.nan, np.inf, -1.0])
def test_schedules_of_rates_that_are_none(case, base):
    with pytest.raises(ValueError, match=r"^base: expected a number in \[0, inf\), got"):
        make_schedule(case).rates(base, 0, 3)


# ---------------------------------------------------------------------------------- diverging


def first_bad_step(trainer, X, y, epochs):
    """(epoch, step) of the first loss that is not finite in a training by hand; or None."""
    model, loss, optimizer, step = trainer.model, trainer.loss, trainer.optimizer, 0
    for epoch in range(epochs):
        for start in range(0, ROWS, BATCH):
            rows = slice(start, start + BATCH)
            h = X[rows]
            for layer in model:
                if not np.isfinite(h).all():
                    return epoch, step
                h = layer(h)
            if not np.isfinite(h).all() or not np.isfinite(loss(h, y[rows])):
                return epoch, step
            dy = loss.backward()
            for layer in reversed(list(model)):
                if not np.isfinite(dy).all():
                    break
                dy = layer.backward(dy)
            optimizer.step(model)
            step += 1
        if not all(np.isfinite(p).all() for p in model.state_dict().values()):
            return epoch + 1, step
    return None


HUGE = {"float32": 1e30, "float64": 1e250}


@optimizers
@dtypes
def test_a_training_that_diverges(optimizer, dtype):
    """The error comes at the step where it must; the trainer is at the last good epoch's end."""
    X, y, _ = make_data(dtype)
    params = optimizer.params | {"lr": HUGE[dtype]}
    own = getattr(minidl, optimizer.name)
    options = {"batch_size": BATCH, "shuffle": False}
    place = first_bad_step(make_trainer(own(**params), dtype=dtype), X, y, 5)
    assert place is not None
    trainer, good = (make_trainer(own(**params), dtype=dtype) for _ in range(2))
    with pytest.raises(minidl.NonFiniteError, match="became NaN or infinite") as caught:
        trainer.fit(X, y, epochs=5, **options)
    error = caught.value
    assert error.epoch <= place[0]
    if "the loss became" in str(error):
        assert (error.epoch, error.step) == place
    good.fit(X, y, epochs=error.epoch, **options)
    assert everything(trainer) == everything(good)
    assert all(np.isfinite(v).all() for v in trainer.model.state_dict().values())
    assert len(trainer.history) == trainer.epoch == error.epoch
    trainer.optimizer.lr = 1e-3
    assert len(trainer.fit(X, y, epochs=2, **options)) == 2  # it can be trained on


@losses
@dtypes
def test_a_training_that_diverges_with_any_loss(case, dtype):
    """Never is there a loss or a weight that is not finite without a word."""
    rng = np.random.default_rng(0)
    X = make_data(dtype)[0]
    y = case.targets(rng, ROWS, OUTPUTS)
    trainer = make_trainer(minidl.SGD(HUGE[dtype]), case.make(OUTPUTS), dtype)
    before = everything(trainer)
    good = make_trainer(minidl.SGD(HUGE[dtype]), case.make(OUTPUTS), dtype)
    with contextlib.suppress(minidl.NonFiniteError):
        trainer.fit(X, y, epochs=3, batch_size=BATCH, shuffle=False)
    good.fit(X, y, epochs=trainer.epoch, batch_size=BATCH, shuffle=False)
    assert everything(trainer) == everything(good)
    assert trainer.epoch > 0 or everything(trainer) == before
    assert np.isfinite(trainer.history.history.get("loss", [])).all()
    assert all(np.isfinite(v).all() for v in trainer.model.state_dict().values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_gradient_that_overflows_is_not_hidden(optimizer):
    """The loss is finite; a moment or a weight is not, and the training says so."""
    X = np.full((4, 1), 1e30, np.float32)
    y = np.full((4, 1), 1e15, np.float32)
    model = minidl.Sequential(minidl.Linear(1, 1, bias=False))
    model[0].weight = [[0.0]]
    trainer = minidl.Trainer(model, minidl.MSELoss(), optimizer.make())
    assert np.isfinite(trainer.evaluate(X, y)["loss"])
    what = "a moment of the optimizer" if optimizer.name == "Lion" else "a parameter"
    with pytest.raises(
        minidl.NonFiniteError, match=f"^{what} became NaN or infinite in epoch 0, st"
    ):
        trainer.fit(X, y, epochs=5, batch_size=4)
    assert model[0].weight.tolist() == [[0.0]]
    assert np.isfinite(trainer.optimizer.state_for(model).moments).all()
