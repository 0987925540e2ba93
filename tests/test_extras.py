"""Optional libraries: found, missing, or broken."""

import json
import sys

import pytest

from minidl.extras import need


def test_a_library_that_is_there():
    assert need("json", "data", "read_json") is json


@pytest.mark.parametrize(
    ("module", "extra", "message"),
    [
        ("no_such_library", "data", r"^read needs no_such_library: pip install 'minidl\[data\]'$"),
        ("no_such_library.part", "", r"^read needs no_such_library: pip install no_such_library$"),
    ],
)
def test_a_missing_library(module, extra, message):
    with pytest.raises(ImportError, match=message):
        need(module, extra, "read")


def test_a_library_that_lacks_something_itself(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_library'"):
        need("half_installed", "data", "read")
    assert "half_installed" not in sys.modules
