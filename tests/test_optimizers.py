"""Optimizers: 50 steps as PyTorch makes them, and by hand as the compiled loop makes them."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
from helpers import (
    ATOL_TRAINED,
    OPTIMIZERS,
    assert_close,
    dtypes,
    for_all_threads,
    optimizers,
    same_bits,
    torch_scalars,
)

import minidl
from minidl import numpy_baseline as baseline
from minidl.kernels.optimizer import KINDS
from minidl.lowering import feed
from minidl.optimizers import ALL, by_name

ROWS, FEATURES, CLASSES, STEPS = 24, 6, 4, 50


def network(dtype):
    """No bias before BatchNorm: its gradient is noise about 0, which Adam would make large."""
    return minidl.Sequential(
        minidl.Linear(FEATURES, 19, bias=False), minidl.BatchNorm1d(19), minidl.Tanh(),
        minidl.Linear(19, 7), minidl.GELU(), minidl.Linear(7, CLASSES), dtype=dtype, seed=1,
    )  # fmt: skip


def torch_network(torch, model):
    """The same network with the same parameters in PyTorch."""
    nn = torch.nn
    other = nn.Sequential(
        nn.Linear(FEATURES, 19, bias=False), nn.BatchNorm1d(19), nn.Tanh(),
        nn.Linear(19, 7), nn.GELU(), nn.Linear(7, CLASSES),
    ).to(getattr(torch, model.dtype.name))  # fmt: skip
    other.load_state_dict({name: torch.as_tensor(v) for name, v in model.state_dict().items()})
    return other


def batches(dtype, steps):
    """Batches, another one each step."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x = rng.normal(size=(ROWS, FEATURES)).astype(dtype)
        yield x, (x[:, 0] > 0) + 2 * (x[:, 1] * x[:, 2] > 0)


def by_hand(model, loss, optimizer, x, y):
    """A training step in Python."""
    value = loss(model(x), y)
    model.backward(loss.backward())
    optimizer.step(model)
    return value


def assert_as_torch(trainer, other, make, dtype, prepare=None):
    """50 steps of a trainer and of PyTorch's optimizer, which `make` makes."""
    torch = pytest.importorskip("torch")
    model = trainer.model
    start = model.state_dict()
    with torch_scalars(dtype):
        optimizer = make(other)
        for x, y in batches(dtype, STEPS):
            optimizer.zero_grad()
            expected = torch.nn.functional.cross_entropy(
                other(torch.as_tensor(x)), torch.as_tensor(y)
            )
            expected.backward()
            if prepare is not None:
                prepare(other.parameters())
            optimizer.step()
            assert_close(trainer.train_step(x, y), expected.detach(), ATOL_TRAINED[dtype], 1)
    assert_same_parameters(model.state_dict(), other.state_dict(), dtype)
    assert max(np.abs(v - start[name]).max() for name, v in model.state_dict().items()) > 0.01


def assert_same_parameters(state, expected, dtype):
    """All within the tolerance of trained parameters."""
    for name, value in expected.items():
        value = np.asarray(value)
        scale = max(1.0, float(np.abs(value).max()))
        assert_close(state[name], value, ATOL_TRAINED[dtype], scale)


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o.name != "Lion"], ids=str)
@dtypes
def test_as_torch(optimizer, dtype):
    torch = pytest.importorskip("torch")
    model = network(dtype)
    assert_as_torch(
        minidl.Trainer(model, optimizer=optimizer.make()),
        torch_network(torch, model),
        lambda other: getattr(torch.optim, optimizer.name)(other.parameters(), **optimizer.params),
        dtype,
    )


@optimizers
@dtypes
def test_as_the_baseline(optimizer, dtype):
    """50 steps from the same gradients; Lion has no twin in PyTorch."""
    model = network(dtype)
    values = [np.array(p, np.float64) for p in model.parameters()]
    start = [v.copy() for v in values]
    expected = getattr(baseline, optimizer.name)(values, **optimizer.params)
    own, loss = optimizer.make(), minidl.CrossEntropyLoss()
    for x, y in batches(dtype, STEPS):
        by_hand(model, loss, own, x, y)
        expected.step([np.array(g, np.float64) for g in model.gradients()])
    for value, wanted in zip(model.parameters(), values, strict=True):
        assert_close(value, wanted, ATOL_TRAINED[dtype], 1)
    assert max(np.abs(v - b).max() for v, b in zip(values, start, strict=True)) > 0.01


@optimizers
@dtypes
def test_step_by_hand_gives_the_bits_of_train_step(optimizer, dtype):
    compiled, model = network(dtype), network(dtype)
    trainer = minidl.Trainer(compiled, optimizer=optimizer.make())
    loss, own = minidl.CrossEntropyLoss(), optimizer.make()
    for x, y in batches(dtype, 10):
        assert by_hand(model, loss, own, x, y) == trainer.train_step(x, y)
        for name, value in compiled.state_dict().items():
            assert same_bits(model.state_dict()[name], value), name


@optimizers
@dtypes
def test_equal_bits_on_any_threads(optimizer, dtype):
    def run():
        model = network(dtype)
        trainer = minidl.Trainer(model, optimizer=optimizer.make())
        values = [np.float64(trainer.train_step(x, y)) for x, y in batches(dtype, 5)]
        return *values, *model.state_dict().values()

    for_all_threads(run)


@optimizers
def test_learning_rate_0_changes_no_parameter(optimizer):
    optimizer = optimizer.make()
    optimizer.lr = 0.0
    model = network("float64")
    before = model.state_dict()
    trainer = minidl.Trainer(model, optimizer=optimizer)
    for x, y in batches("float64", 3):
        trainer.train_step(x, y)
    trained = {
        name
        for name, value in model.state_dict().items()
        if not np.array_equal(value, before[name])
    }
    assert trained == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@optimizers
def test_the_learning_rate_may_change_between_steps(optimizer):
    compiled, model = network("float64"), network("float64")
    trainer = minidl.Trainer(compiled, optimizer=optimizer.make())
    loss, own = minidl.CrossEntropyLoss(), optimizer.make()
    for i, (x, y) in enumerate(batches("float64", 4)):
        own.lr = trainer.optimizer.lr = 0.1 / (i + 1)
        by_hand(model, loss, own, x, y)
        trainer.train_step(x, y)
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        assert same_bits(np.ascontiguousarray(one), np.ascontiguousarray(other))


def test_all_optimizers_are_in_the_kernel():
    assert all(getattr(minidl, name) is ALL[name] for name in ALL)
    assert set(KINDS) == set(ALL)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("SGD", {"nesterov": True}, "nesterov: .*momentum is 0"),
        ("SGD", {"lr": -1.0}, "lr: "),
        ("SGD", {"momentum": 1.0}, "momentum: "),
        ("Adam", {"betas": (0.9,)}, "betas: expected two numbers"),
        ("Adam", {"betas": (0.9, 1.0)}, r"betas\[1\]: "),
        ("Adam", {"eps": 0.0}, "eps: "),
        ("AdamW", {"weight_decay": float("nan")}, "weight_decay: "),
        ("SGD", {"momentum": 0.9, "dampening": 0.1, "nesterov": True}, "nesterov: .*dampening"),
        ("SGD", {"dampening": 1.5}, "dampening: "),
        ("SGD", {"decay_bias_and_norm": 1}, "decay_bias_and_norm: expected True or False, got 1"),
        ("RMSprop", {"alpha": 1.0}, "alpha: "),
        ("RMSprop", {"momentum": -0.1}, "momentum: "),
        ("RMSprop", {"eps": 0.0}, "eps: "),
        ("Adagrad", {"lr_decay": -1.0}, "lr_decay: "),
        ("Adagrad", {"initial_accumulator_value": -1.0}, "initial_accumulator_value: "),
        ("Adagrad", {"eps": 0.0}, "eps: "),
        ("NAdam", {"momentum_decay": -1.0}, "momentum_decay: "),
        ("NAdam", {"betas": (1.0, 0.9)}, r"betas\[0\]: "),
        ("RAdam", {"eps": -1.0}, "eps: "),
        ("Lion", {"betas": 0.9}, "betas: expected two numbers"),
        ("Lion", {"lr": float("inf")}, "lr: "),
    ],
)
def test_errors_name_the_argument(name, params, message):
    with pytest.raises(ValueError, match=message):
        getattr(minidl, name)(**params)


@pytest.mark.parametrize(
    ("g", "eps"), [(1e22, 1e-8), (1e-21, 1e-30), (0.0, 1e-8), (1e-140, 1e-150)], ids=str
)
def test_adam_of_extreme_gradients_in_float64(g, eps):
    """The first step is lr g / (|g| + eps), however large or small g is; 0 for g = 0."""
    layer = minidl.Linear(1, 1, dtype="float64", bias=False)
    layer.weight = [[2.0]]
    layer.gradients()[0][...] = g
    minidl.Adam(lr=0.5, eps=eps).step(layer)
    assert abs(layer.weight[0, 0] - (1.5 if abs(g) > eps else 2.0)) < 1e-6


def after_gradients(optimizer, gradients, dtype):
    """The weight 2 after steps with these gradients, and what the baseline makes of it."""
    layer = minidl.Linear(1, 1, dtype=dtype, bias=False)
    layer.weight = [[2.0]]
    value = np.array([2.0])
    own = optimizer.make()
    expected = getattr(baseline, optimizer.name)([value], **optimizer.params)
    for g in gradients:
        layer.gradients()[0][...] = g
        own.step(layer)
        expected.step([np.array([g])])
    return layer.weight[0, 0], value[0], own.state_for(layer).moments


@optimizers
@pytest.mark.parametrize("g", [1e-30, -1e-10, 0.0, 1e10, -1e30])
def test_extreme_gradients_in_float64(optimizer, g):
    value, expected, moments = after_gradients(optimizer, [g, 0.5 * g, g], "float64")
    assert abs(value - expected) <= 1e-12 * max(1.0, abs(expected))
    assert np.isfinite(moments).all()


@optimizers
@pytest.mark.parametrize("g", [1e-30, 1e-15, -1e-6, 0.0, 1e6, -1e15])
def test_extreme_gradients_in_float32(optimizer, g):
    value, expected, moments = after_gradients(optimizer, [g, 0.5 * g, g], "float32")
    assert abs(value - expected) <= 2e-6 * max(1.0, abs(expected))
    assert np.isfinite(moments).all()


@optimizers
def test_gradients_whose_square_is_infinite_leave_a_finite_weight(optimizer):
    value, _, _ = after_gradients(optimizer, [1e30, -1e30, 1e30], "float32")
    assert np.isfinite(value)


@optimizers
@dtypes
def test_nan_is_not_hidden(optimizer, dtype):
    """Two steps: AMSGrad, Lion and Adagrad compare, and add to what they have."""
    value, _, _ = after_gradients(optimizer, [1.0, np.nan], dtype)
    assert np.isnan(value)


# What the trainer does with gradients and weights.


@pytest.mark.parametrize("name", ["clip_grad_value", "clip_grad_norm"])
@pytest.mark.parametrize("bound", [0.003, 0.05, 100.0])
@dtypes
def test_clipping_as_torch(name, bound, dtype):
    torch = pytest.importorskip("torch")
    model = network(dtype)
    optimizer = minidl.SGD(lr=0.5, momentum=0.9, weight_decay=0.01)
    clip = {
        "clip_grad_value": torch.nn.utils.clip_grad_value_,
        "clip_grad_norm": torch.nn.utils.clip_grad_norm_,
    }[name]
    assert_as_torch(
        minidl.Trainer(model, optimizer=optimizer, **{name: bound}),
        torch_network(torch, model),
        lambda other: torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01),
        dtype,
        lambda parameters: clip(parameters, bound),
    )


@pytest.mark.parametrize("k", [2, 4])
@dtypes
def test_accumulated_batches_are_a_larger_one(k, dtype):
    """50 updates from k batches each, and from batches k times as large."""
    x = np.concatenate([x for x, _ in batches(dtype, 5)])  # 20 batches
    y = np.arange(len(x)) % CLASSES
    states = []
    for size, accumulate in ((ROWS // 4, k), (k * ROWS // 4, 1)):
        model = minidl.Sequential(
            minidl.Linear(FEATURES, 9), minidl.Tanh(), minidl.Linear(9, CLASSES),
            dtype=dtype, seed=1,
        )  # fmt: skip
        trainer = minidl.Trainer(model, optimizer=minidl.SGD(0.1, 0.9), accumulate=accumulate)
        trainer.fit(x, y, batch_size=size, epochs=STEPS * k // 20, shuffle=False)
        assert trainer.step == STEPS
        states.append(model.state_dict())
    assert_same_parameters(*states, dtype)


@pytest.mark.parametrize("decay", [0.0, 0.9])
@dtypes
def test_the_average_is_that_of_torch(decay, dtype):
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = network(dtype)
    other = torch_network(torch, model)
    average = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=0.01), ema_decay=decay)
    for x, y in batches(dtype, STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(other(torch.as_tensor(x)), torch.as_tensor(y)).backward()
        optimizer.step()
        average.update_parameters(other)
        trainer.train_step(x, y)
    flat = trainer.optimizer.state_for(model).average
    own = {name: p.view(flat) for name, p in model.named_parameters() if p.trainable}
    assert_same_parameters(
        own, {name: v.detach() for name, v in average.module.named_parameters()}, dtype
    )


# NAdam's product over the steps so far.


def nadam(dtype, threads, *, stop):
    """Parameters after 50 steps, of which `stop` are another trainer's."""
    x = np.concatenate([x for x, _ in batches(dtype, 10)])
    y = np.arange(len(x)) % CLASSES
    options = {"batch_size": ROWS, "shuffle": False}
    with minidl.set_num_threads(threads):
        model = network(dtype)
        trainer = minidl.Trainer(model, optimizer=minidl.NAdam(lr=0.01))
        trainer.fit(x, y, epochs=stop // 10, **options)
        if stop < STEPS:
            again = minidl.Trainer(model, optimizer=minidl.NAdam(lr=0.01))
            state = again.optimizer.state_for(model)
            state.moments[...] = trainer.optimizer.state_for(model).moments
            state.step = state.tick = stop
            again.fit(x, y, epochs=(STEPS - stop) // 10, **options)
    return model.state_dict()


@dtypes
def test_nadam_resumed_gives_the_same_bits(dtype):
    expected = nadam(dtype, 1, stop=STEPS)
    for threads in (1, 2):
        for name, value in nadam(dtype, threads, stop=30).items():
            assert same_bits(value, expected[name]), name


def test_nadam_goes_back():
    """One program: 20 steps, the same again from the start, and again with another beta."""
    model = network("float64")
    start = model.state_dict()
    trainer = minidl.Trainer(model, optimizer=minidl.NAdam(lr=0.01))
    ends = []
    for betas in ((0.9, 0.999), (0.9, 0.999), (0.5, 0.999), (0.9, 0.999)):
        model.load_state_dict(start)
        state = trainer.optimizer.state_for(model)
        state.moments[...] = 0
        state.step = 0
        trainer.optimizer.betas = betas
        for x, y in batches("float64", 20):
            trainer.train_step(x, y)
        ends.append(model.state_dict()["0.weight"])
    assert same_bits(ends[1], ends[0])
    assert same_bits(ends[3], ends[0])
    assert not same_bits(ends[2], ends[0])


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        (minidl.RMSprop(), False),  # it has no state for a momentum
        (minidl.RMSprop(momentum=0.5), True),
        (minidl.SGD(lr=0.1), True),
        (minidl.NAdam(), True),
        (minidl.Lion(), True),
    ],
    ids=repr,
)
def test_a_scheduled_momentum(optimizer, changes):
    results = []
    for momentum in (np.nan, 0.2):
        model = network("float64")
        trainer = minidl.Trainer(model, optimizer=copy.deepcopy(optimizer))
        loss = minidl.CrossEntropyLoss()
        program = trainer._train_program(FEATURES, loss, ROWS, ROWS).program
        state = trainer.optimizer.state_for(model)
        rates = np.array([[optimizer.lr, momentum]] * 3)
        for x, y in batches("float64", 3):
            feed(program, loss, [x], y, ROWS)
            program.seek(0, 0, state.step, state.tick)
            program.set_rates(rates, 0)
            program.run(1, 60.0, state)
        assert state.step == 3
        results.append(model.state_dict()["0.weight"])
    assert same_bits(*results) != changes


# Arguments.


def test_arguments_that_states_are_made_for_cannot_change():
    for name, optimizer in (
        ("momentum", minidl.RMSprop()),
        ("centered", minidl.RMSprop()),
        ("amsgrad", minidl.AdamW()),
        ("initial_accumulator_value", minidl.Adagrad()),
        ("groups", minidl.Lion()),
        ("decay_bias_and_norm", minidl.SGD()),
    ):
        with pytest.raises(AttributeError, match=f"^{name}: cannot be changed; make a new"):
            setattr(optimizer, name, True)


@pytest.mark.parametrize(
    ("optimizer", "name", "value", "message"),
    [
        (minidl.SGD(), "lr", -0.1, r"^lr: expected a number in \[0, inf\), got -0.1"),
        (minidl.SGD(), "lr", "0.1", "^lr: expected a number"),
        (minidl.SGD(), "lr", None, "^lr: expected a number"),
        (minidl.SGD(), "weight_decay", np.nan, "^weight_decay: expected a number"),
        (minidl.SGD(), "momentum", 1.0, "^momentum: expected a number"),
        (minidl.SGD(), "dampening", 2.0, "^dampening: expected a number"),
        (minidl.SGD(), "nesterov", "no", "^nesterov: expected True or False, got 'no'"),
        (minidl.Adam(), "betas", (0.9, 1.0), r"^betas\[1\]: expected a number"),
        (minidl.Adam(), "betas", 0.9, "^betas: expected two numbers"),
        (minidl.AdamW(), "eps", 0.0, "^eps: expected a number"),
        (minidl.NAdam(), "momentum_decay", -1.0, "^momentum_decay: expected a number"),
        (minidl.RAdam(), "decoupled_weight_decay", 1, "^decoupled_weight_decay: expected True"),
        (minidl.RMSprop(), "alpha", 1.0, "^alpha: expected a number"),
        (minidl.Adagrad(), "lr_decay", -1.0, "^lr_decay: expected a number"),
        (minidl.Lion(), "betas", (-0.1, 0.9), r"^betas\[0\]: expected a number"),
    ],
)
def test_a_change_is_checked_as_the_argument_is(optimizer, name, value, message):
    before = repr(optimizer)
    with pytest.raises(ValueError, match=message):
        setattr(optimizer, name, value)
    assert repr(optimizer) == before
    with pytest.raises(ValueError, match=message):
        type(optimizer)(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "LR", "beta1", "betas"])
def test_a_name_that_is_none_cannot_be_set(name):
    """It would change nothing."""
    optimizer = minidl.SGD()
    message = f"^{name}: SGD has lr, weight_decay, .*, nesterov$"
    with pytest.raises(AttributeError, match=message):
        setattr(optimizer, name, 0.5)
    assert name not in optimizer.config()


@optimizers
def test_config_makes_an_equal_optimizer(optimizer):
    given = optimizer.make()
    config = json.loads(json.dumps(given.config()))
    assert set(config) == set(inspect.signature(type(given)).parameters)
    again = by_name(optimizer.name.upper(), **config)
    assert type(again) is type(given)
    assert repr(again) == repr(given)
    assert again.config() == given.config()
    assert again.moments == given.moments


def test_the_state_has_as_many_moments_as_the_arguments_need():
    counts = {
        minidl.SGD(): 1, minidl.Adam(): 2, minidl.Adam(amsgrad=True): 3, minidl.RMSprop(): 1,
        minidl.RMSprop(momentum=0.9): 2, minidl.RMSprop(centered=True, momentum=0.9): 3,
        minidl.Adagrad(): 1, minidl.NAdam(): 2, minidl.RAdam(): 2, minidl.Lion(): 1,
    }  # fmt: skip
    for optimizer, count in counts.items():
        assert len(optimizer.state_for(network("float32")).moments) == optimizer.moments == count


def test_by_name_knows_the_nearest():
    with pytest.raises(
        ValueError, match=r"^optimizer: .*SGD, .*, got 'admw'; did you mean 'AdamW'\?"
    ):
        by_name("admw")
    with pytest.raises(ValueError, match=r"^optimizer: expected one of .*, got None"):
        by_name(None)


def test_a_copy_has_the_arguments_and_no_state():
    optimizer = minidl.NAdam(groups=[{"params": "0.*", "lr": 0.1}], decay_bias_and_norm=False)
    optimizer.state_for(network("float32"))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(other) == repr(optimizer)
        assert other._state is None
