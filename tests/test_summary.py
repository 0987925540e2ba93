"""The table of a model's layers, on paper, on a terminal and in a notebook."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import layers, python

import minidl


def flat():
    return minidl.Sequential(
        minidl.Linear(784, 128), minidl.BatchNorm1d(128), minidl.ReLU(), minidl.Linear(128, 10)
    )


def nested():
    inner = minidl.Sequential(minidl.Linear(8, 4), minidl.BatchNorm1d(4))
    return minidl.Sequential(
        minidl.Linear(3, 8, bias=False),
        minidl.Sequential(inner, minidl.Tanh()),
        minidl.Linear(4, 2),
        dtype="float64",
    )


def test_a_flat_model():
    assert str(flat().summary()) == (
        "layer            output shape  parameters\n"
        "-----------------------------------------\n"
        "0 (Linear)       (N, 128)         100,480\n"
        "1 (BatchNorm1d)  (N, 128)             256\n"
        "2 (ReLU)         (N, 128)               0\n"
        "3 (Linear)       (N, 10)            1,290\n"
        "-----------------------------------------\n"
        "102,026 parameters, 256 running averages, float32"
    )


def test_a_nested_model_is_indented():
    assert str(nested().summary()) == (
        "layer                    output shape  parameters\n"
        "-------------------------------------------------\n"
        "0 (Linear)               (N, 8)                24\n"
        "1 (Sequential)           (N, 4)\n"
        "  1.0 (Sequential)       (N, 4)\n"
        "    1.0.0 (Linear)       (N, 4)                36\n"
        "    1.0.1 (BatchNorm1d)  (N, 4)                 8\n"
        "  1.1 (Tanh)             (N, 4)                 0\n"
        "2 (Linear)               (N, 2)                10\n"
        "-------------------------------------------------\n"
        "78 parameters, 8 running averages, float64"
    )


def test_attributes():
    model = nested()
    summary = model.summary()
    assert summary.parameters == sum(p.size for p in model.parameters()) == 78
    assert summary.parameters == sum(row.parameters or 0 for row in summary.rows)
    assert summary.running_averages == 8
    assert summary.dtype == "float64"
    assert [row.depth for row in summary.rows] == [0, 0, 1, 2, 2, 1, 0]
    assert repr(summary) == str(summary)


@layers
def test_every_layer_has_a_summary(layer):
    layer = layer()
    columns = layer.predict(np.ones((2, 5))).shape[1]
    assert layer.output_features(5) == columns
    rows = layer.summary(5).rows
    assert len(rows) == max(len(list(layer.tree())) - 1, 1)
    if not layer.children():
        assert rows[0][:3] == (type(layer).__name__, 0, columns)


class Both(minidl.Layer):
    """Two layers side by side, which take the same input."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def children(self):
        return [("left", self.left), ("right", self.right)]

    def inputs_of_children(self, in_features):
        return [in_features, in_features]

    def output_features(self, in_features):
        return sum(layer.output_features(in_features) for _, layer in self.children())


def test_containers_say_what_their_children_get():
    both = Both(minidl.Linear(3, 4), minidl.Sequential(minidl.Tanh(), minidl.Linear(3, 2)))
    assert [(row.depth, row.name, row.columns) for row in both.summary(3).rows] == [
        (0, "left (Linear)", 4),
        (0, "right (Sequential)", 2),
        (1, "right.0 (Tanh)", 3),
        (1, "right.1 (Linear)", 2),
    ]


def test_without_columns():
    model = minidl.Sequential(minidl.ReLU())
    with pytest.raises(ValueError, match="in_features: expected a number, since no layer fixes it"):
        model.summary()
    assert model.summary(3).rows[0].columns == 3
    assert minidl.Sequential().summary(3).rows[0].name == "Sequential"


@pytest.mark.parametrize("wrong", [785, -1, 2.0, "3"])
def test_wrong_columns(wrong):
    with pytest.raises(ValueError, match="in_features: expected"):
        flat().summary(wrong)


# A terminal.


def test_rich_draws_it():
    console = pytest.importorskip("rich.console")
    file = io.StringIO()
    console.Console(file=file, width=100).print(nested().summary())
    text = file.getvalue()
    for row in nested().summary().rows:
        (line,) = [line for line in text.splitlines() if f" {row.name} " in line]
        assert line.index(row.name) == 2 + 2 * row.depth
        assert f"(N, {row.columns})" in line
        assert row.parameters is None or line.split()[-1] == str(row.parameters)
    assert "78 parameters, 8 running averages, float64" in text


def test_a_narrow_terminal_cuts_no_number():
    console = pytest.importorskip("rich.console")
    file = io.StringIO()
    console.Console(file=file, width=40).print(flat().summary())
    assert "100,480" in file.getvalue()


def test_print(capsys):
    pytest.importorskip("rich")
    flat().summary().print()
    assert "1 (BatchNorm1d)" in capsys.readouterr().out


def test_print_without_rich():
    code = "import sys; sys.modules['rich'] = None; import minidl\n"
    done = python("-c", code + "minidl.Linear(2, 1).summary().print()", check=False)
    assert "Summary.print needs rich: pip install 'minidl[cli]'" in done.stderr


# A notebook.


def test_html():
    table = ElementTree.fromstring(nested().summary()._repr_html_())
    cells = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert cells[0] == ["layer", "output shape", "parameters"]
    assert cells[1:-1] == [list(row.cells()) for row in nested().summary().rows]
    assert cells[-1] == ["78 parameters, 8 running averages, float64"]


def test_layers_show_themselves():
    assert nested()._repr_html_() == nested().summary()._repr_html_()
    model = minidl.Sequential(minidl.LeakyReLU(), minidl.Dropout(0.1))
    shown = ElementTree.fromstring(model._repr_html_())
    assert shown.tag == "pre"
    assert shown.text == repr(model)


class Odd(minidl.Layer):
    """A layer whose repr looks like HTML."""

    def __init__(self, features=None):
        super().__init__()
        self.features = features

    def in_features_or_none(self):
        return self.features

    def extra_repr(self):
        return "<b>"


def test_names_are_no_html():
    odd = type("<i>", (Odd,), {})
    assert "&lt;i&gt;(&lt;b&gt;)" in odd()._repr_html_()
    assert "<td" in odd(3)._repr_html_()
    assert "&lt;i&gt;" in odd(3)._repr_html_()
