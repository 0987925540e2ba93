"""minidl: `Trainer.fit`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from cases import BN_EPS, BN_MOMENTUM, MOMENTUM, Case

import minidl
from peers.base import System, Weights

ACTIVATIONS = {"relu": minidl.ReLU, "tanh": minidl.Tanh}


class Minidl(System):
    """What a user writes, without shuffling."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        minidl.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        """With the CPU level of the kernels."""
        config = minidl.get_config()
        return {"minidl": f"{config['version']} ({config['isa']}, {config['compiler']})"}

    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """A new model and trainer."""
        self.case, self.X, self.y = case, X, y
        self.linears: list[minidl.Linear] = []
        self.norms: list[minidl.BatchNorm1d] = []
        layers: list[minidl.Layer] = []
        for i, (inputs, outputs) in enumerate(pairwise(case.layers)):
            self.linears.append(minidl.Linear(inputs, outputs))
            layers.append(self.linears[-1])
            if i == len(case.layers) - 2:
                break
            if case.batch_norm:
                self.norms.append(minidl.BatchNorm1d(outputs, BN_EPS, BN_MOMENTUM))
                layers.append(self.norms[-1])
            layers.append(ACTIVATIONS[case.activation]())
        model = minidl.Sequential(*layers, dtype=case.dtype)
        for layer, (weight, bias) in zip(self.linears, weights, strict=True):
            layer.weight, layer.bias = weight, bias
        loss = minidl.MSELoss() if case.loss == "mse" else minidl.CrossEntropyLoss()
        optimizer = (
            minidl.Adam(case.learning_rate)
            if case.optimizer == "adam"
            else minidl.SGD(case.learning_rate, MOMENTUM)
        )
        self.trainer = minidl.Trainer(model, loss, optimizer)

    def run(self, epochs: int) -> float:
        """One call for all epochs."""
        history = self.trainer.fit(
            self.X, self.y, epochs=epochs, batch_size=self.case.batch, shuffle=False, verbose=0
        )
        return history.history["loss"][-1]

    def state(self) -> dict[str, np.ndarray]:
        """Copies."""
        found = {f"weight{i}": layer.weight for i, layer in enumerate(self.linears)}
        for i, norm in enumerate(self.norms):
            found |= {f"gamma{i}": norm.weight, f"beta{i}": norm.bias, f"var{i}": norm.running_var}
        return {name: array.copy() for name, array in found.items()}


SYSTEM = Minidl
