"""What recomputing activations and going through a batch in parts cost, and what they save.

    python benchmarks/memory.py [--threads 1 2] [--seconds 1] [--rounds 5]

For each network and batch, training steps (forward, loss, backward, Adam; float32) are timed plain,
with `checkpoint="sqrt"`, and with the batch in parts. Each training is warm, rounds go through them
in turns, forwards and backwards; what is shown is the best round's microseconds a step, how many
times those of a plain step, and the megabytes that `Trainer.memory` says. On an idle machine.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np

import minidl

# Sizes from inputs to outputs, rows of a batch, BatchNorm behind hidden layers, rows of a part.
NETWORKS = [
    ((64, *(64,) * 30, 10), 1024, False, 128),
    ((256, *(256,) * 16, 10), 1024, False, 128),
    ((256, *(256,) * 16, 10), 1024, True, 128),
    ((256, *(256,) * 64, 10), 1024, False, 128),
    ((512, 1024, 1024, 10), 4096, False, 256),
    ((512, 1024, 1024, 10), 256, False, 32),
    ((512, 1024, 1024, 10), 256, False, 8),
]
STEPS = 4  # of an epoch


def model(sizes: tuple[int, ...], batch_norm: bool) -> minidl.Sequential:
    """A network of ReLU."""
    layers: list[minidl.Layer] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(minidl.Linear(inputs, outputs, weight_init="kaiming_uniform"))
        layers += [minidl.BatchNorm1d(outputs)] if batch_norm else []
        layers.append(minidl.ReLU())
    return minidl.Sequential(*layers, minidl.Linear(*sizes[-2:]), seed=0)


def name_of(sizes: tuple[int, ...], rows: int, batch_norm: bool) -> str:
    """A network and its batch in words."""
    hidden = set(sizes[1:-1])
    middle = f"{len(sizes) - 2} x {hidden.pop()}" if len(hidden) == 1 else str(sizes[1:-1])
    return f"{sizes[0]}-({middle})-{sizes[-1]}, {rows}" + (" BatchNorm" if batch_norm else "")


def compare(
    sizes: tuple[int, ...], rows: int, batch_norm: bool, part: int, seconds: float, rounds: int
) -> None:
    """Time a network in three ways, and print a line of the table."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((STEPS * rows, sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], len(X))
    trainers = [
        minidl.Trainer(model(sizes, batch_norm), optimizer=minidl.Adam(lr=1e-5), **options)
        for options in ({}, {"checkpoint": "sqrt"}, {"micro_batch_size": part})
    ]

    def run(trainer: minidl.Trainer, epochs: int) -> float:
        start = time.perf_counter()
        trainer.fit(X, y, epochs=epochs, batch_size=rows, seed=0, verbose=0)
        return (time.perf_counter() - start) / (epochs * STEPS)

    best = []
    for trainer in trainers:
        run(trainer, 1)
        best.append(run(trainer, 2))
    epochs = max(1, int(seconds / (STEPS * best[0])))
    for turn in range(rounds):
        order = range(len(trainers)) if turn % 2 == 0 else reversed(range(len(trainers)))
        for i in order:
            best[i] = min(best[i], run(trainers[i], epochs))
    sizes_mb = [sum(t.memory(rows).training.values()) / 1e6 for t in trainers]
    cells = [
        f"{1e6 * t:.0f} us ({t / best[0]:.2f}x), {size:.1f} MB"
        for t, size in zip(best, sizes_mb, strict=True)
    ]
    name = name_of(sizes, rows, batch_norm)
    print(f"| {name} | {cells[0]} | {cells[1]} | {part}: {cells[2]} |", flush=True)


def main() -> None:
    """Time all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="of a timing")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for threads in options.threads:
        with minidl.set_num_threads(threads):
            print(f"\n{threads} threads\n")
            print('| network, batch | plain | checkpoint="sqrt" | rows of a part |')
            print("|---|---|---|---|")
            for case in NETWORKS:
                compare(*case, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
