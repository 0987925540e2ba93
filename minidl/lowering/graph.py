"""The graph of a model, which `Layer.lower` writes: nodes in order of execution, and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidl.layers.base import Layer


class Value:
    """What a node gives and other nodes read; without a producer, columns of the input."""

    __slots__ = ("columns", "first", "producer", "readers")

    def __init__(self, columns: int, first: int = 0) -> None:
        self.columns, self.first = columns, first
        self.producer: Node | None = None
        self.readers: list[Node] = []


class Node:
    """A layer in the order of execution: what it reads and what it gives."""

    __slots__ = ("inputs", "kind", "layer", "y")

    def __init__(self, kind: str, layer: Layer, inputs: tuple[Value, ...], y: Value) -> None:
        self.kind, self.layer, self.inputs, self.y = kind, layer, inputs, y

    @property
    def x(self) -> Value:
        """The input, or the first of several."""
        return self.inputs[0]

    @property
    def has_weights(self) -> bool:
        """True if its layer has a matrix that is trained; or, in Python, anything that is."""
        trained = [p for p in self.layer._parameters.values() if p.trainable]
        return any(len(p.shape) == 2 or self.kind == "python" for p in trained)


class Graph:
    """Nodes in order of execution; layers add theirs in `Layer.lower`.

    `training` is the mode that the layers are lowered for; None: each in its own. With
    `split_input`, parts of the input that layers ask for are inputs of their own, fetched from the
    user's arrays one by one; else they are copied out of the whole, and gradients back into it.
    """

    def __init__(
        self,
        model: Layer,
        in_features: int,
        training: bool | None = None,
        split_input: bool = False,
    ) -> None:
        self.training = training
        self.split_input = split_input
        self.nodes: list[Node] = []
        self.categories = set(model.categories(0, in_features))  # as the door has checked them
        self.input = Value(in_features)
        self.inputs = [self.input]
        self.output = model.lower(self, self.input)
        if split_input:
            self.inputs = [x for x in self.inputs if x.readers or x is self.output]

    def add(self, kind: str, layer: Layer, x: Value | tuple[Value, ...], columns: int) -> Value:
        """Add a layer that reads x, or several values, and gives `columns` columns."""
        inputs = x if isinstance(x, tuple) else (x,)
        wanted = layer.in_features_or_none()
        if not layer.children() and wanted is not None and wanted != inputs[0].columns:
            raise ValueError(
                f"{type(layer).__name__}: expected {wanted} features, got {inputs[0].columns}"
            )
        node = Node(kind, layer, inputs, Value(columns))
        node.y.producer = node
        for value in inputs:
            value.readers.append(node)
        self.nodes.append(node)
        return node.y

    def columns(self, layer: Layer, x: Value, first: int, columns: int) -> Value:
        """Columns `first` to ``first + columns - 1`` of x."""
        if (first, columns) == (0, x.columns):
            return x
        if self.split_input and x.producer is None:
            self.inputs.append(Value(columns, x.first + first))
            return self.inputs[-1]
        part = self.add("columns", layer, (x,), columns)
        part.first = first
        return part

    def place_in_input(self, x: Value) -> int | None:
        """The first of the columns of the input that x is; None if it is something else."""
        first = x.first
        while x.producer is not None:
            if x.producer.kind != "columns":
                return None
            x = x.producer.x
            first += x.first
        return first

    def depths(self) -> dict[Value, int]:
        """Layers with weights on the longest way from the input to what each node gives."""
        depths: dict[Value, int] = {}
        for node in self.nodes:
            before = max(depths.get(x, 0) for x in node.inputs)
            depths[node.y] = before + node.has_weights
        return depths

    def trains(self, layer: Layer) -> bool:
        """True if a layer is lowered for training."""
        return layer.training if self.training is None else self.training

    def python(self, layer: Layer, x: Value, columns: int) -> Value:
        """Add a layer whose forward and backward are Python code."""
        return self.add("python", layer, x, columns)
