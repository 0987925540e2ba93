"""GradientMonitor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from minidl import checks
from minidl.callbacks.base import Callback
from minidl.callbacks.tensorboard import TensorBoard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.health import HealthReport, LayerHealth
    from minidl.loop import Loop
    from minidl.memory import Array
    from minidl.observation import Look, Observer, Spot


class GradientMonitor(Callback):
    """Look at activations, gradients and updates while training, and warn when they go wrong.

    Each time so many steps are made, the last batch goes through a copy of the network once more,
    with its Dropout masks and the new weights, and all that `minidl.diagnose` reports is measured:
    the update is the one that this batch would make next. Training itself is not touched: it gives
    the same bits. A look runs a step on a copy of the model, which is not in cache: some 40
    microseconds and the time of one to five steps. So `every=100` costs 1 to 5 % where a step takes
    10 microseconds or more, and up to 13 % where it takes 2 (``benchmarks/monitor.py``).

    A warning comes once of each kind: gradients vanish or explode from layer to layer, units of
    ReLU are dead, tanh or sigmoid saturate, updates are large. Beside a `TensorBoard` callback, it
    writes ``gradient/LAYER``, ``update_ratio/LAYER``, ``dead/LAYER`` and ``saturated/LAYER`` to the
    run ``train``.

    Parameters
    ----------
    every : int, default 100
        Steps from look to look.
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
        self.steps: list[int] = []
        self._looks: list[tuple[list[Spot], Look]] = []
        self._silent: Array | None = None  # looks since each unit of ReLU gave something
        self._observer: Observer | None = None
        self._suspects: Any = None
        self._program: Any = None
        self._fed: Any = None
        self._boards: list[TensorBoard] = []

    def on_train_begin(self) -> None:
        """Begin anew, unless the same training goes on."""
        if self.trainer is not self._watched:
            self._forget()
            if not self._resumed:
                self.warned.clear()
        self._watched, self._resumed = self.trainer, False
        self._boards = [c for c in self.trainer.callbacks if isinstance(c, TensorBoard)]

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Look at the last batch; warn, and write to TensorBoard."""
        loop = self.trainer._loop
        assert loop is not None
        observer = self._observer_for(loop)
        program, position = observer.program, loop.program.program.position()
        observer.take(loop.state)
        observer.begin()
        self.trainer._set_optimizer(program, accumulate=1)
        batch = position[1] - 1
        if not program.visit(batch, step, loop.state.tick - 1):
            observer.update(step)
        look = observer.look(program.rows_of(batch), program.last_loss)
        look = look._replace(active=self._alive(look))
        self.steps.append(step)
        self._looks.append((observer.spots, look))
        suspected = self._suspects.kinds(look) - self.warned
        if suspected or self._boards:
            self._tell(step, suspected)

    def on_train_end(self) -> None:
        """Let go of the copy."""
        self._observer = self._program = self._fed = None

    def _observer_for(self, loop: Loop) -> Observer:
        """The copy that suits the program which trains, pointed at the same data."""
        from minidl.observation import Observer, Suspects

        if self._observer is None or self._program is not loop.program:
            trainer, plan = self.trainer, loop.program.plan
            columns = plan.graph.input.columns
            self._observer = Observer(
                trainer.model, columns, loop.program.rows, loop.fed.keywords["loss"],
                trainer.optimizer, clip_norm=trainer.clip_grad_norm or 0.0,
            )  # fmt: skip
            self._suspects = Suspects(self._observer.spots, self.thresholds)
            self._program, self._fed = loop.program, None
        if self._fed is not loop.fed:
            loop.fed(self._observer.program)
            self._fed = loop.fed
        return self._observer

    def _alive(self, look: Look) -> Array:
        """Units of all ReLUs that gave something at one of the last looks."""
        if self._silent is None or len(self._silent) != len(look.active):
            self._silent = 0 * look.active
        self._silent += 1
        self._silent[look.active] = 0
        alive: Array = self._silent < self.window
        return alive

    def _tell(self, step: int, suspected: set[str]) -> None:
        """Warn of what is found for the first time; write to TensorBoard."""
        report = self.report
        assert report is not None
        for finding in report.findings:
            if finding.kind in suspected:
                self.warned.add(finding.kind)
                warnings.warn(f"step {step}: {finding.text}", RuntimeWarning, stacklevel=2)
        for board in self._boards:
            board.write(step, _scalars(report.layers))

    # What it has seen.

    @property
    def report(self) -> HealthReport | None:
        """What `minidl.diagnose` would return of the last look; None before the first."""
        return self._report(-1) if self._looks else None

    def _report(self, index: int) -> HealthReport:
        from minidl.health import HealthReport
        from minidl.observation import layers_of

        spots, look = self._looks[index]
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

        layers = [self._report(i).layers for i in range(len(self.steps))]
        return draw_looks(self.steps, layers, figsize)

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
