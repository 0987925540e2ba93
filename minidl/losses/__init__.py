"""Losses: means over the rows of a batch, with PyTorch's names and formulas.

The formulas, with their gradients, stand in `kernels/loss.pyx`.
"""

from typing import Any

from minidl import checks
from minidl.losses.base import Loss
from minidl.losses.classification import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HingeLoss,
    KLDivLoss,
    MultiMarginLoss,
)
from minidl.losses.function import FunctionLoss, LossFunction, as_loss
from minidl.losses.regression import (
    HuberLoss,
    L1Loss,
    MSELoss,
    PoissonNLLLoss,
    QuantileLoss,
    SmoothL1Loss,
)

ALL: dict[str, type[Loss]] = {
    c.__name__: c
    for c in (
        BCEWithLogitsLoss, CrossEntropyLoss, HingeLoss, HuberLoss, KLDivLoss, L1Loss, MSELoss,
        MultiMarginLoss, PoissonNLLLoss, QuantileLoss, SmoothL1Loss,
    )
}  # fmt: skip


def by_name(name: str, **arguments: Any) -> Loss:
    """The loss of a name, in capitals or not.

    Raises
    ------
    ValueError
        There is none of that name; the error says which is nearest.

    Examples
    --------
    >>> from minidl.losses import by_name
    >>> by_name("huberloss", delta=2.0)
    HuberLoss(delta=2.0)
    """
    return ALL[checks.known_name(name, ALL, "loss")](**arguments)


__all__ = [
    "BCEWithLogitsLoss", "CrossEntropyLoss", "FunctionLoss", "HingeLoss", "HuberLoss", "KLDivLoss",
    "L1Loss", "Loss", "LossFunction", "MSELoss", "MultiMarginLoss", "PoissonNLLLoss",
    "QuantileLoss", "SmoothL1Loss", "as_loss", "by_name",
]  # fmt: skip
