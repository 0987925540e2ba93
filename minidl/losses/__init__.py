"""Losses: means over the rows of a batch, with PyTorch's names and formulas.

The formulas, with their gradients, stand in `kernels/loss.pyx`.
"""

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

__all__ = [
    "BCEWithLogitsLoss", "CrossEntropyLoss", "FunctionLoss", "HingeLoss", "HuberLoss", "KLDivLoss",
    "L1Loss", "Loss", "LossFunction", "MSELoss", "MultiMarginLoss", "PoissonNLLLoss",
    "QuantileLoss", "SmoothL1Loss", "as_loss",
]  # fmt: skip
