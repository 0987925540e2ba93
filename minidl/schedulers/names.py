"""Schedules from their names."""

from __future__ import annotations

from typing import Any

from minidl import checks
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
from minidl.schedulers.function import LambdaLR
from minidl.schedulers.plateau import ReduceLROnPlateau

NAMES: dict[str, type[Scheduler]] = {
    one.__name__: one
    for one in (
        ChainedScheduler, ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts,
        ExponentialLR, LambdaLR, LinearLR, MultiStepLR, OneCycleLR, PolynomialLR,
        ReduceLROnPlateau, SequentialLR, StepLR,
    )
}  # fmt: skip


def by_name(name: str, **arguments: Any) -> Scheduler:
    """A schedule from its name and arguments.

    Raises
    ------
    ValueError
        There is none of that name; the error says which is nearest.
    """
    return NAMES[checks.known_name(name, NAMES, "scheduler")](**arguments)


def from_config(config: dict[str, Any]) -> Scheduler:
    """A schedule from ``{"type": name, ...}``, with arguments as `config()` gives them."""
    if not isinstance(config, dict) or "type" not in config:
        raise ValueError(f"scheduler: expected a dict with a 'type', got {config!r}")
    arguments = {name: value for name, value in config.items() if name != "type"}
    if "schedulers" in arguments:
        arguments["schedulers"] = [from_config(one) for one in arguments["schedulers"]]
    return by_name(config["type"], **arguments)
