"""PyTorch, eager: fused optimizers, plain slicing of tensors, no DataLoader."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from cases import BN_EPS, BN_MOMENTUM, MOMENTUM, Case
from torch import nn

from peers.base import System, Weights

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class PyTorch(System):
    """A loop as PyTorch's tutorials have it, without what they spend on loading data."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        """With the instruction set that it chose."""
        return {"PyTorch": f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"}

    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """A new model and optimizer."""
        self.case, self.X, self.y = case, torch.from_numpy(X), torch.from_numpy(y)
        dtype = getattr(torch, case.dtype)
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(case.layers)):
            layers.append(nn.Linear(inputs, outputs, dtype=dtype))
            if i == len(case.layers) - 2:
                break
            if case.batch_norm:
                layers.append(nn.BatchNorm1d(outputs, BN_EPS, BN_MOMENTUM, dtype=dtype))
            layers.append(ACTIVATIONS[case.activation]())
        self.linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
        with torch.no_grad():
            for layer, (weight, bias) in zip(self.linears, weights, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
        self.model = nn.Sequential(*layers).train()
        self.loss = nn.MSELoss() if case.loss == "mse" else nn.CrossEntropyLoss()
        parameters, rate = self.model.parameters(), case.learning_rate
        self.optimizer = (
            torch.optim.Adam(parameters, rate, fused=True)
            if case.optimizer == "adam"
            else torch.optim.SGD(parameters, rate, MOMENTUM, fused=True)
        )

    def run(self, epochs: int) -> float:
        """The usual four calls a step."""
        X, y, batch = self.X, self.y, self.case.batch
        model, loss_of, optimizer = self.model, self.loss, self.optimizer
        for _ in range(epochs):
            total = 0.0
            for start in range(0, len(X), batch):
                loss = loss_of(model(X[start : start + batch]), y[start : start + batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.item()
        return total / self.case.steps

    def state(self) -> dict[str, np.ndarray]:
        """Copies."""
        found = {f"weight{i}": layer.weight for i, layer in enumerate(self.linears)}
        for i, norm in enumerate(self.norms):
            found |= {f"gamma{i}": norm.weight, f"beta{i}": norm.bias, f"var{i}": norm.running_var}
        return {name: tensor.detach().numpy().copy() for name, tensor in found.items()}


SYSTEM = PyTorch
