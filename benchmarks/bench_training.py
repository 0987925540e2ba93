"""A training epoch over time: has a change made it slower?

    pytest benchmarks/bench_training.py --benchmark-autosave
    pytest benchmarks/bench_training.py --benchmark-compare

`compare.py` tells how fast it is beside others.
"""

import pytest
from cases import Case
from peers.minidl_fit import Minidl

import minidl

CASES = [
    Case(layers, batch, batch_norm=batch_norm)
    for layers, batch in (
        ((20, 32, 16, 2), 32),
        ((64, 64, 32, 10), 64),
        ((784, 128, 64, 10), 128),
        ((256, 256, 256, 10), 256),
    )
    for batch_norm in (False, True)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_epoch(benchmark, case):
    """An epoch of `case.steps` steps with Adam, as many threads as minidl takes by itself."""
    system = Minidl(minidl.get_num_threads())
    system.start(case, *case.data(), case.weights())
    benchmark.extra_info["steps"] = case.steps
    benchmark(system.run, 1)
