"""GradientMonitor."""

from __future__ import annotations

import warnings
from _thread import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.callbacks.tensorboard import TensorBoard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.health import HealthReport, LayerHealth
    from minidl.loop import Loop
    from minidl.memory import Array
    from minidl.observation import Lookout, Looks, Spot


class _Kept(NamedTuple):
    """Looks that were taken at one time; how many there are with them."""

    spots: list[Spot]
    looks: Looks
    end: int


class GradientMonitor(Callback):
    """Look at activations, gradients and updates while training, and warn when they go wrong.

    Before every so-many-th step its batch goes through a copy of the network, with the same Dropout
    masks, and all that `minidl.diagnose` reports is measured; the update is the one that the step
    then makes. (Where several batches make it, or several ranks, the batch is the last one here.)
    The compiled program does this by itself, and training gives the same bits; layers in Python
    are copied, and asked once more. What it has seen is kept, and warned of, a tenth of a second
    later at most, or when `report` or `steps` are asked for, by a callback say; another thread
    that asks gets what is kept so far.

    A look takes as long as one to three steps, so ``every=100`` costs 1 to 3 %, and a training
    begins some milliseconds later: ``benchmarks/monitor.py`` measured 0.6 to 2.5 %, and 1 to 6 ms,
    for seven networks from 20-32-16-2 (steps of 3 microseconds) to 31 layers of 64.

    A warning comes once of each kind: gradients vanish or explode from layer to layer, units of
    ReLU are dead, tanh or sigmoid saturate, updates are large. Beside a `TensorBoard` callback, it
    writes ``gradient/LAYER``, ``update_ratio/LAYER``, ``dead/LAYER`` and ``saturated/LAYER`` to the
    run ``train``.

    Parameters
    ----------
    every : int, default 100
        Steps from look to look. Each look is kept: some 110 bytes for a layer, and one for a unit
        of ReLU.
    vanishing, exploding : float, default 1e-3 and 1e3
        Warn if the gradient at the output of the first layer with weights, over that at the last,
        is below the one or above the other.
    dead : float, default 0.5
        Warn if at least this share of a layer's units is dead.
    window : int, default 10
        Units of ReLU are dead that gave 0 for every row of so many looks, one after the other.
    saturated : float, default 0.5
        Warn if at least this share of a layer's output lies where tanh or sigmoid is flat.
    large_update : float, default 0.3
        Warn if the update of a weight matrix has at least this norm, relative to the weights'.

    Attributes
    ----------
    steps : list of int
        Steps after which it looked.
    report : HealthReport or None
        Of the last look.

    Warns
    -----
    RuntimeWarning
        With what was found, and a remedy.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4)); y = (X[:, 0] > 0).astype(int)
    >>> model = minidl.Sequential(minidl.Linear(4, 8), minidl.ReLU(), minidl.Linear(8, 2), seed=0)
    >>> monitor = minidl.GradientMonitor(every=5)
    >>> history = minidl.Trainer(model).fit(X, y, epochs=2, batch_size=20, callbacks=[monitor])
    >>> monitor.steps, monitor.report.healthy
    ([5, 10, 15, 20], True)
    """

    def __init__(
        self,
        every: int = 100,
        *,
        vanishing: float = 1e-3,
        exploding: float = 1e3,
        dead: float = 0.5,
        window: int = 10,
        saturated: float = 0.5,
        large_update: float = 0.3,
    ) -> None:
        from minidl.health import Thresholds

        self.every = checks.count(every, "every", 1)
        self.window = checks.count(window, "window", 1)
        self.thresholds = Thresholds.checked(
            vanishing=vanishing, exploding=exploding, dead=dead, saturated=saturated,
            large_update=large_update,
        )  # fmt: skip
        self.warned: set[str] = set()
        self._watched: Any = None  # the trainer
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self._looks: list[_Kept] = []
        self._silent: Array | None = None  # looks since each unit of ReLU gave something
        self._lookout: Lookout | None = None
        self._suspects: Any = None
        self._program: Any = None
        self._thread = 0  # that trains
        self._boards: list[TensorBoard] = []

    def on_train_begin(self) -> None:
        """Begin anew, unless the same training goes on."""
        if self.trainer is not self._watched:
            self._forget()
            if not self._resumed:
                self.warned.clear()
        self._watched, self._resumed = self.trainer, False
        self._lookout, self._thread = None, get_ident()
        self._boards = [c for c in self.trainer.callbacks if isinstance(c, TensorBoard)]

    def on_train_end(self) -> None:
        """Tell of the last looks; let go of the copy."""
        try:
            self._take_looks()
        finally:
            self._lookout = self._program = None

    def _watch(self, loop: Loop) -> tuple[Any, ...] | None:
        """A copy of the model that looks at the steps of the program, pointed at the same data."""
        from minidl.observation import Lookout, Observer, Suspects

        if self.every is None:
            return None
        program, model = loop.program, self.trainer.model
        if self._lookout is None or self._program is not program:
            self._take_looks()
            observer = Observer(
                model, program.plan.graph.input.columns, program.rows, loop.fed.keywords["loss"],
                model, between=program.plan,
            )  # fmt: skip
            self._lookout, self._program = Lookout(observer, self.every), program
            self._suspects = Suspects(observer.spots, self.thresholds)
        loop.fed(self._lookout.observer.program)
        return self._lookout.watch

    def _take_looks(self) -> None:
        """Keep the looks that were made; warn, and write to TensorBoard."""
        lookout = self._lookout
        if lookout is None or get_ident() != self._thread:
            return  # the log is the compiled program's as long as it runs
        looks = lookout.take()
        if looks is None:
            return
        looks = looks._replace(active=self._alive(looks.active))
        first = self._count
        self._looks.append(_Kept(lookout.observer.spots, looks, first + len(looks.steps)))
        suspected = self._suspects.kinds(looks)
        told = np.ones(len(looks.steps), bool)
        if not self._boards:
            new = suspected.keys() - self.warned
            told = np.logical_or.reduce([suspected[kind] for kind in new])
        for i in np.flatnonzero(told).tolist():
            kinds = {kind for kind, at in suspected.items() if at[i]} - self.warned
            if kinds or self._boards:
                self._tell(int(looks.steps[i]), self._report(first + i), kinds)

    def _alive(self, active: Array) -> Array:
        """Units of all ReLUs that gave something at one of the last looks, (looks, units)."""
        if self._silent is None or len(self._silent) != active.shape[1]:
            self._silent = np.zeros(active.shape[1], np.int64)
        turn = np.arange(1, len(active) + 1)[:, None]
        last = np.maximum.accumulate(np.where(active, turn, -self._silent), axis=0)
        silent = turn - last
        self._silent = silent[-1]
        alive: Array = silent < self.window
        return alive

    def _tell(self, step: int, report: HealthReport, suspected: set[str]) -> None:
        """Warn of what is found for the first time; write to TensorBoard."""
        for finding in report.findings:
            if finding.kind in suspected:
                self.warned.add(finding.kind)
                warnings.warn(f"step {step}: {finding.text}", RuntimeWarning, stacklevel=2)
        for board in self._boards:
            board.write(step, _scalars(report.layers))

    # What it has seen.

    @property
    def _count(self) -> int:
        """Looks that are kept."""
        return self._looks[-1].end if self._looks else 0

    @property
    def steps(self) -> list[int]:
        """Steps that it looked at."""
        self._take_looks()
        return [step for kept in self._looks for step in kept.looks.steps.tolist()]

    @property
    def report(self) -> HealthReport | None:
        """What `minidl.diagnose` would return of the last look; None before the first."""
        self._take_looks()
        return self._report(self._count - 1) if self._looks else None

    def _report(self, index: int) -> HealthReport:
        from bisect import bisect_right

        from minidl.health import HealthReport
        from minidl.observation import layers_of

        spots, looks, end = self._looks[bisect_right(self._looks, index, key=lambda x: x.end)]
        look = looks.at(index - end)  # from the end
        return HealthReport(layers_of(spots, look), look.rows, look.loss, self.thresholds)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame of all looks, with a row for each step and layer.

        Its index is ``("step", "name")``, its columns are those of ``report.to_pandas()``.
        """
        from minidl.extras import need

        pandas = need("pandas", "pandas", "GradientMonitor.to_pandas")
        tables = {step: self._report(i).to_pandas() for i, step in enumerate(self.steps)}
        if not tables:
            raise ValueError("to_pandas: expected at least one look, got none")
        return pandas.concat(tables, names=["step"])

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the gradient and the ratio of update to weight of each layer with weights, by step.

        Needs matplotlib, and neither a display nor pyplot.

        Parameters
        ----------
        figsize : (float, float), optional
            Width and height in inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from minidl.plotting_health import draw_looks

        steps = self.steps
        layers = [self._report(i).layers for i in range(len(steps))]
        return draw_looks(steps, layers, figsize)

    def state(self) -> dict[str, Any]:
        """The kinds of which it has warned."""
        return {"warned": sorted(self.warned)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in the next training."""
        checks.same_keys(state, self.state(), "state")
        self.warned, self._resumed = set(map(str, state["warned"])), True


def _scalars(layers: list[LayerHealth]) -> dict[str, float]:
    """What TensorBoard shows of the layers, by name."""
    names = ("gradient", "update_ratio", "dead", "saturated")
    return {
        f"{name}/{layer.title}": value
        for name in names
        for layer in layers
        if (value := getattr(layer, name)) == value
    }
