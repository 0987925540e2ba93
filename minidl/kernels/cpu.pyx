"""What this CPU can run, and how the kernels were built.

Compiled for any CPU of the architecture: it is imported before a CPU level is chosen.
"""

cdef extern from *:
    """
    /* gcc's and clang's level checks cover every feature that -march=<level> turns on, and
       whether the operating system saves the registers (XGETBV). */
    #if defined(__x86_64__)
      #define MINIDL_RUNS(v) (__builtin_cpu_init(), __builtin_cpu_supports("x86-64-" v) != 0)
    #else
      #define MINIDL_RUNS(v) 0
    #endif
    static int minidl_runs_v2(void) { return MINIDL_RUNS("v2"); }
    static int minidl_runs_v3(void) { return MINIDL_RUNS("v3"); }
    static int minidl_runs_v4(void) { return MINIDL_RUNS("v4"); }

    #if defined(__clang__) || !defined(__GNUC__)
      #define MINIDL_COMPILER __VERSION__
    #else
      #define MINIDL_COMPILER "gcc " __VERSION__
    #endif
    #if defined(_OPENMP)
      #define MINIDL_OPENMP 1
    #else
      #define MINIDL_OPENMP 0
    #endif
    #ifndef MINIDL_DEBUG
      #define MINIDL_DEBUG 0
    #endif
    """
    bint runs_v2 "minidl_runs_v2"() noexcept
    bint runs_v3 "minidl_runs_v3"() noexcept
    bint runs_v4 "minidl_runs_v4"() noexcept
    const char* levels "MINIDL_LEVELS"
    const char* version "MINIDL_VERSION"
    const char* compiler "MINIDL_COMPILER"
    const char* sanitizers "MINIDL_SANITIZE"
    bint openmp "MINIDL_OPENMP"
    bint debug "MINIDL_DEBUG"

LEVELS_BUILT = tuple(levels.decode().split())
VERSION = version.decode()
COMPILER = compiler.decode()
OPENMP = <bint>openmp
DEBUG = <bint>debug
SANITIZERS = sanitizers.decode()


def supports(str level):
    """Whether this CPU, with its operating system, runs code compiled for `level`."""
    if level == "x86-64-v2":
        return runs_v2()
    if level == "x86-64-v3":
        return runs_v3()
    if level == "x86-64-v4":
        return runs_v4()
    return level == "baseline"
