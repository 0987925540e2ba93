"""Schedules: the learning rate over epochs or steps, with PyTorch's names and formulas."""

from minidl.schedulers.base import Scheduler
from minidl.schedulers.compose import ChainedScheduler, SequentialLR
from minidl.schedulers.cycles import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from minidl.schedulers.decay import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from minidl.schedulers.function import LambdaLR, as_scheduler
from minidl.schedulers.names import NAMES, by_name, from_config
from minidl.schedulers.plateau import Plateau, ReduceLROnPlateau

__all__ = [
    "NAMES", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts",
    "ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "OneCycleLR", "Plateau",
    "PolynomialLR", "ReduceLROnPlateau", "Scheduler", "SequentialLR", "StepLR", "as_scheduler",
    "by_name", "from_config",
]  # fmt: skip
