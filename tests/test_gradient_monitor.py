"""GradientMonitor: that it sees what a step does and changes nothing, and what it warns of."""

import copy
import gc
import itertools
import signal
import threading
import warnings
import weakref

import numpy as np
import pytest
from helpers import dtypes, python, same_bits
from test_interrupts import is_interrupted, moments, quiet  # noqa: F401

import minidl
from minidl.health import HealthReport, Thresholds
from minidl.lowering import programs
from minidl.observation import Suspects

FEATURES, ROWS, BATCH = 5, 70, 16


def data(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, FEATURES)), rng.integers(0, 3, rows)


class Scale(minidl.Layer):
    """y = scale x."""

    def __init__(self, features):
        super().__init__()
        self.add_parameter("scale", np.ones(features))

    def forward(self, x):
        self.x = x
        return x * self.scale

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x).sum(axis=0)
        return dy * self.scale


def network(*, own=False, dtype="float32", seed=1):
    return minidl.Sequential(
        minidl.Linear(FEATURES, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(0.3),
        minidl.Residual(minidl.Linear(8, 8)), *([Scale(8)] if own else []), minidl.Tanh(),
        minidl.Linear(8, 3), dtype=dtype, seed=seed,
    )  # fmt: skip


def batches():
    X, y = data()
    for first in range(0, ROWS, BATCH):
        yield X[first : first + BATCH], y[first : first + BATCH]


def with_weights():
    return {"sample_weight": np.random.default_rng(1).random(ROWS)}


# Ways to train: arguments of the trainer, and of `fit` beside X and y.
WAYS = {
    "plain": ({}, {}),
    "in order": ({}, {"shuffle": False}),
    "clipped": ({"clip_grad_norm": 0.1}, {}),
    "clipped by value": ({"clip_grad_value": 0.01}, {}),
    "accumulated": ({"accumulate": 2}, {}),
    "in parts": ({"micro_batch_size": 6}, {"last_batch": "drop"}),
    "recomputed": ({"checkpoint": 2, "accumulate": 2}, {}),
    "averaged": ({"ema_decay": 0.9}, {}),
    "scheduled": ({"scheduler": minidl.OneCycleLR(0.01, total_steps=15)}, {}),
    "weighted": ({}, with_weights()),
    "dropped": ({}, {"last_batch": "drop"}),
    "kept": ({}, {"last_batch": "keep"}),
    "SGD": ({"optimizer": minidl.SGD(0.1, momentum=0.9, nesterov=True)}, {}),
    "NAdam": ({"optimizer": minidl.NAdam()}, {}),
}
ways = pytest.mark.parametrize("way", WAYS)


def fit(model, way, *callbacks, epochs=3, X=None, y=None, batch_size=BATCH):
    """A training; its trainer and history."""
    of_trainer, of_fit = WAYS[way]
    trainer = minidl.Trainer(model, **copy.deepcopy(of_trainer))
    if X is None:
        X, y = data()
    history = trainer.fit(
        X, y, epochs=epochs, batch_size=batch_size, seed=0, callbacks=callbacks, **of_fit
    )
    return trainer, history


# It changes nothing.


@ways
@pytest.mark.parametrize("own", [False, True])
def test_training_gives_the_same_bits(way, own):
    (plain, history), (watched, other) = (
        fit(network(own=own), way, *callbacks) for callbacks in ([], [minidl.GradientMonitor(2)])
    )
    assert history.history == other.history
    for a, b in zip(plain.model.state().values(), watched.model.state().values(), strict=True):
        assert same_bits(a, b)
    assert same_bits(plain._state().moments, watched._state().moments)
    assert plain.model.gradients() == [] or all(
        same_bits(a, b)
        for a, b in zip(plain.model.gradients(), watched.model.gradients(), strict=True)
    )


@pytest.mark.parametrize("kind", ["file", "batches"])
def test_data_in_blocks(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.data.blocks.BLOCK", 1024)  # some batches
    X, y = data()
    np.save(tmp_path / "X.npy", X)
    given = (minidl.NpyFile(tmp_path / "X.npy"), y) if kind == "file" else (batches, None)
    models = []
    for callbacks in ([], [Watch(), minidl.GradientMonitor(2)]):
        trainer = minidl.Trainer(network(), optimizer=minidl.SGD(0.1))
        trainer.fit(*given, epochs=3, batch_size=BATCH, seed=0, callbacks=callbacks)
        models.append(trainer.model.state().values())
    for a, b in zip(*models, strict=True):
        assert same_bits(a, b)


# It sees what the step does.


class Watch(minidl.Callback):
    """Keeps the losses of the batches."""

    def __init__(self, every=1):
        self.every, self.losses = every, {}

    def on_train_batch_end(self, step, logs):
        self.losses[step] = logs["loss"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("own", [False, True])
@dtypes
def test_its_loss_is_that_of_the_step(way, own, dtype):
    """Of the same batch with the same weights, Dropout masks and all, to the bit."""
    watch, monitor = Watch(), minidl.GradientMonitor(1)
    fit(network(dtype=dtype, own=own), way, watch, monitor)
    assert monitor.steps == list(watch.losses)
    assert len(monitor.steps) >= 9
    for i, step in enumerate(monitor.steps):
        assert monitor._report(i).loss == watch.losses[step]


def test_its_loss_is_that_of_the_step_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.data.blocks.BLOCK", 1024)
    X, y = data()
    np.save(tmp_path / "X.npy", X)
    for given in ((minidl.NpyFile(tmp_path / "X.npy"), y), (batches, None)):
        watch, monitor = Watch(), minidl.GradientMonitor(1)
        trainer = minidl.Trainer(network(), optimizer=minidl.SGD(0.1))
        trainer.fit(*given, epochs=2, batch_size=BATCH, seed=0, callbacks=[watch, monitor])
        losses = [monitor._report(i).loss for i in range(len(monitor.steps))]
        assert losses == list(watch.losses.values())
        assert len(losses) == 10


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Adagrad"])
@dtypes
def test_it_reports_what_diagnose_does(optimizer, dtype):
    """Of the batch of a step, with the parameters and the optimizer's state before it."""
    X, y = data(64)
    model = minidl.Sequential(
        minidl.Linear(FEATURES, 8), minidl.BatchNorm1d(8), minidl.Tanh(), minidl.Linear(8, 8),
        minidl.Sigmoid(), minidl.Linear(8, 3), dtype=dtype, seed=0,
    )  # fmt: skip
    expected = []

    class Diagnose(minidl.Callback):
        def on_train_batch_end(self, step, logs):
            if step % 3 != 2:
                return
            first = step % 4 * BATCH  # of the next batch
            rows = slice(first, first + BATCH)
            expected.append(
                minidl.diagnose(self.trainer.model, X[rows], y[rows],
                                optimizer=self.trainer.optimizer)
            )  # fmt: skip

    monitor = minidl.GradientMonitor(3)
    minidl.Trainer(model, optimizer=optimizer).fit(
        X, y, epochs=5, batch_size=BATCH, shuffle=False, callbacks=[Diagnose(), monitor]
    )
    assert monitor.steps == [3, 6, 9, 12, 15, 18]
    for i, step in enumerate(monitor.steps):
        report, found = expected[i], monitor._report(i)
        assert found.loss == pytest.approx(report.loss, rel=1e-6), step
        for a, b in zip(report.layers, found.layers, strict=True):
            np.testing.assert_allclose(b[5:], a[5:], rtol=1e-5, atol=1e-7)
    assert str(monitor.report) == str(monitor._report(5))


@ways
@pytest.mark.parametrize("own", [False, True])
def test_the_update_is_the_one_that_the_step_makes(way, own):
    """Clipped, of several batches, whatever it is; the parameters' norm is that before it."""
    model, monitor, seen = network(own=own, dtype="float64"), minidl.GradientMonitor(1), []

    class States(minidl.Callback):
        def on_train_begin(self):
            self.on_train_batch_end(0, {})

        def on_train_batch_end(self, step, logs):
            layers = dict(model.layers()).values()
            seen.append([[np.array(p.array) for p in layer._parameters.values() if p.trainable]
                         for layer in layers])  # fmt: skip

    fit(model, way, States(), monitor)
    assert len(seen) == len(monitor.steps) + 1
    for i, (before, after) in enumerate(itertools.pairwise(seen)):
        layers = monitor._report(i).layers
        weighted = [layer for layer in layers if layer.update_ratio == layer.update_ratio]
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if a]
        for layer, (a, b) in zip(weighted, pairs, strict=True):
            norm = np.sqrt(sum((x**2).sum() for x in a))
            assert layer.parameter_norm == pytest.approx(norm, rel=1e-9)
            matrices = [k for k, x in enumerate(a) if x.ndim == 2] or range(len(a))
            moved = np.sqrt(sum(((b[k] - a[k]) ** 2).sum() for k in matrices))
            weights = np.sqrt(sum((a[k] ** 2).sum() for k in matrices))
            assert layer.update_ratio == pytest.approx(moved / weights, rel=1e-6)


def test_looks_that_are_taken_one_by_one_or_all_at_once(monkeypatch):
    """However many there are when Python comes: the same reports, and the same warnings."""
    found = []
    for log, soon in ((1 << 20, 100.0), (1, 100.0), (1 << 20, 0.0)):
        monkeypatch.setattr("minidl.observation.LOG", log)
        monkeypatch.setattr("minidl.loop.SOON", soon)
        monitor, model = minidl.GradientMonitor(1, window=3, dead=0.3), deep(minidl.ReLU, layers=3)
        model[0].bias = np.where(np.arange(16) < 9, -100.0, 1.0)
        texts = warned(model, monitor, epochs=7)
        reports = [str(monitor._report(i)) for i in range(len(monitor.steps))]
        found.append((texts, monitor.steps, reports, len(monitor._looks)))
    assert [parts for *_, parts in found] == [1, 35, 7]
    assert found[0][0]
    assert found[0][:3] == found[1][:3] == found[2][:3]


def test_two_monitors():
    one, other, alone = (minidl.GradientMonitor(n) for n in (2, 3, 3))
    fit(network(), "plain", one, other)
    fit(network(), "plain", alone)
    assert (one.steps, other.steps) == ([2, 4, 6, 8, 10, 12, 14], [3, 6, 9, 12, 15])
    assert [str(other._report(i)) for i in range(5)] == [str(alone._report(i)) for i in range(5)]


def test_it_is_asked_while_training_goes_on():
    seen = []

    class Ask(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append((list(monitor.steps), monitor.report.rows))

    monitor = minidl.GradientMonitor(2)
    fit(network(), "plain", Ask(), monitor)
    assert seen == [([2, 4], BATCH), ([2, 4, 6, 8, 10], 6), ([2, 4, 6, 8, 10, 12, 14], BATCH)]


def test_another_thread_asks_while_training_goes_on():
    """It gets what was taken so far; no look is lost, none is there twice."""
    monitor, ended, seen = minidl.GradientMonitor(1), threading.Event(), []

    def ask():
        while not ended.is_set():
            seen.append(len(monitor.steps))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        X, y = data(20000)
        fit(minidl.Linear(FEATURES, 3, seed=0), "plain", monitor, epochs=1, X=X, y=y, batch_size=4)
    finally:
        ended.set()
        thread.join()
    assert monitor.steps == list(range(1, 5001))
    assert seen == sorted(seen)


def test_an_interrupt_while_it_takes_looks(quiet):  # noqa: F811
    """Those that it was about to take may be gone; all that it has is whole."""
    moment, counts = 0, []

    class Ask(minidl.Callback):
        def on_train_batch_end(self, step, logs):
            if step == 2 and moment == 0:
                counts.append(moments(lambda: monitor.steps))
            elif step == 2:
                assert is_interrupted(lambda: monitor.steps, moment)

    while moment == 0 or moment <= counts[0]:
        monitor = minidl.GradientMonitor(1)
        fit(network(), "plain", Ask(), monitor, epochs=1)
        assert monitor.steps in ([1, 2, 3, 4, 5], [3, 4, 5])
        names = [[x.name for x in monitor._report(i).layers] for i in range(len(monitor.steps))]
        assert names == [[x.name for x in monitor.report.layers]] * len(monitor.steps)
        moment += 1


class Fails(minidl.Layer):
    """The second forward pass fails: that of the step, behind the look."""

    calls = 0

    def forward(self, x):
        Fails.calls += 1
        if Fails.calls == 2:
            raise ValueError("no")
        return x

    def backward(self, dy):
        return dy


def test_a_look_that_was_not_ended_is_forgotten(monkeypatch):
    """Though the end of the training was interrupted."""
    model = minidl.Sequential(minidl.Linear(FEATURES, 3), Fails(), seed=0)
    monitor, trainer = minidl.GradientMonitor(1), minidl.Trainer(model, optimizer=minidl.SGD(0.0))
    monkeypatch.setattr(Fails, "calls", 0)
    with monkeypatch.context() as patch:
        patch.setattr(monitor, "on_train_end", lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(*data(), batch_size=BATCH, callbacks=[monitor])
    alone = minidl.GradientMonitor(1)
    for one in (alone, monitor):
        trainer.fit(*data(), batch_size=BATCH, shuffle=False, callbacks=[one])
    assert str(monitor._report(0)) == str(alone._report(0))


def test_the_next_training_is_not_looked_at():
    monitor = minidl.GradientMonitor(1)
    trainer, _ = fit(network(), "plain", monitor)
    before = monitor.steps
    trainer.fit(*data(), epochs=2, batch_size=BATCH)
    assert monitor.steps == before


def test_the_copy_goes_when_training_ends():
    """The program that trains is kept for the next call; what looked at it is not."""
    seen = []

    class Catch(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(weakref.ref(monitor._lookout.observer.model))

    monitor = minidl.GradientMonitor(2)
    trainer, _ = fit(network(), "plain", monitor, Catch())
    gc.collect()
    assert [copy() for copy in seen] == [None] * 3
    assert trainer.epoch == 3


def test_a_part_of_a_larger_model():
    """Its parameters lie in the vector of the whole."""
    whole = minidl.Sequential(minidl.Linear(3, FEATURES), network(), minidl.Linear(3, 2))
    part, alone = whole[1], network()
    alone.load_state_dict(part.state_dict())
    for a, b in zip(alone.layers(), part.layers(), strict=True):
        if hasattr(b[1], "key"):
            b[1].key = a[1].key
    reports = []
    for model in (alone, part):
        monitor = minidl.GradientMonitor(2)
        fit(model, "plain", monitor)
        reports.append(monitor.report)
    for a, b in zip(reports[0].layers, reports[1].layers, strict=True):
        np.testing.assert_allclose(b[5:], a[5:], rtol=1e-5, atol=1e-7)
    assert len(part.store().values) > len(alone.store().values)


def test_many_threads():
    model = minidl.Sequential(
        minidl.Linear(FEATURES, 300), minidl.ReLU(), minidl.Linear(300, 300), minidl.ReLU(),
        minidl.Linear(300, 3), seed=0,
    )  # fmt: skip
    X, y = data(1000)
    reports = []
    for n in (1, 2):
        with minidl.set_num_threads(n):
            monitor = minidl.GradientMonitor(2)
            fit(copy.deepcopy(model), "plain", monitor, X=X, y=y, batch_size=250)
            reports.append(monitor.report.layers)
    assert [tuple(map(repr, x)) for x in reports[0]] == [tuple(map(repr, x)) for x in reports[1]]


@pytest.mark.parametrize("way", ["plain", "clipped", "accumulated", "in parts"])
@dtypes
def test_all_kinds_of_layers_on_any_number_of_threads(way, dtype):
    """The same bits of the model, and the same looks; what is not looked at trains as it does."""
    X, y = data(400)
    X[:, 4] = np.arange(400) % 7
    model = minidl.Sequential(
        minidl.Parallel(minidl.Identity(), minidl.Embedding(7, 3), columns=[4, 1]),
        minidl.Linear(7, 40), minidl.LayerNorm(40), minidl.PReLU(40), minidl.Dropout(0.2),
        minidl.Residual(
            minidl.Sequential(minidl.Linear(40, 40), minidl.BatchNorm1d(40), minidl.SiLU())
        ),
        minidl.Concat(minidl.Linear(40, 5), minidl.Sequential(minidl.Linear(40, 6), minidl.ReLU())),
        minidl.Softmax(), minidl.PReLU(), minidl.Linear(11, 3), dtype=dtype, seed=0,
    )  # fmt: skip
    bits, looks = [], []
    for n in (1, 2, 3):
        for monitors in ([], [minidl.GradientMonitor(1)]):
            own = copy.deepcopy(model)
            with minidl.set_num_threads(n):
                fit(own, way, *monitors, X=X, y=y, batch_size=64)
            bits.append([a.tobytes() for a in own.state().values()])
            looks += [[repr(m._report(i).layers) for i in range(len(m.steps))] for m in monitors]
    assert len(looks[0]) >= 9
    assert bits == bits[:1] * 6
    assert looks == looks[:1] * 3


def test_one_copy_serves_the_whole_training(monkeypatch):
    made = []
    plan = programs.Plan
    monkeypatch.setattr("minidl.observation.Plan", lambda *a, **k: made.append(1) or plan(*a, **k))
    fit(network(), "plain", minidl.GradientMonitor(1), epochs=4)
    assert len(made) == 1


# What it warns of.


def deep(activation, layers=10, width=16, init="torch_linear"):
    made = []
    for i in range(layers):
        made += [minidl.Linear(FEATURES if i == 0 else width, width, weight_init=init),
                 activation()]  # fmt: skip
    return minidl.Sequential(*made, minidl.Linear(width, 3), seed=0)


def warned(model, monitor, epochs=3, **options):
    """Texts of the warnings of a training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = minidl.Trainer(model, optimizer=options.pop("optimizer", minidl.SGD(1e-3)))
        trainer.fit(*data(), epochs=epochs, batch_size=BATCH, seed=0, callbacks=[monitor])
    assert {w.category for w in caught} <= {RuntimeWarning}
    return [str(w.message) for w in caught]


def test_a_healthy_training_is_left_in_peace():
    monitor = minidl.GradientMonitor(1)
    assert warned(deep(minidl.ReLU, layers=3, init="kaiming_normal"), monitor) == []
    assert len(monitor.steps) == 15
    assert monitor.report.healthy


def test_it_warns_once_of_gradients_that_vanish():
    monitor = minidl.GradientMonitor(5)
    (text,) = warned(deep(minidl.Sigmoid), monitor)
    assert text.startswith("step 5: gradients shrink 0.")
    assert "sigmoid activations; try ReLU with Kaiming initialisation" in text
    assert monitor.warned == {"vanishing"}
    assert len(monitor.steps) == 3
    (again,) = warned(deep(minidl.Sigmoid), monitor)  # another training
    assert again == text


def test_two_fits_are_one_longer_fit():
    monitor, trainer = minidl.GradientMonitor(2), minidl.Trainer(deep(minidl.Sigmoid))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            trainer.fit(*data(), epochs=1, batch_size=BATCH, seed=0, callbacks=[monitor])
    assert [str(w.message)[:25] for w in caught] == ["step 2: gradients shrink "]
    assert monitor.steps == [2, 4, 6, 8, 10]


def test_it_warns_of_gradients_that_explode():
    monitor = minidl.GradientMonitor(5, large_update=1e9, dead=1.0)
    init = lambda shape, rng: rng.normal(0, 1, shape)  # noqa: E731
    (text,) = warned(deep(minidl.ReLU, init=init), monitor, optimizer=minidl.SGD(1e-12))
    assert "gradients grow" in text
    assert "large weights; try Kaiming initialisation" in text


@pytest.mark.parametrize("window", [1, 3, 10])
def test_it_warns_of_units_that_gave_nothing_for_some_looks(window):
    model = deep(minidl.ReLU, layers=2)
    model[0].bias = np.where(np.arange(16) < 9, -100.0, 1.0)
    monitor = minidl.GradientMonitor(1, window=window)
    (text,) = warned(model, monitor)
    assert text.startswith(f"step {window}: 9 of 16 units of layer 1 (ReLU) gave 0 for every row")
    looks = [monitor._report(i).layers[1].dead for i in range(len(monitor.steps))]
    assert looks == [0.0] * (window - 1) + [9 / 16] * (15 - window + 1)
    assert warned(model, minidl.GradientMonitor(1, dead=0.6)) == []


def test_a_unit_that_wakes_is_not_dead():
    monitor = minidl.GradientMonitor(1)
    model = deep(minidl.ReLU, layers=1)

    class Wake(minidl.Callback):
        def on_train_batch_end(self, step, logs):
            self.trainer.model[0].bias = np.full(16, 100.0 if step == 9 else -100.0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        minidl.Trainer(model, optimizer=minidl.SGD(0.0)).fit(
            *data(), epochs=6, batch_size=BATCH, callbacks=[Wake(), monitor]
        )
    texts = [str(w.message) for w in caught if "units" in str(w.message)]
    assert [text[:8] for text in texts] == ["step 20:"]


def test_it_warns_of_saturation_and_large_updates():
    init = lambda shape, rng: rng.normal(0, 3, shape)  # noqa: E731
    monitor = minidl.GradientMonitor(5, vanishing=1e-12)
    (text,) = warned(deep(minidl.Tanh, layers=2, init=init), monitor, optimizer=minidl.SGD(0.0))
    assert "lies where the activation is flat" in text
    monitor = minidl.GradientMonitor(5, saturated=1.0)
    (text,) = warned(deep(minidl.Tanh, layers=2), monitor, optimizer=minidl.SGD(3.0))
    assert "an update is" in text
    assert monitor.warned == {"large update"}


@pytest.mark.parametrize("activation", [minidl.Sigmoid, minidl.Tanh, minidl.ReLU])
def test_no_finding_is_overlooked(activation):
    """The quick look for suspects has all that a report finds, whatever the thresholds."""
    rng, seen = np.random.default_rng(0), set()
    for scale in (0.03, 0.3, 1.0):
        monitor = minidl.GradientMonitor(1)
        model = deep(activation, layers=4, init=lambda shape, r, s=scale: r.normal(0, s, shape))
        warned(model, monitor, optimizer=minidl.SGD(1e-3))
        ((spots, looks, _),) = monitor._looks
        for i in range(len(monitor.steps)):
            thresholds = Thresholds(*(10 ** rng.uniform([-3, 0, -2, -2, -4], [0, 3, 0, 0, 0])))
            layers = monitor._report(i).layers
            found = {x.kind for x in HealthReport(layers, 1, 0.0, thresholds).findings}
            kinds = Suspects(spots, thresholds).kinds(looks)
            suspected = {kind for kind, at in kinds.items() if at[i]}
            assert found <= suspected
            assert suspected - found <= {"large update"}
            seen |= found
    assert {"vanishing", "large update"} < seen


def test_a_warning_that_is_an_error_ends_the_training():
    trainer = minidl.Trainer(deep(minidl.Sigmoid))
    with pytest.raises(RuntimeWarning, match="step 5: gradients shrink"):
        trainer.fit(*data(), batch_size=BATCH, callbacks=[minidl.GradientMonitor(5)])
    assert trainer.step == 5


def test_it_warns_once_over_a_resumed_training(tmp_path):
    path = tmp_path / "training.ckpt"
    trainer = minidl.Trainer(deep(minidl.Sigmoid))
    with pytest.warns(RuntimeWarning, match="gradients shrink"):
        trainer.fit(*data(), epochs=2, batch_size=BATCH, callbacks=[minidl.GradientMonitor(2)])
    trainer.save_checkpoint(path)
    monitor = minidl.GradientMonitor(2)
    minidl.Trainer.resume(path).fit(*data(), epochs=2, batch_size=BATCH, callbacks=[monitor])
    assert monitor.warned == {"vanishing"}
    assert monitor.steps == [12, 14, 16, 18, 20]
    with pytest.raises(ValueError, match="state: expected a dict of warned"):
        monitor.load_state({})


def test_loss_that_is_not_finite():
    """The training says so; the monitor does not stand in its way."""
    monitor = minidl.GradientMonitor(1, large_update=1e30, exploding=1e30, vanishing=1e-12)
    trainer = minidl.Trainer(deep(minidl.ReLU), "MSELoss", optimizer=minidl.SGD(1e15))
    X, _ = data()
    with pytest.raises(minidl.NonFiniteError):
        trainer.fit(X, X[:, :3], epochs=9, batch_size=BATCH, callbacks=[monitor])
    assert [x.kind for x in monitor.report.findings] == ["not finite"]


def test_the_last_good_epoch_comes_back_though_warnings_are_errors():
    trainer = minidl.Trainer(deep(minidl.ReLU, layers=2), "MSELoss", optimizer=minidl.SGD(1e15))
    X, _ = data()
    before = [array.copy() for array in trainer.model.state().values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="an update is"):
            trainer.fit(X, X[:, :3], batch_size=BATCH, callbacks=[minidl.GradientMonitor(1)])
    assert trainer.step == 0
    assert all(map(same_bits, before, trainer.model.state().values()))


# What it shows.


def test_what_is_kept_of_a_look():
    """As many bytes as the docstring says."""
    monitor = minidl.GradientMonitor(1)
    model = minidl.Sequential(
        minidl.Linear(FEATURES, 512), minidl.ReLU(), minidl.Linear(512, 3), seed=0
    )
    fit(model, "plain", monitor, epochs=20)
    owned = {}
    for array in itertools.chain(*(kept.looks for kept in monitor._looks)):
        owner = array
        while owner.base is not None:
            owner = owner.base
        owned[id(owner)] = owner.nbytes
    assert sum(owned.values()) <= len(monitor.steps) * (3 * 110 + 512)


def test_tensorboard(tmp_path):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor, board = minidl.GradientMonitor(4), minidl.TensorBoard(tmp_path)
    fit(network(), "plain", monitor, board)
    events = module.EventAccumulator(str(tmp_path / "train"), {"scalars": 0})
    events.Reload()
    names = {tag for tag in events.Tags()["scalars"] if "/" in tag}
    assert names == {
        *(f"gradient/{x.title}" for x in monitor.report.layers),
        "update_ratio/0 (Linear)", "update_ratio/1 (BatchNorm1d)",
        "update_ratio/4.block (Linear)", "update_ratio/6 (Linear)",
        "dead/2 (ReLU)", "saturated/5 (Tanh)",
    }  # fmt: skip
    found = events.Scalars("gradient/0 (Linear)")
    assert [event.step for event in found] == monitor.steps == [4, 8, 12]
    assert found[-1].value == pytest.approx(monitor.report.layers[0].gradient, rel=1e-6)


def test_to_pandas():
    pytest.importorskip("pandas")
    monitor = minidl.GradientMonitor(5)
    with pytest.raises(ValueError, match="to_pandas: expected at least one look"):
        monitor.to_pandas()
    fit(network(), "plain", monitor)
    table = monitor.to_pandas()
    assert list(table.index.names) == ["step", "name"]
    assert table.loc[(10, "6"), "gradient"] == monitor._report(1).layers[-1].gradient
    assert len(table) == 3 * len(monitor.report.layers)


def test_plot():
    pytest.importorskip("matplotlib")
    monitor = minidl.GradientMonitor(5)
    with pytest.raises(ValueError, match="plot: expected at least one look"):
        monitor.plot()
    fit(network(), "plain", monitor)
    gradients, updates = monitor.plot().axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in gradients.lines}
    assert drawn == {name: [5, 10, 15] for name in ("0 (Linear)", "4.block (Linear)", "6 (Linear)")}
    assert len(updates.lines) == 3
    deep_one = minidl.GradientMonitor(5)
    warned(deep(minidl.Sigmoid, layers=20), deep_one)
    figure = deep_one.plot(figsize=(8, 3))
    assert len(figure.axes) == 3  # with a bar of colours
    assert tuple(figure.get_size_inches()) == (8, 3)


def test_before_anything():
    monitor = minidl.GradientMonitor()
    assert (monitor.every, monitor.steps, monitor.report) == (100, [], None)


def test_it_is_not_imported_before_it_is_made():
    code = (
        "import sys, minidl\n"
        "assert 'minidl.observation' not in sys.modules\n"
        "minidl.GradientMonitor()\n"
        "print([n for n in ('matplotlib', 'pandas', 'tensorboard') if n in sys.modules])"
    )
    assert python("-c", code).stdout.strip() == "[]"
