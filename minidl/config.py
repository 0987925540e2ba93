"""What this installation is: version, CPU level, threads, compiler."""

from __future__ import annotations

from typing import Any

from minidl import kernels, parallel


def get_config() -> dict[str, Any]:
    """Facts of this build and this process, as a dictionary.

    Examples
    --------
    >>> import minidl
    >>> minidl.get_config()["version"] == minidl.__version__
    True
    """
    return {
        "version": kernels.VERSION,
        "isa": kernels.LEVEL,
        "isa_built": list(kernels.LEVELS_BUILT),
        "isa_supported": list(kernels.LEVELS_SUPPORTED),
        "openmp": kernels.OPENMP,
        "num_threads": parallel.get_num_threads(),
        "num_threads_reason": parallel.reason(),
        "compiler": kernels.COMPILER,
        "debug": kernels.DEBUG,
        "sanitizers": kernels.SANITIZERS,
    }


def show_config() -> None:
    """Print `get_config()`."""
    c = get_config()
    print(
        f"minidl      {c['version']}\n"
        f"CPU level   {c['isa']} (built: {', '.join(c['isa_built'])}; "
        f"this CPU runs: {', '.join(c['isa_supported'])})\n"
        f"OpenMP      {'yes' if c['openmp'] else 'no (serial build)'}\n"
        f"threads     {c['num_threads']} ({c['num_threads_reason']})\n"
        f"compiler    {c['compiler']}\n"
        f"debug       {c['debug']}; sanitizers: {c['sanitizers'] or 'none'}"
    )
