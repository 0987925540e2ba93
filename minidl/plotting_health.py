"""Figures of gradients and Jacobians, layer by layer: `HealthReport.plot` and its like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.figures import BLUE, GREEN, GREY, ORANGE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.health import HealthReport, LayerHealth
    from minidl.jacobians import JacobianSpectrum

PANEL = (4.8, 3.6)  # inches
NAMED = 12  # layers whose names stand at the axis; more have numbers


def draw_report(report: HealthReport, figsize: Any) -> Figure:
    """See `HealthReport.plot`."""
    layers = report.layers
    if not layers:
        raise ValueError("plot: expected at least one layer, got none")
    figure = new_figure("HealthReport.plot", figsize, (3 * PANEL[0], PANEL[1]))
    gradients, outputs, shares = figure.subplots(1, 3)
    place = np.arange(len(layers))

    _curve(gradients, place, [x.gradient for x in layers], BLUE, "o-", "of the output of a row")
    _curve(gradients, place, [x.parameter_gradient for x in layers], ORANGE, "s--",
           "of the parameters")  # fmt: skip
    _logarithmic(gradients)
    _finish(gradients, [x.name for x in layers], "norm of the gradient")

    for activations, colour, style, label in (
        (False, BLUE, "o-", "of layers"),
        (True, ORANGE, "s--", "of activations"),
    ):
        own = [i for i, x in enumerate(layers) if math.isfinite(x.pre_mean) == activations]
        mean, std = (np.array([getattr(layers[i], k) for i in own]) for k in ("mean", "std"))
        if own:
            outputs.fill_between(own, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
            _curve(outputs, own, mean, colour, style, label)
    _finish(outputs, [x.name for x in layers], "output: mean ± standard deviation")

    for name, colour, style, label in (
        ("zeros", GREY, "o-", "zeros"),
        ("dead", ORANGE, "s--", "dead units"),
        ("saturated", GREEN, "^:", "saturated"),
    ):
        _curve(shares, place, [100 * getattr(x, name) for x in layers], colour, style, label)
    shares.set_ylim(-3, 103)
    _finish(shares, [x.name for x in layers], "share (%)")
    return figure


def draw_spectrum(spectrum: JacobianSpectrum, figsize: Any) -> Figure:
    """See `JacobianSpectrum.plot`."""
    layers = spectrum.layers
    if not layers:
        raise ValueError("plot: expected at least one layer, got none")
    figure = new_figure("JacobianSpectrum.plot", figsize, (2 * PANEL[0], PANEL[1]))
    own, product = figure.subplots(1, 2)
    names = [layer.name for layer in layers]
    for axes, values, title, line in (
        (own, [x.singular_values for x in layers], "Jacobian of the layer", False),
        (product, [x.product for x in layers], "product from the layer to the output", True),
    ):
        place = np.arange(len(layers))
        for quantile, colour, style, name in (
            (0, BLUE, "o-", "largest"),
            (0.5, GREY, "s--", "median"),
            (1, ORANGE, "^:", "smallest"),
        ):
            if quantile == 0 or any(x.shape[1] > 1 for x in values):
                medians = [
                    float(np.median(x[:, round(quantile * (x.shape[1] - 1))])) for x in values
                ]
                medians = [x if x > 0 else math.nan for x in medians]
                _curve(axes, place, medians, colour, style if line else style[0], name)
        _logarithmic(axes)
        axes.set_title(title, fontsize="medium")
        _finish(axes, names, "singular values, 0 left out")
    return figure


def draw_looks(
    steps: Sequence[int], looks: Sequence[Sequence[LayerHealth]], figsize: Any
) -> Figure:
    """See `GradientMonitor.plot`."""
    if not steps:
        raise ValueError("plot: expected at least one look, got none")
    figure = new_figure("GradientMonitor.plot", figsize, (2 * PANEL[0], PANEL[1]))
    from matplotlib import colormaps

    weighted = [i for i, layer in enumerate(looks[0]) if layer.weighted]
    shades = colormaps["viridis"](np.linspace(0, 0.9, max(len(weighted), 1)))
    marker = "o-" if len(steps) < 30 else "-"
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("gradient", "update_ratio"),
        ("norm of the gradient of a layer's output", "update / weight"),
        strict=True,
    ):
        for shade, i in zip(shades, weighted, strict=False):
            values = [getattr(layers[i], name) for layers in looks]
            _curve(axes, steps, values, shade, marker, looks[0][i].title)
        _logarithmic(axes)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        plain(axes)
    handles = axes.get_legend_handles_labels()
    if len(weighted) <= NAMED and handles[0]:
        figure.legend(*handles, loc="outside right center", frameon=False, fontsize="small")
    elif weighted:
        _bar(figure, colormaps["viridis"], len(weighted))
    return figure


def _bar(figure: Any, shades: Any, count: int) -> None:
    """A bar of colours in place of a legend of many layers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(1, 1 + (count - 1) / 0.9), shades)
    bar = figure.colorbar(scale, ax=figure.axes, label="layer with weights, from the input")
    bar.ax.set_ylim(1, count)


def _curve(axes: Any, x: Any, values: Any, colour: Any, style: str, label: str) -> None:
    """A curve through what can be drawn; none of nothing."""
    points = [(a, b) for a, b in zip(x, values, strict=True) if math.isfinite(b)]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, linewidth=1.4,
                  label=label)  # fmt: skip


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis, if anything is above 0."""
    values = [y for line in axes.lines for y in line.get_ydata() if y > 0]
    if values:
        axes.set_yscale("log")


def _finish(axes: Any, names: Sequence[str], label: str) -> None:
    """Layers along the axis, by name if there are few."""
    axes.set_ylabel(label)
    axes.set_xlabel("layer")
    plain(axes)
    if len(names) <= NAMED:
        turned = {"rotation": 45, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(range(len(names)), names, **(turned if max(map(len, names)) > 4 else {}))
    else:
        axes.set_xlabel("layer, in the order of execution")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
