"""What ranks do together, as functions of a communicator: `CASES`, by name.

test_distributed.py runs them on threads, at each CPU level; test_mpi.py in processes of mpiexec,
for which this file is the program:

    mpiexec -n 4 python rank_cases.py FOLDER [CASE ...]
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import distributed
from minidl.callbacks import Callback

ROWS, COLUMNS, BATCH = 640, 6, 32
EPOCHS = 5  # of 20 steps
RNG = np.random.default_rng(0)
X = 3 * RNG.normal(size=(ROWS, COLUMNS)) + 5
Y = (X[:, 0] * X[:, 1] > 25).astype(int) + (X[:, 2] > 5)
WEIGHT = RNG.random(ROWS)


class Half(minidl.Layer):
    """A layer in Python: y = scale x / 2."""

    def __init__(self, features, dtype):
        super().__init__(dtype=dtype)
        self.add_parameter("scale", np.ones(features))

    def forward(self, x):
        self.x = x
        return self.scale * x / 2

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x / 2).sum(axis=0)
        return dy * self.scale / 2


def squares(prediction, y):
    """A loss in Python."""
    error = prediction - np.eye(3)[y]
    return np.square(error).sum(axis=1).mean(), 2 * error / len(error)


def network(dtype="float64", *, seed=0, norm=True, more=()):
    """A network with BatchNorm and Dropout.

    The Linear before BatchNorm has no bias: its gradient would be 0 but for rounding, which Adam
    makes steps of.
    """
    layers = [minidl.Linear(COLUMNS, 16, bias=not norm, dtype=dtype)]
    layers += [minidl.BatchNorm1d(16, dtype=dtype)] if norm else []
    layers += [minidl.ReLU(), *more, minidl.Dropout(0.3), minidl.Linear(16, 3, dtype=dtype)]
    return minidl.Sequential(*layers, seed=seed)


def trainer(comm, model=None, **options):
    """A trainer of a network."""
    options = {"optimizer": minidl.SGD(lr=0.05, momentum=0.9)} | options
    return minidl.Trainer(network() if model is None else model, comm=comm, **options)


def place(comm):
    """Rank and size; without a communicator, those of the only one."""
    return (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())


def rows_of_batches(comm):
    """Rows of this rank, so that the batches of all ranks are those of one, and rows of a batch."""
    rank, size = place(comm)
    own = BATCH // size
    return np.arange(ROWS).reshape(-1, size, own)[:, rank].ravel(), own


def fit(comm, made, *, weighted=False, epochs=EPOCHS, **options):
    """Train, in the order of the rows."""
    rows, batch = rows_of_batches(comm)
    weight = WEIGHT[rows] if weighted else None
    options = {"epochs": epochs, "batch_size": batch, "shuffle": False, "seed": 0} | options
    return made.fit(X[rows], Y[rows], sample_weight=weight, **options)


def values(made):
    """All that a training has, as arrays: parameters, running averages, moments."""
    state = made._state()
    average = {} if state.average is None else {"average": state.average}
    own = {"moments": state.moments, **average, **made.model.state_dict()}
    return {name: np.array(value) for name, value in own.items()}


def same_on_all(comm, made):
    """All ranks have the same bits."""
    mine = b"".join(value.tobytes() for value in values(made).values())
    return len(set(comm.allgather((mine, repr(made.history.history))))) == 1


def distance(made, other):
    """The greatest difference of two trainings."""
    a, b = values(made), values(other)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@contextmanager
def raises_everywhere(comm, kind, match):
    """All ranks have the same error, once they have all come this far."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert len(set(comm.allgather(str(caught.value)))) == 1


# ------------------------------------------------------------------------------ the same result

TRAININGS = {
    "momentum": {},
    "no norm": {"norm": False},
    "weights": {"weighted": True},
    "Adam": {"optimizer": minidl.Adam},
    "RMSprop": {"optimizer": minidl.RMSprop},
    "everything": {
        "optimizer": minidl.AdamW, "clip_grad_norm": 0.5, "clip_grad_value": 0.1, "accumulate": 3,
        "ema_decay": 0.9, "weighted": True, "scheduler": minidl.CosineAnnealingLR(EPOCHS),
    },
    "Python": {"loss": squares, "python": True},
    "in parts": {"norm": False, "micro_batch_size": 3, "weighted": True},
    "segments": {"checkpoint": 2},
    "classes": {"loss": minidl.CrossEntropyLoss(weight=[1.0, 2.0, 0.5])},
}  # fmt: skip


def one_training(comm, dtype, *, norm=True, weighted=False, python=False, **options):
    """A training of `TRAININGS`."""
    more = [Half(16, dtype)] if python else []
    if "optimizer" in options:
        options["optimizer"] = options["optimizer"](lr=0.01)
    made = trainer(comm, network(dtype, norm=norm, more=more), **options)
    fit(comm, made, weighted=weighted)
    return made


def same_result(comm, folder):
    """As one process with the batches of all, to 1e-12 after 100 steps; the same bits each time."""
    few = ("everything", "classes") if comm.Get_size() == 4 else TRAININGS
    for name in few:
        options = TRAININGS[name]
        alone, shared = (one_training(c, "float64", **options) for c in (None, comm))
        assert distance(alone, shared) < 1e-12, name
        a, b = alone.history.history, shared.history.history
        assert a.keys() == b.keys()
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-13, err_msg=name)
        assert same_on_all(comm, shared), name
    again = one_training(comm, "float64", **options)
    assert distance(again, shared) == 0


def in_float32(comm, folder):
    """As one process, to rounding."""
    alone, shared = (one_training(c, "float32") for c in (None, comm))
    assert distance(alone, shared) < 1e-4
    assert same_on_all(comm, shared)
    again = one_training(comm, "float32")
    assert distance(again, shared) == 0


def local_statistics(comm, folder):
    """Without sync_batchnorm: other results, the same on all ranks, means of running averages."""
    means = []

    class Look(Callback):
        def on_train_batch_end(self, step, logs):
            if step % 20:  # not the last of an epoch
                means.append(self.trainer.model[1].running_mean.copy())

    shared, together = trainer(comm, sync_batchnorm=False), trainer(comm)
    fit(comm, shared, callbacks=[Look()])
    fit(comm, together)
    assert same_on_all(comm, shared)
    assert len({mean.tobytes() for mean in comm.allgather(means[-1])}) == comm.Get_size()
    assert distance(shared, together) > 1e-6


def large_gradients(comm, folder):
    """A network whose gradients MPI sums in another way: still the same bits on all, each time."""
    made = []
    for _ in range(2):
        model = minidl.Sequential(minidl.Linear(COLUMNS, 300), minidl.Linear(300, 300), seed=1)
        made.append(trainer(comm, model, optimizer=minidl.Adam()))
        fit(comm, made[-1], epochs=1)
        assert same_on_all(comm, made[-1])
    assert made[0].model.store().gradients.nbytes > 300_000
    assert distance(*made) == 0


def one_step(comm, folder):
    """train_step, with as many rows as each rank likes."""
    rank, size = place(comm)
    rows = np.array_split(np.arange(96), np.cumsum([11 + 3 * r for r in range(size - 1)]))[rank]
    alone, shared = (trainer(c, network(norm=False)) for c in (None, comm))
    for made in (alone, shared):
        made.model[2].p = 0.0
    losses = alone.train_step(X[:96], Y[:96]), shared.train_step(X[rows], Y[rows])
    assert abs(losses[0] - losses[1]) < 1e-14
    assert distance(alone, shared) < 1e-14


def state_of_rank_0(comm, folder):
    """Whatever the others begin with, all go on from rank 0: parameters, masks, seeds."""
    made = trainer(comm, network(seed=comm.Get_rank()))
    if comm.Get_rank() == 0:
        made.model[1].running_mean = np.full(16, 2.0)
        made.model[1].num_batches_tracked[...] = 7
    fit(comm, made, epochs=1, seed=None)
    assert same_on_all(comm, made)
    assert made.model[1].num_batches_tracked == 27
    assert len(set(comm.allgather((made.progress.key, made.model[3].key)))) == 1


# ------------------------------------------------------------------------------ data


def parts_of_files(comm, folder):
    """Arrays, memory maps, .npy and Parquet files: the same bits, with a shuffle of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 603
    if comm.Get_rank() == 0:
        np.save(folder / "X.npy", X[:n])
        table = pa.table({f"x{j}": X[:n, j] for j in range(COLUMNS)} | {"y": Y[:n]})
        pq.write_table(table, folder / "rows.parquet", row_group_size=70)
    comm.allgather(None)
    own = distributed.rows(comm, n)
    assert sum(comm.allgather(own.stop - own.start)) == n
    table = distributed.read_parquet(comm, folder / "rows.parquet")
    assert table["y"].to_pylist() == Y[own].tolist()
    file = distributed.part(comm, minidl.NpyFile(folder / "X.npy"))
    assert file.shape == (own.stop - own.start, COLUMNS)
    mapped = np.load(folder / "X.npy", mmap_mode="r")
    labels, found = distributed.part(comm, Y[:n]), []
    for data, y in (
        (distributed.part(comm, X[:n]), labels),
        (distributed.part(comm, mapped), labels),
        (file, labels),
        (table.drop_columns("y"), table["y"]),
    ):
        made = trainer(comm)
        made.fit(data, y, epochs=2, batch_size=16, seed=3)
        assert same_on_all(comm, made)
        found.append(values(made))
    assert all((found[0][k] == other[k]).all() for other in found for k in other)


def uneven_parts(comm, folder):
    """Parts with a row more or less have as many batches; the loss is the mean of all rows."""
    size = comm.Get_size()
    for n in range(20 * size, 21 * size + 1):
        for last_batch in ("merge", "keep"):
            made = trainer(comm, network(norm=False), optimizer=minidl.SGD(lr=0.0))
            made.model[2].p = 0.0
            own = distributed.rows(comm, n)
            history = made.fit(
                X[own], Y[own], epochs=1, batch_size=9, shuffle=False, last_batch=last_batch
            )
            alone = minidl.Trainer(made.model).evaluate(X[:n], Y[:n])
            assert abs(history.history["loss"][0] - alone["loss"]) < 1e-13
            assert history.history["accuracy"][0] == alone["accuracy"]


def batches_of_ones_own(comm, folder):
    """Iterables; those that differ in length end all ranks at the same step, with an error."""
    rows, batch = rows_of_batches(comm)

    def batches(count):
        for start in range(0, count * batch, batch):
            part = rows[start : start + batch]
            yield X[part], Y[part]

    arrays, stream = trainer(comm), trainer(comm)
    fit(comm, arrays, epochs=2)
    stream.fit(lambda: batches(20), epochs=2, seed=0)
    assert distance(arrays, stream) == 0
    made = trainer(comm)
    count = 7 if comm.Get_rank() == 1 else 9
    with pytest.raises(ValueError, match=r"^X: expected as many batches on all ranks"):
        made.fit(lambda: batches(count), epochs=1)
    assert made.step == 6
    with raises_everywhere(comm, ValueError, "^accumulate: expected 1"):
        trainer(comm, accumulate=2).fit(lambda: batches(4), epochs=1)


# ------------------------------------------------------------------------------ results


def validation(comm, folder):
    """Shared out as one likes, and reduced; metrics are those of the outputs of all ranks."""
    metrics = ["auc", "f1"] if folder.name != "plain" else []
    alone, shared = (trainer(c, metrics=metrics) for c in (None, comm))
    parts = np.array_split(np.arange(200), [17, 60, 61][: comm.Get_size() - 1])
    own = parts[comm.Get_rank()]
    data = (X[own], Y[own], WEIGHT[own])
    fit(None, alone, epochs=2, validation_data=(X[:200], Y[:200], WEIGHT[:200]))
    history = fit(comm, shared, epochs=2, validation_data=data).history
    for name, expected in alone.history.history.items():
        np.testing.assert_allclose(history[name], expected, rtol=1e-12, err_msg=name)
    one, all_ = alone.evaluate(X[:200], Y[:200]), shared.evaluate(X[own], Y[own])
    assert one.keys() == all_.keys()
    np.testing.assert_allclose(list(all_.values()), list(one.values()), rtol=1e-12)
    assert same_on_all(comm, shared)


def statistics_of_all(comm, folder):
    """recalibrate_batchnorm: those of the rows of all ranks."""
    alone, shared = trainer(None), trainer(comm)
    alone.recalibrate_batchnorm(X)
    shared.recalibrate_batchnorm(X[distributed.rows(comm, ROWS)], batch_size=50)
    assert distance(alone, shared) < 1e-12 or shared.model[1].num_batches_tracked > 1
    for name in ("running_mean", "running_var"):
        a, b = getattr(alone.model[1], name), getattr(shared.model[1], name)
        np.testing.assert_allclose(b, a, rtol=1e-12)
    assert same_on_all(comm, shared)


def callbacks_decide_alike(comm, folder):
    """EarlyStopping, ReduceLROnPlateau and TimeLimit; a rank that stops; files of rank 0 alone."""
    own = distributed.rows(comm, 100)
    made = trainer(
        comm,
        optimizer=minidl.SGD(lr=1.0),
        scheduler=minidl.ReduceLROnPlateau(monitor="val_loss", patience=1),
    )
    stop = minidl.EarlyStopping(patience=3, restore_best_weights=True)
    log = minidl.CSVLogger(folder / "log.csv")
    saver = minidl.ModelCheckpoint(folder / "{epoch}.safetensors", save_best_only=True)
    labels = RNG.permutation(Y)[:100] if comm.Get_rank() == 0 else None
    labels = comm.bcast(labels)
    fit(
        comm, made, epochs=60, validation_data=(X[own], labels[own]), callbacks=[stop, log, saver]
    )  # fmt: skip
    assert len(made.history) < 60
    assert stop.stopped_epoch == len(made.history) - 1
    assert len(set(comm.allgather((stop.best_epoch, made.lr, saver.best)))) == 1
    assert same_on_all(comm, made)
    lines = (folder / "log.csv").read_text().splitlines()
    assert len(lines) == len(made.history) + 1
    assert minidl.load(saver.last_path).in_features_or_none() == COLUMNS

    made = trainer(comm)
    limit = minidl.TimeLimit(0.2 if comm.Get_rank() == 1 else 1e9)
    fit(comm, made, epochs=10**6, callbacks=[limit])
    assert len(set(comm.allgather(made.step))) == 1
    assert made.stop_training
    assert limit.stopped == (comm.Get_rank() == 1)

    class Enough(Callback):
        def on_train_batch_end(self, step, logs):
            if step == 27 and self.trainer.rank == 1:
                self.trainer.stop_training = True

    made = trainer(comm)
    fit(comm, made, callbacks=[Enough()])
    assert made.step == 28  # the wish goes with the next update
    assert same_on_all(comm, made)


def checkpoints(comm, folder):
    """Go on with another number of ranks at the end of an epoch; within one with as many."""
    whole, path = trainer(comm), folder / "epoch.ckpt"
    fit(comm, whole, epochs=4)
    first = trainer(comm)
    fit(comm, first, epochs=2)
    first.save_checkpoint(path)
    comm.allgather(None)
    for group in (comm, None):
        made = minidl.Trainer.resume(path, comm=group)
        fit(group, made, epochs=2)
        limit = 0 if group is comm else 1e-13
        assert distance(made, whole) <= limit
        assert len(made.history) == 4

    class Stop(Callback):
        def on_train_batch_end(self, step, logs):
            self.trainer.stop_training = step >= 29

    part, path = trainer(comm), folder / "step.ckpt"
    saver = minidl.ModelCheckpoint(path, save_freq=30, checkpoint=True)
    fit(comm, part, epochs=2, callbacks=[Stop(), saver])
    assert part.step == 30
    comm.allgather(None)
    made = minidl.Trainer.resume(path, comm=comm)
    fit(comm, made, epochs=3)
    assert distance(made, whole) == 0
    assert made.history.history == whole.history.history
    other = minidl.Trainer.resume(path)
    with pytest.raises(ValueError, match=r"^comm: expected \d ranks to go on within an epoch"):
        fit(None, other)


# ------------------------------------------------------------------------------ what is wrong


def differences(comm, folder):
    """Found before the first step, with an error that says what differs, and where."""
    rank = comm.Get_rank()
    odd, rows = rank == comm.Get_size() - 1, slice(64)

    def case(match, model=None, options=None, **arguments):
        made = trainer(comm, model, **(options or {}))
        with raises_everywhere(comm, ValueError, match):
            made.fit(X[rows], Y[rows], **{"batch_size": 16} | arguments)
        assert made.step == 0

    last = rf"on rank {comm.Get_size() - 1}$"
    case(f"^batch_size: expected the same.*16 on rank.*; 8 {last}", batch_size=8 if odd else 16)
    case("^dtype: .*float64 on .*; float32 on", network("float32" if odd else "float64"))
    case("^parameters: expected", network(norm=not odd))
    wide = minidl.Sequential(network(), minidl.Tanh() if odd else minidl.ReLU())
    case(r"^model: .*ReLU\(\) on .*Tanh\(\) on", wide)
    case("^optimizer: .*lr=0.1.*lr=0.2", options={"optimizer": minidl.SGD(lr=0.1 + 0.1 * odd)})
    case("^loss: ", options={"loss": minidl.CrossEntropyLoss(label_smoothing=0.1 * odd)})
    case("^scheduler: ", options={"scheduler": minidl.StepLR(2 + odd)})
    case("^accumulate: ", options={"accumulate": 1 + odd})
    case("^sync_batchnorm: ", options={"sync_batchnorm": odd})
    case("^metrics: ", options={"metrics": ["top_2"] if odd else []})
    case("^epochs: ", epochs=1 + odd)
    case("^callbacks: ", callbacks=[minidl.TerminateOnNaN()] if odd else [])
    case("^validation_data: ", validation_data=(X, Y) if odd else None)
    case("^sample_weight: ", sample_weight=WEIGHT[rows] if odd else None)
    case("^micro_batch_size: expected whole batches", options={"micro_batch_size": 5})
    rows = slice(80 if odd else 64)
    case("^batches of X: expected the same on all ranks, got 4 on rank.*; 5 on rank")


def bad_data(comm, folder):
    """What one rank finds at the door is the error of all, and nothing has been changed."""
    bad = X[:64].copy()
    if comm.Get_rank() == 1:
        bad[5, 2] = np.nan
    made = trainer(comm)
    before = values(made)
    with raises_everywhere(comm, ValueError, "^X: expected finite numbers.*row 5") as caught:
        made.fit(bad, Y[:64])
    notes = getattr(caught.value, "__notes__", [])
    assert notes == ([] if comm.Get_rank() == 1 else [f"on rank 1 of {comm.Get_size()}"])
    assert made.step == 0
    assert all((before[name] == value).all() for name, value in values(made).items())
    fit(comm, made, epochs=1)  # as if nothing had happened


def not_finite(comm, folder):
    """A loss that is infinite on one rank ends all, at the same step, with the last good epoch."""

    def loss(prediction, y):
        value, gradient = squares(prediction, y)
        return (np.inf if len(seen) == 45 and comm.Get_rank() == 1 else value), gradient

    seen = []

    class Taken(Callback):
        def on_not_finite(self, error):
            return True

    class Count(Callback):
        def on_train_batch_end(self, step, logs):
            seen.append(logs["loss"])

    good, made = trainer(comm, loss=squares), trainer(comm, loss=loss)
    good.loss = made.loss
    fit(comm, good, epochs=2)
    with raises_everywhere(
        comm, minidl.NonFiniteError, r"^the loss became.*epoch 2, step 45 on rank 1, first in the l"
    ):
        fit(comm, made, callbacks=[Count()])
    assert len(made.history) == 2
    assert distance(made, good) == 0
    assert same_on_all(comm, made)
    made = trainer(comm, optimizer=minidl.SGD(lr=1e200), loss=squares)
    fit(comm, made, callbacks=[Taken()])
    assert made.stop_training
    assert len(made.history) == 0


def come_apart(comm, folder):
    """Ranks whose parameters differ are found at the end of the epoch."""

    class Spoil(Callback):
        def on_epoch_end(self, epoch, logs):
            if self.trainer.rank == 1 and epoch == 1:
                self.trainer.model[0].weight[0, 0] += 1

    made = trainer(comm)
    with raises_everywhere(comm, RuntimeError, "^comm: the parameters of rank 1 are no longer"):
        fit(comm, made, callbacks=[Spoil()])
    assert made.epoch == 2


def everybody_fails(comm, folder):
    """An error that all ranks have is raised, and they go on."""

    class Fail(Callback):
        def on_epoch_end(self, epoch, logs):
            raise KeyError("everywhere")

    made = trainer(comm)
    with raises_everywhere(comm, KeyError, "everywhere"):
        fit(comm, made, callbacks=[Fail()])
    fit(comm, made, epochs=1)
    assert same_on_all(comm, made)


CASES = {
    case.__name__: case
    for case in (
        same_result, in_float32, large_gradients, local_statistics, one_step, state_of_rank_0,
        parts_of_files, uneven_parts, batches_of_ones_own, validation, statistics_of_all,
        callbacks_decide_alike, checkpoints, differences, bad_data, not_finite, come_apart,
        everybody_fails,
    )
}  # fmt: skip

# ------------------------------------------------------------------------------ the end of all


def raises(comm, folder):
    """A callback of one rank fails."""

    class Fail(Callback):
        def on_epoch_end(self, epoch, logs):
            if comm.Get_rank() == 1:
                raise RuntimeError("only here")

    fit(comm, trainer(comm), callbacks=[Fail()])


def killed(comm, folder):
    """A process goes away."""

    class Die(Callback):
        def on_train_batch_end(self, step, logs):
            if comm.Get_rank() == 1 and step == 30:
                os.kill(os.getpid(), 9)

    fit(comm, trainer(comm), epochs=10**6, callbacks=[Die()])


def meets_bad_rows(comm, folder):
    """A file of one rank has a bad row, which is found when it is read."""
    data = X.copy()
    data[600, 3] = np.inf
    path = folder / f"{comm.Get_rank()}.npy"
    np.save(path, data if comm.Get_rank() == 1 else X)
    trainer(comm).fit(minidl.NpyFile(path), Y, epochs=3)


def fails_outside(comm, folder):
    """An error that has nothing to do with training."""
    if comm.Get_rank() == 1:
        raise RuntimeError("before training")
    fit(comm, trainer(comm))


FAULTS = {f.__name__: f for f in (raises, killed, meets_bad_rows, fails_outside)}

if __name__ == "__main__":
    world = distributed.world()
    place_of_files, *names = sys.argv[1:]
    distributed.PATIENCE = 0.5
    for name in names or CASES:
        own = Path(place_of_files, name)
        own.mkdir(exist_ok=True)
        (CASES | FAULTS)[name](world, own)
        if world.Get_rank() == 0:
            print(name, flush=True)
