"""A training epoch of 16 steps with Adam, minidl beside the NumPy baseline, in one run.

pytest benchmarks/bench_training.py --benchmark-group-by=group
"""

from itertools import pairwise

import numpy as np
import pytest

import minidl
from minidl import numpy_baseline as baseline

STEPS = 16
CASES = {
    "20-32-16-2, batch 32": ((20, 32, 16, 2), 32),
    "64-64-32-10, batch 64": ((64, 64, 32, 10), 64),
    "784-128-64-10, batch 128": ((784, 128, 64, 10), 128),
    "256-256-256-10, batch 256": ((256, 256, 256, 10), 256),
}


@pytest.mark.parametrize("who", ["minidl", "numpy"])
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "BatchNorm"])
@pytest.mark.parametrize("case", CASES)
def test_epoch(benchmark, case, batch_norm, who):
    """Both start from the baseline's weights."""
    sizes, batch_size = CASES[case]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(STEPS * batch_size, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], len(X))
    network = baseline.MLP.build(sizes, batch_norm=batch_norm)
    benchmark.group = f"{case}{', BatchNorm' if batch_norm else ''}"
    if who == "numpy":
        optimizer = baseline.Adam(network.parameters())
        benchmark(
            baseline.fit, network, baseline.cross_entropy, optimizer, X, y, 1, batch_size, rng
        )
        return
    layers = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(minidl.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [minidl.BatchNorm1d(b), minidl.ReLU()] if batch_norm else [minidl.ReLU()]
    model = minidl.Sequential(*layers)
    for own, start in zip(model.parameters(), network.parameters(), strict=True):
        own[...] = start
    trainer = minidl.Trainer(model)
    benchmark(trainer.fit, X, y, batch_size=batch_size, verbose=0)
