"""Models from PyTorch and to it, by one table of the layers that both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl import layers
from minidl.extras import need
from minidl.layers import Layer, Sequential

Arguments = dict[str, Any]


class Pair(NamedTuple):
    """How to make a layer on one side from its namesake on the other.

    `ours` gives the arguments of minidl's class, `theirs` those of PyTorch's, by default the same.
    `only` holds what PyTorch's module can be in other ways, but minidl's layer cannot.
    """

    ours: Callable[[Any], Arguments]
    theirs: Callable[[Layer], Arguments] = lambda layer: layer.config()
    only: Mapping[str, Any] = {}


def same(*names: str) -> Callable[[Any], Arguments]:
    """Arguments that PyTorch's module has as attributes of the same names."""
    return lambda module: {name: getattr(module, name) for name in names}


def _linear(module: Any) -> Arguments:
    return {**same("in_features", "out_features")(module), "bias": module.bias is not None}


def _rmsnorm(module: Any) -> Arguments:
    if len(module.normalized_shape) != 1:
        raise ValueError(f"normalized_shape: expected one size, got {module.normalized_shape}")
    return {
        "normalized_shape": module.normalized_shape[0],
        **same("eps", "elementwise_affine")(module),
    }


def _layernorm(module: Any) -> Arguments:
    return {**_rmsnorm(module), "bias": module.bias is not None}


# A row counts where both libraries have the class.
PAIRS = {
    "Linear": Pair(_linear),
    "BatchNorm1d": Pair(
        same("num_features", "eps", "momentum"), only={"affine": True, "track_running_stats": True}
    ),
    "LayerNorm": Pair(_layernorm),
    "RMSNorm": Pair(_rmsnorm),
    "Embedding": Pair(
        same("num_embeddings", "embedding_dim"), only={"padding_idx": None, "max_norm": None}
    ),
    "Dropout": Pair(same("p")),
    "Flatten": Pair(same(), lambda layer: {}, {"start_dim": 1, "end_dim": -1}),
    "Identity": Pair(same()),
    "ReLU": Pair(same()),
    "LeakyReLU": Pair(same("negative_slope")),
    "PReLU": Pair(same("num_parameters")),
    "ELU": Pair(same("alpha")),
    "Tanh": Pair(same()),
    "Sigmoid": Pair(same()),
    "SiLU": Pair(same()),
    "GELU": Pair(same("approximate")),
    "Softplus": Pair(same("beta", "threshold")),
    "Softmax": Pair(
        lambda module: {"dim": 1 if module.dim == -1 else module.dim}, lambda layer: {"dim": 1}
    ),
}


def from_torch(module: Any) -> Sequential:
    """Make a model with the layers, values, dtype and modes of a PyTorch module.

    Of every layer that both libraries have, and `torch.nn.Sequential`, which may be nested. Values
    are copied, from any device. Dropout draws other masks than PyTorch's; hooks, names of layers
    and ``requires_grad`` are not taken along. What PyTorch's Embedding gives for several columns
    is the same from its Flatten on: here the vectors of a row always stand side by side.

    Parameters
    ----------
    module : torch.nn.Module
        Of float32 or float64 parameters.

    Returns
    -------
    model : Sequential
        A single layer comes as a `Sequential` of it.

    Raises
    ------
    TypeError
        A layer is none that minidl has; the message names its class and its place. Or the
        parameters have another dtype, or more than one.
    ValueError
        A layer has a setting that minidl does not have, parameters are shared, or a value is NaN
        or infinite.
    ImportError
        PyTorch is not installed.

    Examples
    --------
    >>> import minidl, torch
    >>> module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double()
    >>> model = minidl.from_torch(module)
    >>> model
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): Tanh()
    )
    >>> model.predict([[1.0, 2.0, 3.0]]).dtype
    dtype('float64')
    """
    torch = need("torch", "", "from_torch")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    dtype = _dtype(module)
    parameters = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
    if len(set(parameters)) < len(parameters):
        raise ValueError("module: a parameter is there twice; sharing parameters is not supported")
    state: dict[str, Any] = {}
    if _is_sequential(module, torch):
        model = _to_ours(module, torch, "module", "", state)
    else:
        model = Sequential(_to_ours(module, torch, "module", "0.", state))
        model.training = module.training
    assert isinstance(model, Sequential)
    model.set_dtype(dtype)
    model.load_state_dict(state)
    return model


def to_torch(model: Sequential) -> Any:
    """Make a PyTorch module with the layers, values, dtype and modes of a model.

    Put Flatten behind an Embedding. It does nothing here, but PyTorch's Embedding gives (N, F, D)
    for (N, F) integers, where minidl's has the F vectors of a row side by side.

    Parameters
    ----------
    model : Sequential
        Of layers that both libraries have.

    Returns
    -------
    module : torch.nn.Sequential
        Values are copies; its state dict has the same names. PyTorch's random numbers are not
        touched.

    Raises
    ------
    TypeError
        A layer is none that PyTorch has; the message names its class and its place.
    ImportError
        PyTorch is not installed.

    Examples
    --------
    >>> import minidl
    >>> module = minidl.to_torch(minidl.Sequential(minidl.Linear(3, 2), minidl.GELU("tanh")))
    >>> module
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): GELU(approximate='tanh')
    )
    >>> module[0].weight.dtype
    torch.float32
    """
    torch = need("torch", "", "to_torch")
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    with torch.device("meta"):  # no memory, no random numbers: the values follow
        module = _to_theirs(model, torch, "model")
    state = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def _dtype(module: Any) -> np.dtype[np.floating]:
    """The one dtype of the parameters; float32 without any."""
    names = {str(p.dtype).removeprefix("torch.") for p in module.parameters()} or {"float32"}
    if len(names) > 1 or not names <= {"float32", "float64"}:
        raise TypeError(
            "module: expected parameters all of float32 or all of float64, got "
            f"{', '.join(sorted(names))}; module.float() converts them"
        )
    return np.dtype(names.pop())


def _is_sequential(module: Any, torch: Any) -> bool:
    """True for classes derived from Sequential too, unless they compute something else."""
    sequential = torch.nn.Sequential
    return isinstance(module, sequential) and type(module).forward is sequential.forward


def _pair(layer: Any, side: Any, other: Any, path: str) -> Pair:
    """The row of a layer of the library `side`, which must have a namesake in `other`."""
    names = [name for name in PAIRS if hasattr(side, name) and hasattr(other, name)]
    name = type(layer).__name__
    if name not in names or type(layer) is not getattr(side, name):
        raise TypeError(
            f"{path} ({name}): no layer that both minidl and PyTorch have; those are "
            f"{', '.join(names)}, Sequential"
        )
    return PAIRS[name]


def _to_ours(module: Any, torch: Any, path: str, place: str, state: dict[str, Any]) -> Layer:
    """The layer of minidl; its values go to `state`, by the names that begin with `place`."""
    if _is_sequential(module, torch):
        layer: Layer = Sequential(
            *(
                _to_ours(child, torch, f"{path}.{name}", f"{place}{i}.", state)
                for i, (name, child) in enumerate(module._modules.items())  # with repeated ones
            )
        )
    else:
        layer = _layer(module, _pair(module, torch.nn, layers, path), path)
        state.update({place + name: value for name, value in module.state_dict().items()})
    layer.training = module.training
    return layer


def _layer(module: Any, pair: Pair, path: str) -> Layer:
    """A new layer with the module's arguments."""
    name = type(module).__name__
    try:
        for setting, value in pair.only.items():
            if getattr(module, setting) != value:
                raise ValueError(
                    f"{setting}: expected {value}, got {getattr(module, setting)!r}; minidl's "
                    f"{name} has no other"
                )
        arguments = pair.ours(module)
        for parameter in module.parameters():  # all of one dtype
            arguments["dtype"] = str(parameter.dtype).removeprefix("torch.")
        layer: Layer = getattr(layers, name)(**arguments)
        values, own = list(module.state_dict()), list(layer.state())
        if sorted(values) != sorted(own):
            raise ValueError(f"expected the values {', '.join(own)}, got {', '.join(values)}")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path} ({name}): {error}") from None
    return layer


def _to_theirs(layer: Layer, torch: Any, path: str) -> Any:
    """The module of PyTorch, without values."""
    if isinstance(layer, Sequential):
        children = (_to_theirs(c, torch, f"{path}.{name}") for name, c in layer.children())
        module = torch.nn.Sequential(*children)
    else:
        pair = _pair(layer, layers, torch.nn, path)
        module = getattr(torch.nn, type(layer).__name__)(**pair.theirs(layer))
    module.training = layer.training
    return module
