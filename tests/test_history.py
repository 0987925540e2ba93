"""History: equal columns, tables, dictionaries, and the figure."""

import json

import numpy as np
import pytest
from helpers import python

import minidl

NAN = float("nan")


def make(**columns):
    """A history with these columns."""
    history = minidl.History()
    for values in zip(*columns.values(), strict=True):
        history.append(dict(zip(columns, values, strict=True)))
    return history


def curves(epochs=30):
    """What a training gives."""
    x = np.arange(epochs)
    return make(
        loss=2 * np.exp(-x / 4),
        accuracy=1 - np.exp(-x / 4),
        lr=0.01 * 0.9**x,
        val_loss=1 + (x - 20) ** 2 / 400,
        val_accuracy=1 - (x - 12) ** 2 / 400,
    )


# Columns.


def test_columns_stay_of_equal_length():
    history = minidl.History()
    history.append({"loss": 3})
    history.append({"loss": 2.0, "val_loss": 2.5})
    history.append({"val_loss": 1.5})
    expected = {"loss": [3.0, 2.0, NAN], "val_loss": [NAN, 2.5, 1.5]}
    assert list(history.history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(history.history[name], values)
    assert all(type(x) is float for column in history.history.values() for x in column)
    assert len(history) == 3
    assert history.epochs == range(3)


def test_several_epochs_at_once_are_as_one_by_one():
    history, other = make(loss=[3.0]), make(loss=[3.0])
    columns = {"loss": [2.0, np.float32(1.5)], "accuracy": (0.25, 1)}
    history.extend(columns)
    history.extend({"accuracy": [0.5]})
    history.extend({"lr": []})
    for values in ({"loss": 2.0, "accuracy": 0.25}, {"loss": 1.5, "accuracy": 1}):
        other.append(values)
    other.append({"accuracy": 0.5})
    assert list(history.history) == ["loss", "accuracy"]
    for name, values in other.history.items():
        np.testing.assert_array_equal(history.history[name], values)
    assert all(type(x) is float for column in history.history.values() for x in column)
    for wrong, message in (
        ({"loss": [1.0], "accuracy": [1.0, 2.0]}, r"columns: expected as many values of each, got"),
        ({"loss": ["a"]}, r"columns\['loss'\]: expected a number, got 'a'"),
        ([1.0], "columns: expected a dict of numbers by name"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            history.extend(wrong)
    assert len(history) == 4


def test_merge_last():
    history = make(loss=[3.0, 2.0])
    history.merge_last({"lr": np.float32(0.5), "loss": 1})
    assert history.history["loss"] == [3.0, 1.0]
    np.testing.assert_array_equal(history.history["lr"], [NAN, 0.5])
    assert type(history.history["lr"][1]) is float
    history.append({"loss": 0.5})
    assert {len(column) for column in history.history.values()} == {3}


def test_merge_last_needs_an_epoch():
    with pytest.raises(ValueError, match="merge_last: expected an epoch"):
        minidl.History().merge_last({"loss": 1.0})


def test_the_first_epoch_may_have_another_number():
    history = minidl.History(first=5)
    assert history.epochs == range(5, 5)
    history.append({"loss": 1.0})
    assert history.epochs == range(5, 6)


# Copies.


def test_a_dictionary_and_back():
    history = minidl.History(first=3)
    history.append({"loss": 0.1})
    history.append({"loss": 0.2, "val_loss": float("inf")})
    state = json.loads(json.dumps(history.to_dict()))
    same = minidl.History.from_dict(state)
    assert same.first == 3
    np.testing.assert_equal(same.history, history.history)
    same.append({"loss": 1.0})
    assert len(history) == 2
    assert len(state["history"]["loss"]) == 2


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"first": 0},
        {"first": 0, "history": [1]},
        {"first": 0, "history": {"loss": 3}},
        {"first": 0, "history": {"loss": ["a"]}},
        {"first": 0, "history": {"loss": [1.0], "val_loss": []}},
    ],
)
def test_dictionaries_that_are_none(state):
    with pytest.raises(ValueError, match="state: expected"):
        minidl.History.from_dict(state)


def test_a_table():
    pandas = pytest.importorskip("pandas")
    history = make(loss=[3.0, 2.0], val_loss=[4.0, NAN])
    history.first = 7
    table = history.to_pandas()
    index = pandas.Index([7, 8], name="epoch")
    expected = pandas.DataFrame({"loss": [3.0, 2.0], "val_loss": [4.0, NAN]}, index=index)
    pandas.testing.assert_frame_equal(table, expected)
    assert minidl.History().to_pandas().shape == (0, 0)


# The figure.


def panels(figure):
    """Axes by the names of their results."""
    return {axes.get_ylabel(): axes for axes in figure.axes}


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_plot_has_a_panel_for_each_result():
    pytest.importorskip("matplotlib")
    history = curves()
    found = panels(history.plot())
    assert list(found) == ["loss", "accuracy", "learning rate"]
    drawn = lines(found["accuracy"])
    assert list(drawn) == ["training", "validation", "best: 1 in epoch 12"]
    assert list(drawn["validation"].get_ydata()) == history.history["val_accuracy"]
    assert list(drawn["validation"].get_xdata()) == list(range(30))
    assert list(lines(found["loss"]))[2] == "best: 1 in epoch 20"
    assert len(lines(found["learning rate"])) == 1
    assert {axes.get_xlabel() for axes in found.values()} == {"epoch"}
    assert found["loss"].get_legend() is not None


def test_plot_takes_names_and_a_size():
    pytest.importorskip("matplotlib")
    figure = curves().plot(["accuracy", "loss"], figsize=(3, 2))
    assert list(panels(figure)) == ["accuracy", "loss"]
    assert tuple(figure.get_size_inches()) == (3, 2)


@pytest.mark.parametrize(
    ("values", "scale"), [([10.0, 0.09], "log"), ([10.0, 0.11], "linear"), ([1.0, 0.0], "linear")]
)
def test_a_loss_over_more_than_two_decades_is_drawn_logarithmically(values, scale):
    pytest.importorskip("matplotlib")
    (axes,) = make(loss=values).plot().axes
    assert axes.get_yscale() == scale


def test_plot_leaves_out_what_is_not_finite():
    pytest.importorskip("matplotlib")
    history = make(loss=[3.0, 2.0, 1.0], val_loss=[NAN, 4.0, float("inf")], f1=[NAN] * 3)
    figure = history.plot()
    drawn = lines(panels(figure)["loss"])
    assert list(drawn["validation"].get_xdata()) == [1]
    assert drawn["validation"].get_marker() == "o"
    assert list(drawn) == ["training", "validation"]  # one value is the best of nothing
    assert panels(figure)["F1"].lines[:] == []
    figure.canvas.draw()


@pytest.mark.parametrize("panels", range(1, 8))
def test_any_number_of_panels(panels):
    pytest.importorskip("matplotlib")
    history = make(**{f"m{i}": [0.0, 1.0] for i in range(panels)})
    assert len(history.plot().axes) == panels


def test_notebooks_show_the_figure():
    pytest.importorskip("matplotlib")
    figure = curves().plot()
    picture = figure._repr_png_()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture) > 5000


@pytest.mark.parametrize("metrics", [[], "loss", ["loss", "f1"], ["val_loss"]])
def test_metrics_that_are_not_there(metrics):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="metrics: expected"):
        curves().plot(metrics)


def test_an_empty_history_has_no_figure():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="plot: expected at least one epoch"):
        minidl.History().plot()


def run(code):
    return python("-c", code, check=False)


def test_plot_leaves_pyplot_alone():
    pytest.importorskip("matplotlib")
    done = run(
        "import sys, minidl; h = minidl.History(); h.append({'loss': 1.0}); h.plot()._repr_png_()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("matplotlib", "plot", "History.plot needs matplotlib: pip install 'minidl[plot]'"),
        ("pandas", "to_pandas", "History.to_pandas needs pandas: pip install 'minidl[pandas]'"),
    ],
)
def test_without_the_library(module, call, message):
    done = run(
        f"import sys; sys.modules['{module}'] = None\n"
        f"import minidl; h = minidl.History(); h.append({{'loss': 1.0}}); h.{call}()"
    )
    assert f"ImportError: {message}" in done.stderr
