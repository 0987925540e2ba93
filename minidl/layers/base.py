"""What every layer is: parameters, a mode, forward and backward, and its lowering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl import changes, checks
from minidl.memory import Array, check_room, write_all
from minidl.parameters import Parameter, Store, common_store

if TYPE_CHECKING:
    import numpy.typing as npt

    from minidl.lowering import Graph, LayerProgram, Value
    from minidl.memory_report import MemoryReport
    from minidl.summary import Summary


class Layer(checks.Checked):
    """Base class of layers; derive from it to write your own.

    A layer of your own defines ``forward(x)`` and ``backward(dy)`` on arrays of shape (N, features)
    in the model's dtype. ``backward`` returns the gradient with respect to x and writes those of
    the parameters to ``self.gradient(name)``. Parameters are made in the constructor with
    ``self.add_parameter(name, values)`` and read as ``self.name``. If the number of columns
    changes, define ``output_features(in_features)`` too. It works inside `Sequential` and `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> import minidl
    >>> class Scale(minidl.Layer):
    ...     def __init__(self, features):
    ...         super().__init__()
    ...         self.add_parameter("scale", np.ones(features))
    ...     def forward(self, x):
    ...         self.x = x
    ...         return x * self.scale
    ...     def backward(self, dy):
    ...         self.gradient("scale")[...] = (dy * self.x).sum(axis=0)
    ...         return dy * self.scale
    >>> model = minidl.Sequential(minidl.Linear(3, 2, seed=0), Scale(2))
    >>> model(np.ones((4, 3))).shape
    (4, 2)
    """

    _checked: ClassVar[Mapping[str, checks.Check]] = {"training": checks.flag}
    _fixed: ClassVar[tuple[str, ...]] = ("dtype",)

    def __init__(self, dtype: npt.DTypeLike = "float32") -> None:
        self.training = True
        self.dtype: np.dtype[np.floating] = checks.dtype(dtype)
        self._parameters: dict[str, Parameter] = {}
        self._program: LayerProgram | None = None
        self._steps = 0  # training-mode forward passes, for the dropout masks

    # Parameters.

    def add_parameter(
        self, name: str, values: npt.ArrayLike, *, trainable: bool = True, layout: str = "flat"
    ) -> None:
        """Make a parameter; not trainable ones are saved, but no gradient is asked for.

        `layout` is that of `minidl.parameters.Parameter`.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"name: expected the name of an attribute, got {name!r}")
        if name not in self._parameters and hasattr(self, name):
            raise ValueError(f"name: expected one that is free, got {name!r}, which the layer has")
        given = checks.real(values, name)
        check_room(given.size * self.dtype.itemsize, f"{name} of shape {given.shape}")
        with np.errstate(over="ignore"):
            array = given.astype(self.dtype, copy=False)
        checks.finite(np.atleast_1d(array), name)
        checks.flag(trainable, "trainable")
        checks.one_of(layout, ("flat", "rows", "weight"), "layout")
        if layout != "flat" and array.ndim != 2:
            raise ValueError(f"{name}: expected a matrix for layout {layout!r}, got {array.shape}")
        self._parameters[name] = Parameter(array, trainable=trainable, layout=layout)
        changes.version += 1

    def __getattr__(self, name: str) -> Any:
        """Parameters as attributes: a view of the current values."""
        parameters = self.__dict__.get("_parameters", {})
        if name in parameters:
            return parameters[name].array
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Assigning to a parameter copies the values into place."""
        parameters = self.__dict__.get("_parameters", {})
        if name in parameters:
            array = checks.real(value, name)
            checks.same_shape(array, parameters[name].shape, name)
            parameters[name].array[...] = array
        else:
            changes.version += 1
            super().__setattr__(name, value)

    def gradient(self, name: str) -> Array:
        """The gradient of one of this layer's parameters, as a view."""
        if not isinstance(name, str) or name not in self._parameters:
            known = ", ".join(map(repr, self._parameters)) or "nothing, since there are none"
            raise KeyError(f"name: expected {known}, got {name!r}")
        return self._parameters[name].gradient

    def children(self) -> list[tuple[str, Layer]]:
        """Layers inside this one, with their names."""
        return []

    def inputs_of_children(self, in_features: int) -> list[int]:
        """Columns that each of `children()` gets; by default they follow one another."""
        columns = [in_features]
        for _, child in self.children():
            columns.append(child.output_features(columns[-1]))
        return columns[:-1]

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """All layers that hold no others, with their full names, in order."""
        children = self.children()
        if not children:
            yield prefix, self
        elif self._parameters:
            raise TypeError(
                f"{type(self).__name__}: has parameters of its own, {', '.join(self._parameters)}, "
                "and other layers inside; expected one or the other"
            )
        for name, child in children:
            yield from child.layers(f"{prefix}.{name}" if prefix else name)

    def tree(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all inside it, those that hold others included, with their full names."""
        yield prefix, self
        for name, child in self.children():
            yield from child.tree(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """All parameters and running averages, with their full names, in order."""
        return [
            (f"{prefix}.{name}" if prefix else name, parameter)
            for prefix, layer in self.layers()
            for name, parameter in layer._parameters.items()
        ]

    def parameters(self) -> list[Array]:
        """All trainable parameters, as views that can be written to."""
        self.store()
        return [p.array for _, p in self.named_parameters() if p.trainable]

    def gradients(self) -> list[Array]:
        """Gradients of `parameters()`, as views; `backward` fills them."""
        self.store()
        return [p.gradient for _, p in self.named_parameters() if p.trainable]

    def store(self) -> Store:
        """The flat vectors that hold the parameters of this layer and those inside it."""
        return common_store([p for _, p in self.named_parameters()], self.dtype)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        """Draw new initial values."""

    # State, with PyTorch's keys and shapes.

    def state(self) -> dict[str, Array]:
        """All that `state_dict` holds, as arrays that can be written to."""
        return {
            f"{prefix}.{name}" if prefix else name: array
            for prefix, layer in self.layers()
            for name, array in layer._own_state().items()
        }

    def _own_state(self) -> dict[str, Array]:
        return {name: p.array for name, p in self._parameters.items()}

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and running averages, by PyTorch's names.

        Examples
        --------
        >>> import minidl
        >>> list(minidl.Sequential(minidl.Linear(3, 2)).state_dict())
        ['0.weight', '0.bias']
        """
        return {name: np.array(array, order="C") for name, array in self.state().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Copy values in; nothing is changed if a name is missing or unknown or a shape is wrong.

        Values are arrays, or tensors of PyTorch's, from any device. Those of another dtype are
        converted to the model's: half precision and bfloat16 gain nothing and lose nothing,
        float64 is rounded in a model of float32.

        Raises
        ------
        KeyError
            A name is missing or unknown.
        ValueError
            A shape does not fit, or a value is NaN or infinite.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict of arrays, got {type(state).__name__}")
        own = self.state()
        missing = sorted(own.keys() - state.keys())
        unknown = sorted(map(str, state.keys() - own.keys()))
        if missing or unknown:
            raise KeyError(f"state: missing names {missing}, unknown names {unknown}")
        new = {name: checks.state_value(state[name], own[name], name) for name in own}
        write_all(own.values(), new.values())

    # Mode.

    def train(self, mode: bool = True) -> Layer:
        """Training mode: batch statistics and dropout. Returns the layer."""
        self.__dict__["training"] = checks.flag(mode, "training")  # programs know it by themselves
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Layer:
        """Evaluation mode: running averages, no dropout. Returns the layer."""
        return self.train(False)

    # Forward and backward.

    def lower(self, graph: Graph, x: Value) -> Value:
        """Write this layer's operations; a layer of the user's is called as it is."""
        return graph.python(self, x, self.output_features(x.columns))

    def output_features(self, in_features: int) -> int:
        """Columns of the output for an input of `in_features` columns."""
        return in_features

    def in_features_or_none(self) -> int | None:
        """Columns that the input must have, or None if any will do."""
        return None

    def categories(self, first: int, columns: int) -> Iterator[tuple[int, int, int]]:
        """Columns of the input that must hold category numbers: (first, columns, categories).

        `first` and `columns` are what this layer sees of the input.
        """
        return iter(())

    def flattens(self) -> bool:
        """True if rows of the input may have any shape: `Flatten` comes first."""
        return False

    def __call__(self, x: npt.ArrayLike) -> Array:
        """`forward(x)`."""
        return self.forward(x)

    def forward(self, x: npt.ArrayLike) -> Array:
        """Output for a batch, in the current mode; keeps what `backward` needs.

        Parameters
        ----------
        x : array_like of shape (N, in_features)

        Returns
        -------
        y : ndarray of shape (N, out_features), in the layer's dtype

        Raises
        ------
        ValueError, TypeError
            `x` has a wrong shape or dtype, or holds NaN or infinity.
        """
        from minidl.inputs import one_matrix
        from minidl.lowering import LayerProgram

        array = one_matrix(self, x, "x")
        if self._program is None or not self._program.fits(self, array):
            self._program = LayerProgram(self, array.shape[1], max(len(array), 1))
        y = self._program.forward(array, self._steps)
        self._steps += self.training
        return y

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Gradient with respect to the input of the last `forward`; fills `gradients()`.

        Parameters
        ----------
        dy : array_like of shape (N, out_features)

        Returns
        -------
        dx : ndarray of shape (N, in_features)
        """
        if self._program is None:
            raise RuntimeError("backward: call forward first")
        return self._program.backward(checks.real(dy, "dy"))

    def predict(self, x: npt.ArrayLike, batch_size: int | None = None) -> Array:
        """Output in evaluation mode, whatever the mode is; the mode is left as it was.

        Parameters
        ----------
        x : array_like of shape (N, in_features)
        batch_size : int, optional
            Rows at a time; default: as many as keep the activations in cache.

        Returns
        -------
        y : ndarray of shape (N, out_features)
        """
        quick = self.__dict__.get("_quick")  # for a few rows, as long as nothing changes
        if quick is not None and batch_size is None and quick[0] == changes.version:
            y = quick[1](x)
            if y is not None:
                return y  # type: ignore[no-any-return]
        from minidl.prediction import predict

        return predict(self, x, batch_size)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: values, not addresses."""
        state = self.__dict__.copy()
        state["_program"] = None
        state.pop("_predictor", None)
        state.pop("_quick", None)
        state["_parameters"] = {
            name: (p.array.copy(), p.trainable, p.layout) for name, p in self._parameters.items()
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the parameters anew."""
        parameters = state.pop("_parameters")
        self.__dict__.update(state, _parameters={})
        for name, (values, trainable, layout) in parameters.items():
            self._parameters[name] = Parameter(values, trainable=trainable, layout=layout)

    def set_dtype(self, dtype: np.dtype[np.floating]) -> None:
        """Convert this layer, and those inside it, to float32 or float64."""
        dtype = checks.dtype(dtype)
        for _, layer in self.tree():
            layer._check_dtype(dtype)
        common_store([p for _, p in self.named_parameters()], dtype)  # all of them or none
        for _, layer in self.tree():
            layer.__dict__["dtype"] = dtype
        changes.version += 1

    def _check_dtype(self, dtype: np.dtype[np.floating]) -> None:
        """Raise if the layer cannot be converted to it."""

    def extra_repr(self) -> str:
        """What stands between the brackets of `repr`."""
        return ""

    @classmethod
    def state_shapes(cls, **arguments: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a layer's own state, from its arguments as `config` gives them.

        Files are held to it before a layer is made.
        """
        return {}

    def config(self) -> dict[str, Any]:
        """Constructor arguments that make this layer again, as JSON can hold them."""
        raise TypeError(f"{type(self).__name__}: define config() to save this layer")

    def summary(self, in_features: int | None = None) -> Summary:
        """A table of the layers inside this one, with output shapes and parameter counts.

        Parameters
        ----------
        in_features : int, optional
            Columns of the input, needed if no layer fixes it.

        Returns
        -------
        Summary
            ``print(model.summary())`` shows plain text, ``model.summary().print()`` a table drawn
            by rich; notebooks show a table.

        Raises
        ------
        ValueError
            The columns of the input are not known, or are not those that a layer fixes.
        """
        from minidl.summary import Summary

        return Summary(self, self.columns_of_input(in_features))

    def columns_of_input(self, in_features: int | None = None) -> int:
        """Columns that the input has, of a layer that fixes it, or as they are given."""
        fixed = self.in_features_or_none()
        if in_features is None:
            in_features = fixed
        if in_features is None:
            raise ValueError("in_features: expected a number, since no layer fixes it")
        in_features = checks.positive_int(in_features, "in_features", 0)
        if fixed is not None and in_features != fixed:
            raise ValueError(f"in_features: expected {fixed} or None, got {in_features}")
        return in_features

    def memory(
        self,
        batch_size: int,
        *,
        optimizer: Any = None,
        loss: Any = None,
        in_features: int | None = None,
    ) -> MemoryReport:
        """What training and prediction take, before anything is made: layer by layer and in all.

        The numbers are those of the programs that `Trainer` and `predict` run, the data left out,
        and a batch that one row more has joined (``last_batch="merge"``). `Trainer.memory` does so
        for a trainer with all its arguments.

        Parameters
        ----------
        batch_size : int
        optimizer : Optimizer or str, default Adam()
        loss : Loss or str, default CrossEntropyLoss()
        in_features : int, optional
            Columns of the input, needed if no layer fixes it.

        Returns
        -------
        MemoryReport
            ``print(report)`` shows a table with a row for each layer; it has ``.layers``,
            ``.training`` and ``.prediction``.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit.

        Examples
        --------
        >>> import minidl
        >>> model = minidl.Sequential(minidl.Linear(784, 99), minidl.ReLU(), minidl.Linear(99, 10))
        >>> report = model.memory(1000, optimizer=minidl.SGD(lr=0.1, momentum=0.9))
        >>> report.training["optimizer"] == report.training["parameters"]
        True
        >>> sum(report.prediction.values()) < sum(report.training.values())
        True
        """
        from minidl.memory_report import of_model

        return of_model(self, batch_size, optimizer, loss, in_features)

    def _repr_html_(self) -> str:
        """For notebooks: the summary, or the repr where the columns are not known."""
        if self.in_features_or_none() is not None:
            return self.summary()._repr_html_()
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"

    def __repr__(self) -> str:
        """As PyTorch prints it."""
        return f"{type(self).__name__}({self.extra_repr()})"
