"""The programs in examples/ run and have something to say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Libraries beside minidl's own that an example imports.
NEEDS = {
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
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", path],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # whatever they write goes with the test
        timeout=120,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
