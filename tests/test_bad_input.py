"""What a public class or function cannot do, it refuses at once, by the name of the argument."""

import inspect

import numpy as np
import pytest
from helpers import python

import minidl

NAN, HUGE = float("nan"), 10**400
X, Y = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 0, 1])
RAGGED = [[1.0], [1.0, 2.0]]
MASKED = np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3))


class Nothing:
    """Of no use to anybody."""


# No argument of any constructor can be one of these.
WRONG = [
    Nothing(),
    1j,
    np.zeros((2, 2, 2)),
    np.array([1, None, "a"], dtype=object),
    np.array(["a", "b"]),
    np.zeros(4, [("a", float)]),
    RAGGED,
]
# Arguments that have no default, or whose default says nothing.
GIVEN = {
    "in_features": 3, "out_features": 2, "num_features": 3, "normalized_shape": 3,
    "num_embeddings": 5, "embedding_dim": 2, "filename": "log.csv", "filepath": "m.safetensors",
    "seconds": 1.0, "epochs": 1, "step_size": 2, "gamma": 0.5, "T_max": 5, "T_0": 5, "max_lr": 0.1,
    "total_steps": 10, "milestones": [2], "lr": 0.1, "weight_decay": 0.0,
    "decay_bias_and_norm": True, "groups": None, "n": 1, "path": "X.npy", "name": "mine",
    "function": lambda a, b: 0.0, "lr_lambda": lambda t: 1.0, "block": minidl.ReLU(),
    "schedulers": [minidl.StepLR(2), minidl.StepLR(2)], "model": minidl.Sequential(minidl.ReLU()),
    "models": [minidl.Sequential(minidl.ReLU())],
}  # fmt: skip
# The name in the message, where it is another.
CALLED = {("Metric", "function"): "metrics", ("Residual", "block"): "layers"}
CLASSES = [
    name
    for name in minidl.__all__
    if inspect.isclass(getattr(minidl, name))
    and not issubclass(getattr(minidl, name), BaseException)
]


def parameters(name):
    """Named arguments of a constructor."""
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    found = inspect.signature(getattr(minidl, name)).parameters.values()
    return [p for p in found if p.kind not in kinds]


def test_there_are_classes_and_arguments():
    assert len(CLASSES) > 70
    assert sum(len(parameters(name)) for name in CLASSES) > 150


@pytest.mark.parametrize(
    ("name", "argument"), [(name, p.name) for name in CLASSES for p in parameters(name)]
)
def test_constructors(name, argument):
    if name == "TensorBoard":
        pytest.importorskip("tensorboard")
    usual = {p.name: GIVEN.get(p.name, p.default) for p in parameters(name)}
    if name == "OptunaPruning":
        usual["trial"] = pytest.importorskip("optuna").trial.FixedTrial({})
    if name == "OneCycleLR":  # in one of two ways
        if argument in ("epochs", "steps_per_epoch"):
            usual |= {"total_steps": None, "epochs": 2, "steps_per_epoch": 5}
        else:
            usual |= {"epochs": None, "steps_per_epoch": None}
    assert inspect.Parameter.empty not in usual.values()
    branches = [minidl.Linear(3, 2)] if name == "Parallel" else []
    called = CALLED.get((name, argument), argument)
    for wrong in WRONG:
        with pytest.raises((TypeError, ValueError), match=rf"^{called}\b.*: expected"):
            getattr(minidl, name)(*branches, **{**usual, argument: wrong})


def model():
    return minidl.Sequential(minidl.Linear(3, 4), minidl.ReLU(), minidl.Linear(4, 2), seed=0)


def trainer(**arguments):
    return minidl.Trainer(model(), **arguments)


def history():
    made = minidl.History()
    made.append({"loss": 1.0})
    return made


def plateau():
    return minidl.ReduceLROnPlateau()


def changed(thing, **attributes):
    for name, value in attributes.items():
        setattr(thing, name, value)


def own_loss(result):
    return minidl.FunctionLoss(lambda prediction, y: result)(X, X)


def stepping(every):
    callback = minidl.Callback()
    callback.every = every
    return trainer().fit(X, Y, callbacks=[callback])


RNG = np.random.default_rng(0)
# Calls, and the beginning of the message.
CALLS = [
    # Numbers too large for a float, sizes too large for an array.
    (lambda: minidl.Adam(lr=HUGE), r"lr: expected a number in \[0, inf\), got 1000"),
    (lambda: minidl.Adam(betas=(0.9, HUGE)), r"betas\[1\]: expected"),
    (lambda: minidl.Linear(2**63, 2), r"in_features: expected an integer of at most 2\*\*29"),
    (lambda: minidl.Linear(3, HUGE), "out_features: expected"),
    (lambda: minidl.BatchNorm1d(2**63), "num_features: expected"),
    (lambda: minidl.LayerNorm(2**63), "normalized_shape: expected"),
    (lambda: minidl.Embedding(3, 2**63), "embedding_dim: expected"),
    (lambda: minidl.PReLU(2**63), "num_parameters: expected"),
    (lambda: minidl.PReLU(init=1e308), "init: expected"),
    (lambda: minidl.StepLR(2**63), "step_size: expected"),
    (lambda: minidl.set_num_threads(2**31), "n: expected an integer from 1 to"),
    (lambda: stepping(2**63), r"Callback.every: expected"),
    (lambda: stepping(True), r"Callback.every: expected"),
    # Switches that are no bool, seeds that are no number, dtypes that are none.
    (lambda: minidl.Linear(3, 2, bias="no"), "bias: expected True or False, got 'no'"),
    (lambda: minidl.Linear(3, 2, bias=None), "bias: expected True or False"),
    (lambda: minidl.Adam(amsgrad=1), "amsgrad: expected True or False"),
    (lambda: minidl.Linear(3, 2, seed=True), "seed: expected"),
    (lambda: minidl.Dropout(seed=[1, 2]), "seed: expected"),
    (lambda: minidl.Embedding(3, 2, seed=-1), "seed: expected"),
    (lambda: minidl.Linear(3, 2, dtype=None), "dtype: expected 'float32' or 'float64', got None"),
    (lambda: minidl.MultiMarginLoss(p=True), "p: expected 1 or 2"),
    (lambda: minidl.Linear(3, 2, weight_init=int), "weight_init: expected one of"),
    (lambda: minidl.FunctionLoss(int), "function: expected a function"),
    (lambda: minidl.History(first=-1), "first: expected"),
    (lambda: minidl.MultiStepLR(b"x"), "milestones: expected"),
    # Layers.
    (lambda: model()[True], "i: expected an integer"),
    (lambda: model()[0:1], "i: expected an integer"),
    (lambda: model().train("yes"), "training: expected True or False"),
    (lambda: model().backward(RAGGED), "backward: call forward first"),
    (lambda: model().predict(()), "x: expected 2 dimensions"),
    (lambda: model().forward(()), "x: expected"),
    (lambda: model().predict(MASKED), "x: expected no missing values"),
    (lambda: minidl.Flatten()(RAGGED), "x: expected an array, got rows of different lengths"),
    (lambda: model().set_dtype("int8"), "dtype: expected 'float32' or 'float64'"),
    (lambda: model().set_dtype(None), "dtype: expected 'float32' or 'float64'"),
    (lambda: model().load_state_dict(None), "state: expected a dict of arrays"),
    (lambda: model().reset_parameters(0), "rng: expected a numpy.random.Generator"),
    (lambda: minidl.Embedding(3, 2).reset_parameters(None), "rng: expected"),
    (lambda: minidl.Dropout().reset_parameters(None), "rng: expected"),
    (lambda: changed(minidl.Linear(3, 2), weight=RAGGED), "weight: expected an array"),
    (lambda: changed(minidl.Linear(3, 2), weight=np.ones((2, 3), complex)), "weight: expected"),
    (lambda: changed(minidl.Dropout(), p=7.0), r"p: expected a number in \[0, 1\]"),
    (lambda: changed(minidl.Dropout(), key="a"), "key: expected"),
    (lambda: changed(minidl.Linear(3, 2), weight_init="x"), "weight_init: expected one of"),
    (lambda: changed(minidl.Linear(3, 2), bias_init=3), "bias_init: expected one of"),
    (lambda: changed(minidl.BatchNorm1d(3), eps=-1.0), "eps: expected"),
    (lambda: changed(minidl.LayerNorm(3), eps=None), "eps: expected"),
    (lambda: changed(minidl.LeakyReLU(), negative_slope=NAN), "negative_slope: expected"),
    (lambda: changed(minidl.Softplus(), beta=0), "beta: expected"),
    (lambda: changed(model(), training=1), "training: expected"),
    (lambda: minidl.Layer().add_parameter("a.b", [1.0]), "name: expected the name of an attribute"),
    (lambda: minidl.Layer().add_parameter(None, [1.0]), "name: expected"),
    (lambda: minidl.Layer().add_parameter("forward", [1.0]), "name: expected one that is free"),
    (lambda: minidl.Layer().add_parameter("a", ["x"]), "a: expected real numbers"),
    (lambda: minidl.Layer().add_parameter("a", [NAN]), "a: expected finite numbers"),
    (lambda: minidl.Layer().add_parameter("a", [1e308]), "a: expected finite numbers"),
    (lambda: minidl.Layer().add_parameter("a", [1.0], layout="x"), "layout: expected 'flat'"),
    (lambda: minidl.Layer().add_parameter("a", [1.0], layout="rows"), "a: expected a matrix"),
    (lambda: minidl.Layer().add_parameter("a", [1.0], trainable=1), "trainable: expected"),
    (lambda: minidl.Parallel(minidl.Linear(3, 2), columns=3), "columns: expected 1 numbers"),
    # Initial values.
    *(
        (lambda f=f, shape=shape, rng=rng: f(shape, rng), message)
        for f in minidl.initializers.NAMES.values()
        for shape, rng, message in (
            (None, RNG, "shape: expected"), ((1, 2, 3), RNG, "shape: expected"),
            ((-1, 2), RNG, r"shape\[0\]: expected"), ((3, 2), None, "rng: expected"),
        )
    ),
    # Losses.
    (lambda: minidl.MSELoss()(RAGGED, X), "prediction: expected an array"),
    (lambda: minidl.MSELoss()(X, MASKED), "y: expected no missing values"),
    (lambda: own_loss(("a", X)), "loss: expected a number, got 'a'"),
    (lambda: own_loss((None, X)), "loss: expected a number"),
    (lambda: own_loss((0.0, RAGGED)), "loss: gradient: expected an array"),
    (lambda: own_loss((0.0, X + 1j)), "loss: gradient: expected real numbers"),
    # Optimizers and schedules.
    (lambda: minidl.SGD().step(None), "model: expected a Layer"),
    (lambda: minidl.Adam().state_for("x"), "model: expected a Layer"),
    (lambda: changed(minidl.SGD(), lr=-1.0), "lr: expected"),
    (lambda: changed(minidl.SGD(), momentum=1.0), "momentum: expected"),
    (lambda: changed(minidl.Adam(), betas=0.9), "betas: expected two numbers"),
    (lambda: changed(minidl.Adam(), eps=0), "eps: expected"),
    (lambda: changed(minidl.Lion(), weight_decay="a"), "weight_decay: expected"),
    (lambda: minidl.StepLR(2).rates(None, 0, 3), "base: expected"),
    (lambda: minidl.StepLR(2).rates(-0.1, 0, 3), "base: expected"),
    (lambda: minidl.StepLR(2).rates(0.1, -1, 3), "first: expected"),
    (lambda: minidl.StepLR(2).rates(0.1, 0, 2.5), "count: expected"),
    (lambda: minidl.StepLR(2).rates(0.1, 0, 2**62), "count: expected"),
    (lambda: minidl.StepLR(2).rate(0.1, "a"), "t: expected"),
    (lambda: minidl.OneCycleLR(0.1, 9).momentum(-1), "t: expected"),
    (lambda: minidl.OneCycleLR(0.1, 9).momenta(0, NAN), "count: expected"),
    (lambda: minidl.LinearLR().check(None), "total: expected"),
    (lambda: plateau().better("a", None), "value: expected a number"),
    (lambda: plateau().better(1.0, "a"), "best: expected a number"),
    (lambda: plateau().rate_after(None, None), "base: expected"),
    (lambda: plateau().rate_after(0.1, 3), r"state: expected what start\(\) gives"),
    (lambda: plateau().start().step(None), "value: expected a number"),
    # The trainer.
    (lambda: trainer().fit(X, Y, shuffle="no"), "shuffle: expected True or False"),
    (lambda: trainer().fit(X, Y, callbacks=np.array(1.0)), "callbacks: expected a list"),
    (lambda: trainer().fit(X, Y, callbacks=None), "callbacks: expected a list of Callback objects"),
    (lambda: trainer().fit(X, Y, callbacks=minidl.TimeLimit(1)), "callbacks: expected a list"),
    (lambda: trainer().fit(X, Y, callbacks=[minidl.TimeLimit]), "callbacks: expected a list"),
    (lambda: trainer().fit((), Y), r"X: expected 2 dimensions .* got shape \(0,\)"),
    (lambda: trainer().evaluate((), Y), r"X: expected 2 dimensions .* got shape \(0,\)"),
    (lambda: trainer().fit(MASKED, Y), "X: expected no missing values"),
    (lambda: trainer().fit(lambda: np.array(1.0)), "X: expected a function that returns"),
    (lambda: trainer().fit(lambda: "ab"), "X: expected a function that returns"),
    (lambda: trainer().recalibrate_batchnorm(X, batch_size=0), "batch_size: expected"),
    *(
        (lambda name=name, value=value: changed(trainer(), **{name: value}), message)
        for name, value, message in (
            ("model", None, "model: expected a Layer"),
            ("loss", 3, "loss: expected"),
            ("loss", "mse", "loss: expected one of"),
            ("optimizer", 3, "optimizer: expected an Optimizer"),
            ("scheduler", 3, "scheduler: expected a Scheduler"),
            ("metrics", None, "metrics: expected a list"),
            ("metrics", {}, "metrics: expected a list"),
            ("clip_grad_norm", 0, "clip_grad_norm: expected"),
            ("clip_grad_value", "a", "clip_grad_value: expected"),
            ("accumulate", -1, "accumulate: expected"),
            ("accumulate", None, "accumulate: expected"),
            ("ema_decay", 1, "ema_decay: expected"),
            ("stop_training", "now", "stop_training: expected True or False"),
        )
    ),
    # Looking.
    (lambda: minidl.History().append(None), "values: expected a dict of numbers by name"),
    (lambda: minidl.History().append({1: 2.0}), "values: expected a dict of numbers by name"),
    (lambda: minidl.History().append({"loss": "a"}), r"values\['loss'\]: expected a number"),
    (lambda: history().merge_last([1.0]), "values: expected a dict of numbers by name"),
    (lambda: minidl.History.from_dict({"first": -1, "history": {}}), "state: expected"),
    (lambda: minidl.History.from_dict(np.ones(3)), "state: expected"),
    (lambda: model().summary("3"), "in_features: expected"),
    (lambda: minidl.ProgressBar("x"), "epochs: expected"),
    (lambda: minidl.ProgressBar(1).update(1, None), "logs: expected a dict"),
    # Callbacks.
    (lambda: minidl.CSVLogger(None), "filename: expected a path"),
    (lambda: minidl.CSVLogger(""), "filename: expected the path of a file"),
    (lambda: minidl.ModelCheckpoint(3), "filepath: expected a path"),
    (lambda: minidl.EarlyStopping(restore_best_weights="yes"), "restore_best_weights: expected"),
    (lambda: minidl.EarlyStopping().load_state(None), "state: expected a dict of wait, best"),
    (lambda: minidl.EarlyStopping().load_state({}), "state: expected a dict of wait, best"),
    (lambda: minidl.ModelCheckpoint("a").load_state({}), "state: expected a dict of best"),
    # Files.
    *(
        (lambda call=call, path=path: call(path), message)
        for call in (
            minidl.load, minidl.NpyFile, minidl.Trainer.resume,
            lambda path: minidl.save(model(), path),
            lambda path: trainer().save_checkpoint(path),
        )
        for path, message in (
            (None, "path: expected a path, got NoneType"),
            ("", "path: expected the path of a file"),
            ("a\0b", "path: expected the path of a file"),
        )
    ),
    (lambda: minidl.save(model(), "m", [1]), "metadata: expected a dict, got list"),
    (lambda: minidl.save(model(), "m", {"a": X}), "metadata: expected what JSON can hold"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=range(len(CALLS)))
def test_calls(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"^{message}"):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("figsize", ["ab", (1,), (0, 2), (2, NAN), (1e9, 1), 3])
def test_sizes_of_a_figure(figsize):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="figsize"):
        history().plot(figsize=figsize)


@pytest.mark.parametrize("metrics", [3, {"loss"}, [None], [np.zeros(3)]])
def test_panels_of_a_figure(metrics):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="metrics: expected"):
        history().plot(metrics)


def test_names_that_a_layer_does_not_have():
    for name in ("x", None, []):
        with pytest.raises(KeyError, match="name: expected 'weight', 'bias', got"):
            minidl.Linear(3, 2).gradient(name)
    with pytest.raises(IndexError, match="i: expected the number of one of 3 layers, got 3"):
        model()[3]
    assert model()[-1].out_features == 2


# What programs are made for stays.
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: minidl.Linear(3, 2), "in_features"),
        (lambda: minidl.Linear(3, 2), "out_features"),
        (lambda: minidl.Linear(3, 2), "dtype"),
        (lambda: minidl.BatchNorm1d(3), "num_features"),
        (lambda: minidl.BatchNorm1d(3), "num_batches_tracked"),
        (lambda: minidl.RMSNorm(3), "normalized_shape"),
        (lambda: minidl.Embedding(3, 2), "num_embeddings"),
        (lambda: minidl.PReLU(), "num_parameters"),
        (lambda: minidl.Parallel(minidl.Linear(3, 2)), "columns"),
        (lambda: minidl.Softmax(), "dim"),
        (lambda: minidl.GELU(), "approximate"),
    ],
    ids=str,
)
def test_what_cannot_be_changed(make, name):
    layer = make()
    before = getattr(layer, name)
    with pytest.raises(AttributeError, match=f"{name}: cannot be changed; make a new"):
        setattr(layer, name, before)


def test_what_can_be_changed_takes_effect():
    layer = minidl.LeakyReLU()
    assert layer([[-1.0]]) == np.float32(-0.01)
    layer.negative_slope = 0.5
    assert layer([[-1.0]]) == -0.5
    with pytest.raises(ValueError, match="negative_slope"):
        layer.negative_slope = -1
    assert layer.negative_slope == 0.5
    own = trainer()
    own.loss, own.optimizer, own.clip_grad_norm = "mseloss", "sgd", 2
    assert repr(own.loss) == "MSELoss()"
    assert isinstance(own.optimizer, minidl.SGD)
    assert own.clip_grad_norm == 2.0


def test_another_plateau_begins_anew():
    own = trainer(scheduler=minidl.ReduceLROnPlateau(patience=0, monitor="loss", threshold=1e9))
    own.fit(X, Y, epochs=3)
    assert own.lr < own.optimizer.lr
    own.scheduler = minidl.ReduceLROnPlateau(patience=5, monitor="loss")
    assert own.lr == own.optimizer.lr


class Mixed(minidl.Layer):
    """Parameters of its own, and a layer inside."""

    def __init__(self):
        super().__init__()
        self.inner = minidl.Linear(3, 3)
        self.add_parameter("scale", [1.0])

    def children(self):
        return [("inner", self.inner)]


def test_parameters_beside_other_layers_are_refused():
    """They would be neither trained nor saved."""
    with pytest.raises(TypeError, match="Mixed: has parameters of its own, scale, and other"):
        minidl.Sequential(Mixed())


def test_statistics_of_more_rows_than_there_are():
    """A batch larger than memory is one of all rows."""
    model = minidl.Sequential(minidl.BatchNorm1d(3))
    minidl.Trainer(model, "mseloss").recalibrate_batchnorm(X, batch_size=2**62)
    np.testing.assert_allclose(model[0].running_mean, X.mean(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="X: expected at least 2 rows"):
        minidl.Trainer(model, "mseloss").recalibrate_batchnorm(X[:0])


@pytest.mark.parametrize(
    "line",
    [
        "minidl.Trainer(minidl.Linear(3, 2)).accumulate = -1",
        "minidl.Linear(3, 2).out_features = 100_000",
    ],
)
def test_nothing_reaches_the_kernels(line):
    """These once crashed the process, with the next training or prediction."""
    done = python("-c", f"import minidl\n{line}", check=False)
    assert done.returncode == 1
    assert "Error: " in done.stderr.splitlines()[-1]
