"""How healthy a network's gradients are: what was measured, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minidl import checks
from minidl.tables import Line, Table, number, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAN = float("nan")


class Thresholds(NamedTuple):
    """From where on a measurement is a finding.

    Attributes
    ----------
    vanishing : float in (0, 1)
        Gradient at the first layer with weights, over that at the last.
    exploding : float above 1
        The same.
    dead, saturated : float in (0, 1]
        Share of a layer's units, and of the elements of its output.
    large_update : float above 0
        Norm of an update over that of the weights.
    """

    vanishing: float = 1e-3
    exploding: float = 1e3
    dead: float = 0.5
    saturated: float = 0.5
    large_update: float = 0.3

    @classmethod
    def checked(cls, **given: Any) -> Thresholds:
        """Thresholds within their bounds, or an error that names the argument."""
        numbers = {
            "vanishing": checks.bounds(0, 1, open_low=True, open_high=True),
            "exploding": checks.bounds(1, open_low=True),
            "dead": checks.bounds(0, 1, open_low=True),
            "saturated": checks.bounds(0, 1, open_low=True),
            "large_update": checks.bounds(0, open_low=True),
        }
        return cls(**{name: numbers[name](value, name) for name, value in given.items()})


class LayerHealth(NamedTuple):
    """What was measured of one layer; NaN is what it does not have.

    Attributes
    ----------
    name, type : str
        As in ``"3"`` and ``"Tanh"``.
    columns : int
        Of the output.
    depth : int
        Layers with weights on the longest way from the input, this one among them.
    weighted : bool
        Whether it has weights itself.
    mean, std, zeros : float
        Mean, standard deviation and share of zeros of the output.
    pre_mean, pre_std, pre_zeros : float
        The same of what an activation is given.
    saturated : float
        Share of the output of tanh and sigmoid where they are flat.
    dead : float
        Share of the units of ReLU that gave 0 for every row.
    gradient : float
        Norm of the gradient with respect to the output of one row; the root of its mean square over
        the rows.
    parameter_norm, parameter_gradient : float
        Norm of the layer's parameters, and of the gradient with respect to them.
    update_ratio : float
        Norm of an update of the weights (of all parameters, where no matrix is among them), over
        the norm of what is updated.
    """

    name: str
    type: str
    columns: int
    depth: int
    weighted: bool
    mean: float = NAN
    std: float = NAN
    zeros: float = NAN
    pre_mean: float = NAN
    pre_std: float = NAN
    pre_zeros: float = NAN
    saturated: float = NAN
    dead: float = NAN
    gradient: float = NAN
    parameter_norm: float = NAN
    parameter_gradient: float = NAN
    update_ratio: float = NAN

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.name} ({self.type})" if self.name else self.type


class Finding(NamedTuple):
    """Something that is wrong: of which kind, in which layer, and in words with a remedy.

    Attributes
    ----------
    kind : {"not finite", "vanishing", "exploding", "dead", "saturated", "large update"}
    layer : str
        The layer where it is worst, by its name.
    text : str
    """

    kind: str
    layer: str
    text: str


class HealthReport(Table):
    """What `diagnose` and `GradientMonitor` return: a table of layers, and a verdict.

    ``print(report)`` shows it as text, notebooks as a table.

    Attributes
    ----------
    layers : list of LayerHealth
        In the order of execution. Layers that do nothing are left out.
    rows : int
        Rows of data that were looked at.
    loss : float
        Their mean loss.
    factor : float
        By how much the gradient changes from a layer with weights to the one before it, on average:
        (first / last)^(1 / (depth - 1)). NaN where there is but one.
    findings : list of Finding
        What is wrong; none if all is well.
    thresholds : Thresholds
    """

    _header = ("layer", "mean", "std", "zeros", "saturated", "dead", "gradient",
               "of parameters", "update / weight")  # fmt: skip

    def __init__(
        self, layers: Sequence[LayerHealth], rows: int, loss: float, thresholds: Thresholds
    ) -> None:
        self.layers, self.rows, self.loss = list(layers), rows, loss
        self.thresholds = thresholds
        self.ends = ends_of(self.layers)
        self.factor = NAN if self.ends is None else self.ends.factor
        self.findings = find(self.layers, self.ends, thresholds)

    @property
    def healthy(self) -> bool:
        """True if nothing was found."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """All findings, in words."""
        if self.findings:
            return "\n".join(finding.text for finding in self.findings)
        if math.isnan(self.factor):
            return "nothing was found"
        return f"healthy: gradients change {self.factor:.2g}x per layer towards the input"

    def _lines(self) -> Iterator[Line]:
        for layer in self.layers:
            yield Line((
                layer.title, number(layer.mean), number(layer.std), share(layer.zeros),
                share(layer.saturated), share(layer.dead), number(layer.gradient),
                number(layer.parameter_gradient), number(layer.update_ratio),
            ))  # fmt: skip

    def _foot(self) -> list[str]:
        return [f"{self.rows:,} rows, loss {self.loss:.4g}", *self.verdict.split("\n")]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each layer, and the columns of `LayerHealth`."""
        from minidl.extras import need

        pandas = need("pandas", "pandas", "HealthReport.to_pandas")
        table = pandas.DataFrame(self.layers, columns=list(LayerHealth._fields))
        return table.set_index("name")

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw gradients, outputs, and shares of zeros, saturated and dead, layer by layer.

        Needs matplotlib, and neither a display nor pyplot.

        Parameters
        ----------
        figsize : (float, float), optional
            Width and height in inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from minidl.plotting_health import draw_report

        return draw_report(self, figsize)


# Gradients from end to end.


class Ends(NamedTuple):
    """The gradient at the first and at the last layer with weights."""

    first: LayerHealth
    last: LayerHealth

    @property
    def total(self) -> float:
        """First over last."""
        return self.first.gradient / self.last.gradient

    @property
    def factor(self) -> float:
        """Per layer."""
        return float(self.total ** (1 / (self.last.depth - self.first.depth)))


def ends_of(layers: Sequence[LayerHealth]) -> Ends | None:
    """The two ends; None if there is but one layer, or no gradient to compare with.

    Of several layers of one depth, branches that run side by side, that with the largest gradient.
    """
    measured = [x for x in layers if x.weighted and math.isfinite(x.gradient)]
    if not measured:
        return None
    low, high = (f(x.depth for x in measured) for f in (min, max))
    first, last = (
        max((x for x in measured if x.depth == depth), key=lambda x: x.gradient)
        for depth in (low, high)
    )
    return Ends(first, last) if low < high and last.gradient > 0 else None


# Findings.


def find(layers: Sequence[LayerHealth], ends: Ends | None, thresholds: Thresholds) -> list[Finding]:
    """What is wrong, the worst first."""
    broken = next((x for x in layers if not math.isfinite(x.mean)), None)
    if broken is not None:
        text = (
            f"NaN or infinity, first in layer {broken.title}: try a lower learning rate, smaller "
            "initial weights, or scaled inputs"
        )
        return [Finding("not finite", broken.name, text)]
    kinds = {layer.type for layer in layers}
    found = [
        _ends(kinds, ends, thresholds),
        _dead(layers, thresholds.dead),
        _saturated(layers, thresholds.saturated),
        _large_update(layers, thresholds.large_update),
    ]
    return [finding for finding in found if finding is not None]


def _ends(kinds: set[str], ends: Ends | None, thresholds: Thresholds) -> Finding | None:
    if ends is None:
        return None
    if ends.total < thresholds.vanishing:
        cause, remedies = _of_vanishing(kinds)
        kind, word = "vanishing", "shrink"
    elif ends.total > thresholds.exploding:
        cause, remedies = _of_exploding(kinds)
        kind, word = "exploding", "grow"
    else:
        return None
    text = (
        f"gradients {word} {ends.factor:.2g}x per layer, {ends.total:.1e}x from layer "
        f"{ends.last.title} to layer {ends.first.title}: {cause}; try {_any(remedies)}"
    )
    return Finding(kind, ends.first.name, text)


def _of_vanishing(kinds: set[str]) -> tuple[str, list[str]]:
    """The likely cause, and what helps."""
    if "Sigmoid" in kinds:
        cause, remedies = "sigmoid activations", ["ReLU with Kaiming initialisation"]
    elif "Tanh" in kinds:
        cause, remedies = "tanh activations with small weights", ["Xavier initialisation"]
    else:
        cause, remedies = "small weights", ["Kaiming initialisation"]
    return cause, remedies + _others(kinds)


def _of_exploding(kinds: set[str]) -> tuple[str, list[str]]:
    if "BatchNorm1d" in kinds:  # Yang et al., "A mean field theory of batch normalization", 2019
        return "many layers of BatchNorm1d", [*_others(kinds), "fewer layers", "clip_grad_norm"]
    bounded = kinds & {"Sigmoid", "Tanh"}
    remedy = f"{'Xavier' if bounded else 'Kaiming'} initialisation"
    return "large weights", [remedy, *_others(kinds), "clip_grad_norm"]


def _others(kinds: set[str]) -> list[str]:
    """What helps besides, if it is not there already."""
    remedies = [] if "BatchNorm1d" in kinds else ["BatchNorm1d before the activations"]
    return remedies + ([] if "Residual" in kinds else ["Residual blocks"])


def _dead(layers: Sequence[LayerHealth], most: float) -> Finding | None:
    found = _worst(layers, lambda x: x.dead, most)
    if found is None:
        return None
    worst, others = found
    units = round(worst.dead * worst.columns)
    text = (
        f"{units} of {worst.columns} units of layer {worst.title} gave 0 for every row{others}: "
        "try a lower learning rate, Kaiming initialisation, BatchNorm1d, or LeakyReLU"
    )
    return Finding("dead", worst.name, text)


def _saturated(layers: Sequence[LayerHealth], most: float) -> Finding | None:
    found = _worst(layers, lambda x: x.saturated, most)
    if found is None:
        return None
    worst, others = found
    text = (
        f"{share(worst.saturated)} of what layer {worst.title} gives lies where the activation is "
        f"flat{others}: try scaled inputs, Xavier initialisation, or BatchNorm1d"
    )
    return Finding("saturated", worst.name, text)


def _large_update(layers: Sequence[LayerHealth], most: float) -> Finding | None:
    weighted = [x for x in layers if x.weighted and math.isfinite(x.update_ratio)]
    found = _worst(weighted, lambda x: x.update_ratio, most)
    if found is None:
        return None
    worst, others = found
    text = (
        f"an update is {worst.update_ratio:.2g} times the weights of layer {worst.title}{others}: "
        "try a lower learning rate, scaled inputs, or clip_grad_norm"
    )
    return Finding("large update", worst.name, text)


def _worst(
    layers: Sequence[LayerHealth], of: Callable[[LayerHealth], float], most: float
) -> tuple[LayerHealth, str] | None:
    """The layer furthest beyond a threshold, and words for the others; None: all are well."""
    beyond = [layer for layer in layers if of(layer) >= most]
    if not beyond:
        return None
    others = len(beyond) - 1
    words = f", and {others} other layer{'s' if others > 1 else ''} likewise" if others else ""
    return max(beyond, key=of), words


def _any(remedies: Sequence[str]) -> str:
    """One of these, in words."""
    if len(remedies) < 3:
        return " or ".join(remedies)
    return ", ".join(remedies[:-1]) + f", or {remedies[-1]}"
