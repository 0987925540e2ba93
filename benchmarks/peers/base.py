"""The interface of a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cases import Case

Weights = list[tuple[np.ndarray, np.ndarray]]


class System(ABC):
    """Trains a case: batches in the order of the rows, no shuffling.

    Parameters
    ----------
    threads : int
        The process may run on as many CPUs; a library with a setting of its own is told so.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the packages at work."""

    @abstractmethod
    def start(self, case: Case, X: np.ndarray, y: np.ndarray, weights: Weights) -> None:
        """Begin anew from the weights given: no moments, BatchNorm's gamma 1 and beta 0."""

    @abstractmethod
    def run(self, epochs: int) -> float:
        """Train, and return the mean loss of the last epoch, each batch's before its update."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """What training changed: `weight0` (out, in), `gamma0`, `beta0`, `var0` and so on.

        A bias before BatchNorm has no gradient but rounding errors, which Adam turns into steps
        of full length; so biases, and the running means that contain them, are left out.
        """
