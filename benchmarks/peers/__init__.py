"""The systems that are compared, one module each, behind one interface (`base.System`).

A module is imported only in the process that runs its system, so that no library's threads,
memory or settings touch another's.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from cases import Case

from peers.base import System


def can_do_all(case: Case) -> str | None:
    """Why a case is not for this system: no reason."""
    return None


def no_batch_norm(case: Case) -> str | None:
    """Why a case is not for scikit-learn."""
    if case.batch_norm:
        return "it has no BatchNorm"
    if case.loss == "cross_entropy" and case.layers[-1] == 2:
        return "it gives two classes one output, another network"
    if case.loss == "mse" and case.optimizer == "sgd":
        return "its gradient is half of the others', so are its steps"
    return None


@dataclass(frozen=True)
class Entry:
    """A system: its label, its module here, the package it needs, and where it differs.

    Parameters
    ----------
    unsuitable : function
        Why it cannot train a case, or None if it can.
    same_formulas : bool
        False if its optimizer's formula differs in more than rounding.
    """

    label: str
    module: str
    package: str
    unsuitable: Callable[[Case], str | None] = can_do_all
    same_formulas: bool = True

    def installed(self) -> bool:
        """True if the package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    def load(self) -> type[System]:
        """The system's class; this imports its package."""
        return importlib.import_module(f"peers.{self.module}").SYSTEM


REGISTRY = {
    "minidl": Entry("minidl", "minidl_fit", "minidl"),
    "numpy": Entry("NumPy", "numpy_baseline", "minidl"),
    "pytorch": Entry("PyTorch", "pytorch_eager", "torch"),
    "jax": Entry("JAX", "jax_scan", "jax"),
    "scikit-learn": Entry("scikit-learn", "sklearn_mlp", "sklearn", no_batch_norm, False),
}
