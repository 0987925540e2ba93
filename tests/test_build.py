"""What the build made, and which CPU level is chosen at import."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from helpers import python

from minidl import kernels

# One short program for every question: the level, and the file that a kernel really came from.
SHOW = "import minidl.kernels as k, minidl.kernels.matmul as m; print(k.LEVEL, m.__file__)"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-c", code, check=False, environment=environment)


@pytest.mark.parametrize("level", kernels.LEVELS_SUPPORTED)
def test_every_supported_level_can_be_forced(level):
    shown, file = run(SHOW, MINIDL_ISA=level).stdout.split()
    assert shown == level
    assert Path(file).parent.name == level


def test_the_best_level_is_the_default():
    assert run(SHOW, MINIDL_ISA="").stdout.split()[0] == kernels.LEVELS_SUPPORTED[-1]


def test_an_unknown_level_is_an_error_that_lists_the_known_ones():
    result = run(SHOW, MINIDL_ISA="x86-64-v9")
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: minidl: no CPU level MINIDL_ISA='x86-64-v9'")
    assert f"built: {', '.join(kernels.LEVELS_BUILT)}" in last
    assert f"this CPU can run: {', '.join(kernels.LEVELS_SUPPORTED)}" in last


# Imports minidl once as it is, then again where the check of the CPU knows the lowest level only.
OLD_CPU = f"""
import os, sys, types
wanted = os.environ.pop("MINIDL_ISA")
import minidl.kernels.cpu as cpu
facts = {{name: getattr(cpu, name) for name in dir(cpu) if name.isupper()}}
facts["LEVELS_BUILT"] = (cpu.LEVELS_BUILT[0], "level-of-tomorrow")
for name in [name for name in sys.modules if name.split(".")[0] == "minidl"]:
    del sys.modules[name]
sys.modules["minidl.kernels.cpu"] = types.SimpleNamespace(
    **facts, supports=lambda level: level == facts["LEVELS_BUILT"][0]
)
os.environ["MINIDL_ISA"] = wanted
{SHOW}
"""


def test_a_level_that_this_cpu_cannot_run_is_an_error():
    last = run(OLD_CPU, MINIDL_ISA="level-of-tomorrow").stderr.splitlines()[-1]
    lowest = kernels.LEVELS_BUILT[0]
    assert last == (
        "ImportError: minidl: this CPU cannot run MINIDL_ISA='level-of-tomorrow' "
        f"(built: {lowest}, level-of-tomorrow; this CPU can run: {lowest})"
    )


def test_a_level_that_this_cpu_cannot_run_is_not_the_default():
    assert run(OLD_CPU, MINIDL_ISA="").stdout.split()[0] == kernels.LEVELS_BUILT[0]


def test_a_cpu_below_every_level_is_an_error():
    with pytest.raises(ImportError, match=r"too old for this build \(built: b, c; .*: none\)"):
        kernels._choose("", ("b", "c"), ())


def test_an_uncompiled_tree_says_what_to_do(tmp_path):
    """The package's Python files, without its compiled ones."""
    for part in ("__init__.py", "kernels/__init__.py"):
        (tmp_path / "minidl" / part).parent.mkdir(exist_ok=True)
    (tmp_path / "minidl" / "__init__.py").touch()
    source = Path(kernels.__file__).read_text(encoding="utf-8")
    (tmp_path / "minidl" / "kernels" / "__init__.py").write_text(source, encoding="utf-8")
    # An editable install's finder would come first: only the standard ones are left.
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, type)]; "
        f"sys.path.insert(0, {str(tmp_path)!r}); import minidl.kernels"
    )
    last = run(code).stderr.splitlines()[-1]
    assert last.startswith("ImportError: minidl's kernels are not compiled")
    assert "pip install -e ." in last
    assert "another folder" in last


def test_facts_of_the_build():
    assert kernels.LEVEL in kernels.LEVELS_SUPPORTED
    assert set(kernels.LEVELS_SUPPORTED) <= set(kernels.LEVELS_BUILT)
    assert metadata.version("minidl") == kernels.VERSION
    assert kernels.COMPILER
    assert {type(kernels.OPENMP), type(kernels.DEBUG)} == {bool}
    assert isinstance(kernels.SANITIZERS, str)


KERNELS = ["threads", "random", "activation", "matmul", "batchnorm", "loss", "optimizer", "program"]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_comes_from_the_level_chosen(name):
    module = importlib.import_module(f"minidl.kernels.{name}")
    assert module.__name__ == f"minidl.kernels.{name}"
    assert Path(module.__file__).parent.name == kernels.LEVEL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_only_one_level_is_ever_loaded():
    code = "; ".join(f"import minidl.kernels.{name}" for name in KERNELS)
    loaded = run(code + "; print(open('/proc/self/maps').read())", MINIDL_ISA="").stdout
    folders = {
        Path(line.split()[-1]).parent.name
        for line in loaded.splitlines()
        if "/minidl/kernels/" in line and "/cpu." not in line
    }
    assert folders == {kernels.LEVELS_SUPPORTED[-1]}
