"""The control groups of this process: where the limits of its container stand."""

from __future__ import annotations

import os
from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"
MEMBERSHIP = "/proc/self/cgroup"


def read(path: str) -> str | None:
    """What a file holds, or None if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def groups(
    controller: str, root: str = ROOT, membership: str = MEMBERSHIP
) -> Iterator[tuple[str, int]]:
    """Folder and version (1 or 2) of each group, from this process's own up to the root.

    A limit of any of them holds for the process.
    """
    for line in (read(membership) or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = _folder(root, controllers, controller) if controllers else root
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield "/".join([base, *parts[:depth]]), 1 if controllers else 2


def _folder(root: str, controllers: str, controller: str) -> str:
    """Where a controller of version 1 is mounted: under its own name, or with others."""
    names = [controllers, controller, ",".join(reversed(controllers.split(",")))]
    paths = [f"{root}/{name}" for name in names]
    return next((path for path in paths if os.path.isdir(path)), paths[0])
