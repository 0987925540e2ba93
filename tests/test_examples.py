"""The programs in examples/ run and have something to say."""

from pathlib import Path

import pytest
from helpers import python

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Libraries beside minidl's own that an example imports.
NEEDS = {
    "batchnorm": ["sklearn", "matplotlib"],
    "diabetes": ["sklearn"],
    "digits": ["sklearn", "matplotlib"],
    "from_pytorch_and_back": ["torch"],
}


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= set(NEEDS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    for module in NEEDS.get(path.stem, []):
        pytest.importorskip(module)
    written = {"TMPDIR": str(tmp_path)}  # goes with the test
    done = python("-W", "error", path, cwd=tmp_path, environment=written, timeout=120)
    assert done.stdout.strip()
