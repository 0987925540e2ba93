"""What a training step costs on subnormal numbers, beside one on ordinary numbers.

    python benchmarks/subnormals.py

Numbers below 1.2e-38 (float32) or 2.2e-308 (float64) are subnormal: some CPUs need a hundred cycles
more for each. minidl leaves them switched on, as PyTorch does: layers and `predict` keep small
numbers, and `fit` gives the bits of the layers one by one. They come into a training in four ways:

- data: columns that are so small;
- weights, and what they give: hardly ever;
- moments: Adam's averages of the gradients of units that are dead. They fade by a tenth a step, are
  subnormal after some 800 steps, and stay so, since a tenth of the smallest numbers is rounded off;
- gradients: of a loss that is all but 0.

Each is timed in turns with the same step on ordinary numbers; the best of all rounds counts. The
step is that of 784-128-64-10 with 128 rows and Adam, or of 20-32-16-2 with 32 rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import machine
import numpy as np
from report import digits, headline, markdown

import minidl

NETWORKS = {"784-128-64-10": ((784, 128, 64, 10), 128), "20-32-16-2": ((20, 32, 16, 2), 32)}
STEPS = 64


def trainer(widths: tuple[int, ...], dtype: str) -> minidl.Trainer:
    """A network of tanh layers, which are all alive; the rate is 0, so that it stays as it is."""
    layers: list[minidl.Layer] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [minidl.Linear(inputs, outputs), minidl.Tanh()]
    model = minidl.Sequential(*layers, minidl.Linear(*widths[-2:]), dtype=dtype, seed=0)
    return minidl.Trainer(model, minidl.MSELoss(), minidl.Adam(lr=0.0))


def data(made: minidl.Trainer, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets."""
    rng = np.random.default_rng(0)
    model = made.model
    x = rng.standard_normal((rows * STEPS, model.in_features_or_none())).astype(model.dtype)
    return x, rng.standard_normal((len(x), model[-1].out_features)).astype(model.dtype)


def small(dtype: np.dtype) -> np.floating:
    """A factor that makes ordinary numbers subnormal, with some digits left."""
    return np.finfo(dtype).tiny / 2**6


def ordinary(made: minidl.Trainer, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nothing is small."""
    return x, y


def small_data(made: minidl.Trainer, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All data are."""
    return x * small(x.dtype), y


def small_weights(
    made: minidl.Trainer, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All weights and biases are, and so all outputs."""
    for parameter in made.model.parameters():
        parameter *= small(parameter.dtype)
    return x, y


def small_moments(
    made: minidl.Trainer, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The moments of the first layer, half of whose inputs are 0: so they stay."""
    moments = made.optimizer.state_for(made.model).moments
    for _, parameter in made.model.named_parameters()[:1]:
        for moment in moments:
            parameter.view(moment)[...] = 3 * np.finfo(x.dtype).smallest_subnormal
    return np.zeros_like(x), y


def zero_data(made: minidl.Trainer, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `small_moments` is set beside."""
    return np.zeros_like(x), y


def small_gradients(
    made: minidl.Trainer, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The targets are all but met."""
    for parameter in made.model[-1].parameters():
        parameter[...] = 0
    return x, y * small(x.dtype)


CASES: dict[str, tuple[Callable[..., tuple[np.ndarray, np.ndarray]], ...]] = {
    "data": (small_data, ordinary),
    "weights": (small_weights, ordinary),
    "moments of dead inputs": (small_moments, zero_data),
    "gradients": (small_gradients, ordinary),
}


def seconds(
    widths: tuple[int, ...], rows: int, dtype: str, pair: tuple[Callable[..., object], ...],
    rounds: int,
) -> list[float]:  # fmt: skip
    """Of a step on small numbers, and on ordinary ones."""
    made, best = [], [np.inf, np.inf]
    for change in pair:
        one = trainer(widths, dtype)
        made.append((one, *change(one, *data(one, rows))))
    for _ in range(rounds):
        for i, (one, x, y) in enumerate(made):
            start = time.perf_counter()
            one.fit(x, y, batch_size=rows, shuffle=False, verbose=0)
            best[i] = min(best[i], (time.perf_counter() - start) / STEPS)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--rounds", type=int, default=20, help="the best counts; default: 20")
    options = parser.parse_args()
    for note in machine.environment_notes():
        print(note, file=sys.stderr)
    print(headline(machine.describe() | machine.measure()))
    table = [["network", "dtype", "subnormal", "us a step", "ordinary", "times as long"]]
    with minidl.set_num_threads(options.threads), np.errstate(under="ignore"):
        for name, (widths, rows) in NETWORKS.items():
            for dtype in ("float32", "float64"):
                for what, pair in CASES.items():
                    own, other = seconds(widths, rows, dtype, pair, options.rounds)
                    table.append([name, dtype, what, digits(own * 1e6), digits(other * 1e6),
                                  f"{own / other:.2f}"])  # fmt: skip
    print(f"\n{markdown(table)}")


if __name__ == "__main__":
    main()
