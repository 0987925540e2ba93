"""Many trainings at once: each as if it were alone, over the same memory, on the cores."""

import _thread
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
from helpers import OPENMP, OPTIMIZERS, python
from ranks import Comm, Shared
from test_checkpoint import everything
from test_interrupts import (
    Interrupt,
    quiet,  # noqa: F401
)

import minidl
from minidl import ending, many

ROWS, COLUMNS, CLASSES, BATCH = 61, 5, 3, 8


def make_data(rows=ROWS):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, COLUMNS)), rng.integers(0, CLASSES, rows)


def make_model(seed=0, dtype="float32", outputs=CLASSES):
    return minidl.Sequential(
        minidl.Linear(COLUMNS, 8), minidl.BatchNorm1d(8), minidl.ReLU(), minidl.Dropout(0.3),
        minidl.Linear(8, outputs), dtype=dtype, seed=seed,
    )  # fmt: skip


def make_trainer(seed=0, **options):
    return minidl.Trainer(make_model(seed), **options)


def plain(seed=0, width=8, **options):
    """A trainer that stays in the compiled program."""
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, width), minidl.ReLU(), minidl.Linear(width, CLASSES), seed=seed
    )
    return minidl.Trainer(model, **options)


def squared(prediction, y):
    """A loss of the user's, of labels."""
    difference = prediction - np.eye(CLASSES)[y]
    return float((difference**2).mean()), 2 * difference / difference.size


def share_right(y, predicted):
    """A metric of the user's."""
    return float(np.mean(y == predicted))


def ours():
    """Trainers that train."""
    return list(ending.running)


def same(one, other):
    """Two lists of trainers have gone through the same."""
    return [everything(a) == everything(b) for a, b in zip(one, other, strict=True)]


def right(count):
    return [True] * count


# ------------------------------------------------------------------------ as if each were alone


def trainers_of_labels():
    """All optimizers, beside what else a trainer may have."""
    losses = [
        minidl.CrossEntropyLoss(), minidl.CrossEntropyLoss(label_smoothing=0.1),
        minidl.MultiMarginLoss(), squared,
    ]  # fmt: skip
    schedules = [
        None, minidl.CosineAnnealingLR(3), minidl.StepLR(2, interval="step"),
        minidl.ReduceLROnPlateau(monitor="loss", patience=0), lambda epoch: 0.5**epoch,
    ]  # fmt: skip
    more = [
        {}, {"clip_grad_norm": 0.5}, {"accumulate": 2}, {"ema_decay": 0.9},
        {"clip_grad_value": 0.1}, {"metrics": ["top_2"]},
    ]  # fmt: skip
    return [
        minidl.Trainer(
            make_model(i, "float64" if i % 7 == 0 else "float32"), losses[i % 4],
            optimizer.make(), scheduler=schedules[i % 5], **(more[i % 6] if i % 4 != 3 else {}),
        )
        for i, optimizer in enumerate(OPTIMIZERS)
    ]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_trainings_of_all_kinds(threads):
    X, y = make_data()
    together, alone = trainers_of_labels(), trainers_of_labels()
    count = len(alone)
    options = {
        "epochs": [3 + i % 2 for i in range(count)],
        "batch_size": [7 + i % 3 for i in range(count)],
        "shuffle": [i % 3 > 0 for i in range(count)], "seed": range(count),
        "last_batch": [("merge", "keep", "drop")[i % 3] for i in range(count)],
        "total_epochs": [None if i % 2 else 9 for i in range(count)],
    }  # fmt: skip
    with minidl.set_num_threads(threads):
        results = minidl.fit_many(together, X, y, **options)
    for i, trainer in enumerate(alone):
        trainer.fit(X, y, **{name: values[i] for name, values in options.items()})
    assert [result.error for result in results] == [None] * count
    assert [result.trainer for result in results] == together
    assert same(together, alone) == right(count)
    assert [r.history.history for r in results] == [t.history.history for t in alone]


@pytest.mark.parametrize("loss", ["MSELoss", "HuberLoss", "BCEWithLogitsLoss", "PoissonNLLLoss"])
def test_trainings_of_numbers_and_yes_or_no(loss):
    X, y = make_data()
    y = (y > 0).astype(int)

    def trainers():
        return [minidl.Trainer(make_model(i, dtype, 1), loss) for i in range(2)
                for dtype in ("float32", "float64")]  # fmt: skip

    together, alone = trainers(), trainers()
    minidl.fit_many(together, X, y, epochs=2, seed=1)
    for trainer in alone:
        trainer.fit(X, y, epochs=2, seed=1)
    assert same(together, alone) == right(4)


def test_networks_of_all_sizes_with_validation_and_early_stopping():
    X, y = make_data(200)
    held_out = X[:50], y[:50]

    def trainers():
        return [plain(i, width, metrics=[share_right]) for i, width in enumerate((3, 64, 17, 8))]

    def stops():
        return [
            minidl.EarlyStopping(patience=i, restore_best_weights=True, min_delta=0.01)
            for i in range(4)
        ]

    together, alone, theirs, own = trainers(), trainers(), stops(), stops()
    options = {"epochs": 30, "seed": 0, "validation_data": held_out}
    minidl.fit_many(together, X, y, callbacks=[[stop] for stop in theirs], **options)
    for trainer, stop in zip(alone, own, strict=True):
        trainer.fit(X, y, callbacks=[stop], **options)
    assert same(together, alone) == right(4)
    assert [s.stopped_epoch for s in theirs] == [s.stopped_epoch for s in own]
    assert len({trainer.epoch for trainer in together}) > 1


def test_one_list_of_callbacks_is_copied_for_each():
    X, y = make_data()
    stop = minidl.EarlyStopping("loss", patience=3)
    first = plain()
    first.fit(X, y, callbacks=[stop])  # it knows a trainer now
    together, alone = [plain(i) for i in range(3)], [plain(i) for i in range(3)]
    minidl.fit_many(together, X, y, epochs=40, seed=0, callbacks=[stop])
    for trainer in alone:
        trainer.fit(X, y, epochs=40, seed=0, callbacks=[minidl.EarlyStopping("loss", patience=3)])
    assert same(together, alone) == right(3)
    copies = [trainer.callbacks[0] for trainer in together]
    assert len({id(stop), *map(id, copies)}) == 4
    assert [copy.trainer for copy in copies] == together
    assert stop.trainer is first


def test_epochs_count_on():
    """After a training alone, and after one with others: two are one longer one."""
    X, y = make_data()
    together, alone = [make_trainer(i) for i in range(3)], [make_trainer(i) for i in range(3)]
    together[1].fit(X, y, epochs=2, batch_size=BATCH, seed=4)
    for epochs in ([3, 1, 3], [1, 1, 1]):
        minidl.fit_many(together, X, y, epochs=epochs, batch_size=BATCH, seed=4)
    for trainer in alone:
        trainer.fit(X, y, epochs=4, batch_size=BATCH, seed=4)
    assert same(together, alone) == right(3)


def test_none():
    assert minidl.fit_many([], *make_data()) == []


def test_no_epochs_change_nothing():
    trainer = plain()
    before = trainer.model.state_dict()
    (result,) = minidl.fit_many([trainer], *make_data(), epochs=0)
    assert len(result.history) == 0
    assert all((trainer.model.state_dict()[k] == v).all() for k, v in before.items())


# ------------------------------------------------------------------------------------- rows


def rows_of_all_kinds():
    rng = np.random.default_rng(1)
    mask = rng.random(ROWS) < 0.6
    return [
        None, np.arange(7, 50), rng.permutation(ROWS)[:40], rng.integers(0, ROWS, ROWS), mask,
        list(range(0, ROWS, 2)), np.arange(ROWS - 1, -1, -1).astype(np.int32), mask.tolist(),
    ]  # fmt: skip


def as_they_are(X, folder):
    return X


def mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def filed(X, folder):
    np.save(folder / "X.npy", X)
    return minidl.NpyFile(folder / "X.npy")


def framed(X, folder):
    return pytest.importorskip("pandas").DataFrame(X)


def sparse(X, folder):
    return pytest.importorskip("scipy.sparse").csr_array(np.where(X > 0, X, 0))


def table(X, folder):
    return pytest.importorskip("pyarrow").table({str(j): X[:, j] for j in range(COLUMNS)})


def turned(X, folder):
    return np.asfortranarray(X.astype(np.float32))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [as_they_are, turned, mapped, filed, framed, sparse, table])
def test_chosen_rows_are_as_arrays_of_these_rows(kind, shuffle, tmp_path, monkeypatch):
    """In any order, as often as they stand there; with weights, metrics and validation."""
    monkeypatch.setattr("minidl.data.blocks.BLOCK", 2 * BATCH * COLUMNS * 4)
    monkeypatch.setattr("minidl.data.blocks.SCATTERED", 2 * BATCH * COLUMNS * 4)
    X, y = make_data()
    weight = np.random.default_rng(2).random(ROWS)
    rows = rows_of_all_kinds()
    tested = rows[::-1]
    together = [make_trainer(i, metrics=["accuracy", "top_2"]) for i in range(len(rows))]
    options = {"epochs": 2, "batch_size": BATCH, "shuffle": shuffle, "last_batch": "keep"}
    results = minidl.fit_many(
        together, kind(X, tmp_path), y, rows=rows, validation_rows=tested, sample_weight=weight,
        seed=range(len(rows)), **options,
    )  # fmt: skip
    assert [result.error for result in results] == [None] * len(rows)
    given = np.where(X > 0, X, 0) if kind is sparse else X
    for i, (trainer, chosen, held_out) in enumerate(zip(together, rows, tested, strict=True)):
        one = slice(None) if chosen is None else np.asarray(chosen)
        other = slice(None) if held_out is None else np.asarray(held_out)
        alone = make_trainer(i, metrics=["accuracy", "top_2"])
        validation = None
        if held_out is not None:
            (tmp_path / "other").mkdir(exist_ok=True)
            validation = kind(given[other], tmp_path / "other"), y[other], weight[other]
        alone.fit(
            kind(given[one], tmp_path), y[one], sample_weight=weight[one],
            validation_data=validation, seed=i, **options,
        )  # fmt: skip
        assert everything(trainer) == everything(alone), i


@pytest.mark.parametrize("threads", [1, 3])
def test_chosen_rows_of_several_inputs_and_targets(threads):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 6, (200, 1))
    y = rng.normal(size=(200, 2))
    rows = rng.integers(0, 200, 150)

    def trainer():
        model = minidl.Sequential(
            minidl.Parallel(minidl.Linear(4, 8), minidl.Embedding(6, 3), columns=[4, 1]),
            minidl.BatchNorm1d(11), minidl.Linear(11, 2), seed=0,
        )  # fmt: skip
        return minidl.Trainer(model, "MSELoss")

    one, other = trainer(), trainer()
    with minidl.set_num_threads(threads):
        minidl.fit_many([one], X, y, rows=rows, epochs=3, batch_size=64, seed=0)
        other.fit((X[0][rows], X[1][rows]), y[rows], epochs=3, batch_size=64, seed=0)
    assert everything(one) == everything(other)


def test_chosen_rows_and_an_interrupted_epoch():
    """The epoch goes on where it was, with the metrics of the rows that are left."""

    class Stop(minidl.Callback):
        every = 3

        def on_train_batch_end(self, step, logs):
            self.trainer.stop_training = True

    X, y = make_data()
    rows = np.random.default_rng(3).integers(0, ROWS, 50)
    one, other = make_trainer(metrics=[share_right]), make_trainer(metrics=[share_right])
    options = {"batch_size": BATCH, "seed": 0}
    minidl.fit_many([one], X, y, rows=rows, callbacks=[Stop()], **options)
    assert one.progress.batch == 3
    minidl.fit_many([one], X, y, rows=rows, epochs=2, **options)
    other.fit(X[rows], y[rows], callbacks=[Stop()], **options)
    other.fit(X[rows], y[rows], epochs=2, **options)
    assert everything(one) == everything(other)


def test_batches_of_an_iterable():
    X, y = make_data(64)
    batches = [(X[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8)]
    together, alone = [make_trainer(i) for i in range(3)], [make_trainer(i) for i in range(3)]
    results = minidl.fit_many(
        together, lambda: iter(batches), validation_data=[None, (X, y), lambda: iter(batches)],
        epochs=2, seed=0,
    )  # fmt: skip
    assert [result.error for result in results] == [None] * 3
    for trainer, validation in zip(alone, (None, (X, y), batches), strict=True):
        trainer.fit(batches, epochs=2, seed=0, validation_data=validation)
    assert same(together, alone) == right(3)
    with pytest.raises(ValueError, match="X: an iterator serves one pass, got 2 to make"):
        minidl.fit_many([plain(), plain(1)], iter(batches))
    with pytest.raises(ValueError, match="rows: expected None, since X gives batches"):
        minidl.fit_many([plain()], batches, rows=[1, 2])
    with pytest.raises(TypeError, match="sample_weight: expected None"):
        minidl.fit_many([plain()], batches, sample_weight=np.ones(64))


# ------------------------------------------------------------------------------------ no copies


class Where(minidl.Callback):
    """Notes where the data of a training lie."""

    def __init__(self):
        self.found = []

    def on_epoch_begin(self, epoch):
        data = self.trainer._loop.data
        arrays = [*data.x, data.y, data.weight]
        self.found.append([a.__array_interface__["data"][0] for a in arrays if a is not None])


def where(trainers, *arguments, **options):
    places = [Where() for _ in trainers]
    minidl.fit_many(trainers, *arguments, callbacks=[[place] for place in places], **options)
    return {tuple(found) for place in places for found in place.found}


def test_what_suits_is_read_where_it_lies():
    X, y = make_data()
    X, weight = X.astype(np.float32), np.ones(ROWS)
    folds = [np.flatnonzero(np.arange(ROWS) % 4 != i) for i in range(4)]
    found = where([plain(i) for i in range(4)], X, y, rows=folds, sample_weight=weight)
    assert found == {tuple(a.__array_interface__["data"][0] for a in (X, y, weight))}


def test_what_is_converted_is_converted_once(monkeypatch):
    """For each dtype, and for each kind of targets, not for each trainer."""
    X, y = make_data()
    opened, checked = [], []
    convert, check = many.open_inputs, minidl.CrossEntropyLoss.check
    monkeypatch.setattr(many, "open_inputs", lambda *a: opened.append(1) or convert(*a))
    monkeypatch.setattr(minidl.CrossEntropyLoss, "check", lambda *a: checked.append(1) or check(*a))
    trainers = [minidl.Trainer(make_model(i)) for i in range(4)]
    trainers += [minidl.Trainer(make_model(i, "float64")) for i in range(3)]
    found = where(trainers, X.tolist(), y.astype(np.int8), sample_weight=[1] * ROWS)
    assert len(found) == len(opened) == len(checked) == 2
    assert len({(labels, weight) for _, labels, weight in found}) == 1


def test_targets_of_different_losses_are_one_array():
    X, y = make_data()
    losses = ["MSELoss", "L1Loss", "HuberLoss", lambda p, y: (0.0, 0 * p)]
    found = where([minidl.Trainer(make_model(i, outputs=1), loss)
                   for i, loss in enumerate(losses)], X, y / 2)  # fmt: skip
    assert len(found) == 1


def test_a_loss_that_changes_its_targets_has_its_own():
    class Twice(minidl.MSELoss):
        def check(self, y, *rest):
            return 2 * super().check(y, *rest)

    def trainers():
        return [minidl.Trainer(make_model(0, outputs=1), loss) for loss in ("MSELoss", Twice())]

    X, y = make_data()
    together, alone = trainers(), trainers()
    minidl.fit_many(together, X, y / 2, seed=0)
    for trainer in alone:
        trainer.fit(X, y / 2, seed=0)
    assert same(together, alone) == right(2)
    assert everything(alone[0]) != everything(alone[1])


def test_losses_that_look_alike_are_checked_each():
    """One column stands for two quantiles, and does not for two outputs."""
    X, y = make_data()
    two = [minidl.Trainer(make_model(i, outputs=2), loss)
           for i, loss in enumerate((minidl.QuantileLoss([0.1, 0.9]), "MSELoss"))]  # fmt: skip
    with pytest.raises(ValueError, match=r"y: expected shape \(rows, 2\)"):
        minidl.fit_many(two, X, y / 2)
    result, _ = minidl.fit_many([two[0], minidl.Trainer(make_model(3, outputs=1), "L1Loss")], X, y)
    assert result.error is None


def test_workspaces_go_with_the_trainings():
    """And the caller's limit of threads stays."""
    trainers = [plain(seed) for seed in range(4)]
    with minidl.set_num_threads(3):
        minidl.fit_many(trainers, X, Y, epochs=2, verbose=0)
        assert minidl.get_num_threads() == (3 if OPENMP else 1)
    assert not any(trainer._programs for trainer in trainers)
    trainers[0].fit(X, Y, verbose=0)
    assert trainers[0].epoch == 3


def test_memory_of_folds():
    """Measured: folds of all rows but a few take a small part of what copies would."""
    X, y = np.ones((200_000, 50), np.float32), np.arange(200_000) % 2
    folds = [np.arange(200_000) % 8 != i for i in range(8)]
    trainers = [minidl.Trainer(minidl.Sequential(minidl.Linear(50, 2, seed=i))) for i in range(8)]
    tracemalloc.start()
    try:
        minidl.fit_many(
            trainers, X, y, rows=folds, validation_rows=[~fold for fold in folds], batch_size=512
        )
        assert tracemalloc.get_traced_memory()[1] < 0.7 * X.nbytes  # numbers of rows, and orders
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------- threads and order


class Count(minidl.Callback):
    """Notes how many threads trainings may use, each and together."""

    lock, running, most = threading.Lock(), {}, 0

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, logs):
        with Count.lock:
            Count.running[self] = minidl.get_num_threads()
            Count.most = max(Count.most, sum(Count.running.values()))
            self.seen.append(Count.running[self])

    def on_train_end(self):
        with Count.lock:
            Count.running.pop(self, None)


@pytest.mark.skipif(not OPENMP, reason="serial build")
@pytest.mark.parametrize(("trainings", "n_threads"), [(2, None), (3, None), (6, None), (4, 3)])
def test_trainings_share_the_cores(trainings, n_threads):
    """Together never more than there are; what others leave, the last ones take up."""
    X, y = make_data(400)
    counts = [Count() for _ in range(trainings)]
    Count.most = 0
    together, alone = [plain(i, 32) for i in range(trainings)], plain(0, 32)
    with minidl.set_num_threads(4):
        minidl.fit_many(
            together, X, y, epochs=[200] + [3] * (trainings - 1), seed=0, n_threads=n_threads,
            callbacks=[[count] for count in counts],
        )  # fmt: skip
    cores = n_threads or 4
    assert Count.most <= cores
    assert counts[0].seen[-1] == cores
    if trainings > cores:
        assert counts[0].seen[0] == 1
    alone.fit(X, y, epochs=200, seed=0)
    assert everything(together[0]) == everything(alone)


def test_the_longest_begins_first_and_results_keep_their_order():
    order = []

    class Note(minidl.Callback):
        def on_train_begin(self):
            order.append(self.trainer)

    X, y = make_data()
    trainers = [plain(i, width) for i, width in enumerate((8, 256, 128, 64, 32))]
    results = minidl.fit_many(
        trainers, X, y, epochs=[1, 1, 1, 9, 2], callbacks=[Note()], n_threads=1
    )
    assert [trainers.index(trainer) for trainer in order] == [3, 1, 2, 4, 0]
    assert [result.trainer for result in results] == trainers
    assert [len(result.history) for result in results] == [1, 1, 1, 9, 2]


def test_trainings_stay_in_the_compiled_program(monkeypatch):
    """Nobody looks at the epochs: one run, however many there are, with a bar too."""
    runs = []
    go = many.Loop._go

    def counted(loop, epochs):
        runs.append(epochs)
        return go(loop, epochs)

    monkeypatch.setattr(many.Loop, "_go", counted)
    X, y = make_data()
    for verbose in (0, 1):
        runs.clear()
        minidl.fit_many([plain(i) for i in range(6)], X, y, epochs=50, verbose=verbose, seed=0)
        assert len(runs) < 12
        assert runs.count(50) == 6


# -------------------------------------------------------------------------------------- failures


def diverging(seed=0):
    return plain(seed, optimizer=minidl.SGD(lr=1e30))


def test_a_training_that_diverges_is_recorded_and_the_others_are_finished():
    X, y = make_data()
    together, alone = ([plain(0), diverging(1), plain(2)] for _ in range(2))
    results = minidl.fit_many(together, X, y, epochs=5, seed=0)
    for i in (0, 2):
        alone[i].fit(X, y, epochs=5, seed=0)
    with pytest.raises(minidl.NonFiniteError) as caught:
        alone[1].fit(X, y, epochs=5, seed=0)
    assert same(together, alone) == right(3)
    assert [result.error for result in (results[0], results[2])] == [None, None]
    assert isinstance(results[1].error, minidl.NonFiniteError)
    assert str(results[1].error) == str(caught.value)
    assert results[1].trainer is together[1]
    assert not together[1]._busy


class Broken(minidl.Callback):
    def __init__(self, error, epoch=0):
        self.error, self.epoch = error, epoch

    def on_epoch_end(self, epoch, logs):
        if epoch == self.epoch:
            raise self.error


def test_what_a_callback_raises_is_recorded():
    X, y = make_data()
    error = ZeroDivisionError("mine")
    trainers = [plain(0), plain(1)]
    results = minidl.fit_many(trainers, X, y, epochs=4, callbacks=[[Broken(error, 1)], []], seed=0)
    assert results[0].error is error
    assert [len(result.history) for result in results] == [2, 4]


def test_data_that_turn_out_bad_are_the_error_of_a_training(tmp_path):
    """What is read on demand is not known before."""
    X, y = make_data()
    X[40, 2] = np.nan
    results = minidl.fit_many([plain(0), plain(1)], mapped(X, tmp_path), y, rows=[None, range(40)])
    assert "X: expected finite numbers, got nan in row 40, column 2" in str(results[0].error)
    assert results[1].error is None


def test_an_error_stops_all_if_it_is_to_be_raised():
    X, y = make_data()
    trainers = [plain(i) for i in range(5)]
    callbacks = [[] for _ in trainers]
    callbacks[3] = [Broken(ZeroDivisionError("mine"))]
    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError, match="mine"):
        minidl.fit_many(
            trainers, X, y, epochs=[10**7] * 3 + [10**8, 10**7], callbacks=callbacks,
            on_error="raise", seed=0,
        )  # fmt: skip
    assert time.perf_counter() - start < 5
    assert ours() == []
    assert_they_go_on(trainers, X, y)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_ends_the_process_stops_all(error):
    X, y = make_data()
    trainers = [plain(i) for i in range(3)]
    callbacks = [[Broken(error)], [], []]
    with pytest.raises(type(error)):
        minidl.fit_many(trainers, X, y, epochs=10**7, callbacks=callbacks, seed=0)
    assert ours() == []
    assert_they_go_on(trainers, X, y)


def assert_they_go_on(trainers, X, y):
    """Trainings that were stopped somewhere are whole: they go on to the bit."""
    for i, trainer in enumerate(trainers):
        assert not trainer._busy
        alone, epochs = plain(i), trainer.epoch + 2
        with minidl.set_num_threads(1):
            trainer.fit(X, y, epochs=2, seed=0)
            alone.fit(X, y, epochs=epochs, seed=0)
        assert everything(trainer) == everything(alone), i


# ------------------------------------------------------------------------------------ interrupts


def test_ctrl_c_stops_all_in_bounded_time():
    X, y = make_data()
    trainers = [plain(i) for i in range(4)]
    timer = threading.Timer(0.3, _thread.interrupt_main)
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        minidl.fit_many(trainers, X, y, epochs=10**7, seed=0)
    assert 0.25 < time.perf_counter() - start < 5
    assert ours() == []
    assert trainers[0].epoch > 0
    assert_they_go_on(trainers, X, y)


@pytest.mark.parametrize("verbose", [0, 1])
def test_an_interrupt_at_moments_of_the_main_thread(verbose, capsys, quiet):  # noqa: F811
    """Wherever it comes, nothing trains on, and each trainer is as it was after a whole step."""
    X, y = make_data()

    def fit(trainers):
        minidl.fit_many(trainers, X, y, epochs=EPOCHS, seed=0, verbose=verbose, n_threads=2)

    for _ in range(2):  # the first time there is more to do
        trainers = [plain(i) for i in range(3)]
        with Interrupt(0) as counted:
            fit(trainers)
    moments = np.unique(np.linspace(1, counted.seen, 30).astype(int))
    met = 0
    for moment in [*moments.tolist(), *range(counted.seen - 40, counted.seen - 1, 4)]:
        trainers = [plain(i) for i in range(3)]
        try:
            with Interrupt(moment):
                fit(trainers)
        except KeyboardInterrupt:
            met += 1
        end = time.perf_counter() + 5
        while ours() and time.perf_counter() < end:  # they have let go of the trainers
            time.sleep(1e-3)
        assert ours() == []
        for i, trainer in enumerate(trainers):
            assert not trainer._busy
            trainer.fit(X, y, epochs=EPOCHS - trainer.epoch, seed=0)
            assert everything(trainer) == whole(i)
    assert met > 20  # some come when all is over


KNOWN, EPOCHS = {}, 60


def whole(seed):
    """All that a training leaves."""
    if seed not in KNOWN:
        alone = plain(seed)
        alone.fit(*make_data(), epochs=EPOCHS, seed=0)
        KNOWN[seed] = everything(alone)
    return KNOWN[seed]


# -------------------------------------------------------------------------- processes and the end

FORK = """
import os, sys
import minidl
from test_many import ROWS, everything, make_data, plain
X, y = make_data()
minidl.lowering.plan.WORK_PER_THREAD = 0
minidl.set_num_threads(2)
def trained():
    trainers = [plain(i) for i in range(4)]
    minidl.fit_many(trainers, X, y, epochs=3, seed=0)
    return [everything(trainer) for trainer in trainers]
before = trained()
if os.fork() == 0:
    os._exit(minidl.get_num_threads() if trained() == before else 77)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_child_of_a_fork_trains_one_after_the_other():
    assert python("-c", FORK).stdout.split() == ["1"]


FORK_WITHIN = """
import os, time
import minidl
from test_many import make_data, plain
X, y = make_data()

class Fork(minidl.Callback):
    child = None
    def on_epoch_end(self, epoch, logs):
        if epoch == 3:
            self.child = os.fork()

forks = [Fork() for _ in range(4)]
trainers = [plain(i) for i in range(4)]
results = minidl.fit_many(trainers, X, y, epochs=20, callbacks=[[fork] for fork in forks])
assert all(result.error is None and len(result.history) == 20 for result in results)
print(*(os.waitpid(fork.child, 0)[0] == fork.child for fork in forks))
"""


def test_a_fork_within_a_training():
    """The parent finishes all; the child, where a lock may be held, does not wait for it."""
    assert python("-c", FORK_WITHIN).stdout.split() == ["True"] * 4


END = """
import threading, time
import minidl
from test_many import make_data, plain
X, y = make_data()
trainers = [plain(i) for i in range(4)]
work = lambda: minidl.fit_many(trainers, X, y, epochs=10**7)
threading.Thread(target=work, daemon=True).start()
while trainers[0].epoch == 0:
    time.sleep(0.01)
print("end")
"""


def test_the_end_of_the_process_while_a_daemon_trains_many():
    done = python("-c", END, timeout=30)
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_results_and_trainers_can_be_pickled():
    X, y = make_data()
    results = minidl.fit_many([plain(0), diverging(1)], X, y, epochs=2, seed=0)
    again = pickle.loads(pickle.dumps(results))
    assert same([r.trainer for r in again], [r.trainer for r in results]) == right(2)
    assert again[0].history.history == results[0].history.history
    assert str(again[1].error) == str(results[1].error)
    minidl.fit_many([r.trainer for r in again], X, y, n_threads=1)


# ------------------------------------------------------------------------------------ the bar


class Screen:
    """What a progress bar was told."""

    def __init__(self, epochs):
        self.total, self.told, self.closed = epochs, [], False

    def update(self, epochs, logs):
        self.told.append((epochs, logs))

    def close(self):
        self.closed = True

    @staticmethod
    def wanted(verbose):
        return verbose == 1


def test_one_bar_for_all(monkeypatch):
    screens = []
    monkeypatch.setattr(many, "ProgressBar", Screen)
    monkeypatch.setattr(
        Screen, "__init__",
        lambda self, epochs: screens.append(self)
        or self.__dict__.update(total=epochs, told=[], closed=False),
    )  # fmt: skip
    X, y = make_data()
    stop = minidl.EarlyStopping("loss", patience=0, min_delta=9.0)
    minidl.fit_many(
        [plain(0), diverging(1), plain(2)], X, y, epochs=[5, 9, 7], callbacks=[[stop], [], []],
        verbose=1,
    )  # fmt: skip
    (screen,) = screens
    assert screen.closed
    assert screen.total == sum(epochs for epochs, _ in screen.told) == 21
    assert screen.told[-1][1] == {"trained": 2, "failed": 1}


def test_the_bar_as_it_is_shown(capsys):
    minidl.fit_many([plain(0), plain(1)], *make_data(), epochs=4, verbose=1)
    shown = capsys.readouterr().err
    assert "8/8" in shown
    assert "trained=2" in shown


# ----------------------------------------------------------------------------------- bad input


def shared_optimizer():
    adam = minidl.Adam()
    return [plain(0, optimizer=adam), plain(1), plain(2, optimizer=adam)]


def shared_layer():
    layer = minidl.Linear(COLUMNS, CLASSES)
    return [minidl.Trainer(minidl.Sequential(layer)) for _ in range(2)]


X, Y = make_data()
TWO = [plain(0), plain(1)]
STOP = minidl.EarlyStopping("loss")
BAD = [
    ({"trainers": plain()}, "trainers: expected a list of Trainer, got Trainer"),
    ({"trainers": [plain(), 3]}, "trainers: expected Trainer objects, got 3"),
    ({"trainers": [TWO[0], TWO[0]]}, "trainers: expected .* got one layer in trainers.0. and"),
    ({"trainers": shared_optimizer()}, r"one optimizer in trainers\[0\] and trainers\[2\]"),
    ({"trainers": shared_layer()}, "one layer in"),
    ({"trainers": [TWO[0], plain(1, comm=Comm(0, Shared(1)))]}, "got one with comm in place 1"),
    ({"epochs": -1}, "epochs: expected"),
    ({"epochs": [1, 2, 3]}, "epochs: expected one for all trainers or a sequence of 2, .* got 3"),
    ({"epochs": [1, "a"]}, "epochs: expected"),
    ({"batch_size": [8, 0]}, "batch_size: expected an integer of at least 1"),
    ({"shuffle": "no"}, "shuffle: expected True or False"),
    ({"seed": [1, -1]}, "seed: expected"),
    ({"seed": range(3)}, "seed: expected one for all trainers or a sequence of 2"),
    ({"last_batch": ["keep", "lose"]}, "last_batch: expected"),
    ({"total_epochs": 0}, "total_epochs: expected"),
    ({"rows": []}, "rows: expected at least one row"),
    ({"rows": [0, ROWS]}, f"rows: expected rows from 0 to {ROWS - 1}, got {ROWS} in place 1"),
    ({"rows": [-1, 2]}, "rows: expected rows from 0"),
    ({"rows": [0.5, 1.0]}, "rows: expected whole numbers, or a mask, got dtype float64"),
    ({"rows": np.ones(5, bool)}, f"rows: expected {ROWS} rows"),
    ({"rows": np.zeros(ROWS, bool)}, "rows: expected at least one row"),
    ({"rows": [[1, 2], [3], None]}, "rows: expected one for all trainers or a sequence of 2"),
    ({"rows": np.zeros((2, 2), int)}, "rows: expected numbers of rows"),
    ({"rows": "all"}, "rows: expected real numbers"),
    ({"sample_weight": [1.0]}, "sample_weight: expected"),
    ({"sample_weight": [np.ones(ROWS), -np.ones(ROWS)]}, "sample_weight: expected weights of at"),
    ({"validation_data": X}, "validation_data: expected"),
    ({"validation_data": [(X, Y)]}, "validation_data: expected one for all .* got 1 of them"),
    ({"validation_data": (X[:, :2], Y)}, "validation_data X: expected 5 features"),
    ({"validation_data": (X, Y), "validation_rows": [1]}, "validation_rows: expected None, since"),
    ({"validation_rows": [ROWS]}, "validation_rows: expected rows from"),
    ({"callbacks": [3]}, "callbacks: expected a list of Callback"),
    ({"callbacks": [[STOP], [STOP]]}, "callbacks: .* got one EarlyStopping more than once"),
    ({"callbacks": [[STOP]]}, "callbacks: expected one for all trainers or a sequence of 2"),
    ({"callbacks": [minidl.CSVLogger("a.csv")]}, "callbacks: expected a file of its own .*'a.cs"),
    ({"callbacks": [[minidl.ModelCheckpoint("m")] for _ in TWO]}, "callbacks: expected a file"),
    ({"n_threads": 0}, "n_threads: expected"),
    ({"on_error": "ignore"}, "on_error: expected 'record' or 'raise'"),
    ({"verbose": 2}, "verbose: expected"),
    ({"X": X[:, :2]}, "X: expected 5 features"),
    ({"y": None}, "y: expected"),
    ({"y": Y[:5]}, f"y: expected {ROWS} rows"),
    ({"X": np.full((ROWS, COLUMNS), np.nan)}, "X: expected finite numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments(arguments, message):
    before = [everything(trainer) for trainer in map(fitted_state, TWO)]
    given = {"trainers": TWO, "X": X, "y": Y} | arguments
    with pytest.raises((TypeError, ValueError), match=message):
        minidl.fit_many(given.pop("trainers"), given.pop("X"), given.pop("y"), **given)
    assert [everything(trainer) for trainer in TWO] == before
    assert ours() == []


def fitted_state(trainer):
    """The trainer, with the state of the optimizer made."""
    trainer._state()
    return trainer


def refusals():
    """A trainer that the data do not suit, and what is said."""
    few = minidl.Trainer(make_model(1, outputs=2))
    yield few, "y: expected labels from 0 to 1, got 2"
    yield minidl.Trainer(make_model(1), "BCEWithLogitsLoss"), "y: expected shape"
    yield plain(1, scheduler=minidl.CosineAnnealingLR(100)), "schedul"
    yield plain(1, metrics=["r2"]), "metrics: 'r2' is for a regression"
    follows = minidl.ReduceLROnPlateau(monitor="val_loss")
    yield plain(1, scheduler=follows), "scheduler: .* there is no validation_data"
    model = minidl.Sequential(minidl.Embedding(3, 2), minidl.Linear(10, 3))
    yield minidl.Trainer(model), "X: expected categories"


@pytest.mark.parametrize(("other", "message"), [*refusals()])
def test_what_does_not_suit_one_trainer_is_refused_before_any_trains(other, message):
    first = fitted_state(plain(0))
    before = everything(first)
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        minidl.fit_many([first, other], X, Y, epochs=3)
    assert caught.value.__notes__ == ["trainers[1]"]
    assert everything(first) == before


def test_a_trainer_that_trains_is_refused():
    class Nested(minidl.Callback):
        def on_epoch_end(self, epoch, logs):
            minidl.fit_many([self.trainer], X, Y)

    with pytest.raises(RuntimeError, match="this trainer is training already"):
        plain().fit(X, Y, callbacks=[Nested()])


def test_a_callback_may_train_many_others():
    class Nested(minidl.Callback):
        def on_train_end(self):
            self.others = minidl.fit_many([plain(3), plain(4)], X, Y, epochs=2, seed=0)

    nested = [Nested(), Nested()]
    results = minidl.fit_many([plain(0), plain(1)], X, Y, callbacks=[[one] for one in nested])
    assert [result.error for result in results] == [None, None]
    assert len(nested[1].others[1].history) == 2
