"""Optimizers: 50 steps as PyTorch makes them, and by hand as the compiled loop makes them."""

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
)

import minidl

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


@optimizers
@dtypes
def test_as_torch(optimizer, dtype):
    torch = pytest.importorskip("torch")
    model = network(dtype)
    other = torch_network(torch, model)
    trainer = minidl.Trainer(model, optimizer=optimizer.make())
    torch_optimizer = getattr(torch.optim, optimizer.name)(other.parameters(), **optimizer.params)
    start = model.state_dict()
    for x, y in batches(dtype, STEPS):
        torch_optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(other(torch.as_tensor(x)), torch.as_tensor(y))
        expected.backward()
        torch_optimizer.step()
        assert_close(trainer.train_step(x, y), expected.detach(), ATOL_TRAINED[dtype], 1)
    moved = 0.0
    for name, value in other.state_dict().items():
        assert_close(
            model.state_dict()[name], value, ATOL_TRAINED[dtype], max(1.0, float(value.abs().max()))
        )
        moved = max(moved, np.abs(model.state_dict()[name] - start[name]).max())
    assert moved > 0.01


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


def test_all_optimizers_are_tried():
    classes = {"SGD", "Adam", "AdamW"}
    assert classes == {optimizer.name for optimizer in OPTIMIZERS}
    assert all(issubclass(getattr(minidl, name), minidl.Optimizer) for name in classes)


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
