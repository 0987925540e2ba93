"""Groups of parameters: checks of what users pass in, and which parameter is in which group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from minidl import checks
from minidl.kernels.operations import MAX_GROUPS

# Dicts of "params", a list of patterns, and what the group has of "lr" and "weight_decay".
Groups: TypeAlias = "list[dict[str, Any]]"

KEYS = ("params", "lr", "weight_decay")
MOST_PATTERNS = 100  # of a group: each is held against the name of every parameter


def as_groups(groups: Any, name: str) -> Groups | None:
    """Groups with a list of patterns each; None stays."""
    if groups is None:
        return None
    if not isinstance(groups, (list, tuple)):
        raise TypeError(f"{name}: expected a list of dicts, got {type(groups).__name__}")
    return [_as_group(group, f"{name}[{i}]") for i, group in enumerate(groups)]


def check_count(groups: Sequence[Any], split: bool) -> None:
    """Not too many groups; each counts twice if they are `split`."""
    most = MAX_GROUPS // (2 if split else 1) - 1
    if len(groups) > most:
        why = " with decay_bias_and_norm=False" if split else ""
        raise ValueError(f"groups: expected at most {most}{why}, got {len(groups)}")


def _as_group(group: Any, name: str) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        raise TypeError(f"{name}: expected a dict, got {type(group).__name__}")
    for key in group:
        if key not in KEYS:
            raise ValueError(f"{name}: expected the keys {', '.join(KEYS)}, got {key!r}")
    if "params" not in group or len(group) == 1:
        raise ValueError(
            f'{name}: expected "params" and one of "lr" and "weight_decay", got {dict(group)!r}'
        )
    given = group["params"]
    patterns = [given] if isinstance(given, str) else given
    if not (
        isinstance(patterns, (list, tuple)) and patterns and all(type(p) is str for p in patterns)
    ):
        raise TypeError(f'{name}["params"]: expected a pattern or a list of them, got {given!r}')
    if len(patterns) > MOST_PATTERNS:
        raise ValueError(
            f'{name}["params"]: expected at most {MOST_PATTERNS} patterns, got {len(patterns)}'
        )
    rates = {k: checks.number(group[k], f'{name}["{k}"]', 0) for k in KEYS[1:] if k in group}
    return {"params": list(patterns), **rates}


def group_of(groups: Sequence[Mapping[str, Any]], name: str) -> int:
    """Number, from 1, of the first group that has a parameter; 0: none has."""
    if not groups:
        return 0
    from fnmatch import fnmatchcase

    for i, group in enumerate(groups, 1):
        if any(fnmatchcase(name, pattern) for pattern in group["params"]):
            return i
    return 0


def check_patterns(groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Every pattern must match one of the names."""
    for i, group in enumerate(groups):
        for pattern in group["params"]:
            if not any(group_of([{"params": [pattern]}], name) for name in names):
                raise ValueError(
                    f"groups[{i}]: expected a pattern that matches a parameter, got {pattern!r}; "
                    f"there are {', '.join(names)}"
                )
