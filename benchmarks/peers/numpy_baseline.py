"""NumPy: minidl's baseline, which is what a good NumPy user would write."""

from __future__ import annotations

import numpy as np
from cases import BN_EPS, BN_MOMENTUM, MOMENTUM, Case

from minidl import numpy_baseline as baseline
from peers.base import System, Weights

ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh"}


class NumPy(System):
    """BLAS takes as many threads as the process has CPUs."""

    def versions(self) -> dict[str, str]:
        """With the BLAS that NumPy calls, and its kernel where threadpoolctl is installed."""
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        kernel = ""
        try:
            from threadpoolctl import threadpool_info
        except ModuleNotFoundError:
            pass
        else:
            kernels = {i.get("architecture") for i in threadpool_info() if i["user_api"] == "blas"}
            kernel = " " + "/".join(sorted(filter(None, kernels)))
        return {"NumPy": np.__version__, "BLAS": f"{blas['name']} {blas['version']}{kernel}"}

    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """A new network."""
        self.case, self.X, self.y = case, X, y
        self.network = baseline.MLP.build(
            case.layers, ACTIVATIONS[case.activation], case.batch_norm, dtype=case.dtype
        )
        layers = self.network.layers
        self.linears = [layer for layer in layers if isinstance(layer, baseline.Linear)]
        self.norms = [layer for layer in layers if isinstance(layer, baseline.BatchNorm1d)]
        for layer, (weight, bias) in zip(self.linears, weights, strict=True):
            layer.weight[...], layer.bias[...] = weight, bias
        for norm in self.norms:
            norm.eps, norm.momentum = BN_EPS, BN_MOMENTUM
        self.loss = baseline.mse_loss if case.loss == "mse" else baseline.cross_entropy
        parameters = self.network.parameters()
        self.optimizer = (
            baseline.Adam(parameters, case.learning_rate)
            if case.optimizer == "adam"
            else baseline.SGD(parameters, case.learning_rate, MOMENTUM)
        )

    def run(self, epochs: int) -> float:
        """Batches are slices."""
        X, y, batch = self.X, self.y, self.case.batch
        for _ in range(epochs):
            total = 0.0
            for start in range(0, len(X), batch):
                rows = slice(start, start + batch)
                total += baseline.train_step(
                    self.network, self.loss, self.optimizer, X[rows], y[rows]
                )
        return total / self.case.steps

    def state(self) -> dict[str, np.ndarray]:
        """Copies."""
        found = {f"weight{i}": layer.weight for i, layer in enumerate(self.linears)}
        for i, norm in enumerate(self.norms):
            found |= {f"gamma{i}": norm.gamma, f"beta{i}": norm.beta, f"var{i}": norm.running_var}
        return {name: array.copy() for name, array in found.items()}


SYSTEM = NumPy
