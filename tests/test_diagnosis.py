"""`diagnose`: what it measures, what it says of it, and that the model is left as it was."""

import copy
import io

import numpy as np
import pytest
from helpers import (
    FEATURES,
    LAYERS,
    LOSSES,
    RTOL,
    RTOL_TORCH,
    assert_close,
    dtypes,
    for_all_threads,
    python,
    same_bits,
)

import minidl
from minidl.health import NAN, HealthReport, LayerHealth, Thresholds

ROWS = 60


def data(columns=FEATURES, classes=3, rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)), rng.integers(0, classes, rows)


def network(*layers, dtype="float64", seed=1):
    """Layers between two Linears."""
    return minidl.Sequential(
        minidl.Linear(FEATURES, FEATURES), *layers, minidl.Linear(FEATURES, 3), dtype=dtype,
        seed=seed,
    )  # fmt: skip


def deep(activation, layers=12, width=8, normalised=False, init="torch_linear", dtype="float32"):
    made = []
    for i in range(layers):
        made.append(minidl.Linear(FEATURES if i == 0 else width, width, weight_init=init))
        made += [minidl.BatchNorm1d(width)] if normalised else []
        made.append(activation())
    return minidl.Sequential(*made, minidl.Linear(width, 3), dtype=dtype, seed=0)


class Square(minidl.Layer):
    """y = scale x^2; it keeps what it has seen, and how often."""

    def __init__(self, features):
        super().__init__()
        self.add_parameter("scale", np.linspace(0.5, 1, features))
        self.calls = 0
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        self.x = x
        self.calls += 1
        self.rng.random()
        return self.scale * x**2

    def backward(self, dy):
        self.gradient("scale")[...] = (dy * self.x**2).sum(axis=0)
        return 2 * dy * self.scale * self.x


def steps_of(model, x):
    """Every layer's output, layer by layer."""
    outputs = []
    for layer in model:
        layer._steps = 0
        x = layer(x)
        outputs.append(x)
    return outputs


# What is measured.


@dtypes
@pytest.mark.parametrize("name", [*LAYERS, "Python"])
def test_every_layer(name, dtype):
    """Outputs, gradients of outputs and of parameters, as the layers themselves give them."""
    make = LAYERS.get(name, lambda: Square(FEATURES))
    columns = make().output_features(FEATURES)
    model = minidl.Sequential(
        minidl.Linear(FEATURES, FEATURES), make(), minidl.Linear(columns, 3), dtype=dtype, seed=3
    )
    X, y = data()
    report = minidl.diagnose(model, X, y, batch_size=ROWS)
    twin = copy.deepcopy(model).train()
    outputs = steps_of(twin, X)
    loss = minidl.CrossEntropyLoss()
    assert report.loss == pytest.approx(loss(outputs[-1], y), rel=1e-6)
    by_name = {layer.name: layer for layer in report.layers}
    dy = loss.backward()
    for i in (2, 1, 0):
        layer, out = by_name.get(str(i)), outputs[i].astype(np.float64)
        if layer is not None:  # one that does nothing has no row
            measured = layer.mean, layer.std, layer.zeros
            assert_close(measured, (out.mean(), out.std(), (out == 0).mean()), 10 * RTOL[dtype], 1)
            assert_close(
                layer.gradient, np.sqrt(ROWS * np.square(dy, dtype=float).sum()), RTOL_TORCH[dtype]
            )
        dy = twin[i].backward(dy)
        if layer is not None and not twin[i].children() and twin[i].gradients():
            squares = sum(np.square(g, dtype=float).sum() for g in twin[i].gradients())
            assert_close(layer.parameter_gradient, np.sqrt(squares), RTOL_TORCH[dtype])
            squares = sum(np.square(p, dtype=float).sum() for p in twin[i].parameters())
            assert_close(layer.parameter_norm, np.sqrt(squares), RTOL_TORCH[dtype])


@pytest.mark.parametrize("columns", [1, 2, 7, 8, 9, 16, 17, 31, 33, 70])
@dtypes
def test_padding_is_not_counted(columns, dtype):
    """Sigmoid(0) is not 0, and 0 is: of the padding neither is seen."""
    model = minidl.Sequential(
        minidl.Linear(FEATURES, columns), minidl.ReLU(), minidl.Sigmoid(),
        minidl.Linear(columns, 3), dtype=dtype, seed=0,
    )  # fmt: skip
    X, y = data(rows=333)
    report = minidl.diagnose(model, X, y)
    given, relu, sigmoid, _ = steps_of(model, X)
    for layer, out in zip(report.layers, (given, relu, sigmoid), strict=False):
        assert layer.mean == pytest.approx(out.mean(dtype=float), rel=1e-6)
        assert layer.zeros == pytest.approx((out == 0).mean(), abs=1e-12)
    layer = report.layers[1]
    assert layer.pre_mean == report.layers[0].mean
    assert layer.pre_std == pytest.approx(given.std(dtype=float), rel=1e-6)
    assert layer.pre_zeros == 0
    assert layer.dead == pytest.approx((relu == 0).all(axis=0).mean())


def test_against_pytorch():
    """Norms of the gradients of all activations, with BatchNorm in training mode."""
    torch = pytest.importorskip("torch")
    model = network(minidl.BatchNorm1d(FEATURES), minidl.Tanh(), minidl.Linear(5, 5), minidl.GELU())
    X, y = data()
    report = minidl.diagnose(model, X, y, batch_size=ROWS)
    value, values = torch.tensor(X), []
    for module in minidl.to_torch(model).train():
        value = module(value)
        value.retain_grad()
        values.append(value)
    torch.nn.functional.cross_entropy(value, torch.tensor(y)).backward()
    expected = [float(ROWS**0.5 * v.grad.norm()) for v in values]
    assert_close([layer.gradient for layer in report.layers], expected, RTOL_TORCH["float64"])


@pytest.mark.parametrize("case", LOSSES, ids=str)
@dtypes
def test_every_loss(case, dtype):
    """The gradient of the last layer is the loss's own, scaled to rows."""
    model = network(minidl.Tanh(), dtype=dtype)
    X, _ = data()
    y = case.targets(np.random.default_rng(1), ROWS, 3)
    prediction = case.predictions(model.predict(X))
    model = minidl.Sequential(minidl.Linear(3, 3, bias=False), dtype=dtype)
    model[0].weight = np.eye(3)
    weight = np.random.default_rng(2).random(ROWS)
    for w in (None, weight):
        report = minidl.diagnose(
            model, prediction, y, loss=case.make(3), sample_weight=w, batch_size=ROWS
        )
        loss, gradient = case.oracle(prediction.astype(np.float64), y, w)
        assert report.loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
        expected = np.sqrt(ROWS * np.square(gradient).sum())
        assert report.layers[0].gradient == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 16, 59, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_add_up_to_the_whole(size, weighted):
    """Without BatchNorm the size of the batches does not matter."""
    X, y = data(rows=237)
    weight = np.random.default_rng(1).random(237) if weighted else None
    model = deep(minidl.ReLU, layers=3, dtype="float64")

    def measured(batch_size):
        return minidl.diagnose(model, X, y, sample_weight=weight, batch_size=batch_size)

    one, other = measured(237), measured(size)
    assert other.rows == 237
    assert other.loss == pytest.approx(one.loss, rel=1e-12)
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(b[5:], a[5:], rtol=1e-9, atol=1e-12)


def test_all_kinds_of_data(tmp_path):
    X, y = data(rows=500)
    model = network(minidl.BatchNorm1d(FEATURES), minidl.ReLU(), dtype="float32")
    np.save(tmp_path / "X.npy", X)

    def batches():
        for first in range(0, 500, 64):
            yield X[first : first + 64], y[first : first + 64]

    expected = minidl.diagnose(model, X, y, batch_size=64)
    found = {
        "file": minidl.diagnose(model, minidl.NpyFile(tmp_path / "X.npy"), y, batch_size=64),
        "map": minidl.diagnose(model, np.load(tmp_path / "X.npy", mmap_mode="r"), y, batch_size=64),
        "batches": minidl.diagnose(model, batches),
        "inputs": minidl.diagnose(model, (X[:, :2], X[:, 2:]), y, batch_size=64),
    }
    for report in found.values():
        assert report.rows == 500
        assert report.loss == pytest.approx(expected.loss, rel=1e-6)
        for a, b in zip(expected.layers, report.layers, strict=True):
            np.testing.assert_allclose(b[5:], a[5:], rtol=1e-5, atol=1e-7)


def test_large_files_take_several_blocks(tmp_path, monkeypatch):
    """Gradients and counts add up over blocks, of different sizes, and a last row that joins."""
    monkeypatch.setattr("minidl.data.blocks.BLOCK", 4096)
    X, y = data(rows=1025)
    np.save(tmp_path / "X.npy", X)
    model = deep(minidl.ReLU, layers=2, dtype="float64")
    weight = np.random.default_rng(1).random(1025)
    one = minidl.diagnose(model, X, y, sample_weight=weight, batch_size=2048)
    other = minidl.diagnose(
        model, minidl.NpyFile(tmp_path / "X.npy"), y, sample_weight=weight, batch_size=64
    )
    assert other.rows == 1025
    assert other.loss == pytest.approx(one.loss, rel=1e-12)
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(b[5:], a[5:], rtol=1e-9, atol=1e-12)


def test_containers():
    """Rows in the order of execution, by their full names; depth is the longest way."""
    block = minidl.Sequential(minidl.Linear(8, 8), minidl.ReLU(), minidl.Linear(8, 8))
    relu = minidl.ReLU()
    model = minidl.Sequential(
        minidl.Parallel(minidl.Linear(3, 4), minidl.Embedding(6, 4), columns=[3, 1]),
        relu, minidl.Residual(block), relu,
        minidl.Concat(minidl.Identity(), minidl.Linear(8, 2)), minidl.Linear(10, 2), seed=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)), rng.integers(0, 6, (50, 1))
    report = minidl.diagnose(model, X, rng.integers(0, 2, 50))
    assert [(x.name, x.type, x.columns, x.depth, x.weighted) for x in report.layers] == [
        ("0.0", "Linear", 4, 1, True),
        ("0.1", "Embedding", 4, 1, True),
        ("0", "Parallel", 8, 1, False),
        ("1", "ReLU", 8, 1, False),
        ("2.block.0", "Linear", 8, 2, True),
        ("2.block.1", "ReLU", 8, 2, False),
        ("2.block.2", "Linear", 8, 3, True),
        ("2", "Residual", 8, 3, False),
        ("3", "ReLU", 8, 3, False),
        ("4.1", "Linear", 2, 4, True),
        ("4", "Concat", 10, 4, False),
        ("5", "Linear", 2, 5, True),
    ]
    joined = report.layers[2]
    assert joined.gradient**2 == pytest.approx(
        report.layers[0].gradient ** 2 + report.layers[1].gradient ** 2, rel=1e-5
    )
    assert all(x.gradient > 0 for x in report.layers)
    ends = report.ends
    assert ends.first.gradient == max(x.gradient for x in report.layers[:2])
    assert (ends.first.depth, ends.last.name) == (1, "5")


def test_one_layer_alone():
    report = minidl.diagnose(minidl.Linear(FEATURES, 3, seed=0), *data())
    assert [x.title for x in report.layers] == ["Linear"]
    assert report.healthy
    assert np.isnan(report.factor)
    assert "nothing was found" in str(report)


def test_a_model_of_nothing():
    X, _ = data(3)
    report = minidl.diagnose(minidl.Sequential(minidl.Identity()), X, X, loss="MSELoss")
    assert (report.layers, report.loss, report.healthy) == ([], 0.0, True)


def test_the_modes():
    """Evaluation mode has running averages and no Dropout."""
    model = network(minidl.BatchNorm1d(FEATURES), minidl.Dropout(0.5, seed=0))
    model[1].running_mean, model[1].running_var = np.full(FEATURES, 3.0), np.full(FEATURES, 4.0)
    X, y = data()
    training, evaluation = (minidl.diagnose(model, X, y, training=t) for t in (True, False))
    assert [x.type for x in training.layers] == ["Linear", "BatchNorm1d", "Dropout", "Linear"]
    assert [x.type for x in evaluation.layers] == ["Linear", "BatchNorm1d", "Linear"]
    assert training.layers[1].mean == pytest.approx(0, abs=1e-12)
    out = (model[0](X) - 3) / np.sqrt(4 + 1e-5)
    assert evaluation.layers[1].mean == pytest.approx(out.mean())
    assert training.layers[2].zeros == pytest.approx(0.5, abs=0.1)
    assert evaluation.loss == pytest.approx(
        minidl.CrossEntropyLoss()(model.predict(X), y), rel=1e-12
    )


def test_saturation():
    """Where the derivative is below a twentieth of its greatest value."""
    X = np.array([[-9.0], [-2.3], [-2.1], [0.0], [2.1], [2.3], [2.5], [9.0]])
    for layer, scale in ((minidl.Tanh(), 1), (minidl.Sigmoid(), 2)):
        derivative = {"Tanh": lambda z: 1 - np.tanh(z) ** 2, "Sigmoid": lambda z: (
            4 / (np.exp(z / 2) + np.exp(-z / 2)) ** 2)}[type(layer).__name__]  # fmt: skip
        first = minidl.Linear(1, 1, bias=False)
        first.weight = [[scale]]
        report = minidl.diagnose(
            minidl.Sequential(first, layer, dtype="float64"), X, X, loss="MSELoss"
        )
        assert report.layers[1].saturated == (derivative(scale * X) < 0.05).mean()
        assert 0 < report.layers[1].saturated < 1
        assert np.isnan(report.layers[0].saturated)


@pytest.mark.parametrize("layer", [minidl.ReLU(), minidl.LeakyReLU(0.0)])
def test_dead_units(layer):
    """Those that give 0 for every row of all batches."""
    first = minidl.Linear(2, 4)
    first.weight, first.bias = [[1, 0], [0, 1], [1, 1], [0, 0]], [0, -99, -99, -1]
    model = minidl.Sequential(first, layer, minidl.Linear(4, 2, seed=0))
    X = np.random.default_rng(0).normal(size=(100, 2))
    X[37] = 98.5, 98.5  # wakes the third
    report = minidl.diagnose(model, X, np.zeros(100, int), batch_size=8)
    assert report.layers[1].dead == 0.5
    (finding,) = [x for x in report.findings if x.kind == "dead"]
    assert finding.layer == "1"
    assert finding.text.startswith(f"2 of 4 units of layer 1 ({type(layer).__name__}) gave 0 for")
    alive = minidl.diagnose(model, X, np.zeros(100, int), dead=0.51)
    assert "dead" not in [x.kind for x in alive.findings]


def test_gradients_that_float32_can_hold_but_not_their_squares():
    model = deep(minidl.Sigmoid, layers=35)
    X, y = data()
    wide = deep(minidl.Sigmoid, layers=35, dtype="float64")
    wide.load_state_dict(model.state_dict())
    narrow, exact = (minidl.diagnose(m, X, y).layers[0] for m in (model, wide))
    assert 0 < exact.gradient < 1e-22
    assert narrow.gradient == pytest.approx(exact.gradient, rel=1e-3)
    assert narrow.parameter_gradient == pytest.approx(exact.parameter_gradient, rel=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        minidl.SGD(0.1, momentum=0.9, weight_decay=0.1), minidl.Adam(), minidl.AdamW(amsgrad=True),
        minidl.NAdam(), minidl.RAdam(), minidl.RMSprop(), minidl.Adagrad(), minidl.Lion(),
        minidl.SGD(0.1, groups=[{"params": "0.*", "lr": 1e-3}], decay_bias_and_norm=False),
    ],
    ids=repr,
)  # fmt: skip
def test_the_update_is_that_of_the_next_step(optimizer):
    """With the state that the optimizer has for the model, or a fresh one."""
    X, y = data()
    for epochs in (0, 3):
        model = network(minidl.BatchNorm1d(FEATURES), minidl.ReLU(), dtype="float64")
        trainer = minidl.Trainer(model, optimizer=copy.copy(optimizer))
        trainer.fit(X, y, epochs=epochs, batch_size=16, seed=0)
        report = minidl.diagnose(model, X, y, optimizer=trainer.optimizer, batch_size=ROWS)
        before = model.state_dict()
        trainer.train_step(X, y)
        after = model.state_dict()
        for layer in report.layers:
            names = [n for n in before if n.startswith(f"{layer.name}.") and "running" not in n]
            names = [n for n in names if before[n].ndim == 2] or [
                n for n in names if before[n].ndim
            ]
            if names:
                update = sum(np.square(after[n] - before[n]).sum() for n in names)
                own = sum(np.square(before[n]).sum() for n in names)
                assert layer.update_ratio == pytest.approx(np.sqrt(update / own), rel=1e-9)


def test_same_bits_for_every_number_of_threads():
    model = deep(minidl.ReLU, layers=3, width=200, normalised=True)
    X, y = data(rows=700)

    def measured():
        return [np.array(x[5:]) for x in minidl.diagnose(model, X, y).layers]

    for_all_threads(measured)


# The model is left as it was.


def everything(model, optimizer):
    """All that may not change."""
    held = [array.copy() for array in model.state().values()]
    held += [g.copy() for g in model.gradients()]
    held += [] if optimizer._state is None else [optimizer._state.moments.copy()]
    held += [np.array([x.training, x._steps, getattr(x, "key", 0)]) for _, x in model.tree()]
    held += [np.array([getattr(x, "calls", 0)]) for _, x in model.tree()]
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    held += [np.frombuffer(repr(of_numpy).encode(), np.uint8)]
    held += [
        np.frombuffer(repr(x.rng.bit_generator.state).encode(), np.uint8)
        for _, x in model.tree()
        if hasattr(x, "rng")
    ]
    return held


def failing(prediction, y):
    """A loss that fails at the second batch."""
    failing.calls += 1
    if failing.calls > 1:
        raise RuntimeError("enough")
    return 0.0, np.zeros_like(prediction)


@dtypes
def test_the_model_is_left_as_it_was(dtype):
    model = network(
        minidl.BatchNorm1d(FEATURES), minidl.ReLU(), minidl.Dropout(0.5), Square(FEATURES),
        minidl.Residual(minidl.Linear(FEATURES, FEATURES)), dtype=dtype,
    )  # fmt: skip
    X, y = data()
    trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=1e-2), clip_grad_norm=1.0)
    trainer.fit(X, y, epochs=2, seed=0)
    model.forward(X)
    model.backward(np.ones((ROWS, 3)))
    model[1].training = False
    prediction = model.predict(X)
    before = everything(model, trainer.optimizer)
    report = minidl.diagnose(model, X, y, optimizer=trainer.optimizer, batch_size=16)
    assert len(report.layers) == 8
    failing.calls = 0
    with pytest.raises(RuntimeError, match="enough"):
        minidl.diagnose(model, X, X[:, :3], loss=failing, batch_size=16)
    minidl.jacobian(model, X[:2])
    minidl.jacobian_spectrum(model, X[:2])
    minidl.jacobian_spectrum(model, X[:2], method="power", iterations=3)
    after = everything(model, trainer.optimizer)
    assert len(before) == len(after) > 20
    for a, b in zip(before, after, strict=True):
        assert same_bits(a, b)
    assert same_bits(model.predict(X), prediction)


# What it says.


def health(name="0", kind="Linear", depth=1, weighted=True, **numbers):
    """A row of a report."""
    return LayerHealth(name, kind, 8, depth, weighted, **{"mean": 0.0, **numbers})


def findings(*layers, **thresholds):
    return HealthReport(layers, 10, 1.0, Thresholds.checked(**thresholds)).findings


def test_sigmoid_vanishes_and_relu_does_not():
    """The sentence of the issue: how much, why, and what to try."""
    X, y = data()
    report = minidl.diagnose(deep(minidl.Sigmoid), X, y)
    (finding,) = report.findings
    assert not report.healthy
    assert (finding.kind, finding.layer) == ("vanishing", "0")
    first, last = report.layers[0].gradient, report.layers[-1].gradient
    assert report.factor == pytest.approx((first / last) ** (1 / 12))
    assert finding.text.startswith(
        f"gradients shrink {report.factor:.2g}x per layer, {first / last:.1e}x from layer 24 "
        "(Linear) to layer 0 (Linear): sigmoid activations; try ReLU with Kaiming initialisation, "
        "BatchNorm1d before the activations, or Residual blocks"
    )
    assert report.verdict == finding.text
    healthy = minidl.diagnose(deep(minidl.ReLU, init="kaiming_normal", width=64), X, y)
    assert healthy.healthy, healthy
    assert healthy.verdict.startswith("healthy: gradients change ")
    assert 0.7 < healthy.factor < 1.4


def test_large_weights_explode():
    model = deep(minidl.ReLU, init=lambda shape, rng: rng.normal(0, 2, shape))
    report = minidl.diagnose(model, *data(), large_update=10)
    (finding,) = [x for x in report.findings if x.kind == "exploding"]
    assert "x per layer" in finding.text
    assert finding.text.endswith(
        "large weights; try Kaiming initialisation, BatchNorm1d before the activations, Residual "
        "blocks, or clip_grad_norm"
    )


@pytest.mark.parametrize(
    ("gradients", "thresholds", "kinds"),
    [
        ([1e-3, 1.0], {}, []),
        ([0.99e-3, 1.0], {}, ["vanishing"]),
        ([0.99e-3, 1.0], {"vanishing": 1e-4}, []),
        ([0.0, 1.0], {}, ["vanishing"]),
        ([1e3, 1.0], {}, []),
        ([1.01e3, 1.0], {}, ["exploding"]),
        ([50.0, 1.0], {"exploding": 49}, ["exploding"]),
        ([0.0, 0.0], {}, []),
        ([NAN, 1.0], {}, []),
        ([1.0], {}, []),
    ],
)
def test_gradients_from_end_to_end(gradients, thresholds, kinds):
    layers = [health(str(i), depth=i + 1, gradient=g) for i, g in enumerate(gradients)]
    assert [x.kind for x in findings(*layers, **thresholds)] == kinds


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["Tanh"], "tanh activations with small weights; try Xavier initialisation, BatchNorm1d"),
        (["ReLU"], "small weights; try Kaiming initialisation, BatchNorm1d before"),
        (["ReLU", "BatchNorm1d"], "small weights; try Kaiming initialisation or Residual blocks"),
        (["Sigmoid", "BatchNorm1d", "Residual"], "try ReLU with Kaiming initialisation"),
    ],
)
def test_causes_and_remedies_of_vanishing(kinds, words):
    """What is there already is not proposed."""
    others = [health(kind=kind, weighted=False) for kind in kinds]
    (finding,) = findings(health(gradient=1e-9), *others, health("9", depth=9, gradient=1.0))
    assert words in finding.text


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["Tanh"], "large weights; try Xavier initialisation, BatchNorm1d before"),
        (["ReLU", "BatchNorm1d"], "many layers of BatchNorm1d; try Residual blocks, fewer layers"),
    ],
)
def test_causes_and_remedies_of_exploding(kinds, words):
    others = [health(kind=kind, weighted=False) for kind in kinds]
    (finding,) = findings(health(gradient=1e9), *others, health("9", depth=9, gradient=1.0))
    assert words in finding.text


def test_the_worst_layer_is_named_and_the_others_counted():
    layers = [
        health("1", "Tanh", weighted=False, saturated=0.5),
        health("3", "Tanh", weighted=False, saturated=0.75),
        health("5", "Tanh", weighted=False, saturated=0.6),
        health("7", "Tanh", weighted=False, saturated=0.49),
        health("8", update_ratio=0.4),
    ]
    saturated, update = findings(*layers)
    assert (saturated.kind, saturated.layer) == ("saturated", "3")
    assert saturated.text.startswith("75 % of what layer 3 (Tanh) gives lies where the activation")
    assert ", and 2 other layers likewise: try" in saturated.text
    assert (update.kind, update.layer) == ("large update", "8")
    assert update.text.startswith("an update is 0.4 times the weights of layer 8 (Linear): try a")
    assert [x.kind for x in findings(*layers, saturated=0.8, large_update=0.5)] == []
    assert findings(health(update_ratio=float("inf"))) == []  # weights that were 0


def test_large_rates_make_large_updates():
    X, y = data()
    model = network(minidl.Tanh())
    rates = {lr: minidl.diagnose(model, X, y, optimizer=minidl.SGD(lr=lr)) for lr in (1e-2, 10.0)}
    assert rates[1e-2].healthy
    assert [x.kind for x in rates[10.0].findings] == ["large update"]


def test_what_is_not_finite_is_named_first():
    model = network(*(minidl.Linear(FEATURES, FEATURES) for _ in range(3)), dtype="float32")
    for layer in model:
        layer.weight = np.full(layer.weight.shape, 1e15)
    report = minidl.diagnose(model, *data())
    (finding,) = report.findings
    assert (finding.kind, finding.layer) == ("not finite", "2")
    assert finding.text.startswith("NaN or infinity, first in layer 2 (Linear): try")
    assert np.isfinite(report.layers[1].mean)
    assert not np.isfinite(report.loss)
    assert np.isnan(report.layers[0].update_ratio)


# How it is shown.


def shown():
    layers = [
        LayerHealth("0", "Linear", 8, 1, True, 0.125, 1.5, 0.0, gradient=1e-9,
                    parameter_norm=2.0, parameter_gradient=2e-9, update_ratio=1e-3),
        LayerHealth("1", "ReLU", 8, 1, False, 0.5, 0.75, 0.5, 0.125, 1.5, 0.0, dead=0.25,
                    gradient=2e-9),
        LayerHealth("2", "Linear", 3, 2, True, 0.0, 1.0, 0.0, gradient=1.0, parameter_norm=1.0,
                    parameter_gradient=2.0, update_ratio=0.01),
    ]  # fmt: skip
    return HealthReport(layers, 1437, 2.3, Thresholds())


TABLE = """
layer        mean   std  zeros  saturated  dead  gradient  of parameters  update / weight
-----------------------------------------------------------------------------------------
0 (Linear)  0.125   1.5    0 %                      1e-09          2e-09            0.001
1 (ReLU)      0.5  0.75   50 %             25 %     2e-09
2 (Linear)      0     1    0 %                          1              2             0.01
-----------------------------------------------------------------------------------------
1,437 rows, loss 2.3
"""


def test_as_text():
    assert str(shown()) == repr(shown()) == TABLE.lstrip() + shown().verdict
    assert shown().verdict.startswith("gradients shrink 1e-09x per layer, 1.0e-09x from layer 2 (L")


def test_in_a_notebook_and_on_a_terminal():
    html = shown()._repr_html_()
    assert html.count("<tr>") == 5
    assert "1,437 rows, loss 2.3<br/>gradients shrink" in html
    console = pytest.importorskip("rich.console")
    file = io.StringIO()
    console.Console(file=file, width=200).print(shown())
    assert "gradients shrink" in file.getvalue()


def test_to_pandas():
    pytest.importorskip("pandas")
    table = shown().to_pandas()
    assert list(table.index) == ["0", "1", "2"]
    assert list(table.columns) == list(LayerHealth._fields[1:])
    assert table.loc["1", "dead"] == 0.25
    assert table.isna().loc["0", "pre_mean"]


def test_plot():
    pytest.importorskip("matplotlib")
    figure = shown().plot()
    gradients, outputs, shares = figure.axes
    drawn = {line.get_label(): line for line in gradients.lines}
    assert list(drawn["of the output of a row"].get_ydata()) == [1e-9, 2e-9, 1.0]
    assert list(drawn["of the parameters"].get_xdata()) == [0, 2]
    assert gradients.get_yscale() == "log"
    assert [text.get_text() for text in gradients.get_xticklabels()] == ["0", "1", "2"]
    drawn = {line.get_label(): list(line.get_ydata()) for line in outputs.lines}
    assert drawn == {"of layers": [0.125, 0.0], "of activations": [0.5]}
    assert [line.get_label() for line in shares.lines] == ["zeros", "dead units"]
    assert tuple(shown().plot(figsize=(3, 2)).get_size_inches()) == (3, 2)
    with pytest.raises(ValueError, match="figsize: expected"):
        shown().plot(figsize=3)
    with pytest.raises(ValueError, match="plot: expected at least one layer"):
        HealthReport([], 1, 0.0, Thresholds()).plot()


def test_plot_of_a_deep_network():
    pytest.importorskip("matplotlib")
    figure = minidl.diagnose(deep(minidl.Tanh, layers=30), *data()).plot()
    assert figure.axes[0].get_xlabel() == "layer, in the order of execution"
    assert len(figure.axes[0].lines[0].get_xdata()) == 61


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("matplotlib", "plot", "HealthReport.plot needs matplotlib: pip install 'minidl[plot]'"),
        ("pandas", "to_pandas", "HealthReport.to_pandas needs pandas: pip install 'minidl[pan"),
        ("rich", "print", "HealthReport.print needs rich: pip install 'minidl[cli]'"),
    ],
)
def test_without_the_library(module, call, message):
    code = (
        f"import sys; sys.modules['{module}'] = None\n"
        "import minidl, numpy as np\n"
        "model = minidl.Linear(2, 2)\n"
        f"minidl.diagnose(model, np.ones((4, 2)), [0, 1, 0, 1]).{call}()"
    )
    assert f"ImportError: {message}" in python("-c", code, check=False).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "model: expected a Layer"),
        ({"X": [[1.0]]}, "X: expected 5 features"),
        ({"y": None}, "y: expected"),
        ({"y": np.full(ROWS, 3)}, "y: expected labels from 0 to 2"),
        ({"loss": "mse"}, "loss: expected one of"),
        ({"optimizer": 3}, "optimizer: expected an Optimizer"),
        ({"optimizer": minidl.SGD(groups=[{"params": "x", "lr": 1}])}, r"groups\[0\]: expected"),
        ({"sample_weight": [1.0]}, "sample_weight: expected 60 rows"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"training": 1}, "training: expected"),
        ({"vanishing": 1}, r"vanishing: expected a number in \(0, 1\)"),
        ({"exploding": 1}, "exploding: expected"),
        ({"dead": 0}, r"dead: expected a number in \(0, 1\]"),
        ({"saturated": 1.1}, "saturated: expected"),
        ({"large_update": 0}, "large_update: expected"),
    ],
)
def test_bad_input(arguments, message):
    X, y = data()
    given = {"model": network(), "X": X, "y": y, **arguments}
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        minidl.diagnose(given.pop("model"), given.pop("X"), given.pop("y"), **given)


def test_one_row_has_no_batch_statistics():
    X, y = data(rows=1)
    with pytest.raises(ValueError, match="BatchNorm1d: expected at least 2 rows"):
        minidl.diagnose(network(minidl.BatchNorm1d(FEATURES)), X, y)
    assert minidl.diagnose(network(minidl.BatchNorm1d(FEATURES)), X, y, training=False).rows == 1
