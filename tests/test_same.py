"""The same seed gives the same bits: in every run, with any number of threads, in every process,
from every kind of data, stopped and resumed; and at every CPU level the same within some ULPs.

The trainings are one for each layer, loss, optimizer and schedule of the lists in `helpers.py`;
`test_random_networks.py` has the same promises for networks at random, `test_fit_data.py` for all
kinds of data, `test_checkpoint.py` for all that a training may have.
"""

import hashlib
import itertools
import json

import numpy as np
import pytest
from helpers import (
    ALL_LAYERS,
    DTYPES,
    LOSSES,
    OPENMP,
    OPTIMIZERS,
    SCHEDULES,
    THREADS,
    dtypes,
    inputs,
    make_schedule,
    positive,
    python,
)

import minidl
from minidl import kernels
from minidl.data import blocks

ROWS, COLUMNS, OUTPUTS, BATCH, EPOCHS, SEED = 45, 5, 4, 8, 2, 3
TRAININGS = range(max(len(ALL_LAYERS), len(LOSSES), len(OPTIMIZERS), len(SCHEDULES)))
trainings = pytest.mark.parametrize("number", TRAININGS)
# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")


def of(listed, number):
    """One of a list; a short list begins again."""
    return listed[number % len(listed)]


def model_of(number, dtype):
    """The layer, first in a network, since Embedding must be."""
    layer = of(list(ALL_LAYERS.values()), number)(COLUMNS)
    last = [minidl.Softplus()] if of(LOSSES, number).predictions is positive else []
    return minidl.Sequential(
        layer, minidl.Linear(layer.output_features(COLUMNS), 9), minidl.Tanh(),
        minidl.BatchNorm1d(9), minidl.Dropout(0.2), minidl.Linear(9, OUTPUTS), *last,
        dtype=dtype, seed=number,
    )  # fmt: skip


def data_of(number, dtype):
    """X and y."""
    rng = np.random.default_rng(number)
    X = inputs(model_of(number, dtype), rng, ROWS, COLUMNS, dtype)
    y = of(LOSSES, number).targets(rng, ROWS, OUTPUTS)
    return X, y if y.dtype.kind == "i" else y.astype(dtype)


def trainer_of(number, dtype):
    """A trainer; schedules count steps."""
    return minidl.Trainer(
        model_of(number, dtype),
        of(LOSSES, number).make(OUTPUTS),
        of(OPTIMIZERS, number).make(),
        scheduler=make_schedule(of(SCHEDULES, number), interval="step"),
    )


def fit(trainer, X, y, epochs=EPOCHS, **options):
    options = {"batch_size": BATCH, "seed": SEED, "total_epochs": 1000, "verbose": 0} | options
    trainer.fit(X, y, epochs=epochs, **options)
    return trainer


def bits(trainer):
    """All that a training leaves, as one hash."""
    state = trainer.optimizer.state_for(trainer.model)
    arrays = [*trainer.model.state_dict().values(), state.moments]
    found = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
    found.update(np.array(trainer.history.history["loss"]).tobytes())
    return found.hexdigest()


def trained(number, dtype, **options):
    """The bits of a training from arrays."""
    return bits(fit(trainer_of(number, dtype), *data_of(number, dtype), **options))


def all_trained(threads):
    """Of every training."""
    with minidl.set_num_threads(threads):
        return [trained(number, dtype) for number in TRAININGS for dtype in DTYPES]


@pytest.fixture(scope="module")
def expected():
    """What all others must give."""
    return all_trained(1)


# ------------------------------------------------------------------------------- the same bits


@pytest.fixture
def one_thread():
    """Where threads are not what is tried: they wait for each other, and others for them."""
    with minidl.set_num_threads(1):
        yield


@pytest.mark.parametrize("threads", THREADS)
def test_every_run_and_number_of_threads(threads, expected):
    assert all_trained(threads) == expected
    assert len(set(expected)) == len(expected)


PROCESS = """
import json
from minidl.lowering import plan
plan.WORK_PER_THREAD = 0
from test_same import all_trained
print(json.dumps(all_trained({threads})))
"""


@pytest.mark.parametrize(
    ("threads", "environment"),
    [
        (None, {}),
        (2 if OPENMP else 1, {"PYTHONHASHSEED": "1"}),
        (None, {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "2", "MALLOC_PERTURB_": "170"}),
    ],
)
def test_every_process(threads, environment, expected):
    """Whatever the environment says, and whatever its memory held before."""
    done = python("-c", PROCESS.format(threads=threads), environment=environment)
    assert json.loads(done.stdout) == expected


class Stop(minidl.Callback):
    """Ends a training after a step, wherever in an epoch that is."""

    every = 1

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, step, logs):
        self.trainer.stop_training = self.trainer.step == self.step


def small_blocks(monkeypatch):
    """Blocks of two batches."""
    for name in ("BLOCK", "SCATTERED"):
        monkeypatch.setattr(blocks, name, 2 * BATCH * COLUMNS * 4)


@trainings
def test_every_kind_of_data(number, tmp_path, monkeypatch, one_thread):
    """An array in any layout, a memory map block by block, a file; batches, which come in order."""
    dtype = of(DTYPES, number)
    X, y = data_of(number, dtype)
    wanted, in_order = trained(number, dtype), trained(number, dtype, shuffle=False)
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    assert bits(fit(trainer_of(number, dtype), wide, y)) == wanted
    np.save(tmp_path / "X.npy", X)
    small_blocks(monkeypatch)
    for there in (np.load(tmp_path / "X.npy", mmap_mode="r"), minidl.NpyFile(tmp_path / "X.npy")):
        assert bits(fit(trainer_of(number, dtype), there, y)) == wanted
        assert bits(fit(trainer_of(number, dtype), there, y, shuffle=False)) == in_order
    edges = itertools.pairwise([*range(0, ROWS, BATCH), ROWS])
    batches = [(X[a:b], y[a:b]) for a, b in edges]
    assert bits(fit(trainer_of(number, dtype), batches, None)) == in_order
    assert bits(fit(trainer_of(number, dtype), lambda: iter(batches), None)) == in_order


@trainings
def test_stopped_and_resumed(number, tmp_path, one_thread):
    """After a step within the first epoch, and after one within the second."""
    dtype = of(DTYPES, number)
    X, y = data_of(number, dtype)
    trainer = trainer_of(number, dtype)
    own = trainer.scheduler if "half" in str(of(SCHEDULES, number)) else None
    for step in (2, 8):
        fit(trainer, X, y, EPOCHS - trainer.epoch, callbacks=[Stop(step)])
        assert trainer.step == step
        trainer.save_checkpoint(tmp_path / "c")
        trainer = minidl.Trainer.resume(tmp_path / "c", scheduler=own)
    fit(trainer, X, y, EPOCHS - trainer.epoch)
    assert bits(trainer) == trained(number, dtype)


# ------------------------------------------------------------- at every CPU level, within ULPs

# The largest difference from the highest level that this CPU runs, in units in the last place of an
# array's largest element. x86-64-v2 has no fused multiply-adds, x86-64-v3 shorter vectors, and so
# other orders of some sums. Found on a Zen 4, against x86-64-v4, in all trainings and both dtypes:
# 6, 12, 352 and 80; 0.8, 0, 20 and 56. Gradients of biases before BatchNorm are small sums of large
# terms. Below x86-64-v4, CPUs have estimates of roots of their own: hence room, by about 2.
ULPS = {
    "x86-64-v2": {"output": 12, "loss": 24, "gradient": 700, "trained": 160},
    "x86-64-v3": {"output": 2, "loss": 1, "gradient": 40, "trained": 120},
}


def write(path):
    """For the level of this process: outputs, losses and gradients of a pass, and states."""
    found = {}
    for number, dtype in itertools.product(TRAININGS, DTYPES):
        X, y = data_of(number, dtype)
        model, loss = model_of(number, dtype), of(LOSSES, number).make(OUTPUTS)
        output = model(X)
        value = loss(output, y)
        model.backward(loss.backward())
        arrays = {"output": output, "loss": np.array([value], dtype)}
        for i, gradient in enumerate(model.gradients()):
            arrays[f"gradient {i}"] = gradient
        for name, array in fit(trainer_of(number, dtype), X, y).model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                arrays[f"trained {name}"] = array
        found |= {f"{number} {dtype} {name}": array for name, array in arrays.items()}
    np.savez(path, **found)


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """What each level gives."""
    found = {}
    for level in kernels.LEVELS_SUPPORTED:
        path = tmp_path_factory.mktemp("levels") / f"{level}.npz"
        code = f"from test_same import write; write({str(path)!r})"
        python("-c", code, environment={"MINIDL_ISA": level, "OMP_NUM_THREADS": "1"})
        with np.load(path) as arrays:
            found[level] = dict(arrays)
    return found


@pytest.mark.parametrize("level", kernels.LEVELS_SUPPORTED[:-1])
@pytest.mark.parametrize("kind", ["output", "loss", "gradient", "trained"])
@dtypes
def test_every_level(level, kind, dtype, levels):
    one, other = levels[level], levels[kernels.LEVELS_SUPPORTED[-1]]
    assert one.keys() == other.keys()
    worst = {}
    for name, array in other.items():
        _, of_dtype, of_kind, *_ = name.split()
        if (of_dtype, of_kind) == (dtype, kind) and array.size:
            unit = np.spacing(np.maximum(np.abs(array).max(), np.finfo(dtype).tiny))
            error = np.abs(one[name].astype(np.longdouble) - array).max() / unit
            worst[name] = float(error)
    name = max(worst, key=worst.get)
    assert worst[name] <= ULPS[level][kind], f"{name}: {worst[name]:.1f} ULPs"
