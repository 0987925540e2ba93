"""What is trained: networks, batches, data and starting weights, the same for every system."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

LEARNING_RATES = {"adam": 1e-3, "sgd": 1e-2}
MOMENTUM = 0.9  # of SGD; Adam has its defaults
BN_EPS, BN_MOMENTUM = 1e-5, 0.1

EPOCH_FLOPS = 2e8  # an epoch has about this many, if that is between FEWEST and MOST steps
FEWEST_STEPS, MOST_STEPS = 16, 128


@dataclass(frozen=True)
class Case:
    """A network, how it is trained, and on what.

    Parameters
    ----------
    layers : tuple of int
        Sizes from inputs to outputs.
    batch : int
    activation : {"relu", "tanh"}
    loss : {"cross_entropy", "mse"}
    optimizer : {"adam", "sgd"}
        SGD has a momentum of 0.9.
    dtype : {"float32", "float64"}
    batch_norm : bool
        BatchNorm between each affine map and its activation, in training mode. The bias before it
        stays: all systems do the same work.
    """

    layers: tuple[int, ...]
    batch: int
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    dtype: str = "float32"
    batch_norm: bool = False

    @property
    def network(self) -> str:
        """Sizes, batch and what differs from ReLU, Adam and float32."""
        words = [f"{'-'.join(map(str, self.layers))}, {self.batch}"]
        words += [self.activation] if self.activation != "relu" else []
        words += ["MSE"] if self.loss == "mse" else []
        words += ["SGD"] if self.optimizer == "sgd" else []
        words += [self.dtype] if self.dtype != "float32" else []
        return " ".join(words)

    @property
    def name(self) -> str:
        """The network, and whether it has BatchNorm."""
        return f"{self.network} BatchNorm" if self.batch_norm else self.network

    @property
    def flops(self) -> int:
        """Floating-point operations of the products in one step.

        Two for each weight and row forward, four backward; nobody needs the gradient of the data.
        """
        weights = [a * b for a, b in pairwise(self.layers)]
        return self.batch * (6 * sum(weights) - 2 * weights[0])

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return int(np.clip(EPOCH_FLOPS // self.flops, FEWEST_STEPS, MOST_STEPS))

    @property
    def learning_rate(self) -> float:
        """The same for every system."""
        return LEARNING_RATES[self.optimizer]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of an epoch and their labels (N,) or targets (N, K); whole batches."""
        rng = np.random.default_rng(1)
        rows = self.steps * self.batch
        X = rng.standard_normal((rows, self.layers[0])).astype(self.dtype)
        if self.loss == "mse":
            return X, rng.standard_normal((rows, self.layers[-1])).astype(self.dtype)
        return X, rng.integers(0, self.layers[-1], rows)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weight (out, in) and bias of each affine map, drawn as PyTorch draws them (Kaiming)."""
        rng = np.random.default_rng(2)
        drawn = []
        for inputs, outputs in pairwise(self.layers):
            bound = inputs**-0.5
            weight, bias = (
                rng.uniform(-bound, bound, (outputs, inputs)),
                rng.uniform(-bound, bound, outputs),
            )
            drawn.append((weight.astype(self.dtype), bias.astype(self.dtype)))
        return drawn


def all_cases() -> list[Case]:
    """Every case, those with BatchNorm beside those without; one row has no BatchNorm."""
    plain = [
        Case((4, 32, 16, 4), 10000, activation="tanh"),
        Case((24, 8, 2), 200),
        Case((20, 32, 16, 2), 32),
        Case((64, 64, 32, 10), 64),
        Case((784, 128, 64, 10), 128),
        *(Case((10, width, width, 10), 128) for width in (32, 45, 46, 64, 128)),
        Case((4, 120, 84, 2), 32),
        Case((4, 500, 1), 256, loss="mse"),
        Case((256, 256, 256, 10), 256),
        Case((512, 1024, 1024, 10), 256),
        *(Case((784, 256, 10), batch) for batch in (1, 8, 16, 1024)),
    ]
    variants = [
        Case(layers, batch, optimizer=optimizer, dtype=dtype)
        for layers, batch in (
            ((20, 32, 16, 2), 32),
            ((64, 64, 32, 10), 64),
            ((784, 128, 64, 10), 128),
        )
        for optimizer, dtype in (("sgd", "float32"), ("adam", "float64"))
    ]
    cases = []
    for case in plain + variants:
        cases.append(case)
        if case.batch > 1:
            cases.append(replace(case, batch_norm=True))
    return cases
