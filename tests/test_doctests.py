"""The examples in docstrings and in the README work."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from helpers import python

import minidl

MODULES = [
    info.name
    for info in pkgutil.walk_packages(minidl.__path__, "minidl.", onerror=lambda name: None)
    if not info.name.startswith(("minidl.kernels.", "minidl.cli"))
]
# Libraries that examples of these modules need beside minidl's own.
NEEDS = {
    "minidl.callbacks.optuna_pruning": ["optuna"], "minidl.convert": ["torch"],
    "minidl.export": ["onnx"], "minidl.sklearn": ["sklearn"],
}  # fmt: skip
README = Path(__file__).parents[1] / "README.md"


def examples(name):
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    return [test for test in tests if test.examples]


def test_there_are_examples():
    assert sum(len(examples(name)) for name in MODULES) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    part = ".".join(name.split(".")[:2])
    for module in NEEDS.get(name, NEEDS.get(part, [])):
        pytest.importorskip(module)
    runner = doctest.DocTestRunner(verbose=False)
    written = []
    for test in examples(name):
        runner.run(test, out=written.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(written)


# What is marked `py` needs more than `pip install minidl`.
OPTIONAL = ["torch", "onnx", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn"]


@pytest.mark.parametrize(("marks", "needs"), [("python", []), ("python|py", OPTIONAL)])
def test_the_readme(marks, needs, tmp_path):
    """Its Python blocks run from top to bottom, in one session, away from the source tree."""
    for module in needs:
        pytest.importorskip(module)
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(rf"^```(?:{marks})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks, "no Python in README.md"
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    python("-W", "error", script, cwd=tmp_path, timeout=120)


def test_the_readme_lists_all_public_names():
    """Once each, in the table at its end."""
    section = README.read_text(encoding="utf-8").split("\n## All names\n")[1].split("\n## ")[0]
    listed = re.findall(r"`(\w+)`", section.partition("|")[2])
    assert set(minidl.__all__) - set(listed) == set()
    assert len(listed) == len(set(listed))
