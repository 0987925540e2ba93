"""What the machine can do: peak of multiply-adds, memory bandwidth, clock; and what it is.

The probes are a page of C for the system's compiler (``$CC``, cc, gcc or clang). Without one, the
peak is the best of `numpy.matmul`, the bandwidth that of `numpy.add`, and the clock is unknown.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

REPEATS = 5  # the best counts
SECONDS = 0.1  # of one probe
MEMORY_BYTES = 384 << 20  # three arrays together, far larger than caches

SOURCE = r"""
#include <time.h>

#if defined(__AVX512F__)
enum { BYTES = 64, CHAINS = 24 };
#elif defined(__AVX__)
enum { BYTES = 32, CHAINS = 12 };
#else
enum { BYTES = 16, CHAINS = 24 };
#endif

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Independent chains of acc = acc * x + y in registers: operations a second. */
#define PEAK(type)                                                       \
  double peak_##type(double seconds) {                                   \
    typedef type vec __attribute__((vector_size(BYTES)));                \
    vec acc[CHAINS], x = {0}, y = {0};                                   \
    x += (type)0.999999;                                                 \
    y += (type)1e-6;                                                     \
    for (int i = 0; i < CHAINS; i++) acc[i] = x + (type)(i * 1e-3);      \
    double rounds = 0, start = now(), end;                               \
    do {                                                                 \
      for (int k = 0; k < 20000; k++) {                                  \
        _Pragma("GCC unroll 24")                                         \
        for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * x + y;        \
      }                                                                  \
      rounds += 20000;                                                   \
      end = now();                                                       \
    } while (end - start < seconds);                                     \
    for (int i = 1; i < CHAINS; i++) acc[0] += acc[i];                   \
    volatile type sink = acc[0][0];                                      \
    (void)sink;                                                          \
    return rounds * CHAINS * 2 * (BYTES / sizeof(type)) / (end - start); \
  }
PEAK(float)
PEAK(double)

/* A chain of exclusive ors, one cycle each: cycles a second. */
double hertz(double seconds) {
  unsigned long x = 1, y = (unsigned long)&x;
  double rounds = 0, start = now(), end;
  do {
    for (int k = 0; k < 2000; k++) {
      _Pragma("GCC unroll 64")
      for (int i = 0; i < 64; i++) {
        x ^= y;
        __asm__ volatile("" : "+r"(x));
      }
    }
    rounds += 2000;
    end = now();
  } while (end - start < seconds);
  return rounds * 64 / (end - start);
}

/* a = b + c / 2, over and over: passes a second. */
double triad(float *restrict a, const float *restrict b, const float *restrict c, long n,
             double seconds) {
  double passes = 0, start = now(), end;
  do {
    for (long i = 0; i < n; i++) a[i] = b[i] + 0.5f * c[i];
    __asm__ volatile("" : : "r"(a) : "memory");
    passes++;
    end = now();
  } while (end - start < seconds);
  return passes / (end - start);
}
"""


@cache
def library() -> ctypes.CDLL | None:
    """The probes, compiled, or None without a compiler."""
    names = [os.environ.get("CC"), "cc", "gcc", "clang"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        return None
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    with TemporaryDirectory() as folder:
        source, binary = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(SOURCE, encoding="ascii")
        done = subprocess.run([compiler, *flags, "-o", str(binary), str(source)], check=False)
        if done.returncode:
            return None
        probes = ctypes.CDLL(str(binary))
    pointer = ctypes.c_void_p
    for name in ("peak_float", "peak_double", "hertz"):
        getattr(probes, name).argtypes = [ctypes.c_double]
    probes.triad.argtypes = [pointer, pointer, pointer, ctypes.c_long, ctypes.c_double]
    for name in ("peak_float", "peak_double", "hertz", "triad"):
        getattr(probes, name).restype = ctypes.c_double
    return probes


def cpus() -> list[int]:
    """CPUs that this process may use: one of each core first, then their siblings."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    seen: set[str] = set()
    first, rest = [], []
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text(encoding="ascii") if path.exists() else str(cpu)
        (rest if core in seen else first).append(cpu)
        seen.add(core)
    return first + rest


def together(function: Callable[[int], float], on: list[int]) -> float:
    """Sum of what a function gives on several CPUs at the same time; it is called with 0, 1, ..."""
    gate = threading.Barrier(len(on))

    def work(rank: int) -> float:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, [on[rank]])  # of this thread
        gate.wait()
        return function(rank)

    with ThreadPoolExecutor(len(on)) as pool:
        return sum(pool.map(work, range(len(on))))


def peak(dtype: str, on: list[int]) -> float:
    """Multiply-adds of some CPUs together, in FLOP/s."""
    probes = library()
    if probes is None:
        return _matmul_peak(dtype)
    probe = {"float32": probes.peak_float, "float64": probes.peak_double}[dtype]
    return max(together(lambda _: probe(SECONDS), on) for _ in range(REPEATS))


def _matmul_peak(dtype: str) -> float:
    import time

    size = 768
    a = np.ones((size, size), dtype)
    out = np.empty_like(a)
    best = np.inf
    for _ in range(4 * REPEATS):
        start = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def bandwidth(size: int, on: list[int]) -> float:
    """Bytes a second of a = b + c / 2: two arrays read, one written, `size` bytes together.

    What caches read before a write is not counted (as STREAM has it).
    """
    probes = library()
    length = size // (12 * len(on))
    arrays = [[np.ones(length, np.float32) for _ in range(3)] for _ in on]

    def passes(rank: int) -> float:
        a, b, c = arrays[rank]
        if probes is not None:
            return probes.triad(a.ctypes.data, b.ctypes.data, c.ctypes.data, length, SECONDS)
        return _add_passes(a, b, c)

    return 12 * length * max(together(passes, on) for _ in range(REPEATS))


def _add_passes(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    import time

    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        np.add(b, c, out=a)
        count += 1
    return count / elapsed


def clock(cpu: int) -> float | None:
    """Cycles a second of a busy core, or None if that cannot be measured."""
    probes = library()
    if probes is None:
        return None
    return max(together(lambda _: probes.hertz(SECONDS), [cpu]) for _ in range(REPEATS))


def cache_size(level: int) -> int | None:
    """Bytes of a core's data cache, where Linux tells."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        fields = {
            name: (index / name).read_text(encoding="ascii").strip()
            for name in ("level", "type", "size")
            if (index / name).exists()
        }
        if fields.get("level") == str(level) and fields.get("type") in ("Data", "Unified"):
            return int(fields["size"].rstrip("K")) * 1024
    return None


def describe() -> dict[str, Any]:
    """Model, CPUs, caches, system."""
    model = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cpus": len(cpus()),
        "caches": {f"L{level}": cache_size(level) for level in (1, 2, 3)},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def measure() -> dict[str, Any]:
    """Peak in FLOP/s by dtype, bandwidth in bytes a second, clock in Hz; one core and all."""
    every = cpus()
    sides = {"core": every[:1], "all": every}
    return {
        "probe": "numpy (no C compiler)" if library() is None else "C",
        "peak": {
            dtype: {side: peak(dtype, on) for side, on in sides.items()}
            for dtype in ("float32", "float64")
        },
        "bandwidth": {side: bandwidth(MEMORY_BYTES, on) for side, on in sides.items()},
        "clock": clock(every[0]),
    }


def environment_notes() -> list[str]:
    """Variables that slow NumPy's BLAS down, if they are set."""
    return [
        f"note: {name}={os.environ[name]} is set; OpenBLAS may be slower than it can be. "
        f"Run with `env -u {name}`"
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        if name in os.environ
    ]
