"""What `GradientMonitor` costs: trainings with it and without, in turns.

    python benchmarks/monitor.py [--every 100] [--seconds 0.5] [--rounds 7]

For each network, training steps (forward, loss, backward, Adam; float32) are timed without
callbacks, with a callback of every so many steps that does nothing, and with a monitor of as many.
Each training is warm, rounds go through them in turns, forwards and backwards; what is shown is the
median over the rounds, and how much longer a step takes. A look is the time that the monitor adds,
times the steps from look to look. Steps count from the end of the first epoch, since the monitor
makes a copy of the network before it: the milliseconds that this takes once stand by themselves. On
an idle machine.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import numpy as np

import minidl

# Sizes from inputs to outputs, rows of a batch, and whether BatchNorm stands behind hidden layers.
NETWORKS = [
    ((20, 32, 16, 2), 32, False),
    ((64, 64, 32, 10), 64, False),
    ((10, 128, 128, 10), 128, False),
    ((10, 128, 128, 10), 128, True),
    ((784, 128, 64, 10), 128, False),
    ((64, *(64,) * 30, 10), 64, False),
    ((256, 256, 256, 10), 256, False),
]
STEPS = 20  # of an epoch


class Nothing(minidl.Callback):
    """A callback that does nothing, every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Nothing."""


class Clock(minidl.Callback):
    """When the training began, when its first epoch ended, and its last."""

    def on_train_begin(self) -> None:
        """Look at the clock."""
        self.times = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look at the clock."""
        self.times.append(time.perf_counter())


def trainer(sizes: tuple[int, ...], batch_norm: bool) -> minidl.Trainer:
    """A trainer of a network of ReLU."""
    layers: list[minidl.Layer] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(minidl.Linear(inputs, outputs, weight_init="kaiming_uniform"))
        layers += [minidl.BatchNorm1d(outputs)] if batch_norm else []
        layers.append(minidl.ReLU())
    model = minidl.Sequential(*layers, minidl.Linear(*sizes[-2:]), seed=0)
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=1e-5))


def step_times(
    sizes: tuple[int, ...], batch: int, batch_norm: bool, every: int, seconds: float, rounds: int
) -> list[float]:
    """Median seconds a step alone, with a callback of nothing, with a monitor; and to begin."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((STEPS * batch, sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], len(X))
    own = trainer(sizes, batch_norm)

    def run(epochs: int, callbacks: list[minidl.Callback]) -> tuple[float, float]:
        """Seconds of a step, and until the first epoch has ended."""
        clock = Clock()
        own.fit(X, y, epochs=epochs + 1, batch_size=batch, seed=0, callbacks=[*callbacks, clock],
                verbose=0)  # fmt: skip
        begun, first, *_, last = clock.times
        return (last - first) / (epochs * STEPS), first - begun

    makers: list[Callable[[], list[minidl.Callback]]] = [
        lambda: [Nothing(10**9)],  # epochs end alike for all
        lambda: [Nothing(every)],
        lambda: [minidl.GradientMonitor(every)],
    ]
    run(20, makers[0]())
    looks = every // math.gcd(every, STEPS)  # epochs in which looks fall on whole numbers
    epochs = looks * max(1, round(seconds / run(20, makers[0]())[0] / STEPS / looks))
    times: list[list[tuple[float, float]]] = [[] for _ in makers]
    for turn in range(rounds):
        for i in range(len(makers)) if turn % 2 == 0 else reversed(range(len(makers))):
            times[i].append(run(epochs, makers[i]()))
    steps = [median(step for step, _ in each) for each in times]
    return [*steps, median(begin for _, begin in times[2]) - median(begin for _, begin in times[1])]


def main() -> None:
    """Measure all, and show a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--every", type=int, default=100, help="steps from look to look")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a training")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of networks that are sick
    print(
        "network, batch                   step (us)   callback   monitor   a look (us)  once (ms)"
    )
    for sizes, batch, batch_norm in NETWORKS:
        alone, callback, monitor, once = step_times(
            sizes, batch, batch_norm, given.every, given.seconds, given.rounds
        )
        short = "-".join(map(str, sizes)) if len(sizes) < 6 else f"{sizes[0]}-(30 x 64)-10"
        name = f"{short}, {batch}{' BatchNorm' if batch_norm else ''}"
        print(
            f"{name:30}{1e6 * alone:11.2f}{callback / alone - 1:11.1%}{monitor / alone - 1:10.1%}"
            f"{1e6 * given.every * (monitor - alone):14.0f}{1e3 * once:12.1f}"
        )


if __name__ == "__main__":
    main()
