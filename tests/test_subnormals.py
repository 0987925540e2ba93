"""Subnormal numbers keep their value: in the user's threads, in OpenMP's, and in minidl's results.

Some libraries switch them off for a whole process when they are loaded, or for the threads they
have used (the bits FTZ and DAZ of the MXCSR register, which is a thread's own). What training costs
on subnormal numbers is measured by `benchmarks/subnormals.py`.
"""

import threading

import numpy as np
import pytest
from helpers import DTYPES, OPENMP, THREADS, dtypes, in_dtype, optimizers, python, same_bits

import minidl


def kept():
    """Whether this thread takes and gives subnormal numbers, in Python and in NumPy's vectors."""
    least = float.fromhex("0x1p-1074")
    right = [least * 3.0 == float.fromhex("0x3p-1074"), least + 0.0 == least, least / 2.0 == 0.0]
    for dtype in DTYPES:
        info = np.finfo(dtype)
        small = np.full(67, info.smallest_subnormal)
        with np.errstate(under="ignore"):
            normal = small * dtype_of(dtype, 2.0**info.nmant)  # from a subnormal number
            again = normal * dtype_of(dtype, 2.0**-info.nmant)  # to one
        right += [(normal == info.tiny).all(), same_bits(again, small), (small > 0).all()]
    return all(map(bool, right))


def dtype_of(dtype, value):
    return np.dtype(dtype).type(value)


def train(dtype="float32", threads=2, epochs=3):
    """A training in which all kinds of operations run, on subnormal numbers too."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(130, 6)).astype(dtype)
    X[:, 2:4] *= dtype_of(dtype, {"float32": 1e-40, "float64": 1e-310}[dtype])
    model = minidl.Sequential(
        minidl.Linear(6, 16), minidl.BatchNorm1d(16), minidl.GELU(), minidl.Dropout(0.1),
        minidl.LayerNorm(16), minidl.Softmax(), minidl.Linear(16, 3), dtype=dtype, seed=0,
    )  # fmt: skip
    with minidl.set_num_threads(threads):
        trainer = minidl.Trainer(model, optimizer=minidl.Adam())
        trainer.fit(X, np.arange(130) % 3, epochs=epochs, batch_size=64, seed=0, verbose=0)
        model.predict(X)


@pytest.mark.parametrize("threads", THREADS)
@dtypes
def test_in_the_thread_that_trained(threads, dtype):
    assert kept()
    train(dtype, threads)
    assert kept()


def test_in_other_threads_of_the_users():
    """In one that was there before, in one that trained, in one that began afterwards."""
    begin, found = threading.Event(), {}

    def early():
        begin.wait(60)
        found["early"] = kept()

    def worker():
        train()
        found["worker"] = kept()

    first, second = threading.Thread(target=early), threading.Thread(target=worker)
    first.start(), second.start()
    second.join(60)
    begin.set()
    first.join(60)
    late = threading.Thread(target=lambda: found.update(late=kept()))
    late.start()
    late.join(60)
    assert found == {"early": True, "worker": True, "late": True}


def test_while_another_thread_trains():
    done, found = threading.Event(), []

    def work():
        train(epochs=200)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        found.append(kept())
    worker.join(60)
    found.append(kept())
    assert all(found)


IMPORT = """
import numpy as np
def kept():
    small = np.full(9, np.finfo(np.float32).smallest_subnormal)
    return bool((small * np.float32(3) > small).all()) and 5e-324 * 3.0 > 5e-324
print(kept())
import minidl
print(kept())
import minidl.sklearn, minidl.cli, minidl.export
from minidl.kernels import program, loss, optimizer
print(kept())
"""


def test_after_the_import():
    assert python("-c", IMPORT).stdout.split() == ["True"] * 3


# OpenMP gives a team the threads that minidl's programs had: each is asked in its own.
TEAM = """
import ctypes, re, threading
from minidl.lowering import plan
plan.WORK_PER_THREAD = 0
from test_subnormals import kept, train
with open("/proc/self/maps") as file:
    mapped = {line.split()[-1] for line in file}
(library,) = (path for path in mapped if re.search(r"/lib(gomp|omp|iomp5)[^/]*so", path))
found = {}
def ask(_):
    found[threading.get_native_id()] = kept()
start = ctypes.CDLL(library).GOMP_parallel
ask = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ask)
start.argtypes = [type(ask), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
start(ask, None, 3, 0)
before = dict(found)
train(threads=3)
train("float64", threads=3)
found.clear()
start(ask, None, 3, 0)
print(len(found), len(set(before) & set(found)) > 1, all(before.values()), all(found.values()))
"""


@pytest.mark.skipif(not OPENMP, reason="serial build")
def test_in_openmp_threads():
    assert python("-c", TEAM).stdout.split() == ["3", "True", "True", "True"]


# ------------------------------------------------------------------------- in minidl's results


@pytest.mark.parametrize("threads", THREADS)
@dtypes
@pytest.mark.parametrize(
    "layer",
    [minidl.Identity, minidl.Flatten, minidl.ReLU, minidl.LeakyReLU, minidl.Tanh, minidl.PReLU,
     lambda: minidl.Dropout(0.0), lambda: minidl.Linear(8, 8, bias=False)],
    ids=["Identity", "Flatten", "ReLU", "LeakyReLU", "Tanh", "PReLU", "Dropout", "Linear"],
)  # fmt: skip
def test_layers_that_leave_small_numbers_as_they_are(layer, threads, dtype):
    """To the bit, and after a training; rows enough for all threads."""
    train(dtype, threads, epochs=1)
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    x = (rng.integers(1, 2**20, (259, 8)) * info.smallest_subnormal).astype(dtype)
    assert (x < info.tiny).all()
    layer = in_dtype(layer(), dtype)
    if isinstance(layer, minidl.Linear):
        layer.weight = np.eye(8)
    with minidl.set_num_threads(threads):
        assert same_bits(layer(x), x)
        assert same_bits(layer.backward(x), x)
        assert same_bits(layer.predict(x), x)


@optimizers
@dtypes
def test_updates_of_and_by_subnormal_numbers(optimizer, dtype):
    """Weights that are subnormal move as others do: with a rate of 1, SGD's exactly."""
    info = np.finfo(dtype)
    layer = minidl.Linear(4, 1, bias=False, dtype=dtype)
    weight = np.array([[1, 2, 3, 4]]) * info.smallest_subnormal
    layer.weight = weight
    layer.gradients()[0][...] = 0
    own = optimizer.make()
    own.weight_decay = 0.0
    own.step(layer)
    assert same_bits(layer.weight.copy(), weight.astype(dtype))  # a gradient of 0 changes nothing
    if optimizer.name == "SGD" and optimizer.params == {"lr": 0.05}:
        own.lr = 1.0
        layer.gradients()[0][...] = info.smallest_subnormal
        own.step(layer)
        expected = np.array([[0, 1, 2, 3]]) * info.smallest_subnormal
        assert same_bits(layer.weight.copy(), expected.astype(dtype))


def test_what_training_leaves_in_the_moments_of_dead_units():
    """Adam's averages of gradients that are 0 from now on fade to subnormal numbers, not to 0."""
    model = minidl.Sequential(minidl.Linear(2, 2, seed=0))
    trainer = minidl.Trainer(model, minidl.MSELoss(), minidl.Adam(lr=0.0))
    X = np.zeros((4, 2), np.float32)
    trainer.train_step(X + 1, X)
    for _ in range(3):
        trainer.fit(X, model.predict(X), epochs=100, verbose=0)
    first = model[0].named_parameters()[0][1].view(trainer.optimizer._state.moments[0])
    assert (np.abs(first) > 0).all()
