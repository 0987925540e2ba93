"""Groups of parameters: as those of PyTorch, in the compiled loop and by hand; and their errors."""

import copy
import json

import numpy as np
import pytest
from helpers import dtypes, for_all_threads, same_bits
from test_optimizers import (
    assert_as_torch,
    assert_same_parameters,
    batches,
    by_hand,
    network,
    torch_network,
)

import minidl

OPTIMIZERS = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "AdamW": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "centered": True},
    "Adagrad": {"lr": 0.05},
}
named = pytest.mark.parametrize("name", OPTIMIZERS)

# The network: 0 Linear without bias, 1 BatchNorm1d, 3 and 5 Linear. The first group that matches
# counts, and the numbers that a group lacks are the optimizer's.
GROUPS = [
    {"params": "3.*", "lr": 0.02},
    {"params": ["*.bias", "0.*"], "weight_decay": 0.5},
    {"params": "5.weight", "lr": 0.03, "weight_decay": 0.2},
]
WHICH = {
    "0.weight": 1, "1.weight": 3, "1.bias": 1, "3.weight": 0, "3.bias": 0, "5.weight": 2,
    "5.bias": 1,
}  # fmt: skip
MATRICES = {"0.weight", "3.weight", "5.weight"}
DECAY = 0.1


def make(name, **arguments):
    return getattr(minidl, name)(**OPTIMIZERS[name], weight_decay=DECAY, **arguments)


def in_torch(name, other, split):
    """The same groups in PyTorch, each parameter in its own."""
    import torch

    groups = []
    for key, parameter in other.named_parameters():
        own = [*GROUPS, {}][WHICH[key]]
        decay = 0.0 if split and key not in MATRICES else own.get("weight_decay", DECAY)
        lr = own.get("lr", OPTIMIZERS[name]["lr"])
        groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
    return getattr(torch.optim, name)(groups, **OPTIMIZERS[name])


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in OPTIMIZERS), ("AdamW", {"clip_grad_norm": 1e6})],  # not fused
)
@dtypes
@pytest.mark.parametrize("decay_bias_and_norm", [True, False])
def test_groups_as_torch(name, dtype, decay_bias_and_norm, options):
    torch = pytest.importorskip("torch")
    model = network(dtype)
    optimizer = make(name, groups=GROUPS, decay_bias_and_norm=decay_bias_and_norm)
    assert_as_torch(
        minidl.Trainer(model, optimizer=optimizer, **options),
        torch_network(torch, model),
        lambda other: in_torch(name, other, not decay_bias_and_norm),
        dtype,
    )


@named
@dtypes
def test_no_decay_of_bias_and_norm(name, dtype):
    """By itself, that is one group for all else."""
    results = []
    for arguments in (
        {"decay_bias_and_norm": False},
        {"groups": [{"params": ["*.bias", "1.*"], "weight_decay": 0.0}]},
        {},
    ):
        trainer = minidl.Trainer(network(dtype), optimizer=make(name, **arguments))
        for x, y in batches(dtype, 10):
            trainer.train_step(x, y)
        results.append(trainer.model.state_dict())
    for key, value in results[0].items():
        assert same_bits(value, results[1][key])
    assert not same_bits(results[0]["1.weight"], results[2]["1.weight"])


class Own(minidl.Layer):
    """A layer of the user's: a matrix and a vector."""

    def __init__(self):
        super().__init__("float64")
        self.add_parameter("matrix", np.ones((3, 2)))
        self.add_parameter("vector", np.ones(3))


def test_all_matrices_decay():
    """However they are held."""
    model = minidl.Sequential(
        minidl.Embedding(3, 2), minidl.Linear(2, 9), minidl.LayerNorm(9), minidl.PReLU(9),
        minidl.RMSNorm(9), minidl.BatchNorm1d(9), minidl.Linear(9, 1), Own(), dtype="float64",
    )  # fmt: skip
    for parameter in model.parameters():
        parameter[...] = 1.0
    minidl.SGD(lr=0.1, weight_decay=0.5, decay_bias_and_norm=False).step(model)
    decayed = {name for name, p in model.named_parameters() if p.trainable and (p.array != 1).any()}
    assert decayed == {"0.weight", "1.weight", "6.weight", "7.matrix"}


@named
@dtypes
def test_groups_by_hand_give_the_bits_of_train_step(name, dtype):
    compiled, model = network(dtype), network(dtype)
    optimizer = make(name, groups=GROUPS, decay_bias_and_norm=False)
    trainer = minidl.Trainer(compiled, optimizer=copy.deepcopy(optimizer))
    loss = minidl.CrossEntropyLoss()
    for x, y in batches(dtype, 10):
        assert by_hand(model, loss, optimizer, x, y) == trainer.train_step(x, y)
    for key, value in compiled.state_dict().items():
        assert same_bits(model.state_dict()[key], value), key


@dtypes
def test_groups_give_equal_bits_on_any_threads(dtype):
    def run():
        trainer = minidl.Trainer(network(dtype), optimizer=make("AdamW", groups=GROUPS))
        for x, y in batches(dtype, 5):
            trainer.train_step(x, y)
        return tuple(trainer.model.state_dict().values())

    for_all_threads(run)


def test_a_schedule_scales_all_groups():
    """As PyTorch's do that multiply; an lr that is set by hand is the optimizer's own alone."""

    def trained(lr, groups, scheduler=None):
        model = network("float64")
        optimizer = minidl.SGD(lr=lr, groups=groups)
        trainer = minidl.Trainer(model, optimizer=optimizer, scheduler=scheduler)
        for x, y in batches("float64", 10):
            trainer.train_step(x, y)
        return model.state_dict()

    one = trained(0.2, [{"params": "0.*", "lr": 0.1}], lambda epoch: 0.1)
    other = trained(0.02, [{"params": "0.*", "lr": 0.01}])
    assert_same_parameters(one, other, "float64")
    model = network("float64")
    optimizer = minidl.SGD(lr=0.2, groups=[{"params": "0.*", "lr": 0.1}])
    optimizer.lr = 0.05
    assert optimizer.rates() == [(1.0, 0.0), (2.0, 0.0)]
    optimizer.lr = 0.0
    with pytest.raises(
        ValueError, match=r"^lr: expected more than 0, since groups\[0\] has lr=0.1"
    ):
        optimizer.step(model)
    assert optimizer.state_for(model).step == 0


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"params": "*"}, TypeError, "^groups: expected a list of dicts, got dict"),
        ("0.*", TypeError, "^groups: expected a list of dicts, got str"),
        (["0.*"], TypeError, r"^groups\[0\]: expected a dict, got str"),
        ([{"params": "*", "eps": 1.0}], ValueError, r"^groups\[0\]: expected the keys .*'eps'"),
        ([{"params": "*"}], ValueError, r'^groups\[0\]: expected "params" and one of'),
        ([{"lr": 0.1}], ValueError, r'^groups\[0\]: expected "params" and one of'),
        ([{"params": 3, "lr": 0.1}], TypeError, r'^groups\[0\]\["params"\]: expected a pattern'),
        ([{"params": [], "lr": 0.1}], TypeError, r'^groups\[0\]\["params"\]: expected a pattern'),
        ([{"params": ["a", 1], "lr": 0.1}], TypeError, r'^groups\[0\]\["params"\]: expected'),
        ([{"params": "*", "lr": -0.1}], ValueError, r'^groups\[0\]\["lr"\]: expected a number'),
        (
            [{"params": "0.*", "lr": 1}, {"params": "*", "weight_decay": -1}],
            ValueError,
            r'^groups\[1\]\["weight_decay"\]: expected a number',
        ),
        ([{"params": "*", "lr": 0.1}] * 8, ValueError, "^groups: expected at most 7, got 8"),
    ],
)
def test_errors_name_the_group(groups, error, message):
    with pytest.raises(error, match=message):
        minidl.Adam(groups=groups)


def test_most_groups():
    groups = [{"params": "*", "lr": 0.1}] * 7
    assert len(minidl.Adam(groups=groups).rates()) == 8
    split = minidl.Adam(groups=groups[:3], decay_bias_and_norm=False)
    assert len(split.rates()) == 8
    with pytest.raises(ValueError, match="at most 3 with decay_bias_and_norm=False, got 4"):
        minidl.Adam(groups=groups[:4], decay_bias_and_norm=False)


def test_a_base_rate_of_0_cannot_be_scaled():
    with pytest.raises(ValueError, match=r"^lr: expected more than 0, since groups\[0\]"):
        minidl.SGD(lr=0.0, groups=[{"params": "*", "lr": 0.1}])
    assert minidl.SGD(lr=0.0, groups=[{"params": "*", "lr": 0.0}]).rates()[1] == (1.0, 0.0)


@pytest.mark.parametrize("pattern", ["7.*", "1.running_mean", "0.BIAS"])
def test_a_pattern_that_matches_nothing(pattern):
    """Found before anything is made, and then again for every model."""
    model = network("float32")
    groups = [{"params": "*.bias", "lr": 0.1}, {"params": ["0.*", pattern], "lr": 0.1}]
    optimizer = minidl.Adam(groups=groups)
    message = rf"^groups\[1\]: .*got '{pattern}'; there are 0.weight, 1.weight, 1.bias"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.step(model)
        x, y = next(batches("float32", 1))
        with pytest.raises(ValueError, match=message):
            minidl.Trainer(model, optimizer=optimizer).fit(x, y)
    assert optimizer._state is None


def test_groups_are_copied_shown_and_kept():
    given = {"params": "0.*", "lr": 0.5}
    optimizer = minidl.SGD(groups=[given], decay_bias_and_norm=False)
    given["lr"] = 3.0
    assert optimizer.rates()[1] == (500.0, 0.0)
    assert repr(optimizer).startswith(
        "SGD(lr=0.001, weight_decay=0.0, decay_bias_and_norm=False, "
        "groups=[{'params': ['0.*'], 'lr': 0.5}], "
    )
    config = json.loads(json.dumps(optimizer.config()))
    assert minidl.SGD(**config).rates() == optimizer.rates()
    config["groups"][0]["params"].append("1.*")
    assert optimizer.groups[0]["params"] == ["0.*"]
    assert "groups" not in repr(minidl.SGD())


def test_a_part_of_a_model_has_names_of_its_own():
    model = network("float64")
    y = model(next(batches("float64", 1))[0])
    model.backward(np.ones_like(y))
    before = model.state_dict()
    optimizer = minidl.SGD(lr=0.1, groups=[{"params": "bias", "lr": 0.0}])
    optimizer.step(model[3])
    after = model.state_dict()
    changed = [name for name, value in after.items() if not same_bits(value, before[name])]
    assert changed == ["3.weight"]
