"""The examples in docstrings and in the README work."""

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl

MODULES = [
    info.name
    for info in pkgutil.walk_packages(minidl.__path__, "minidl.", onerror=lambda name: None)
    if not info.name.startswith(("minidl.kernels.", "minidl.cli"))
]
README = Path(__file__).parents[1] / "README.md"


def examples(name):
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    return [test for test in tests if test.examples]


def test_there_are_examples():
    assert sum(len(examples(name)) for name in MODULES) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    runner = doctest.DocTestRunner(verbose=False)
    written = []
    for test in examples(name):
        runner.run(test, out=written.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(written)


def test_the_readme(tmp_path, monkeypatch, capsys):
    """Its Python blocks run from top to bottom, in one session, away from the source tree."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"),
                        re.DOTALL | re.MULTILINE)
    assert blocks, "no Python in README.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    state = np.random.get_state()  # noqa: NPY002  # whatever a block may do to it
    session = {"__name__": "readme"}
    try:
        for block in blocks:
            if block.lstrip().startswith(">>>"):
                parser = doctest.DocTestParser()
                runner = doctest.DocTestRunner(verbose=False)
                test = parser.get_doctest(block, session, "README.md", str(README), 0)
                runner.run(test, clear_globs=False)
                session = test.globs
                assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
            else:
                exec(compile(block, str(README), "exec"), session)
    finally:
        np.random.set_state(state)  # noqa: NPY002
