"""Buffers that share memory, activations that are recomputed, batches in parts: the same numbers.

What a buffer holds before it is written is NaN here, so that nothing may be read that stands there
by chance; and memory counts from the first byte on, so that all is let go as soon as may be.
"""

import itertools

import numpy as np
import pytest
from helpers import DTYPES, THREADS, parallel, same_bits
from test_same import TRAININGS, data_of, fit, trainer_of

import minidl
from minidl.callbacks import GradientMonitor
from minidl.lowering import BatchProgram, Plan, placement
from minidl.lowering import plan as plan_module

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
threads = pytest.mark.parametrize("count", THREADS[:3])


@pytest.fixture(autouse=True)
def memory_counts(monkeypatch):
    """Share memory whatever it saves, and find NaN in it."""
    build = Plan.build

    def poisoned(self, *arguments, **options):
        program = build(self, *arguments, **options)
        if self.compact:
            for buffer in set(self.buffers) - self.own:
                self.workspace[buffer.offset : buffer.offset + buffer.nbytes] = 0xFF
        return program

    monkeypatch.setattr(plan_module, "LARGE", 0)
    monkeypatch.setattr(Plan, "build", poisoned)


@pytest.fixture
def apart(monkeypatch):
    """A function that lets each buffer have its own memory from now on."""

    def place(buffers, operations, threads, own):
        return placement.place(buffers, operations, threads, set(buffers))

    return lambda: monkeypatch.setattr(plan_module, "place", place)


def state(trainer):
    """All that a training has made."""
    own = trainer._state()
    averages = [] if own.average is None else [own.average]
    return [*trainer.model.state_dict().values(), own.moments, *averages,
            *trainer.history.history.values()]  # fmt: skip


def assert_same(a, b):
    for one, other in zip(state(a), state(b), strict=True):
        assert same_bits(np.asarray(one), np.asarray(other))


# Networks, deep ones, with all that a graph may have.


def block(n):
    return minidl.Residual(
        minidl.Sequential(minidl.Linear(n, 2 * n), minidl.ReLU(), minidl.Linear(2 * n, n))
    )


NETWORKS = {
    "ReLU": lambda n: [minidl.Linear(n, n), minidl.ReLU()],
    "widths": lambda n: [minidl.Linear(n, 40), minidl.Tanh(), minidl.Linear(40, n)],
    "keeps its input": lambda n: [minidl.Linear(n, n), minidl.SiLU()],
    "BatchNorm": lambda n: [minidl.Linear(n, n), minidl.BatchNorm1d(n), minidl.ReLU()],
    "BatchNorm, GELU": lambda n: [minidl.Linear(n, n), minidl.BatchNorm1d(n), minidl.GELU()],
    "LayerNorm": lambda n: [minidl.Linear(n, n), minidl.LayerNorm(n), minidl.ReLU()],
    "Dropout": lambda n: [minidl.Linear(n, n), minidl.ReLU(), minidl.Dropout(0.3)],
    "PReLU, Softmax": lambda n: [minidl.Linear(n, n), minidl.PReLU(n), minidl.Softmax()],
    "Residual": lambda n: [block(n), minidl.ReLU()],
    "parallel": lambda n: [parallel(n), minidl.Linear(parallel(n).output_features(n), n)],
}  # fmt: skip
networks = pytest.mark.parametrize("network", NETWORKS)
ROWS, COLUMNS, BATCH = 75, 20, 30


def deep(network, dtype="float32", depth=6):
    layers = itertools.chain.from_iterable(NETWORKS[network](COLUMNS) for _ in range(depth))
    return minidl.Sequential(*layers, minidl.Linear(COLUMNS, 3), dtype=dtype, seed=0)


def trained(model, *, optimizer="Adam", fitted=(), **arguments):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(ROWS, COLUMNS)).astype(model.dtype)
    y = rng.integers(0, 3, ROWS)
    weights = rng.uniform(0.1, 2.0, ROWS)
    trainer = minidl.Trainer(model, optimizer=optimizer, metrics=["top_2"], **arguments)
    options = {"epochs": 3, "batch_size": BATCH, "seed": 2, "sample_weight": weights, "verbose": 0}
    trainer.fit(X, y, **options | dict(fitted))
    return trainer


# Shared memory.


@dtypes
@threads
@pytest.mark.parametrize("number", TRAININGS)
def test_shared_memory_changes_no_bit(number, dtype, count, apart):
    X, y = data_of(number, dtype)
    with minidl.set_num_threads(count):
        shared = fit(trainer_of(number, dtype), X, y)
        predicted = shared.model.predict(X)
        apart()
        own = fit(trainer_of(number, dtype), X, y)
    assert_same(shared, own)
    assert same_bits(predicted, own.model.predict(X))


@networks
@threads
def test_shared_memory_of_deep_networks(network, count, apart):
    with minidl.set_num_threads(count):
        shared = trained(deep(network))
        apart()
        assert_same(shared, trained(deep(network)))


WIDE = {
    "BatchNorm": lambda n: minidl.BatchNorm1d(n),
    "LayerNorm": lambda n: minidl.LayerNorm(n),
    "RMSNorm": lambda n: minidl.RMSNorm(n),
    "PReLU": lambda n: minidl.PReLU(n),
    "one PReLU": lambda n: minidl.PReLU(),
    "Dropout": lambda n: minidl.Dropout(0.3),
    "Softmax": lambda n: minidl.Softmax(),
    "Residual": block,
}  # fmt: skip


@dtypes
@pytest.mark.parametrize("layer", WIDE)
@pytest.mark.parametrize("width", [64, 128, 150])  # rows have whole lines of padding from 8 on
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_padding_of_parameters_stays_zero(layer, width, dtype, checkpoint):
    """Whatever lay where their sums are made: the norm of all gradients counts it."""
    layers = [minidl.Linear(COLUMNS, width), WIDE[layer](width), minidl.Linear(width, 3)]
    model = minidl.Sequential(*layers, dtype=dtype, seed=0)
    trainer = trained(model, clip_grad_norm=0.1, checkpoint=checkpoint)
    assert trainer.epoch == 3
    store = model.store()
    for parameter in store.parameters:
        for flat in (store.values, store.gradients, *trainer._state().moments):
            if parameter.trainable or flat is store.values:
                parameter.view(flat)[...] = 0
    for flat in (store.values, store.gradients, trainer._state().moments):
        assert not flat.any()


BEHIND = {
    "BatchNorm": lambda: [minidl.BatchNorm1d(6)],
    "Tanh, BatchNorm": lambda: [minidl.Tanh(), minidl.BatchNorm1d(6)],
    "PReLU": lambda: [minidl.PReLU(6)],
    "LayerNorm": lambda: [minidl.LayerNorm(6)],
    "Softmax": lambda: [minidl.Softmax()],
    "Residual": lambda: [minidl.Residual(minidl.Linear(6, 6)), minidl.BatchNorm1d(6)],
}


@dtypes
@pytest.mark.parametrize("layers", BEHIND)
def test_layers_behind_an_embedding_find_no_padding(layers, dtype):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 4, (50, 2)).astype(dtype), np.arange(50) % 3
    model = minidl.Sequential(
        minidl.Embedding(4, 3), *BEHIND[layers](), minidl.Linear(6, 3), dtype=dtype, seed=0
    )  # fmt: skip
    minidl.Trainer(model, clip_grad_norm=0.1).fit(X, y, epochs=2, seed=0, verbose=0)
    assert np.isfinite(model.store().values).all()  # and the norm of the gradients was


# Operations in which a thread sees rows of others; LINEAR is another if its threads have columns.
MEETING = {"BLOCK_SUMS", "BN_MERGE", "BN_MERGE_GRAD", "EMBEDDING_GRADIENT", "LINEAR_DW",
           "LOSS_TOTAL", "PYTHON"}  # fmt: skip


def overlaps(a, b):
    return a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes


def uses(plan):
    """Of each buffer, its operations: (number, phase, threads meet)."""
    found, phase = {}, 0
    for i, (kind, _, _, _, pointers, sizes) in enumerate(plan.operations):
        phase += kind == "BARRIER"
        meet = kind in MEETING or (kind == "LINEAR" and sizes[6])
        for pointer in pointers:
            if isinstance(pointer, placement.Buffer):
                found.setdefault(pointer, []).append((i, phase, meet))
    return found


@networks
@pytest.mark.parametrize("checkpoint", [None, "sqrt"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_no_two_buffers_are_needed_at_once(network, checkpoint, training, count):
    """Every pair that shares memory: one is done with before the other begins."""
    if training:
        updates = minidl.Trainer(deep(network))._updates()
        options = {"loss": minidl.CrossEntropyLoss(), "updates": updates, "checkpoint": checkpoint}
    else:
        options = {}
    with minidl.set_num_threads(count):
        plan = BatchProgram(deep(network), COLUMNS, 64, training=training, **options).plan
    of = uses(plan)
    assert plan.own >= set(plan.buffers) - of.keys()
    shared = 0
    for a, b in itertools.permutations(plan.buffers, 2):
        if not overlaps(a, b) or of[a][-1][0] > of[b][0][0]:
            continue
        shared += 1
        assert not {a, b} & plan.own
        assert of[a][-1][0] < of[b][0][0]
        phase = of[b][0][1]
        if plan.threads > 1 and of[a][-1][1] == phase:  # no barrier between
            assert (a.offset, a.pitch, a.by_rows, b.by_rows) == (b.offset, b.pitch, True, True)
            assert not any(meet for _, at, meet in of[a] + of[b] if at == phase)
    assert shared > 0
    for a, b in itertools.combinations(plan.buffers, 2):
        assert not overlaps(a, b) or of[a][-1][0] < of[b][0][0] or of[b][-1][0] < of[a][0][0]


@pytest.mark.parametrize("kind", sorted(MEETING))
@pytest.mark.parametrize("count", [1, 2])
def test_where_threads_meet_memory_passes_on_behind_a_barrier(kind, count):
    """Else at once, to rows of the same pitch."""

    def shares(kind, between=(), pitch=64):
        before, behind = (placement.Buffer(10, 16, p, by_rows=True) for p in (64, pitch))
        first, last = ((k, 0, 0.0, 0.0, [b], [0] * 8) for k, b in ((kind, before), ("ADD", behind)))
        placement.place([before, behind], [first, *between, last], count, ())
        return before.offset == behind.offset

    barrier = [("BARRIER", 0, 0.0, 0.0, [], [])]
    assert shares(kind, barrier)
    assert shares(kind) == (count == 1)
    assert shares("ACTIVATION")
    assert shares("ACTIVATION", pitch=128) == (count == 1)
    assert shares("ACTIVATION", barrier, pitch=128)


def test_prediction_takes_two_layers():
    """The input, and two places that layers write to in turn; not all."""
    widths = [300, 200, 500, 100, 400, 300, 250, 10]
    model = minidl.Sequential(
        *(minidl.Linear(a, b) for a, b in itertools.pairwise(widths)), seed=0
    )  # fmt: skip
    for count in THREADS[:2]:
        with minidl.set_num_threads(count):
            plan = BatchProgram(model, 300, 1000, training=False).plan
        turns = 4 * 1000 * (max(widths[1::2]) + max(widths[2::2]))
        given = plan.data[plan.graph.input].nbytes + plan.pack.nbytes
        assert turns <= plan.size - given < 1.1 * turns < 0.6 * 4 * 1000 * sum(widths[1:])


# Recomputed activations.


@dtypes
@networks
@pytest.mark.parametrize("checkpoint", ["sqrt", 2, 3, 100])
def test_recomputing_changes_no_bit(network, checkpoint, dtype):
    plain = trained(deep(network, dtype))
    assert_same(plain, trained(deep(network, dtype), checkpoint=checkpoint))
    assert plain.epoch == 3


@networks
@threads
def test_recomputing_in_threads(network, count):
    plain = trained(deep(network), optimizer="RMSprop")
    with minidl.set_num_threads(count):
        assert_same(plain, trained(deep(network), optimizer="RMSprop", checkpoint="sqrt"))


@pytest.mark.parametrize("number", TRAININGS)
def test_recomputing_with_every_layer(number):
    X, y = data_of(number, "float64")
    plain, other = trainer_of(number, "float64"), trainer_of(number, "float64")
    other.checkpoint = 3
    assert_same(fit(plain, X, y), fit(other, X, y))


@pytest.mark.parametrize(
    "more",
    [{"accumulate": 2}, {"clip_grad_norm": 0.1}, {"ema_decay": 0.9}, {"micro_batch_size": 7}],
    ids=str,
)
def test_recomputing_with_the_rest(more):
    assert_same(trained(deep("Dropout"), **more), trained(deep("Dropout"), checkpoint=3, **more))


class Double(minidl.Layer):
    """A layer in Python, which keeps what its backward reads."""

    calls = 0

    def __init__(self, features):
        super().__init__()
        self.add_parameter("scale", np.full(features, 2.0))

    def forward(self, x):
        Double.calls += 1
        self.x = x.copy()
        return x * self.scale

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x).sum(axis=0)
        return dy * self.scale


def test_layers_in_python_are_called_again():
    def model():
        layers = [[minidl.Linear(20, 20, seed=i), minidl.Tanh(), Double(20)] for i in range(4)]
        return minidl.Sequential(*itertools.chain.from_iterable(layers), minidl.Linear(20, 3))

    models = [model(), model()]
    models[1].load_state_dict(models[0].state_dict())
    before = Double.calls
    plain = trained(models[0])
    once, before = Double.calls - before, Double.calls
    assert_same(plain, trained(models[1], checkpoint=4))
    assert once < Double.calls - before < 2 * once  # the last segment is not repeated


def test_more_segments_than_there_are_layers():
    """As many as there can be, found at once."""
    model = deep("ReLU")
    few = minidl.Trainer(model, checkpoint=1000).memory(64)
    assert minidl.Trainer(model, checkpoint=2**61).memory(64).training == few.training


def test_an_error_in_a_layer_in_python_finds_no_layer_updated():
    class Fails(Double):
        def backward(self, dy):
            raise ZeroDivisionError("backward")

    for checkpoint in (None, 2):
        layers = [Fails(20), *deep("ReLU").children()]
        model = minidl.Sequential(*(c[1] if isinstance(c, tuple) else c for c in layers), seed=0)
        before = model.state_dict()
        with pytest.raises(ZeroDivisionError):
            trained(model, checkpoint=checkpoint)
        for name, value in model.state_dict().items():
            assert same_bits(value, before[name])


def test_memory_falls_with_the_root_of_the_depth():
    """Of L layers alike: L activations, or about twice the root of L, and a few besides."""
    rows, row = 512, 4 * 64
    for depth in (16, 64, 144):
        model = minidl.Sequential(
            *(layer for _ in range(depth) for layer in (minidl.Linear(64, 64), minidl.ReLU())),
            minidl.Linear(64, 64),
        )
        plain, root = (
            minidl.Trainer(model, checkpoint=c).memory(rows).training["workspace"] / (rows * row)
            for c in (None, "sqrt")
        )
        assert depth < plain < depth + 6
        assert 2 * depth**0.5 < root < 2 * depth**0.5 + 7


# Batches in parts.


@dtypes
@pytest.mark.parametrize("network", [n for n in NETWORKS if "BatchNorm" not in n])
@pytest.mark.parametrize("micro", [1, 7, 16, 29])
def test_parts_of_a_batch_are_the_batch(network, micro, dtype):
    """To rounding: the same gradients, masks of Dropout, losses and metrics."""
    tolerance = {"float32": 1e-3, "float64": 1e-9}[dtype]
    plain = trained(deep(network, dtype), optimizer=minidl.SGD(lr=0.05, momentum=0.9))
    parts = trained(
        deep(network, dtype), optimizer=minidl.SGD(lr=0.05, momentum=0.9), micro_batch_size=micro
    )
    assert parts._programs["train"][2].rows == micro
    for one, other in zip(state(plain), state(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    assert (parts.step, parts._state().tick) == (plain.step, plain._state().tick)


@pytest.mark.parametrize(
    "more",
    [{"accumulate": 2}, {"clip_grad_norm": 0.1}, {"clip_grad_value": 0.01}, {"ema_decay": 0.9},
     {"fitted": {"shuffle": False}}, {"fitted": {"last_batch": "drop"}},
     {"fitted": {"batch_size": 74}}, {"fitted": {"sample_weight": None}}],
    ids=str,
)  # fmt: skip
def test_parts_with_the_rest(more):
    plain = trained(deep("Dropout", "float64"), optimizer="SGD", **more)
    parts = trained(deep("Dropout", "float64"), optimizer="SGD", micro_batch_size=8, **more)
    for one, other in zip(state(plain), state(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@networks
@threads
def test_parts_in_threads(network, count):
    plain = trained(deep(network), micro_batch_size=9)
    with minidl.set_num_threads(count):
        assert_same(plain, trained(deep(network), micro_batch_size=9))


def test_parts_with_batchnorm_are_accumulated_batches():
    parts = trained(deep("BatchNorm"), micro_batch_size=10, fitted={"last_batch": "drop"})
    small = trained(
        deep("BatchNorm"), accumulate=3, fitted={"last_batch": "drop", "batch_size": 10,
                                                 "sample_weight": np.ones(ROWS)},
    )  # fmt: skip
    tracked = [t.model.state_dict()["1.num_batches_tracked"] for t in (parts, small)]
    assert tracked[0] == 3 * 2 * 3
    assert tracked[1] == 3 * 7


def test_parts_with_batchnorm_to_the_bit():
    """60 rows, so that batches and parts are whole."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, COLUMNS)), rng.integers(0, 3, 60)
    trainers = [
        minidl.Trainer(deep("BatchNorm", "float64"), micro_batch_size=10),
        minidl.Trainer(deep("BatchNorm", "float64"), accumulate=3),
    ]
    for trainer, size in zip(trainers, (30, 10), strict=True):
        trainer.fit(X, y, epochs=2, batch_size=size, seed=0, verbose=0)
    assert_same(*trainers)


def test_a_part_of_a_batch_that_batchnorm_cannot_train_on():
    model = deep("BatchNorm")
    before = model.state_dict()
    with pytest.raises(ValueError, match="micro_batch_size: expected at least 3 rows"):
        trained(model, micro_batch_size=2)
    for name, value in model.state_dict().items():
        assert same_bits(value, before[name])


def test_the_loss_of_a_step_is_that_of_the_whole_batch():
    X, y = np.random.default_rng(0).normal(size=(50, COLUMNS)), np.arange(50) % 3
    plain, parts = (minidl.Trainer(deep("ReLU", "float64"), micro_batch_size=m) for m in (None, 8))
    expected = plain.evaluate(X, y)["loss"]
    for trainer in (plain, parts):
        assert abs(trainer.train_step(X, y) - expected) < 1e-12


def test_data_in_blocks_and_a_resumed_training(tmp_path):
    options = {"micro_batch_size": 8, "checkpoint": 3}
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(20, COLUMNS)), rng.integers(0, 3, 20)) for _ in range(4)]
    whole, first = (minidl.Trainer(deep("Dropout"), **options) for _ in range(2))
    whole.fit(lambda: iter(batches), epochs=4, verbose=0)
    first.fit(lambda: iter(batches), epochs=2, verbose=0)
    first.save_checkpoint(tmp_path / "c")
    second = minidl.Trainer.resume(tmp_path / "c")
    assert (second.micro_batch_size, second.checkpoint, second.memory_limit) == (8, 3, None)
    second.fit(lambda: iter(batches), epochs=2, verbose=0)
    assert_same(whole, second)


def test_a_function_as_loss_gets_the_parts():
    def squares(prediction, y):
        difference = prediction - y
        return float((difference**2).mean()), 2 * difference / difference.size

    X, y = np.random.default_rng(0).normal(size=(50, COLUMNS)), np.ones((50, 3))
    built_in, own = (
        minidl.Trainer(deep("ReLU", "float64"), loss, micro_batch_size=8)
        for loss in ("MSELoss", squares)
    )
    for trainer in (built_in, own):
        trainer.fit(X, y, epochs=2, batch_size=50, seed=0, verbose=0)
    for one, other in zip(built_in.model.parameters(), own.model.parameters(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


# What looks at a training, or ends it.


@pytest.mark.parametrize("options", [{"checkpoint": 3}, {"micro_batch_size": 8}], ids=str)
def test_gradient_monitor_sees_the_same(options):
    looks = []
    for more in ({}, options):
        monitor = GradientMonitor(every=1)
        trained(deep("ReLU", "float64"), fitted={"callbacks": [monitor]}, **more)
        looks.append([monitor._report(i).layers for i in range(len(monitor.steps))])
    assert len(looks[0]) == 9
    for one, other in zip(*looks, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a[:3] == b[:3]
            np.testing.assert_allclose(np.array(a[5:], float), np.array(b[5:], float), rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"checkpoint": 3}, {"micro_batch_size": 8}], ids=str)
@pytest.mark.parametrize("network", ["ReLU", "BatchNorm", "Dropout"])
def test_the_layer_that_is_not_finite_is_named(network, options):
    """Its output is gone by then: the forward pass is made again, with the same masks."""
    model = deep(network, depth=4)
    name, third = [c for c in model.children() if isinstance(c[1], minidl.Linear)][2]
    third.weight[:, ::2], third.weight[:, 1::2] = 3e38, -3e38
    before = model.state_dict()
    with pytest.raises(minidl.NonFiniteError, match=rf"in layer {name} \(Linear\)"):
        trained(model, **options)
    for key, value in model.state_dict().items():
        assert same_bits(value, before[key])
