"""The compiled loop does what its layers do one by one, to the bit, and allocates nothing."""

import ctypes
import gc
import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import loop
from minidl.kernels.random import permutation

OPENMP = minidl.get_config()["openmp"]
THREADS = [1, 2] if OPENMP else [1]
ROWS, FEATURES, OUTPUTS, BATCH, SEED = 61, 7, 3, 20, 11  # 61 = 20 + 20 + 21: a row joins the last


class Scale(minidl.Layer):
    """A layer of the user's, in Python."""

    def __init__(self, features):
        super().__init__()
        self.add_parameter("scale", np.linspace(0.5, 1.5, features))

    def forward(self, x):
        self.x = np.array(x)
        return x * self.scale

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x).sum(axis=0)
        return dy * self.scale


ACTIVATIONS = {
    "Identity": minidl.Identity,
    "ReLU": minidl.ReLU,
    "LeakyReLU": minidl.LeakyReLU,
    "ELU": minidl.ELU,
    "Tanh": minidl.Tanh,
    "Sigmoid": minidl.Sigmoid,
    "SiLU": minidl.SiLU,
    "GELU": minidl.GELU,
    "GELU tanh": lambda: minidl.GELU("tanh"),
    "Softplus": minidl.Softplus,
}

# Each is a list of layers from FEATURES to OUTPUTS columns.
MODELS = {
    "linear": lambda: [minidl.Linear(FEATURES, OUTPUTS)],
    "no bias": lambda: [
        minidl.Linear(FEATURES, 18, bias=False),
        minidl.ReLU(),
        minidl.Linear(18, OUTPUTS),
    ],
    "linear after linear": lambda: [minidl.Linear(FEATURES, 33), minidl.Linear(33, OUTPUTS)],
    "activation first": lambda: [minidl.Tanh(), minidl.Linear(FEATURES, OUTPUTS)],
    "activation last": lambda: [minidl.Linear(FEATURES, OUTPUTS), minidl.Tanh()],
    "activation after activation": lambda: [
        minidl.Linear(FEATURES, 9),
        minidl.SiLU(),
        minidl.Tanh(),
        minidl.Linear(9, OUTPUTS),
    ],
    "batchnorm first": lambda: [
        minidl.BatchNorm1d(FEATURES),
        minidl.Linear(FEATURES, OUTPUTS),
    ],
    "batchnorm last": lambda: [minidl.Linear(FEATURES, OUTPUTS), minidl.BatchNorm1d(OUTPUTS)],
    "batchnorm after activation": lambda: [
        minidl.Linear(FEATURES, 17),
        minidl.ReLU(),
        minidl.BatchNorm1d(17),
        minidl.Linear(17, OUTPUTS),
    ],
    "dropout": lambda: [
        minidl.Linear(FEATURES, 40),
        minidl.ReLU(),
        minidl.Dropout(0.3),
        minidl.Linear(40, OUTPUTS),
    ],
    "dropout first and last": lambda: [
        minidl.Dropout(0.1),
        minidl.Linear(FEATURES, OUTPUTS),
        minidl.Dropout(0.1),
    ],
    "all": lambda: [
        minidl.Linear(FEATURES, 70),
        minidl.BatchNorm1d(70),
        minidl.GELU(),
        minidl.Dropout(0.2),
        minidl.Linear(70, 20),
        minidl.BatchNorm1d(20),
        minidl.ELU(),
        minidl.Linear(20, OUTPUTS),
    ],
    "nested": lambda: [
        minidl.Sequential(minidl.Linear(FEATURES, 8), minidl.BatchNorm1d(8), minidl.SiLU()),
        minidl.Sequential(minidl.Linear(8, OUTPUTS)),
    ],
    "user layer": lambda: [
        minidl.Linear(FEATURES, 12),
        Scale(12),
        minidl.ReLU(),
        minidl.Linear(12, OUTPUTS),
    ],
    **{
        f"linear and {name}": lambda a=a: [
            minidl.Linear(FEATURES, 19),
            a(),
            minidl.Linear(19, OUTPUTS),
        ]
        for name, a in ACTIVATIONS.items()
    },
    **{
        f"batchnorm and {name}": lambda a=a: [
            minidl.Linear(FEATURES, 19),
            minidl.BatchNorm1d(19),
            a(),
            minidl.Linear(19, OUTPUTS),
        ]
        for name, a in ACTIVATIONS.items()
    },
}


def squared_error(prediction, y):
    """MSELoss in numpy."""
    error = prediction - y
    return float(np.mean(error.astype(np.float64) ** 2)), 2 * error / error.size


def labels(rng):
    return rng.integers(0, OUTPUTS, ROWS)


def probabilities(rng):
    p = rng.random((ROWS, OUTPUTS))
    return p / p.sum(axis=1, keepdims=True)


def numbers(rng):
    return rng.normal(size=(ROWS, OUTPUTS))


def bits(rng):
    return rng.integers(0, 2, (ROWS, OUTPUTS))


LOSSES = {
    "cross-entropy": (minidl.CrossEntropyLoss, labels),
    "cross-entropy of probabilities": (minidl.CrossEntropyLoss, probabilities),
    "squared error": (minidl.MSELoss, numbers),
    "binary cross-entropy": (minidl.BCEWithLogitsLoss, bits),
}

OPTIMIZERS = {
    "SGD": lambda: minidl.SGD(lr=0.05),
    "SGD momentum": lambda: minidl.SGD(lr=0.05, momentum=0.9),
    "SGD nesterov": lambda: minidl.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda: minidl.Adam(lr=0.01),
    "Adam decay": lambda: minidl.Adam(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6),
    "AdamW": lambda: minidl.AdamW(lr=0.01),
}


def sequential(kind, dtype):
    return minidl.Sequential(*MODELS[kind](), dtype=dtype, seed=5)


def data(make_targets=labels):
    rng = np.random.default_rng(3)
    return rng.normal(size=(ROWS, FEATURES)), make_targets(rng)


def batches(rows, batch_size, seed, epoch):
    """The batches of an epoch of `fit`, as indices of rows."""
    key = int(np.random.default_rng(seed).integers(2**63))
    order = permutation(rows, key, epoch)
    starts = list(range(0, rows, batch_size))
    if len(starts) > 1 and rows - starts[-1] == 1 and batch_size > 1:
        starts.pop()
    return [order[a:b] for a, b in zip(starts, [*starts[1:], rows], strict=True)]


def leaves(layer):
    """All layers that hold no others."""
    return (
        [leaf for child in layer for leaf in leaves(child)]
        if isinstance(layer, minidl.Sequential)
        else [layer]
    )


def by_hand(model, loss, optimizer, X, y, epochs):
    """The loop of `fit`, layer by layer."""
    X = X.astype(model.dtype)
    model.train()
    means = []
    for epoch in range(epochs):
        total = 0.0
        for rows in batches(len(X), BATCH, SEED, epoch):
            h = X[rows]
            for layer in leaves(model):
                h = layer.forward(h)
            total += loss.forward(h, y[rows]) * len(rows)
            d = loss.backward()
            for layer in reversed(leaves(model)):
                d = layer.backward(d)
            optimizer.step(model)
        means.append(total / len(X))
    return means


def assert_same_bits(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert one[name].tobytes() == two[name].tobytes(), name


def assert_program_is_its_layers(kind, loss, optimizer, targets, dtype, threads):
    X, y = data(targets)
    fitted, walked = sequential(kind, dtype), sequential(kind, dtype)
    before = fitted.state_dict()
    with minidl.set_num_threads(threads):
        history = minidl.Trainer(fitted, loss(), optimizer()).fit(
            X, y, epochs=2, batch_size=BATCH, seed=SEED, verbose=0
        )
        means = by_hand(walked, loss(), optimizer(), X, y, epochs=2)
    after = fitted.state_dict()
    assert any(after[name].tobytes() != before[name].tobytes() for name in after)
    assert_same_bits(after, walked.state_dict())
    np.testing.assert_allclose(history.history["loss"], means, rtol=1e-12)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", MODELS)
def test_an_epoch_is_its_layers_one_by_one(kind, dtype, threads):
    assert_program_is_its_layers(
        kind, minidl.CrossEntropyLoss, OPTIMIZERS["Adam"], labels, dtype, threads
    )


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_epoch_is_its_layers_for_every_loss(loss, dtype, threads):
    make, targets = LOSSES[loss]
    assert_program_is_its_layers("all", make, OPTIMIZERS["Adam"], targets, dtype, threads)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["all", "user layer"])
def test_an_epoch_is_its_layers_for_every_optimizer(kind, optimizer, dtype, threads):
    assert_program_is_its_layers(
        kind, minidl.CrossEntropyLoss, OPTIMIZERS[optimizer], labels, dtype, threads
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_forward_and_backward_is_its_layers_one_by_one(kind, dtype):
    """Sequential's own forward and backward too, with the gradient of the input."""
    X, _ = data()
    X = X.astype(dtype)
    whole, walked = sequential(kind, dtype), sequential(kind, dtype)
    y, h = whole.forward(X), X
    for layer in leaves(walked):
        h = layer.forward(h)
    assert y.tobytes() == h.tobytes()
    d = np.random.default_rng(1).normal(size=y.shape).astype(dtype)
    dx = whole.backward(d)
    for layer in reversed(leaves(walked)):
        d = layer.backward(d)
    assert dx.tobytes() == d.tobytes()
    for a, b in zip(whole.gradients(), walked.gradients(), strict=True):
        assert a.any()
        np.testing.assert_array_equal(a, b)


def fit(X, y, *, threads=1, dtype="float32", batch_size=BATCH, kind="all", seed=SEED):
    model = sequential(kind, dtype)
    with minidl.set_num_threads(threads):
        history = minidl.Trainer(model).fit(
            X, y, epochs=3, batch_size=batch_size, seed=seed, verbose=0
        )
    return model.state_dict(), history.history


@pytest.mark.skipif(not OPENMP, reason="serial build")
@pytest.mark.parametrize("batch_size", [BATCH, ROWS, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_every_number_of_threads_gives_the_same_bits(threads, dtype, batch_size):
    one, history = fit(*data(), dtype=dtype, batch_size=batch_size)
    more, same = fit(*data(), dtype=dtype, batch_size=batch_size, threads=threads)
    assert_same_bits(one, more)
    assert history == same


@pytest.mark.skipif(not OPENMP, reason="serial build")
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_a_large_batch_gives_the_same_bits_on_every_number_of_threads(threads):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1500, FEATURES)), rng.integers(0, OUTPUTS, 1500)
    one, _ = fit(X, y, batch_size=700)
    more, _ = fit(X, y, batch_size=700, threads=threads)
    assert_same_bits(one, more)


def strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, strided, lambda X: X[::-1].copy()[::-1], lambda X: X.astype(object).astype(
        X.dtype), lambda X: X.tolist(), lambda X: X[:, ::-1].copy()[:, ::-1]],
    ids=["Fortran", "strided", "reversed rows", "copied", "list", "reversed columns"],
)  # fmt: skip
def test_every_layout_gives_the_same_bits(layout, dtype):
    X, y = data()
    X = X.astype(dtype)
    assert_same_bits(fit(X, y, dtype=dtype)[0], fit(layout(X), y, dtype=dtype)[0])


@pytest.mark.parametrize("threads", THREADS)
def test_two_runs_give_the_same_bits_and_another_seed_does_not(threads):
    one, first = fit(*data(), threads=threads)
    two, second = fit(*data(), threads=threads)
    assert_same_bits(one, two)
    assert first == second
    other, _ = fit(*data(), threads=threads, seed=SEED + 1)
    assert other["0.weight"].tobytes() != one["0.weight"].tobytes()


def test_training_by_hand_keeps_the_state_of_the_optimizer():
    """Calling a layer by itself does not move its parameters away from the model's."""
    model = sequential("all", "float32")
    store = model.store()
    model[0].forward(np.ones((4, FEATURES)))
    assert model.store() is store
    assert model[0].parameters()[0].base is not None
    assert np.shares_memory(model[0].parameters()[0], model.parameters()[0])


def test_optimizer_step_on_a_part_leaves_the_rest_alone():
    model = sequential("linear after linear", "float32")
    y = model.forward(np.ones((4, FEATURES)))
    model.backward(np.ones_like(y))
    before = model.state_dict()
    minidl.SGD(lr=0.1).step(model[1])
    after = model.state_dict()
    assert after["0.weight"].tobytes() == before["0.weight"].tobytes()
    assert after["1.weight"].tobytes() != before["1.weight"].tobytes()


# Memory.


def peak(trainer, X, y):
    """Python's (and numpy's) largest use of memory during an epoch."""
    gc.collect()
    tracemalloc.start()
    try:
        trainer.fit(X, y, batch_size=10, shuffle=False, seed=0, verbose=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_times_the_steps_allocate_no_more(dtype, threads, monkeypatch):
    """The rows are taken from one array, so that nothing but the number of steps differs.

    Python looks after the program every so often, and takes some bytes for it: not here, where
    how often depends on what else the machine does.
    """
    monkeypatch.setattr(loop, "SLICE", 60.0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10000, FEATURES)).astype(dtype)
    y = rng.integers(0, OUTPUTS, 10000)
    with minidl.set_num_threads(threads):
        trainer = minidl.Trainer(sequential("all", dtype))
        peak(trainer, X, y)  # the program is made once
        few, many = peak(trainer, X[:1000], y[:1000]), peak(trainer, X, y)
    assert many <= few + 1024  # bytes; 900 more steps


def test_shuffling_costs_one_index_a_row():
    X, y = np.zeros((20000, FEATURES), np.float32), np.zeros(20000, np.int64)
    trainer = minidl.Trainer(sequential("linear", "float32"))
    trainer.fit(X, y, verbose=0)
    gc.collect()
    tracemalloc.start()
    trainer.fit(X, y, verbose=0)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 8 * len(X) <= used <= 8 * len(X) + 40000


class Mallinfo2(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def malloc_in_use():
    """Bytes that malloc has given out in this process (its main arena and mmap)."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("no glibc of 2.33 or newer")
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


@pytest.mark.parametrize("threads", THREADS)
def test_nothing_grows_over_many_fits(threads):
    X, y = data()
    X = X.astype(np.float32)
    trainer = minidl.Trainer(sequential("all", "float32"))

    def use():
        for _ in range(20):
            trainer.fit(X, y, epochs=2, batch_size=BATCH, seed=0, verbose=0)
            trainer.evaluate(X, y)
            trainer.train_step(X, y)
            trainer.model.predict(X)
        trainer.history = minidl.History()  # which grows with the epochs
        gc.collect()
        return malloc_in_use()

    if minidl.get_config()["sanitizers"]:
        pytest.skip("sanitizers replace malloc")
    with minidl.set_num_threads(threads):
        use()
        first = use()
        growth = [use() - first for _ in range(3)]
    assert min(growth) < 50 * 64  # less than a cache line a turn; one leaked buffer is far more


def test_a_discarded_model_is_freed():
    X, y = data()
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(6):
            model = sequential("all", "float64")
            trainer = minidl.Trainer(model)
            trainer.fit(X, y, epochs=1, verbose=0)
            model.predict(X)
            del model, trainer
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[1] < 20000
