"""Single kernels over time: has a change made one slower?

    pytest benchmarks/bench_kernels.py --benchmark-autosave
    pytest benchmarks/bench_kernels.py --benchmark-compare

The sizes are those of a 784-128-64-10 network with 128 rows. `kernels.py` tells how near to the
machine's limits they are.
"""

import numpy as np
import pytest
from kernels import layer_operations, update_operation

import minidl

N, D, K = 128, 784, 128
REPEATS = 50  # in one call, which takes about a microsecond by itself


@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestKernels:
    """Times are those of 50 repeats."""

    @pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_DX", "LINEAR_DW"])
    def test_product(self, benchmark, kind, dtype):
        """The three products of a dense layer."""
        layer = minidl.Linear(D, K, dtype=dtype, seed=0)
        benchmark(layer_operations(layer, N, D, kind, kind, REPEATS).run)

    @pytest.mark.parametrize(
        ("first", "last"), [("BN_BLOCKS", "BN_NORMALIZE"), ("BN_GRADIENTS", "BN_BACKWARD")]
    )
    def test_batch_norm(self, benchmark, first, last, dtype):
        """Forward and backward."""
        layer = minidl.BatchNorm1d(K, dtype=dtype)
        operations = layer_operations(layer, N, K, first, last, REPEATS)
        benchmark.pedantic(operations.run, setup=operations.fill, rounds=200)

    @pytest.mark.parametrize("optimizer", [minidl.Adam(), minidl.SGD(momentum=0.9)], ids=repr)
    def test_update(self, benchmark, optimizer, dtype):
        """Of as many weights as the first layer has."""
        benchmark(update_operation(optimizer, D * K, dtype, REPEATS).run)

    @pytest.mark.parametrize("activation", [minidl.Tanh(), minidl.GELU()], ids=repr)
    def test_activation(self, benchmark, activation, dtype):
        """Forward, not fused into a product."""
        activation.set_dtype(np.dtype(dtype))
        kind = "ACTIVATION"
        benchmark(layer_operations(activation, N, K, kind, kind, REPEATS).run)
