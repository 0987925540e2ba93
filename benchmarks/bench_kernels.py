"""Single kernels beside the NumPy baseline, in one run.

    pytest benchmarks/bench_kernels.py --benchmark-group-by=group

Products, BatchNorm and the optimizer at the sizes of a 784-128-64-10 network with 128 rows. minidl
runs one operation of a lowered program; the baseline calls its NumPy function.
"""

import numpy as np
import pytest

import minidl
from minidl import numpy_baseline as baseline
from minidl.lowering import BackwardPlan

N, D, K = 128, 784, 128
rng = np.random.default_rng(0)
x = rng.normal(size=(N, D)).astype(np.float32)
dy = rng.normal(size=(N, K)).astype(np.float32)


class Operations:
    """The operations of one layer, to be run one at a time."""

    def __init__(self, layer, columns):
        layer.train()
        self.plan = BackwardPlan(layer, columns, N, layer.dtype)
        output = self.plan.forward()
        gradient = self.plan.matrix(output.columns)
        self.plan.transposes(input_gradient=True)
        self.plan.backward(gradient, input_gradient=True)
        self.plan.update()
        self.kinds = [operation[0] for operation in self.plan.operations]
        self.program = self.plan.build()
        self.plan.view(self.plan.data[self.plan.graph.input], N)[...] = x[:, :columns]
        self.plan.view(gradient, N)[...] = dy[:, : output.columns]
        self.program.execute(0, len(self.kinds), N)

    def run(self, first, last=None):
        """Run the operations from kind `first` to kind `last`."""
        low = self.kinds.index(first)
        high = self.kinds.index(last or first) + 1
        return lambda: self.program.execute(low, high, N)


linear = minidl.Linear(D, K, seed=0)
products = Operations(linear, D)
weight, bias = linear.state_dict()["weight"], linear.state_dict()["bias"]


@pytest.mark.parametrize("who", ["minidl", "numpy"])
class TestProducts:
    """The three products of a dense layer."""

    def test_forward(self, benchmark, who):
        """Y = X W^T + b."""
        benchmark.group = "Y = X W^T + b"
        if who == "minidl":
            benchmark(products.run("LINEAR"))
        else:
            benchmark(baseline.linear_forward, x, weight, bias)

    def test_input_gradient(self, benchmark, who):
        """DX = dY W."""
        benchmark.group = "dX = dY W"
        if who == "minidl":
            benchmark(products.run("LINEAR_DX"))
        else:
            out = np.empty_like(x)
            benchmark(np.matmul, dy, weight, out=out)

    def test_weight_gradient(self, benchmark, who):
        """DW = dY^T X, and db."""
        benchmark.group = "dW = dY^T X, db"
        if who == "minidl":
            benchmark(products.run("LINEAR_DW"))
        else:
            dweight, dbias = np.empty_like(weight), np.empty_like(bias)

            def gradient():
                np.matmul(dy.T, x, out=dweight)
                np.sum(dy, axis=0, out=dbias)

            benchmark(gradient)


@pytest.mark.parametrize("who", ["minidl", "numpy"])
class TestBatchNorm:
    """Training mode, N rows of K features."""

    norm = Operations(minidl.BatchNorm1d(K), K)
    gamma, beta = np.ones(K, np.float32), np.zeros(K, np.float32)

    def test_forward(self, benchmark, who):
        """With the running averages."""
        benchmark.group = "BatchNorm forward"
        if who == "minidl":
            benchmark(self.norm.run("BN_BLOCKS", "BN_NORMALIZE"))
        else:
            mean, var = np.zeros(K, np.float32), np.ones(K, np.float32)
            benchmark(baseline.batchnorm_forward, dy, self.gamma, self.beta, mean, var)

    def test_backward(self, benchmark, who):
        """Gradients of input, gamma and beta."""
        benchmark.group = "BatchNorm backward"
        if who == "minidl":
            benchmark(self.norm.run("BN_GRADIENTS", "BN_BACKWARD"))
        else:
            mean, inverse = dy.mean(0), 1 / dy.std(0)
            benchmark(baseline.batchnorm_backward, dy, dy, mean, inverse, self.gamma)


@pytest.mark.parametrize("who", ["minidl", "numpy"])
def test_adam(benchmark, who):
    """One step of Adam on a weight matrix."""
    benchmark.group = "Adam"
    if who == "minidl":
        layer = minidl.Linear(D, K, seed=0)
        optimizer = minidl.Adam()
        layer.gradients()[0][...] = weight
        benchmark(optimizer.step, layer)
    else:
        parameters = [weight.copy(), bias.copy()]
        optimizer = baseline.Adam(parameters)
        benchmark(optimizer.step, [weight, bias])
