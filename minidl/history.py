"""What `fit` returns: one value an epoch of everything that was measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minidl import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAN = float("nan")


def _numbers(values: Any) -> dict[str, float]:
    """Results of an epoch by name."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"values: expected a dict of numbers by name, got {values!r:.200}")
    return {name: checks.measured(value, f"values[{name!r}]") for name, value in values.items()}


class History:
    """Results of a training, by name, one value an epoch.

    All columns are of equal length; what was not measured in an epoch is NaN.

    Parameters
    ----------
    first : int, default 0
        Number of the first epoch.

    Attributes
    ----------
    history : dict of list of float
        ``"loss"``, ``"accuracy"`` (if the loss has it), ``"val_loss"``, ...
    epochs : range
        Numbers of the epochs, from `first`, as callbacks see them.

    Examples
    --------
    >>> import minidl
    >>> history = minidl.History()
    >>> history.append({"loss": 0.5})
    >>> history.append({"loss": 0.25, "val_loss": 0.75})
    >>> history
    History(2 epochs: loss=0.25, val_loss=0.75)
    >>> history.history
    {'loss': [0.5, 0.25], 'val_loss': [nan, 0.75]}
    """

    def __init__(self, first: int = 0) -> None:
        self.first = checks.count(first, "first")
        self.history: dict[str, list[float]] = {}

    @property
    def epochs(self) -> range:
        """Numbers of the epochs, as callbacks see them."""
        return range(self.first, self.first + len(self))

    def append(self, values: dict[str, float]) -> None:
        """Add an epoch's values."""
        values = _numbers(values)
        epochs = len(self)
        for name in values:
            if name not in self.history:
                self.history[name] = [NAN] * epochs
        new = [values.get(name, NAN) for name in self.history]
        # In one call of C: an interrupt finds columns of equal length.
        deque(map(list.append, self.history.values(), new), 0)

    def extend(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Add the values of several epochs: of each result, one for each of them.

        Raises
        ------
        ValueError
            There are more of one than of another.
        """
        if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
            raise TypeError(f"columns: expected a dict of numbers by name, got {columns!r:.200}")
        given = {
            name: [checks.measured(value, f"columns[{name!r}]") for value in values]
            for name, values in columns.items()
        }
        counts = {len(values) for values in given.values()}
        if len(counts) > 1:
            raise ValueError(f"columns: expected as many values of each, got {sorted(counts)}")
        epochs = len(self)
        for name in given if counts - {0} else ():
            if name not in self.history:
                self.history[name] = [NAN] * epochs
        unknown = [NAN] * max(counts, default=0)
        new = [given.get(name, unknown) for name in self.history]
        # In one call of C: an interrupt finds columns of equal length.
        deque(map(list.extend, self.history.values(), new), 0)

    def merge_last(self, values: dict[str, float]) -> None:
        """Set or add values of the last epoch.

        Raises
        ------
        ValueError
            There is no epoch yet.
        """
        if not len(self):
            raise ValueError("merge_last: expected an epoch to merge into, got an empty history")
        epochs = len(self)
        for name, value in _numbers(values).items():
            column = self.history.get(name)
            if column is None:
                column = self.history[name] = [NAN] * epochs
            column[-1] = value

    def to_dict(self) -> dict[str, Any]:
        """A copy of all of it, as JSON can hold it."""
        columns = {name: list(values) for name, values in self.history.items()}
        return {"first": self.first, "history": columns}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> History:
        """The history that `to_dict` wrote.

        Raises
        ------
        ValueError
            It is no such dictionary.
        """
        try:
            history = cls(state["first"])
            columns = {str(k): [float(x) for x in v] for k, v in state["history"].items()}
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"state: expected what to_dict gives, got {error!r}") from error
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError("state: expected columns of equal length")
        history.history = columns
        return history

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with one row an epoch.

        Its index, ``"epoch"``, is `epochs`: from 0, as in Keras and in callbacks.
        """
        from minidl.extras import need

        pandas = need("pandas", "pandas", "History.to_pandas")
        index = pandas.Index(self.epochs, name="epoch")
        return pandas.DataFrame(self.history, index=index, dtype=float)

    def plot(
        self,
        metrics: Sequence[str] | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Draw the curves; needs matplotlib, and neither a display nor pyplot.

        One panel for each result, with training and validation together; the best epoch of the
        validation is marked. A loss that spans more than two powers of ten has a logarithmic axis.

        Parameters
        ----------
        metrics : sequence of str, optional
            What to draw, in this order, without ``"val_"``; default: all, the loss first and the
            learning rate last.
        figsize : (float, float), optional
            Width and height in inches; default: by the number of panels.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it; ``figure.savefig(path)`` saves it.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            There is nothing to draw, or no such result.
        """
        from minidl.plotting import draw

        return draw(self, metrics, figsize)

    def __len__(self) -> int:
        """Epochs."""
        return len(next(iter(self.history.values()), ()))  # all are of equal length

    def __repr__(self) -> str:
        """Last value of each."""
        last = ", ".join(f"{name}={v[-1]:.4g}" for name, v in self.history.items() if v)
        return f"History({len(self)} epochs{': ' + last if last else ''})"
