"""All that a training may have at once, against PyTorch, and with any number of threads."""

from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import (
    ATOL_TRAINED,
    LOSSES,
    OPTIMIZERS,
    LossCase,
    Named,
    assert_close,
    dtypes,
    for_all_threads,
    positive,
    torch_scalars,
)

import minidl

COLUMNS, OUTPUTS, EPOCHS = 6, 4, 3
# PyTorch advises against its own default.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
GROUPS = [
    {"params": "0.*", "lr": 0.003},
    {"params": ["*.bias", "3.*"], "weight_decay": 0.3},
]


class Case(NamedTuple):
    """A training."""

    optimizer: Named
    loss: LossCase
    rows: int
    batch_size: int
    last_batch: str
    accumulate: int
    weighted: bool
    grouped: bool
    split: bool  # no decay of biases and norms
    clip_grad_norm: float | None
    clip_grad_value: float | None
    ema_decay: float | None
    scheduler: str | None
    interval: str
    blocks: bool

    def __str__(self):
        return f"{self.optimizer}-{self.loss}"

    @property
    def batches(self):
        """First row of each batch, and the row behind its last."""
        edges = [*range(0, self.rows, self.batch_size), self.rows]
        rest = edges[-1] - edges[-2]
        if rest < self.batch_size and self.last_batch == "drop":
            del edges[-1]
        elif rest == 1 and self.last_batch == "merge":
            del edges[-2]
        return list(pairwise(edges))

    @property
    def updates(self):
        """The batches of each update."""
        batches = self.batches
        return [batches[i : i + self.accumulate] for i in range(0, len(batches), self.accumulate)]

    @property
    def times(self):
        """What a schedule counts in all."""
        return EPOCHS * (len(self.updates) if self.interval == "step" else 1)


def make_case(number, optimizer):
    """A case for an optimizer: all losses have their turn, all else is drawn."""
    rng = np.random.default_rng(number)

    def one(*choices):
        return choices[rng.integers(len(choices))]

    return Case(
        optimizer,
        LOSSES[number % len(LOSSES)],
        rows=one(40, 49, 53),
        batch_size=one(8, 13),
        last_batch=one("merge", "drop"),
        accumulate=one(1, 1, 2, 3),
        weighted=one(False, True),
        grouped=one(False, True),
        split=one(False, True),
        clip_grad_norm=one(None, 0.05, 1.0),
        clip_grad_value=one(None, None, 0.02),
        ema_decay=one(None, 0.9),
        scheduler=one(None, *SCHEDULES),
        interval=one("step", "epoch"),
        blocks=one(False, True),
    )


def function(t):
    """A schedule in Python."""
    return 1 / (1 + t)


# Of minidl and of PyTorch: `of` makes one by its name and arguments.
SCHEDULES = {
    "cosine": lambda of, total: of("CosineAnnealingLR", T_max=total),
    "restarts": lambda of, total: of("CosineAnnealingWarmRestarts", T_0=1, T_mult=2),
    "step": lambda of, total: of("StepLR", step_size=2, gamma=0.5),
    "function": lambda of, total: of("LambdaLR", lr_lambda=function),
    "warm-up": lambda of, total: of(
        "SequentialLR",
        schedulers=[
            of("LinearLR", start_factor=0.1, total_iters=1),
            of("CosineAnnealingLR", T_max=total - 1),
        ],
        milestones=[1],
    ),
    "chain": lambda of, total: of(
        "ChainedScheduler",
        schedulers=[
            of("ConstantLR", factor=0.3, total_iters=2),
            of("ExponentialLR", gamma=0.9),
        ],
    ),
}
CASES = [
    make_case(i, optimizer)
    for i, optimizer in enumerate([o for o in OPTIMIZERS if o.name != "Lion"] * 2)
]


def make_data(case, dtype):
    """X, y and weights of the rows."""
    rng = np.random.default_rng(case.rows)
    X = rng.normal(size=(case.rows, COLUMNS)).astype(dtype)
    y = case.loss.targets(rng, case.rows, OUTPUTS)
    weight = rng.integers(0, 4, case.rows) / 2
    weight[::5] = 1.0
    return X, y if y.dtype.kind == "i" else y.astype(dtype), weight if case.weighted else None


def make_trainer(case, dtype, dropout=0.0):
    """The trainer, with a new network."""
    last = [minidl.Softplus()] if case.loss.predictions is positive else []
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, 9, bias=False), minidl.BatchNorm1d(9), minidl.Tanh(),
        minidl.Linear(9, 7), minidl.LayerNorm(7), minidl.SiLU(), minidl.Dropout(dropout),
        minidl.Linear(7, OUTPUTS), *last, dtype=dtype, seed=1,
    )  # fmt: skip
    params = case.optimizer.params | {"groups": GROUPS if case.grouped else None}

    def of(name, **arguments):
        return getattr(minidl, name)(**arguments, interval=case.interval)

    return minidl.Trainer(
        model,
        case.loss.make(OUTPUTS),
        getattr(minidl, case.optimizer.name)(**params, decay_bias_and_norm=not case.split),
        scheduler=SCHEDULES[case.scheduler](of, case.times) if case.scheduler else None,
        clip_grad_norm=case.clip_grad_norm,
        clip_grad_value=case.clip_grad_value,
        accumulate=case.accumulate,
        ema_decay=case.ema_decay,
    )


def fit(trainer, case, data, shuffle, path, monkeypatch):
    """Train it, on arrays or block by block."""
    X, y, weight = data
    if case.blocks:
        from minidl.data import blocks

        monkeypatch.setattr(blocks, "BLOCK", 2 * case.batch_size * COLUMNS * 8)
        monkeypatch.setattr(blocks, "SCATTERED", 2 * case.batch_size * COLUMNS * 8)
        np.save(path / "X.npy", X)
        X = np.load(path / "X.npy", mmap_mode="r")
    return trainer.fit(
        X, y, epochs=EPOCHS, batch_size=case.batch_size, shuffle=shuffle, seed=0,
        last_batch=case.last_batch, sample_weight=weight,
    )  # fmt: skip


def groups_of_torch(case, net):
    """Each parameter in a group of its own."""
    params = case.optimizer.params
    for name, parameter in net.named_parameters():
        group: dict[str, Any] = {"params": [parameter]}
        for given in GROUPS if case.grouped else []:
            patterns = given["params"]
            patterns = [patterns] if isinstance(patterns, str) else patterns
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                group |= {k: v for k, v in given.items() if k != "params"}
                break
        decay = group.get("weight_decay", params.get("weight_decay"))
        if case.split and parameter.ndim < 2:
            decay = 0.0
        yield group if decay is None else group | {"weight_decay": decay}


def fit_torch(case, net, data):
    """PyTorch's training: mean losses of the epochs, and the average model."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    X, y, weight = data
    weight = np.ones(len(X)) if weight is None else weight
    X, y, weight = torch.tensor(X), torch.tensor(y), torch.tensor(weight)
    schedulers, history = torch.optim.lr_scheduler, []
    optimizer = getattr(torch.optim, case.optimizer.name)(
        list(groups_of_torch(case, net)), **case.optimizer.params
    )

    def of(name, **arguments):
        if name != "ChainedScheduler":
            arguments = {"optimizer": optimizer} | arguments
        return getattr(schedulers, name)(**arguments)

    scheduler = SCHEDULES[case.scheduler](of, case.times) if case.scheduler else None
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(case.ema_decay or 0.0))
    net.train()
    for _ in range(EPOCHS):
        total = count = 0.0
        for update in case.updates:
            optimizer.zero_grad()
            losses, counts = [], []
            for first, stop in update:
                each, counted = case.loss.rows_in_torch(net(X[first:stop]), y[first:stop])
                losses.append((weight[first:stop] * each).sum())
                counts.append((weight[first:stop] * counted).sum())
            (sum(losses) / sum(counts)).backward()
            total += sum(losses).item()
            count += sum(counts).item()
            if case.clip_grad_norm:
                torch.nn.utils.clip_grad_norm_(net.parameters(), case.clip_grad_norm)
            if case.clip_grad_value:
                torch.nn.utils.clip_grad_value_(net.parameters(), case.clip_grad_value)
            optimizer.step()
            average.update_parameters(net)
            if scheduler and case.interval == "step":
                scheduler.step()
        if scheduler and case.interval == "epoch":
            scheduler.step()
        history.append(total / count)
    return history, average.module


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_torch(case, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    data = make_data(case, "float64")
    trainer = make_trainer(case, "float64")
    net = minidl.to_torch(trainer.model)
    history = fit(trainer, case, data, False, tmp_path, monkeypatch).history
    with torch_scalars("float64"):
        losses, average = fit_torch(case, net, data)
    assert trainer.step == EPOCHS * len(case.updates)
    assert_close(history["loss"], losses, ATOL_TRAINED["float64"], max(1.0, *map(abs, losses)))
    state = trainer.model.state_dict()
    for name, value in net.state_dict().items():
        assert_close(state[name], value, ATOL_TRAINED["float64"], 1)
    if case.ema_decay is not None:
        state = trainer.ema_model().state_dict()
        for name, value in average.named_parameters():
            assert_close(state[name], value.detach(), ATOL_TRAINED["float64"], 1)


@pytest.mark.parametrize("case", CASES[::4], ids=str)
@dtypes
def test_equal_bits_on_any_threads(case, dtype, tmp_path, monkeypatch):
    """With dropout and shuffled rows."""
    data = make_data(case, dtype)

    def run():
        trainer = make_trainer(case, dtype, dropout=0.3)
        history = fit(trainer, case, data, True, tmp_path, monkeypatch).history
        average = [] if case.ema_decay is None else trainer.ema_model().state_dict().values()
        return np.array(history["loss"]), *trainer.model.state_dict().values(), *average

    assert np.isfinite(for_all_threads(run)[0]).all()


def test_everything_is_tried():
    """Each choice at least once, and both sides of what a training may have or not."""
    assert {str(case.loss) for case in CASES} == {str(loss) for loss in LOSSES}
    assert {case.scheduler for case in CASES} == {None, *SCHEDULES}
    for field in Case._fields[2:]:
        assert len({getattr(case, field) for case in CASES}) > 1, field
    assert any(len(case.updates[-1]) < case.accumulate for case in CASES)
    assert any(case.clip_grad_norm and case.clip_grad_value for case in CASES)
