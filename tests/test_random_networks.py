"""Whole trainings at random: the compiled program, its layers one by one, and NumPy agree.

A training is drawn with all that it may have: depth, widths, layers (containers in containers
too), loss, optimizer, schedule, batches, weights, dtype, threads, where the data come from, and
whether it is stopped and resumed. `fit` gives the bits of the layers called one by one; at each
step of these, outputs, loss, gradients and running averages are those of `twins.py` in NumPy as far
as rounding lets them, and the update is the baseline's.

    python -m pytest tests/test_random_networks.py -m soak --hypothesis-seed=7

tries ten thousand. The seed makes the same ones again; what fails is shown in its smallest form.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    THREADS,
    make_schedule,
    positive,
    same_bits,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import StopAt
from test_program import batches, leaves
from twins import FORMULAS, Twin, assert_as, largest, roundings, unit_of

import minidl
from minidl import numpy_baseline as baseline
from minidl.data import blocks

# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

# ----------------------------------------------------------------------------- what is drawn


class Training(NamedTuple):
    """A training; what is shown of it makes it again."""

    layers: str  # as code
    columns: int
    categories: tuple[int, ...]  # of the last columns, how many; none: measurements alone
    loss: int  # in LOSSES
    optimizer: int  # in OPTIMIZERS
    faster: float  # factor of its rate; large ones make trainings diverge
    schedule: int | None  # in SCHEDULES
    interval: str
    dtype: str
    rows: int
    batch_size: int
    epochs: int
    shuffle: bool
    weighted: bool
    source: str
    stop: int  # the step before which a resumed training is stopped
    threads: int  # of the program
    seed: int


WIDTHS = st.integers(1, 19)
FLAT = ["Linear", "Linear", "activation", "activation", "BatchNorm1d", "LayerNorm", "RMSNorm",
        "Softmax", "PReLU", "Dropout", "Flatten"]  # fmt: skip
DEEP = ["Residual", "Concat", "Parallel", "Sequential"]


def draw_layer(draw, columns, depth):
    """A layer for so many columns, as code, and the columns that it gives."""
    kind = draw(st.sampled_from(FLAT + DEEP if depth else FLAT))
    if kind == "Linear":
        width = draw(WIDTHS)
        return f"Linear({columns}, {width}, bias={draw(st.booleans())})", width
    if kind == "activation":
        name, params = draw(st.sampled_from(ACTIVATIONS))
        return f"{name}({', '.join(f'{k}={v!r}' for k, v in params.items())})", columns
    if kind == "BatchNorm1d":
        return (
            f"BatchNorm1d({columns}, momentum={draw(st.sampled_from([0.1, None, 1.0]))})",
            columns,
        )
    if kind == "LayerNorm":
        options = st.sampled_from(["", ", bias=False", ", elementwise_affine=False"])
        return f"LayerNorm({columns}{draw(options)})", columns
    if kind == "RMSNorm":
        options = st.sampled_from(["", ", elementwise_affine=False", ", eps=0.01"])
        return f"RMSNorm({columns}{draw(options)})", columns
    if kind == "PReLU":
        return f"PReLU({draw(st.sampled_from([1, columns]))}, 0.3)", columns
    if kind == "Dropout":
        return f"Dropout({draw(st.sampled_from([0.1, 0.5, 0.0, 1.0]))})", columns
    if kind == "Residual":
        return f"Residual({draw_layers(draw, columns, depth - 1, columns)[0]})", columns
    if kind == "Concat":
        branches = [draw_layers(draw, columns, depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return f"Concat({', '.join(c for c, _ in branches)})", sum(n for _, n in branches)
    if kind == "Parallel":
        edge = draw(st.integers(1, columns))
        parts = [edge, columns - edge] if edge < columns else [columns]
        branches = [draw_layers(draw, part, depth - 1) for part in parts]
        code = ", ".join(c for c, _ in branches)
        return f"Parallel({code}, columns={parts})", sum(n for _, n in branches)
    if kind == "Sequential":
        return draw_layers(draw, columns, depth - 1)
    return f"{kind}()", columns


def draw_layers(draw, columns, depth, last=None):
    """A Sequential of some layers, as code, and the columns that it gives: `last`, if given."""
    found = []
    for _ in range(draw(st.integers(0, 4 if depth == 2 else 2))):
        code, columns = draw_layer(draw, columns, depth)
        found.append(code)
    if last is not None and columns != last:
        found.append(f"Linear({columns}, {last})")
        columns = last
    return f"Sequential({', '.join(found)})", columns


def draw_tables(draw):
    """A first layer that takes categories, its columns, how many categories, and its outputs."""
    number, size, fields = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    table = f"Embedding({number}, {size})"
    if draw(st.booleans()):
        return table, fields, (number,) * fields, size * fields
    measured = draw(st.integers(1, 5))
    beside, width = draw_layers(draw, measured, 0)
    code = f"Parallel({beside}, {table}, columns=[{measured}, {fields}])"
    return code, measured + fields, (number,) * fields, width + size * fields


def suits(case, optimizer):
    """False where the docstrings say that a momentum by schedule is not one set by hand."""
    cycles = case[0] == "OneCycleLR" and case[1].get("cycle_momentum", True)
    without = optimizer.name in ("NAdam", "Adagrad", "RMSprop")
    return not (cycles and without)


@st.composite
def trainings(draw):
    """Any training."""
    first, categories, columns = [], (), draw(WIDTHS)
    width = columns
    if draw(st.integers(0, 4)) == 4:
        code, columns, categories, width = draw_tables(draw)
        first = [code]
    inner, width = draw_layers(draw, width, 2)
    loss = draw(st.integers(0, len(LOSSES) - 1))
    case = LOSSES[loss]
    least = 2 if case.name == "CrossEntropyLoss" and case.targets.__name__ != "labels" else 1
    last = []
    if not least <= width <= 12 or draw(st.booleans()):
        outputs = draw(st.integers(least, 7))
        last = [f"Linear({width}, {outputs})"]
    if case.predictions is positive:
        last.append("Softplus()")
    layers = f"Sequential({', '.join([*first, inner, *last])})"
    optimizer = draw(st.integers(0, len(OPTIMIZERS) - 1))
    schedule = draw(st.none() | st.integers(0, len(SCHEDULES) - 1))
    if schedule is not None and not suits(SCHEDULES[schedule], OPTIMIZERS[optimizer]):
        schedule = None
    least_rows = 2 if "BatchNorm1d" in layers else 1
    rows = draw(st.integers(least_rows, 24))
    source = draw(st.sampled_from(["array", "memmap", "iterable", "resumed"]))
    return Training(
        layers=layers,
        columns=columns,
        categories=categories,
        loss=loss,
        optimizer=optimizer,
        faster=draw(st.sampled_from([1.0] * 8 + [1e4, 1e30])),
        schedule=schedule,
        interval=draw(st.sampled_from(["epoch", "step"])),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        rows=rows,
        batch_size=draw(st.integers(max(least_rows, (rows + 2) // 3), 25)),
        epochs=draw(st.integers(1, 2)),
        shuffle=source != "iterable" and draw(st.booleans()),
        weighted=draw(st.booleans()),
        source=source,
        stop=draw(st.integers(1, 4)),
        threads=draw(st.sampled_from(THREADS[:3] * 3 + THREADS[3:])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


# --------------------------------------------------------------------------- what is made of it


class Parts:
    """Data, and what makes a model, loss and optimizer of a training; each call another one."""

    def __init__(self, training):
        self.training = t = training
        self.case, self.optimizer = LOSSES[t.loss], OPTIMIZERS[t.optimizer]
        rng = np.random.default_rng(t.seed)
        self.X = rng.normal(size=(t.rows, t.columns)).astype(t.dtype)
        for i, number in enumerate(t.categories, t.columns - len(t.categories)):
            self.X[:, i] = rng.integers(0, number, t.rows)
        self.outputs = self.model().output_features(t.columns)
        y = self.case.targets(rng, t.rows, self.outputs)
        self.y = y if y.dtype.kind == "i" else y.astype(t.dtype)
        self.weight = rng.choice([0.5, 1.0, 2.0], t.rows) if t.weighted else None
        self.schedule = None
        if t.schedule is not None:
            self.schedule = make_schedule(SCHEDULES[t.schedule], interval=t.interval)

    def model(self):
        """Its values are not the first ones: gamma 1 and beta 0 would hide mistakes."""
        layers = eval(self.training.layers, vars(minidl))
        model = minidl.Sequential(layers, dtype=self.training.dtype, seed=self.training.seed)
        rng = np.random.default_rng(self.training.seed + 1)
        for parameter in model.parameters():
            parameter += rng.uniform(-0.3, 0.3, parameter.shape)
        return model

    def loss(self):
        """The loss, for so many outputs."""
        return self.case.make(self.outputs)

    def own_optimizer(self):
        """The optimizer, with its rate."""
        optimizer = self.optimizer.make()
        optimizer.lr *= self.training.faster
        return optimizer

    def some(self, rows):
        """Weights of rows."""
        return None if self.weight is None else self.weight[rows]

    def weight_of(self, rows):
        """What a batch counts in the mean of an epoch."""
        weight = np.ones(len(rows)) if self.weight is None else self.weight[rows]
        if self.case.name == "CrossEntropyLoss" and self.y.ndim == 1:
            classes = self.case.params_for(self.outputs).get("weight")
            weight = weight if classes is None else weight * classes[self.y[rows]]
        return float(weight.sum())

    def batches(self, epoch):
        """Rows of each batch of an epoch."""
        t = self.training
        if t.shuffle:
            return batches(t.rows, t.batch_size, t.seed, epoch)
        edges = [*range(0, t.rows, t.batch_size), t.rows]
        if len(edges) > 2 and edges[-1] - edges[-2] == 1 and t.batch_size > 1:
            del edges[-2]
        return [np.arange(a, b) for a, b in itertools.pairwise(edges)]


# ------------------------------------------------------------------------------- the program


def fit(parts, folder):
    """The trainer, trained, and the error of a training that diverged."""
    t = parts.training
    X, y = parts.X, parts.y
    options: dict[str, Any] = {
        "batch_size": t.batch_size, "shuffle": t.shuffle, "seed": t.seed, "total_epochs": 1000,
        "sample_weight": parts.weight, "verbose": 0,
    }  # fmt: skip
    trainer = minidl.Trainer(
        parts.model(), parts.loss(), parts.own_optimizer(), scheduler=parts.schedule
    )
    with pytest.MonkeyPatch.context() as patch, minidl.set_num_threads(t.threads):
        if t.source == "memmap":
            for name in ("BLOCK", "SCATTERED"):  # of two batches
                patch.setattr(blocks, name, 2 * t.batch_size * t.columns * X.itemsize)
            np.save(folder / "X.npy", X)
            X = np.load(folder / "X.npy", mmap_mode="r")
        elif t.source == "iterable":
            X = [
                (X[rows], y[rows]) + (() if parts.weight is None else (parts.weight[rows],))
                for rows in parts.batches(0)
            ]
            y, options["sample_weight"] = None, None
        try:
            if t.source == "resumed":
                trainer.fit(X, y, epochs=t.epochs, callbacks=[StopAt(t.stop)], **options)
                trainer.save_checkpoint(folder / "checkpoint")
                given = parts.schedule if "half" in str(SCHEDULES[t.schedule or 0]) else None
                trainer = minidl.Trainer.resume(
                    folder / "checkpoint", scheduler=given if parts.schedule else None
                )
            if trainer.epoch < t.epochs:
                trainer.fit(X, y, epochs=t.epochs - trainer.epoch, **options)
        except minidl.NonFiniteError as error:
            return trainer, error
    return trainer, None


# --------------------------------------------------------------------- the layers one by one


def set_rates(optimizer, schedule, base, time):
    """What the schedule says, written into the optimizer."""
    optimizer.lr = schedule.rate(base, time)
    momentum = schedule.momentum(time)
    if momentum is not None and hasattr(optimizer, "betas"):
        optimizer.betas = (momentum, optimizer.betas[1])
    elif momentum is not None:
        optimizer.momentum = momentum


class Diverged(Exception):
    """A number became NaN or infinite; `seen` by `fit` if it shows in the loss or a parameter."""

    def __init__(self, seen):
        self.seen = seen


def finite(array, seen=True):
    if not np.isfinite(array).all():
        raise Diverged(seen)
    return array


def by_hand(parts, oracle):
    """Train layer by layer: model, optimizer, mean losses of the epochs, and how it ended."""
    model, optimizer, means = parts.model(), parts.own_optimizer(), []
    try:
        for total, count in epochs_by_hand(parts, oracle, model, optimizer):
            means.append(total / count)
    except Diverged as diverged:
        return model, optimizer, means, diverged
    return model, optimizer, means, None


def epochs_by_hand(parts, oracle, model, optimizer):
    """Sums of the losses of each epoch, and what they count."""
    t, loss, path, base, step = parts.training, parts.loss(), leaves(model), optimizer.lr, 0
    for epoch in range(t.epochs):
        total = count = 0.0
        for rows in parts.batches(epoch):
            if parts.schedule is not None:
                time = step if t.interval == "step" else epoch
                set_rates(optimizer, parts.schedule, base, time)
            oracle.see(model, rows, step)
            h = parts.X[rows]
            for layer in path:
                h = finite(layer.forward(h), seen=layer is path[-1])
            value = float(finite(loss.forward(h, parts.y[rows], parts.some(rows))))
            d = loss.backward()
            for layer in reversed(path):
                d = layer.backward(finite(d, seen=False))
            oracle.check_pass(model, h, value)
            optimizer.step(model)
            for array in model.state().values():
                finite(array)
            oracle.check_update(model, optimizer)
            weight = parts.weight_of(rows)
            total, count, step = total + value * weight, count + weight, step + 1
        yield total, count


# ------------------------------------------------------------------------------------- NumPy

RTOL_UPDATE = {"float32": 1e-5, "float64": 1e-13}


class Oracle:
    """Each step of `by_hand` in NumPy, until numbers are so large that float32 overflows inside."""

    def __init__(self, parts):
        self.parts = parts
        self.unit = unit_of(parts.training.dtype)
        self.roundings = roundings(parts.training.dtype, parts.training.seed)
        kind = getattr(baseline, parts.optimizer.name)
        params = dict(parts.optimizer.params)
        moved = parts.schedule is not None and parts.schedule.momenta(0, 1) is not None
        if moved and parts.optimizer.name == "SGD":  # so that there is a state for it
            params["momentum"] = 0.5
        self.values = [p.astype(float) for p in parts.model().parameters()]
        self.optimizer = kind(self.values, **params)
        self.largest = [0.0] * len(self.values)
        self.cancelled = [np.zeros(v.shape) for v in self.values]
        self.sees = True

    def see(self, model, rows, step):
        """Compute a step before the model makes it."""
        self.sees = self.sees and all(largest(p) < 1e8 for p in model.parameters())
        if not self.sees:
            return
        with np.errstate(all="ignore"):
            self.found = [self.compute(model, rows, step, r) for r in self.roundings]

    def compute(self, model, rows, step, rounded):
        """Output, loss, gradients and running averages of a batch."""
        twin = Twin(model, rounded)
        y = twin.forward(self.parts.X[rows].astype(float), True, step)
        value, dy = self.parts.case.oracle(y, self.parts.y[rows], self.parts.some(rows))
        twin.backward(rounded(dy, 1 / len(rows)))
        return [y, np.array(value), *twin.gradients(), *twin.running()]

    def check_pass(self, model, output, value):
        """What the layers gave is what NumPy has."""
        if not self.sees:
            return
        self.gradients = [g.copy() for g in model.gradients()]
        parameters = model.named_parameters()
        names = [f"gradient of {name}" for name, p in parameters if p.trainable]
        running = {name: p.array for name, p in parameters if not p.trainable}
        names = ["output", "loss", *names, *running]
        got = [output, np.array(value), *self.gradients, *running.values()]
        scales = [0.0, max(1.0, largest(output))] + [0.0] * len(self.gradients)
        scales += [1.0] * len(running)
        for name, one, scale, *found in zip(names, got, scales, *self.found, strict=True):
            assert_as(name, one, found, self.unit, scale)

    def check_prediction(self, model, y):
        """The output in evaluation."""
        if not self.sees or any(largest(p) > 1e8 for p in model.parameters()):
            return
        x = self.parts.X.astype(float)
        with np.errstate(all="ignore"):
            found = [Twin(model, rounded).forward(x, False) for rounded in self.roundings]
        assert_as("prediction", y, found, self.unit)

    def check_update(self, model, optimizer):
        """The parameters are the baseline's after the same gradients."""
        if not self.sees:
            return
        self.optimizer.lr = optimizer.lr
        for name in ("betas", "momentum"):
            if hasattr(self.optimizer, name):
                setattr(self.optimizer, name, getattr(optimizer, name))
        before, doubtful = [v.copy() for v in self.values], self.doubtful()
        with np.errstate(all="ignore"):
            self.optimizer.step([g.astype(float) for g in self.gradients])
        rtol = RTOL_UPDATE[self.parts.training.dtype]
        for i, (value, own) in enumerate(zip(self.values, model.parameters(), strict=True)):
            moves = max(largest(value - before[i]), optimizer.lr * largest(self.gradients[i]))
            self.largest[i] = max(self.largest[i], moves)
            allowed = rtol * self.largest[i] + 8 * self.unit * largest(value)
            slack = 2 * optimizer.lr * doubtful[i] + allowed * self.cancels(i, before[i])
            error = largest(np.maximum(np.abs(own - value) - slack, 0))
            assert not error > allowed, f"update {i}: off by {error:.3g}, allowed {allowed:.3g}"
            value[...] = own  # each update is checked by itself

    def cancels(self, i, weight):
        """How many times larger than their sum gradient and decay are, or were: at most 1e8."""
        g, decay = (
            self.gradients[i].astype(float),
            self.parts.optimizer.params.get("weight_decay", 0),
        )
        size = np.abs(g) + np.abs(decay * weight)
        now = np.minimum(size / np.maximum(np.abs(g + decay * weight), 1e-300), 1e8)
        self.cancelled[i] = np.maximum(self.cancelled[i], now)  # moments keep what was rounded
        return self.cancelled[i]

    def doubtful(self):
        """Where Lion's sign is that of a rounding error."""
        if self.parts.optimizer.name != "Lion":
            return [False] * len(self.gradients)
        beta, found = self.optimizer.betas[0], []
        for mean, g in zip(self.optimizer.mean, self.gradients, strict=True):
            one, other = beta * mean, (1 - beta) * g.astype(float)
            found.append(np.abs(one + other) <= 1e-5 * (np.abs(one) + np.abs(other)))
        return found


# ------------------------------------------------------------------------------------ the test


def check(training, folder):
    """All three agree; True if the training diverged, as the program and the layers both tell."""
    parts = Parts(training)
    oracle, (trainer, error) = Oracle(parts), fit(parts, folder)
    model, optimizer, means, diverged = by_hand(parts, oracle)
    if diverged is not None:
        assert error is not None or not diverged.seen
        return True
    assert error is None, error
    assert trainer.epoch == training.epochs
    np.testing.assert_allclose(trainer.history.history["loss"], means, rtol=1e-12, atol=1e-300)
    for name, value in trainer.model.state_dict().items():
        assert same_bits(value, model.state_dict()[name]), name
    state, own = trainer.optimizer.state_for(trainer.model), optimizer.state_for(model)
    assert (state.step, state.tick) == (own.step, own.tick)
    assert same_bits(state.moments, own.moments)
    y = model.eval()(parts.X)
    assert same_bits(trainer.model.predict(parts.X), y)
    oracle.check_prediction(model, y)
    return False


@pytest.fixture(autouse=True)
def one_thread():
    """For all but the program; that its threads change nothing is what is tried."""
    with minidl.set_num_threads(1):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where files go; what one training writes, the next one overwrites."""
    return tmp_path_factory.mktemp("networks")


QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


def test_every_layer_is_drawn_and_has_a_twin():
    names = set(minidl.layers.__all__) - {"Layer"}
    drawn = {*FLAT, *DEEP, "Embedding", *(a.name for a in ACTIVATIONS)} - {"activation"}
    assert drawn == names
    assert FORMULAS.keys() | baseline.ACTIVATIONS.keys() == names


@settings(max_examples=60, derandomize=True, **QUIET)
@given(training=trainings())
def test_random_networks(training, folder):
    check(training, folder)


@pytest.mark.soak
def test_ten_thousand_random_networks(folder):
    """Others each time, unless `--hypothesis-seed` is given."""
    ends = []

    @settings(max_examples=10_000, print_blob=True, **QUIET)
    @given(training=trainings())
    def many(training):
        ends.append(check(training, folder))

    many()
    print(f"\n{len(ends)} random networks, of which {sum(ends)} diverged")
    assert len(ends) >= 10_000
