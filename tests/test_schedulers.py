"""Schedules: rates against PyTorch's, what is refused, and training with them."""

import copy
import json
import pickle
import re
import warnings

import numpy as np
import pytest
from helpers import OPTIMIZERS as ALL_OPTIMIZERS
from helpers import SCHEDULES as CASES
from helpers import assert_close, half, optimizers, same_bits, torch_scalars
from helpers import make_schedule as make

import minidl
from minidl import schedulers
from minidl.schedulers import as_scheduler, by_name, from_config

STEPS, BASE = 200, 0.3
RTOL = 1e-12  # PyTorch multiplies from step to step


def shown(value):
    """An id, without the addresses of functions."""
    return re.sub(r" at 0x\w+", "", str(value))


cases = pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)]
)


def make_torch(case, optimizer):
    """PyTorch's."""
    torch = pytest.importorskip("torch")
    name, arguments = case
    arguments = dict(arguments)
    if "schedulers" in arguments:
        arguments["schedulers"] = [make_torch(one, optimizer) for one in arguments["schedulers"]]
    if name == "ChainedScheduler":
        return torch.optim.lr_scheduler.ChainedScheduler(**arguments)
    return getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)


def torch_optimizer(name="SGD", lr=BASE, **arguments):
    """PyTorch's optimizer of one parameter."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    return getattr(torch.optim, name)([weight], lr=lr, **arguments)


# The rates.


@cases
@pytest.mark.parametrize("base", [BASE, 1e-30, 1e30])
def test_rates_are_pytorchs(case, base):
    optimizer = torch_optimizer(lr=base, momentum=0.5)
    theirs = make_torch(case, optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = make(case).rates(base, 0, STEPS)
    assert ours.dtype == np.float64
    assert_close(ours / base, np.divide(rates, base), RTOL)


@cases
def test_rate_is_an_element_of_rates(case):
    schedule = make(case)
    whole = schedule.rates(BASE, 0, 1000)
    assert same_bits(whole, np.array([schedule.rate(BASE, t) for t in range(1000)]))
    assert same_bits(whole[37:150], schedule.rates(BASE, 37, 113))
    assert len(schedule.rates(BASE, 5, 0)) == 0


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "OneCycleLR"], ids=shown)
def test_momenta_are_pytorchs(case, name):
    optimizer = torch_optimizer(name)
    theirs = make_torch(case, optimizer)
    momenta = []
    for _ in range(STEPS):
        group = optimizer.param_groups[0]
        momenta.append(group["betas"][0] if name == "Adam" else group["momentum"])
        optimizer.step()
        theirs.step()
    ours = make(case).momenta(0, STEPS)
    if case[1].get("cycle_momentum", True):
        assert_close(ours, momenta, RTOL)
        assert ours[3] == make(case).momentum(3)
    else:
        assert ours is None
        assert make(case).momentum(3) is None


def test_one_cycle_stays_where_it_ends():
    schedule = minidl.OneCycleLR(1.0, 10)
    assert len(set(schedule.rates(0.1, 9, 5))) == 1
    assert set(schedule.momenta(9, 5)) == {0.95}


def test_one_cycle_of_epochs_and_steps_is_pytorchs():
    case = "OneCycleLR", {"max_lr": 0.1, "epochs": 8, "steps_per_epoch": 25}
    test_rates_are_pytorchs(case, BASE)
    schedule = make(case)
    assert schedule.length == 200
    assert repr(schedule) == "OneCycleLR(max_lr=0.1, total_steps=200)"
    positions = minidl.OneCycleLR(0.1, None, 8, 25, 0.4, "linear")  # PyTorch's order
    assert (positions.total_steps, positions.pct_start) == (200, 0.4)


def test_a_function_in_a_chain_is_a_factor():
    """PyTorch's LambdaLR undoes what the schedules before it did."""
    warm_up = minidl.LinearLR(start_factor=0.1, total_iters=10)
    alone = warm_up.rates(BASE, 0, STEPS) * minidl.LambdaLR(half).rates(1.0, 0, STEPS)
    for parts in ([warm_up, half], [half, warm_up], [minidl.LambdaLR(half), warm_up]):
        chain = minidl.ChainedScheduler(parts)
        assert_close(chain.rates(BASE, 0, STEPS), alone, RTOL)
        assert chain.length == 10


def test_one_cycle_whose_rise_is_one_step():
    """PyTorch divides by 0 there."""
    schedule = minidl.OneCycleLR(1.0, 10, pct_start=0.1)
    assert schedule.rate(0.1, 0) == 1.0
    assert schedule.rate(0.1, 9) == pytest.approx(4e-6)


def test_only_the_one_cycle_has_momenta():
    assert minidl.StepLR(2).momenta(0, 5) is None
    schedule = minidl.SequentialLR([minidl.StepLR(2), minidl.OneCycleLR(0.1, 5)], [3])
    momenta = schedule.momenta(0, 8)
    assert np.isnan(momenta[:3]).all()
    assert schedule.momentum(0) is None
    assert same_bits(momenta[3:], schedule.schedulers[1].momenta(0, 5))


PLATEAUS = [
    {},
    {"patience": 0},
    {"patience": 2, "cooldown": 3, "factor": 0.5},
    {"patience": 1, "mode": "max", "threshold": 0.05},
    {"patience": 1, "mode": "max", "threshold": 0.05, "threshold_mode": "abs"},
    {"patience": 2, "threshold": 0.1, "threshold_mode": "abs", "factor": 0.7},
    {"patience": 1, "min_lr": 0.01, "factor": 0.3},
    {"patience": 1, "eps": 0.02, "factor": 0.5},
    {"patience": 3, "threshold": 1.0},
    {"patience": 0, "factor": 0.0},
]


@pytest.mark.parametrize("arguments", PLATEAUS, ids=shown)
@pytest.mark.parametrize("seed", range(4))
def test_plateau_is_pytorchs(arguments, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    values = np.exp(-np.arange(STEPS) / 40) * (1 if seed % 2 else -1) + rng.normal(size=STEPS) / 10
    values[rng.random(STEPS) < 0.05] = np.nan
    values[rng.random(STEPS) < 0.02] = np.inf
    optimizer = torch_optimizer()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
    schedule = minidl.ReduceLROnPlateau(**arguments)
    state = schedule.start()
    assert schedule.rate_after(BASE, None) == schedule.rate_after(BASE, state) == BASE
    for i, value in enumerate(values):
        optimizer.step()
        theirs.step(value)
        state.step(value)
        assert schedule.rate_after(BASE, state) == optimizer.param_groups[0]["lr"]
        if i % 20 == 0:  # through a file
            saved = json.loads(json.dumps(state.to_dict(), allow_nan=False))
            state = schedule.start()
            state.from_dict(saved)
    assert state.reductions > 0


def test_plateau_refuses_a_state_that_does_not_fit():
    state = minidl.ReduceLROnPlateau().start()
    with pytest.raises(ValueError, match="plateau: expected a dict of best, bad"):
        state.from_dict({"bad": 1})
    with pytest.raises(ValueError, match="bad: expected an integer"):
        state.from_dict(state.to_dict() | {"bad": -1})
    assert state.to_dict() == {"best": None, "bad": 0, "cooldown": 0, "reductions": 0}


def test_plateau_is_no_function_of_time():
    with pytest.raises(TypeError, match="follows what is measured"):
        minidl.ReduceLROnPlateau().rate(0.1, 0)
    assert minidl.ReduceLROnPlateau().momenta(0, 3) is None


def test_rates_that_overflow_are_an_error():
    schedule = minidl.ExponentialLR(gamma=10.0)
    with pytest.raises(ValueError, match=r"got inf from ExponentialLR\(gamma=10.0\) in epoch 309"):
        schedule.rates(1.0, 300, 20)
    assert minidl.ExponentialLR(gamma=0.1).rate(1.0, 1000) == 0.0


# What schedules say of themselves.


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (minidl.StepLR(3), None),
        (minidl.ExponentialLR(0.9), None),
        (minidl.LambdaLR(half), None),
        (minidl.CosineAnnealingWarmRestarts(3), None),
        (minidl.ReduceLROnPlateau(), None),
        (minidl.MultiStepLR([3, 9]), 9),
        (minidl.CosineAnnealingLR(8), 8),
        (minidl.OneCycleLR(0.1, 20), 20),
        (minidl.LinearLR(total_iters=4), 4),
        (minidl.ConstantLR(total_iters=4), 4),
        (minidl.PolynomialLR(total_iters=4), 4),
        (minidl.SequentialLR([minidl.StepLR(3), minidl.CosineAnnealingLR(8)], [5]), 13),
        (minidl.SequentialLR([minidl.CosineAnnealingLR(8), minidl.StepLR(3)], [5]), None),
        (minidl.SequentialLR([minidl.CosineAnnealingLR(8)], []), 8),
        (minidl.ChainedScheduler([minidl.LinearLR(total_iters=4), minidl.ConstantLR()]), 5),
        (minidl.ChainedScheduler([minidl.LinearLR(total_iters=4), minidl.StepLR(1)]), 4),
        (minidl.ChainedScheduler([minidl.StepLR(1)]), None),
    ],
    ids=shown,
)
def test_length_and_check(schedule, length):
    assert schedule.length == length
    schedule.check(length or 1)
    if length:
        units = "epochs" if schedule.interval == "epoch" else "steps"
        message = f"scheduler: {type(schedule).__name__} takes {length} {units}, the training has "
        with pytest.raises(ValueError, match=f"{message}{length - 1}.* total_epochs="):
            schedule.check(length - 1)


WRITABLE = [case for case in CASES if "half" not in str(case)] + [
    ("ReduceLROnPlateau", {"eps": 0.1})
]


@pytest.mark.parametrize("case", WRITABLE, ids=shown)
def test_config_makes_the_same_again(case):
    schedule = make(case)
    config = json.loads(json.dumps({"type": case[0], **schedule.config()}))
    again = from_config(config)
    assert repr(again) == repr(schedule)
    assert again.config() == schedule.config()
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other.config() == schedule.config()
    if case[0] != "ReduceLROnPlateau":
        assert same_bits(again.rates(BASE, 0, 50), schedule.rates(BASE, 0, 50))


def test_interval_is_part_of_the_config():
    schedule = minidl.StepLR(3, interval="step")
    assert schedule.config() == {"step_size": 3, "gamma": 0.1, "interval": "step"}
    assert from_config({"type": "StepLR", **schedule.config()}).interval == "step"


def test_a_function_is_no_part_of_a_file():
    with pytest.raises(TypeError, match="LambdaLR holds a function"):
        minidl.LambdaLR(half).config()
    with pytest.raises(TypeError, match="LambdaLR holds a function"):
        minidl.SequentialLR([half], []).config()


def test_repr_shows_what_is_not_default():
    assert repr(minidl.StepLR(3)) == "StepLR(step_size=3)"
    assert repr(minidl.StepLR(3, 0.5)) == "StepLR(step_size=3, gamma=0.5)"
    assert repr(minidl.LinearLR(interval="step")) == "LinearLR(interval='step')"
    assert repr(minidl.MultiStepLR((2, 3))) == "MultiStepLR(milestones=[2, 3])"
    chain = minidl.ChainedScheduler([minidl.StepLR(3)])
    assert repr(chain) == "ChainedScheduler(schedulers=[StepLR(step_size=3)])"


def test_intervals():
    assert minidl.StepLR(3).interval == "epoch"
    assert minidl.OneCycleLR(0.1, 5).interval == "step"
    assert minidl.OneCycleLR(0.1, 5, interval="epoch").interval == "epoch"
    assert minidl.SequentialLR([minidl.OneCycleLR(0.1, 5)], []).interval == "epoch"
    steps = minidl.StepLR(3, interval="step")
    assert minidl.ChainedScheduler([steps], interval="step").interval == "step"
    message = r"schedulers\[1\]: expected interval 'epoch', that of the .*, got 'step'"
    with pytest.raises(ValueError, match=message):
        minidl.ChainedScheduler([minidl.StepLR(3), steps])
    with pytest.raises(ValueError, match=message):
        minidl.SequentialLR([minidl.StepLR(3), steps], [4])


def test_schedules_cannot_be_changed():
    schedule = minidl.StepLR(3)
    with pytest.raises(AttributeError, match="gamma: cannot be changed; make a new StepLR"):
        schedule.gamma = 0.5
    with pytest.raises(AttributeError, match="interval: cannot be changed"):
        schedule.interval = "step"


def test_names():
    assert repr(by_name("StepLR", step_size=3)) == "StepLR(step_size=3)"
    with pytest.raises(ValueError, match="got 'StepLer'; did you mean 'StepLR'"):
        by_name("StepLer")
    with pytest.raises(ValueError, match=r"^scheduler: expected one of Chained.* got 'zzz'"):
        by_name("zzz")
    with pytest.raises(ValueError, match="expected a dict with a 'type'"):
        from_config({"step_size": 3})
    known = {n for n in schedulers.__all__ if n.endswith(("LR", "Plateau", "Restarts"))}
    assert set(schedulers.names.NAMES) == known - {"Plateau"} | {"ChainedScheduler"}


# What is refused.


BAD = [
    ("StepLR", {"step_size": 0}, "step_size"),
    ("StepLR", {"step_size": 2.5}, "step_size"),
    ("StepLR", {"step_size": 2, "gamma": -0.1}, "gamma"),
    ("StepLR", {"step_size": 2, "gamma": np.nan}, "gamma"),
    ("StepLR", {"step_size": 2, "interval": "batch"}, "interval"),
    ("MultiStepLR", {"milestones": []}, "milestones"),
    ("MultiStepLR", {"milestones": [0, 3]}, r"milestones\[0\]"),
    ("MultiStepLR", {"milestones": [3, 3]}, r"milestones\[1\]: .* at least 4, got 3"),
    ("MultiStepLR", {"milestones": [5, 3]}, r"milestones\[1\]"),
    ("MultiStepLR", {"milestones": [2.0]}, r"milestones\[0\]"),
    ("MultiStepLR", {"milestones": 5}, "milestones"),
    ("MultiStepLR", {"milestones": "5"}, "milestones"),
    ("MultiStepLR", {"milestones": [5], "gamma": np.inf}, "gamma"),
    ("ExponentialLR", {"gamma": -1}, "gamma"),
    ("ExponentialLR", {"gamma": "0.5"}, "gamma"),
    ("CosineAnnealingLR", {"T_max": 0}, "T_max"),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": -0.1}, "eta_min"),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}, "T_0"),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 0}, "T_mult"),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "eta_min": np.inf}, "eta_min"),
    ("LinearLR", {"start_factor": 0.0}, "start_factor"),
    ("LinearLR", {"start_factor": 1.1}, "start_factor"),
    ("LinearLR", {"end_factor": -0.1}, "end_factor"),
    ("LinearLR", {"end_factor": 1.1}, "end_factor"),
    ("LinearLR", {"total_iters": 0}, "total_iters"),
    ("ConstantLR", {"factor": -0.1}, "factor"),
    ("ConstantLR", {"factor": 1.1}, "factor"),
    ("ConstantLR", {"total_iters": 0}, "total_iters"),
    ("PolynomialLR", {"total_iters": 0}, "total_iters"),
    ("PolynomialLR", {"power": -1.0}, "power"),
    ("OneCycleLR", {"max_lr": 0.0}, "max_lr"),
    ("OneCycleLR", {"max_lr": np.inf}, "max_lr"),
    ("OneCycleLR", {"total_steps": 0}, "total_steps"),
    (
        "OneCycleLR",
        {"total_steps": None},
        "total_steps: expected an integer, or epochs",
    ),
    ("OneCycleLR", {"total_steps": None, "epochs": 3}, "steps_per_epoch: expected an integer"),
    (
        "OneCycleLR",
        {"total_steps": None, "steps_per_epoch": 3},
        "epochs: expected an integer",
    ),
    ("OneCycleLR", {"epochs": 3, "steps_per_epoch": 3}, "total_steps: expected None, since epochs"),
    ("OneCycleLR", {"pct_start": -0.1}, "pct_start"),
    ("OneCycleLR", {"pct_start": 1.1}, "pct_start"),
    ("OneCycleLR", {"anneal_strategy": "cosine"}, "anneal_strategy"),
    ("OneCycleLR", {"cycle_momentum": "yes"}, "cycle_momentum"),
    ("OneCycleLR", {"base_momentum": 1.0}, "base_momentum"),
    ("OneCycleLR", {"max_momentum": -0.1}, "max_momentum"),
    ("OneCycleLR", {"div_factor": 0.0}, "div_factor"),
    ("OneCycleLR", {"final_div_factor": 0.0}, "final_div_factor"),
    ("OneCycleLR", {"three_phase": 2}, "three_phase"),
    ("LambdaLR", {"lr_lambda": 0.5}, "lr_lambda"),
    ("LambdaLR", {"lr_lambda": float}, "lr_lambda"),
    ("ReduceLROnPlateau", {"mode": "auto"}, "mode"),
    ("ReduceLROnPlateau", {"factor": 1.0}, "factor"),
    ("ReduceLROnPlateau", {"factor": -0.1}, "factor"),
    ("ReduceLROnPlateau", {"patience": -1}, "patience"),
    ("ReduceLROnPlateau", {"patience": 1.5}, "patience"),
    ("ReduceLROnPlateau", {"threshold": -1}, "threshold"),
    ("ReduceLROnPlateau", {"threshold_mode": "relative"}, "threshold_mode"),
    ("ReduceLROnPlateau", {"cooldown": -1}, "cooldown"),
    ("ReduceLROnPlateau", {"min_lr": -1}, "min_lr"),
    ("ReduceLROnPlateau", {"eps": np.nan}, "eps"),
    ("ReduceLROnPlateau", {"monitor": 3}, "monitor"),
    ("SequentialLR", {"schedulers": [], "milestones": []}, "schedulers"),
    ("SequentialLR", {"schedulers": minidl.StepLR(3), "milestones": []}, "schedulers"),
    ("SequentialLR", {"schedulers": [3], "milestones": []}, "scheduler"),
    ("SequentialLR", {"schedulers": [half, half], "milestones": []}, "milestones: expected 1"),
    ("SequentialLR", {"schedulers": [half], "milestones": [3]}, "milestones: expected 0"),
    ("SequentialLR", {"schedulers": [half] * 3, "milestones": [3, 2]}, r"milestones\[1\]"),
    (
        "SequentialLR",
        {"schedulers": [half, minidl.ReduceLROnPlateau()], "milestones": [3]},
        r"schedulers\[1\]: expected a function of time",
    ),
    ("ChainedScheduler", {"schedulers": []}, "schedulers"),
    ("ChainedScheduler", {"schedulers": [minidl.ReduceLROnPlateau()]}, r"schedulers\[0\]"),
    (
        "ChainedScheduler",
        {"schedulers": [half, minidl.OneCycleLR(1, 9)]},
        r"schedulers\[1\]",
    ),
    ("ChainedScheduler", {"schedulers": [minidl.OneCycleLR(1, 9)]}, r"schedulers\[0\]: .*multipl"),
    ("ChainedScheduler", {"schedulers": [minidl.CosineAnnealingLR(9, 0.1)]}, "multipl"),
    (
        "ChainedScheduler",
        {"schedulers": [minidl.CosineAnnealingWarmRestarts(9)]},
        r"schedulers\[0\]: .*multipl",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=shown)
def test_bad_arguments(name, arguments, message):
    if name == "OneCycleLR":
        arguments = {"max_lr": 0.1, "total_steps": 10} | arguments
    with pytest.raises((ValueError, TypeError), match=f"^{message}"[message == "multipl" :]):
        getattr(minidl, name)(**arguments)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "0.5", None, [1.0], 1j])
def test_what_a_function_returns_is_checked(value):
    schedule = as_scheduler(lambda t: 1.0 if t < 3 else value)
    assert schedule.rate(0.5, 2) == 0.5
    with pytest.raises(ValueError, match=rf"\(3\): expected a number .* {re.escape(repr(value))}$"):
        schedule.rates(0.5, 0, 5)


def test_functions_are_schedules():
    assert isinstance(as_scheduler(half), minidl.LambdaLR)
    schedule = minidl.StepLR(3)
    assert as_scheduler(schedule) is schedule
    for value in (3, "StepLR", minidl.StepLR, None, [half]):
        with pytest.raises(TypeError, match="scheduler: expected a Scheduler or a function"):
            as_scheduler(value)


# Training.

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
Y = X @ rng.normal(size=(4, 2)) + rng.normal(size=(60, 2))
UPDATES = 6  # an epoch of batches of 10


class Rates(minidl.Callback):
    """The rate of each update."""

    every = 1

    def on_train_begin(self):
        """The first."""
        self.rates = [self.trainer.lr]

    def on_train_batch_end(self, step, logs):
        """The next."""
        self.rates.append(self.trainer.lr)


def trainer(scheduler=None, optimizer=None, **arguments):
    """A trainer of a small network."""
    model = minidl.Sequential(
        minidl.Linear(4, 8), minidl.Tanh(), minidl.Linear(8, 2), dtype="float64", seed=0
    )
    optimizer = minidl.SGD(lr=0.1, momentum=0.5) if optimizer is None else optimizer
    return minidl.Trainer(model, minidl.MSELoss(), optimizer, scheduler=scheduler, **arguments)


def fit(trained, epochs, **arguments):
    """Train it."""
    return trained.fit(X, Y, epochs=epochs, **{"batch_size": 10, "seed": 1} | arguments)


def values(trained):
    """All parameters in one vector."""
    return np.concatenate([v.ravel() for v in trained.model.state_dict().values()])


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("case", [CASES[i] for i in (1, 9, 14, 17, 25, 33, 37)], ids=shown)
def test_fit_uses_the_rates(case, interval):
    schedule = make(case, interval=interval)
    trained, seen = trainer(schedule), Rates()
    history = fit(trained, 5, callbacks=[seen], total_epochs=300).history
    t = np.arange(5 * UPDATES + 1)
    t = t // UPDATES if interval == "epoch" else t
    expected = schedule.rates(0.1, 0, 5 * UPDATES + 1)
    assert same_bits(np.array(seen.rates), expected[t])
    assert same_bits(np.array(history["lr"]), expected[t[UPDATES - 1 : -1 : UPDATES]])


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_updates_follow_the_rates(interval, last_batch):
    """Each update of plain SGD divided by its gradient is the rate."""
    schedule = minidl.CosineAnnealingLR(20, interval=interval)
    trained = trainer(schedule, minidl.SGD(lr=0.1))
    other = trainer(None, minidl.SGD(lr=0.1))
    updates = 4 if last_batch == "keep" else 3
    fit(trained, 5, batch_size=16, shuffle=False, last_batch=last_batch, total_epochs=20)
    for step in range(5 * updates):
        other.optimizer.lr = schedule.rate(0.1, step if interval == "step" else step // updates)
        start = step % updates * 16
        other.train_step(X[start : start + 16], Y[start : start + 16])
    assert same_bits(values(trained), values(other))


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_accumulated_batches_are_one_update(interval):
    schedule = minidl.CosineAnnealingLR(15, interval=interval)
    together, seen = trainer(schedule, accumulate=2), Rates()
    fit(together, 5, callbacks=[seen], total_epochs=15)
    t = np.arange(5 * UPDATES // 2 + 1)
    t = t // (UPDATES // 2) if interval == "epoch" else t
    assert same_bits(np.array(seen.rates), schedule.rates(0.1, 0, 16)[t])


OPTIMIZERS = [("SGD", {}), ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {})]
TRAINED = [CASES[i] for i in (1, 9, 14, 17, 33, 34, 37)] + [
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 30}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 30, "three_phase": True}),
]


@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS, ids=shown)
@pytest.mark.parametrize("case", TRAINED, ids=shown)
def test_parameters_after_30_steps_are_pytorchs(case, name, arguments):
    torch = pytest.importorskip("torch")
    if case[0] == "OneCycleLR" and name == "SGD" and not arguments:
        arguments = {"momentum": 0.0}  # PyTorch's cycle sets it all the same
    ours = trainer(make(case, interval="step"), getattr(minidl, name)(lr=0.05, **arguments))
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    ).double()
    net.load_state_dict({k: torch.tensor(v) for k, v in ours.model.state_dict().items()})
    fit(ours, 5, shuffle=False, total_epochs=300)
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.05, **arguments)
    schedule = make_torch(case, optimizer)
    for step in range(30):
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)
        optimizer.zero_grad()
        torch.nn.MSELoss()(net(torch.tensor(X[rows])), torch.tensor(Y[rows])).backward()
        optimizer.step()
        schedule.step()
    theirs = np.concatenate([v.numpy().ravel() for v in net.state_dict().values()])
    assert np.abs(values(ours) - theirs).max() < 1e-10


ALWAYS = [
    ("CosineAnnealingLR", {"T_max": 30}),
    ("OneCycleLR", {"max_lr": 0.02, "total_steps": 30}),
    ("OneCycleLR", {"max_lr": 0.02, "total_steps": 30, "cycle_momentum": False}),
]
always = pytest.mark.parametrize("case", ALWAYS, ids=shown)


def batch(step):
    """Rows and targets of a step, in order."""
    rows = slice(step % 6 * 10, step % 6 * 10 + 10)
    return X[rows], Y[rows]


@optimizers
@always
def test_every_optimizer_follows_a_schedule(optimizer, case):
    """In one run, in several, and step by step: the same bits."""
    whole, parts, steps = (trainer(make(case, interval="step"), optimizer.make()) for _ in range(3))
    fit(whole, 5, shuffle=False)
    for _ in range(5):
        fit(parts, 1, shuffle=False, total_epochs=5)
    for step in range(30):
        steps.train_step(*batch(step))
    assert same_bits(values(parts), values(whole))
    assert same_bits(values(steps), values(whole))


def unlike(optimizer, case):
    """True where the docstrings say that a momentum is not as in PyTorch."""
    if case[0] != "OneCycleLR" or not case[1].get("cycle_momentum", True):
        return False
    without = optimizer.name == "RMSprop" and "momentum" not in optimizer.params
    return without or optimizer.name in ("Adagrad", "NAdam")


@pytest.mark.parametrize(
    ("optimizer", "case"),
    [(o, c) for o in ALL_OPTIMIZERS for c in ALWAYS if o.name != "Lion" and not unlike(o, c)],
    ids=shown,
)
def test_every_optimizer_follows_a_schedule_as_pytorchs(optimizer, case):
    torch = pytest.importorskip("torch")
    ours = trainer(make(case, interval="step"), optimizer.make())
    net = minidl.to_torch(ours.model)
    fit(ours, 5, shuffle=False)
    with torch_scalars("float64"):
        theirs = getattr(torch.optim, optimizer.name)(net.parameters(), **optimizer.params)
        schedule = make_torch(case, theirs)
        for step in range(30):
            x, y = map(torch.tensor, batch(step))
            theirs.zero_grad()
            torch.nn.MSELoss()(net(x), y).backward()
            theirs.step()
            schedule.step()
    expected = np.concatenate([v.numpy().ravel() for v in net.state_dict().values()])
    assert np.abs(values(ours) - expected).max() < 1e-10


@pytest.mark.parametrize("optimizer", [minidl.Adagrad, minidl.RMSprop], ids=shown)
def test_without_a_momentum_a_cycle_moves_the_rate_alone(optimizer):
    results = []
    for cycle_momentum in (True, False):
        schedule = minidl.OneCycleLR(0.02, 30, cycle_momentum=cycle_momentum)
        trained = trainer(schedule, optimizer())
        fit(trained, 5)
        results.append(values(trained))
    assert same_bits(*results)


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "OneCycleLR", "function", "plateau"])
@pytest.mark.parametrize("watched", [False, True])
def test_two_fits_are_one(scheduler, interval, watched):
    steps = 6 * (UPDATES if interval == "step" else 1)

    def made():
        if scheduler == "plateau":
            return minidl.ReduceLROnPlateau(
                patience=0, factor=0.5, threshold=0.3, cooldown=1, monitor="loss"
            )
        if scheduler == "function":
            return minidl.LambdaLR(lambda t: 1 / (1 + t), interval=interval)
        if scheduler == "OneCycleLR":
            return minidl.OneCycleLR(0.3, steps, interval=interval)
        return minidl.CosineAnnealingLR(steps, interval=interval)

    callbacks = [Rates()] if watched else []
    one, two = trainer(made()), trainer(made())
    fit(one, 6, callbacks=callbacks)
    fit(two, 2, total_epochs=6, callbacks=callbacks)
    fit(two, 4, total_epochs=6, callbacks=callbacks)
    assert same_bits(values(one), values(two))
    assert one.history.history == two.history.history
    assert one.lr == two.lr


def test_a_schedule_longer_than_the_training_is_refused():
    for schedule, message in [
        (minidl.CosineAnnealingLR(50), "CosineAnnealingLR takes 50 epochs, the training has 10"),
        (minidl.OneCycleLR(0.1, 61), "OneCycleLR takes 61 steps, the training has 60"),
    ]:
        trained = trainer(schedule)
        before = values(trained)
        with pytest.raises(ValueError, match=message):
            fit(trained, 10)
        assert same_bits(values(trained), before)
        assert (trained.epoch, trained.step, len(trained.history)) == (0, 0, 0)
        assert trained.progress.key is None
        assert trained.progress.kind is None
        fit(trained, 2, total_epochs=50)
        with pytest.raises(ValueError, match=message.split(",")[0]):
            fit(trained, 2)
        fit(trained, 0)
    trained = trainer(minidl.OneCycleLR(0.1, 60))
    fit(trained, 10)


def test_a_function_is_not_asked_what_comes_after_the_training():
    asked = []

    def line(t):
        asked.append(t)
        return 1 - t / 30

    for interval, last in (("step", 30), ("epoch", 5)):
        asked.clear()
        fit(trainer(minidl.LambdaLR(line, interval=interval)), 5)
        assert max(asked) == last - 1


def test_a_bad_factor_stops_the_training():
    with pytest.raises(ValueError, match=r"\(2\): expected a number in \[0, inf\), got -1"):
        fit(trainer(lambda t: 1 - t), 4)


def test_rates_are_not_computed_again_for_each_run():
    class Counting(minidl.LambdaLR):
        arguments = ()
        calls = 0

        def at(self, base, t):
            Counting.calls += len(t)
            return super().at(base, t)

    fit(trainer(Counting(half, interval="step")), 5)
    assert Counting.calls < 100


def test_the_one_cycle_moves_the_momentum():
    """With a gradient of 1 the moment of SGD tells its momentum."""
    schedule = minidl.OneCycleLR(0.1, 30)
    trained = trainer(schedule, minidl.SGD(lr=0.1, momentum=0.5))
    still = trainer(minidl.OneCycleLR(0.1, 30, cycle_momentum=False), minidl.SGD(0.1, 0.5))
    fit(trained, 5)
    fit(still, 5)
    assert not np.allclose(values(trained), values(still))
    own = trainer(None, minidl.SGD(0.1, 0.5))
    for step in range(30):
        own.optimizer = own.optimizer if step else minidl.SGD(0.1, 0.5)
        own.optimizer.lr = schedule.rate(0.1, step)
        own.optimizer.momentum = schedule.momenta(step, 1)[0]
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)
        own.train_step(X[rows], Y[rows])
    again = trainer(schedule, minidl.SGD(lr=0.1, momentum=0.5))
    fit(again, 5, shuffle=False)
    assert same_bits(values(own), values(again))


def test_train_step_uses_rate_and_momentum():
    schedule = minidl.OneCycleLR(0.1, 12)
    by_fit, by_step = trainer(schedule), trainer(schedule)
    fit(by_fit, 2, shuffle=False)
    for step in range(12):
        assert by_step.lr == schedule.rate(0.1, step)
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)
        by_step.train_step(X[rows], Y[rows])
    assert same_bits(values(by_fit), values(by_step))


def test_momentum_by_epochs():
    schedule = minidl.OneCycleLR(0.1, 3, interval="epoch")
    trained, own = trainer(schedule), trainer(None)
    fit(trained, 3, shuffle=False)
    for step in range(18):
        own.optimizer.lr = schedule.rate(0.1, step // 6)
        own.optimizer.momentum = schedule.momentum(step // 6)
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)
        own.train_step(X[rows], Y[rows])
    assert same_bits(values(trained), values(own))


def test_plateau_lowers_the_rate():
    schedule = minidl.ReduceLROnPlateau(patience=1, factor=0.5, threshold=0.5)
    trained = trainer(schedule)
    history = fit(trained, 12, validation_data=(X, Y)).history
    state, rates = schedule.start(), []
    for loss in history["val_loss"]:
        rates.append(schedule.rate_after(0.1, state))
        state.step(loss)
    assert history["lr"] == rates
    assert rates[-1] < 0.03
    assert trained.lr == schedule.rate_after(0.1, state)
    own = trainer(None)
    for epoch, rate in enumerate(rates):
        own.optimizer.lr = rate
        fit(own, 1, seed=1 if epoch == 0 else None)
    assert same_bits(values(own), values(trained))


def test_plateau_needs_what_it_follows():
    trained = trainer(minidl.ReduceLROnPlateau())
    with pytest.raises(ValueError, match="'val_loss', but there is no validation_data"):
        fit(trained, 2)
    assert trained.step == 0
    with pytest.raises(ValueError, match="expected 'lost' among what is measured"):
        fit(trainer(minidl.ReduceLROnPlateau(monitor="lost")), 2)


def test_the_rate_in_the_history_is_that_of_the_epochs_last_update(monkeypatch):
    """Even if a run ends within a later epoch."""
    monkeypatch.setattr("minidl.loop.RATES", 8)
    schedule = minidl.CosineAnnealingLR(30, interval="step")
    history = fit(trainer(schedule), 5).history
    assert history["lr"] == [schedule.rate(0.1, 6 * e + 5) for e in range(5)]


def test_a_callback_may_change_the_optimizers_numbers():
    class Change(minidl.Callback):
        every = 3

        def on_train_batch_end(self, step, logs):
            if step < 9:
                self.trainer.optimizer.momentum = 1 / step
            else:
                self.trainer.optimizer.lr = 0.05

    schedule = minidl.StepLR(5, 0.5, interval="step")
    trained, own = trainer(schedule), trainer(None)
    fit(trained, 2, shuffle=False, callbacks=[Change()])
    for step in range(12):
        if step in (3, 6):
            own.optimizer.momentum = 1 / step
        own.optimizer.lr = schedule.rate(0.1 if step < 9 else 0.05, step)
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)
        own.train_step(X[rows], Y[rows])
    assert same_bits(values(trained), values(own))


class Batches:
    """Batches, without saying how many."""

    def __init__(self, known):
        self.known = known

    def __iter__(self):
        """Six of ten rows."""
        for start in range(0, 60, 10):
            yield X[start : start + 10], Y[start : start + 10]


class CountedBatches(Batches):
    """As many as they say, or not."""

    def __len__(self):
        """What they say."""
        return self.known


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("data", [Batches(None), CountedBatches(6), CountedBatches(8)])
def test_rates_of_a_stream(data, interval):
    asked = []

    def line(t):
        asked.append(t)
        return 1 - t / (30 if interval == "step" else 5)

    schedule = minidl.LambdaLR(line, interval=interval)
    one, two, seen = trainer(schedule), trainer(schedule), Rates()
    fit(one, 5, shuffle=False)
    two.fit(data, epochs=5, seed=1)
    assert same_bits(values(one), values(two))
    assert one.history.history["lr"] == two.history.history["lr"]
    assert max(asked) == (29 if interval == "step" else 4)
    three = trainer(schedule)
    three.fit(data, epochs=5, seed=1, callbacks=[seen])
    assert same_bits(values(one), values(three))
    t = np.arange(31) if interval == "step" else np.arange(31) // 6
    assert seen.rates == [schedule.rate(0.1, int(i)) for i in t]


def test_an_interrupted_epoch_goes_on_with_its_rates():
    class Stop(minidl.Callback):
        every = 4

        def on_train_batch_end(self, step, logs):
            raise KeyboardInterrupt

    for interval, length in (("step", 15), ("epoch", 3)):
        schedule = minidl.CosineAnnealingLR(length, interval=interval)
        one, two = trainer(schedule), trainer(schedule)
        fit(one, 3)
        with pytest.raises(KeyboardInterrupt):
            fit(two, 3, callbacks=[Stop()])
        assert two.step == 4
        for batch_size in (10, 5 if interval == "epoch" else 20):
            with pytest.raises(ValueError, match="takes"):  # the epoch under way is kept
                fit(two, 2, batch_size=batch_size)
        seen = Rates()
        fit(two, 3, callbacks=[seen])
        assert same_bits(values(one), values(two))
        three = trainer(schedule)
        with pytest.raises(KeyboardInterrupt):
            fit(three, 3, callbacks=[Stop()])
        fit(three, 3)  # unwatched, in one run
        assert same_bits(values(one), values(three))
        t = np.arange(4, 19) if interval == "step" else np.arange(4, 19) // 6
        assert seen.rates == [schedule.rate(0.1, int(i)) for i in t]


def test_pytorch_warns_of_nothing_here():
    """The order of `optimizer.step` and `scheduler.step` above is what PyTorch wants."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test_rates_are_pytorchs(CASES[0], BASE)
