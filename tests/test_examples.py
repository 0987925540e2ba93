"""The programs in examples/ run and have something to say."""

from pathlib import Path

import pytest
from helpers import python

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Libraries beside minidl's own that an example imports.
NEEDS = {
    "batchnorm": ["sklearn", "matplotlib"],
    "dask_search": ["sklearn", "distributed"],
    "diabetes": ["sklearn"],
    "digits": ["sklearn", "matplotlib"],
    "exploding_gradients": ["sklearn", "matplotlib"],
    "from_pytorch_and_back": ["torch"],
    "memory": ["matplotlib"],
    "optuna_search": ["sklearn", "optuna"],
    "vanishing_gradients": ["sklearn", "matplotlib"],
}
# Those that draw a picture, which has their name.
PICTURES = {"batchnorm", "digits", "exploding_gradients", "memory", "vanishing_gradients"}


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= set(NEEDS) | PICTURES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    for module in NEEDS.get(path.stem, []):
        pytest.importorskip(module)
    written = {"TMPDIR": str(tmp_path)}  # goes with the test
    done = python("-W", "error", path, cwd=tmp_path, environment=written, timeout=120)
    assert done.stdout.strip()
    pictures = list(tmp_path.rglob("*.png"))
    assert [picture.stem for picture in pictures] == [path.stem] * (path.stem in PICTURES)
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
