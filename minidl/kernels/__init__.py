"""The compiled kernels, at the best CPU level that this machine runs.

Every kernel is compiled once per CPU level, into a folder of that name. A level is chosen here, at
import, and its folder is put in front of this package's search path: `minidl.kernels.matmul` is
then that level's module. The environment variable MINIDL_ISA forces a level.
"""

import os

try:
    import minidl.kernels.cpu as cpu
except ModuleNotFoundError as error:
    if error.name != "minidl.kernels.cpu":
        raise
    raise ImportError(
        f"minidl's kernels are not compiled: {os.path.dirname(__file__)} is a source tree. "
        "Install it with `pip install -e .` in the tree's root, or, if minidl is installed "
        "already, import it from another folder.",
        name=__name__,
    ) from None

VERSION = cpu.VERSION
COMPILER = cpu.COMPILER
OPENMP = cpu.OPENMP
DEBUG = cpu.DEBUG
SANITIZERS = cpu.SANITIZERS

# Lowest first.
LEVELS_BUILT = cpu.LEVELS_BUILT
LEVELS_SUPPORTED = tuple(level for level in LEVELS_BUILT if cpu.supports(level))


def _choose(wanted: str, built: tuple[str, ...], supported: tuple[str, ...]) -> str:
    """Return the level to use: `wanted`, or the best one where that is empty."""
    known = f"built: {', '.join(built)}; this CPU can run: {', '.join(supported) or 'none'}"
    if wanted and wanted not in built:
        raise ImportError(f"minidl: no CPU level MINIDL_ISA={wanted!r} ({known})")
    if wanted and wanted not in supported:
        raise ImportError(f"minidl: this CPU cannot run MINIDL_ISA={wanted!r} ({known})")
    if not supported:
        raise ImportError(f"minidl: this CPU is too old for this build ({known})")
    return wanted or supported[-1]


LEVEL = _choose(os.environ.get("MINIDL_ISA", ""), LEVELS_BUILT, LEVELS_SUPPORTED)

# An editable install gives the package several folders, only one of which has compiled modules.
__path__[:0] = [folder for entry in __path__ if os.path.isdir(folder := os.path.join(entry, LEVEL))]
