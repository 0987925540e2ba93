"""Checkpoints: a training as one safetensors file, from which it goes on to the bit. No pickle.

Tensors are the parameters and running averages (``model.*``), the optimizer's states
(``moment0.*``, ...) and the moving average (``average.*``), in PyTorch's shapes, and the history
(``history.*``), an array for each of its columns. All else is JSON in the metadata: architecture,
loss, optimizer, schedule and metrics by name and arguments (null: code of the user's), the place in
the training, seeds, names of the columns, and what callbacks keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import checks, losses, optimizers, schedulers
from minidl.files import FormatError, read_safetensors, to_json, write_safetensors
from minidl.history import History
from minidl.kernels import VERSION
from minidl.layers.base import Layer
from minidl.layers.sequential import Sequential
from minidl.memory import Array, write_all
from minidl.metrics import as_metrics
from minidl.metrics.metric import NamedMetric
from minidl.parameters import Parameter
from minidl.serialization import architecture, build, finite_state, record_of_training

if TYPE_CHECKING:
    from minidl.distributed import Ranks
    from minidl.optimizers import OptimizerState
    from minidl.trainer import Trainer

FORMAT = "minidl-checkpoint-1"
OPTIONS = (
    "clip_grad_norm", "clip_grad_value", "accumulate", "ema_decay", "micro_batch_size",
    "checkpoint", "memory_limit",
)  # fmt: skip
COUNTS = ("step", "tick", "average_from")  # of the optimizer's state


# What an optimizer keeps for a model, by the names of the parameters.


def state_tensors(model: Layer, state: OptimizerState) -> dict[str, Array]:
    """The vectors of an optimizer's state, cut into the parameters' shapes."""
    return {name: array.copy(order="C") for name, array in _views(model, state)}


def restore_state(model: Layer, state: OptimizerState, tensors: dict[str, Array]) -> None:
    """Put back what `state_tensors` gave."""
    if any(name.startswith("average.") for name in tensors):
        state.begin_average()
    own = dict(_views(model, state))
    missing, unknown = sorted(own.keys() - tensors), sorted(tensors.keys() - own)
    if missing or unknown:
        raise ValueError(f"tensors: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, array in own.items():
        value = tensors[name]
        if value.shape != array.shape or value.dtype != array.dtype:
            raise ValueError(
                f"{name}: expected shape {array.shape}, {array.dtype}, got {value.shape}, "
                f"{value.dtype}"
            )
        if name.startswith("average."):  # parameters, of which none may be NaN or infinite
            checks.finite(np.atleast_1d(value), name)
    write_all(own.values(), [tensors[name] for name in own])


def _views(model: Layer, state: OptimizerState) -> Iterator[tuple[str, Array]]:
    """Views of the vectors in the parameters' shapes."""
    vectors = {f"moment{i}": vector for i, vector in enumerate(state.moments)}
    if state.average is not None:
        vectors["average"] = state.average
    for kind, vector in vectors.items():
        for name, parameter in _trainable(model):
            yield f"{kind}.{name}", parameter.view(vector)


def _trainable(model: Layer) -> Iterator[tuple[str, Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.trainable)


# Between processes that train together.


def described(trainer: Trainer) -> dict[str, Any]:
    """What all ranks must have alike, as texts that are the same in all processes."""
    model = trainer.model
    sizes = [p.array.size for _, p in model.named_parameters()]
    parts = {"model": model, "loss": trainer.loss, "optimizer": trainer.optimizer}
    parts |= {"scheduler": trainer.scheduler, "metrics": [m.name for m in trainer.metrics]}
    return {
        "minidl": VERSION,
        "dtype": str(model.dtype),
        "parameters": sum(sizes),
        **{name: re.sub(" at 0x[0-9a-f]+", "", repr(part)) for name, part in parts.items()},
        **{name: getattr(trainer, name) for name in (*OPTIONS, "sync_batchnorm")},
    }


def go_on_from_rank_0(trainer: Trainer, ranks: Ranks) -> None:
    """Copy what a checkpoint of rank 0 would hold to all other ranks, whose models are alike."""
    model, state = trainer.model, trainer._state()
    own: dict[str, Any] = {
        "state": {name: getattr(state, name) for name in COUNTS},
        "averaged": state.average is not None,
        "progress": trainer.progress.to_dict(),
        "keys": _keys(model),
        "history": trainer.history.to_dict(),
        "callbacks": trainer.resumed_callbacks,
        "tracked": {n: v for n, v in model.state().items() if n.endswith("num_batches_tracked")},
    }
    first = ranks.of_rank_0(own)
    if ranks.rank > 0:
        if first["averaged"]:
            state.begin_average()
        else:
            state.average = None
        state.__dict__.update(first["state"])
        trainer.progress.load(first["progress"])
        for name, layer in model.layers():
            if name in first["keys"]:
                layer.key = first["keys"][name]
        trainer.history.__dict__.update(History.from_dict(first["history"]).__dict__)
        trainer.resumed_callbacks = first["callbacks"]
        for name, value in first["tracked"].items():
            own["tracked"][name][...] = value
    average = [] if state.average is None else [state.average]
    ranks.copy_from_rank_0([model.store().values, state.moments, *average])


# Files.


def save_checkpoint(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """What `Trainer.save_checkpoint` does."""
    model, state = trainer.model, trainer._state()
    first, columns = trainer.history.first, trainer.history.history
    parts = {
        "architecture": _or_none(architecture, model),
        "loss": _described(losses.ALL, trainer.loss),
        "optimizer": _described(optimizers.ALL, trainer.optimizer),
        "has_scheduler": trainer.scheduler is not None,
        "scheduler": _described(schedulers.NAMES, trainer.scheduler),
        "metrics": _names(trainer.metrics),
        "options": {name: getattr(trainer, name) for name in OPTIONS},
        "state": {name: getattr(state, name) for name in COUNTS}
        | {"averaged": state.average is not None},
        "progress": trainer.progress.to_dict(),
        "keys": _keys(model),
        "history": {"first": first, "columns": list(columns)},
        "callbacks": [
            *((type(c).__name__, c.state()) for c in trainer.callbacks),
            *trainer.resumed_callbacks,
        ],  # of those that have yet to be given again
        "training": model.__dict__.get("training_record"),
    }
    tensors = {f"model.{name}": value for name, value in finite_state(model).items()}
    header = {name: to_json(value) for name, value in parts.items()}
    tensors |= state_tensors(model, state)
    tensors |= {f"history.{i}": np.array(v, float) for i, v in enumerate(columns.values())}
    write_safetensors(path, tensors, {"format": FORMAT, **header})


def resume(
    kind: type[Trainer], path: str | os.PathLike[str], *, ranks: dict[str, Any], **given: Any
) -> Trainer:
    """What `Trainer.resume` does; `ranks` are arguments for the trainer."""
    _check(kind, **given, **ranks)
    header, tensors = read_safetensors(path, FORMAT, "a checkpoint of minidl")
    own = _cut_out("model.", tensors)
    history = _cut_out("history.", tensors)
    with FormatError.explains(path):
        stored = {name: header.read(name) for name in header if name != "format"}
        trainer = kind(**_parts(stored, given, own), **_options(stored["options"]), **ranks)
        trainer.model.load_state_dict(own)
        _put_back(trainer, stored, tensors)
        trainer.history = _history(stored["history"], history)
    trainer.model.train()
    return trainer


def _cut_out(prefix: str, tensors: dict[str, Array]) -> dict[str, Array]:
    """Take those whose names begin so out of a dictionary; they come without the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _check(kind: type[Trainer], model: Any, metrics: Any, **parts: Any) -> None:
    """What is wrong with an argument is not the file's fault: a trainer says it."""
    model = Sequential() if model is None else model
    kind(model, metrics=() if metrics is None else metrics, **parts)


def _parts(stored: dict[str, Any], given: dict[str, Any], own: dict[str, Array]) -> dict[str, Any]:
    """Arguments of the trainer: what the caller has given, else what the file describes."""
    makers: dict[str, Callable[[Any], Any]] = {
        "model": lambda config: build(config, own),
        "loss": lambda config: _made(losses.ALL, config),
        "optimizer": lambda config: _made(optimizers.ALL, config),
        "scheduler": schedulers.from_config,
        "metrics": as_metrics,
    }
    described = {**stored, "model": stored["architecture"]}
    checks.one_of(stored["has_scheduler"], (True, False), "has_scheduler")
    if not stored["has_scheduler"]:
        if described["scheduler"] is not None:
            raise ValueError("scheduler: expected null, since has_scheduler is false")
        del makers["scheduler"]
    made = {"scheduler": given["scheduler"]}
    for name, make in makers.items():
        if given[name] is not None:
            made[name] = given[name]
        elif described[name] is None:
            raise ValueError(
                f"{name}: expected the one that was trained with, since it is code of yours and "
                f"not in the file: Trainer.resume(path, {name}=...)"
            )
        else:
            made[name] = make(described[name])
    return made


def _options(stored: Any) -> dict[str, Any]:
    """The trainer's numbers."""
    return {name: stored[name] for name in OPTIONS}


def _put_back(trainer: Trainer, stored: dict[str, Any], tensors: dict[str, Array]) -> None:
    """What is known of the training besides the model's parameters."""
    model, state = trainer.model, trainer._state()
    checks.one_of(stored["state"]["averaged"], (True, False), "averaged")
    if stored["state"]["averaged"]:
        state.begin_average()
    restore_state(model, state, tensors)
    for name in COUNTS:
        setattr(state, name, checks.count(stored["state"][name], name))
    keys = stored["keys"]
    if keys.keys() != _keys(model).keys():
        raise ValueError(f"keys: expected those of {list(_keys(model))}, got {list(keys)}")
    for name, layer in model.layers():
        if name in keys:
            layer.key = checks.seed(keys[name], f"keys {name}")
    trainer.progress.load(stored["progress"])
    trainer.resumed_callbacks = [_callback(*pair) for pair in stored["callbacks"]]
    model.__dict__["training_record"] = record_of_training(stored["training"])


def _history(stored: Any, tensors: dict[str, Array]) -> History:
    """The results of all epochs: names of the columns, and an array for each."""
    names = stored["columns"]
    places = [str(i) for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"history: expected names of columns, got {names!r:.50}")
    if len(set(names)) < len(names) or tensors.keys() != set(places):
        raise ValueError(f"history: expected one array for each of {names!r:.50}")
    if any(array.ndim != 1 or array.dtype != np.float64 for array in tensors.values()):
        raise ValueError("history: expected arrays of float64 with one dimension")
    columns = {name: tensors[i].tolist() for name, i in zip(names, places, strict=True)}
    return History.from_dict({"first": stored["first"], "history": columns})


def _keys(model: Layer) -> dict[str, int]:
    """Seeds of the layers that draw random numbers."""
    return {name: layer.key for name, layer in model.layers() if hasattr(layer, "key")}


def _callback(name: Any, state: Any) -> tuple[str, dict[str, Any]]:
    """Class and state of a callback."""
    if not isinstance(name, str) or not isinstance(state, dict):
        raise ValueError(f"callbacks: expected a name and an object, got {name!r}, {state!r}")
    return name, state


def _names(metrics: list[Any]) -> list[str] | None:
    """Names of metrics, or None if one is code of the user's."""
    named = all(type(metric) is NamedMetric for metric in metrics)
    return [metric.name for metric in metrics] if named else None


def _described(kinds: dict[str, Any], part: Any) -> dict[str, Any] | None:
    """A class of minidl's and its arguments, or None of what is code of the user's."""
    name = type(part).__name__
    if kinds.get(name) is not type(part):
        return None
    return _or_none(lambda part: {"type": name, **part.config()}, part)


def _made(kinds: dict[str, Any], config: Any) -> Any:
    """The object that is described."""
    arguments = dict(config)
    name = arguments.pop("type")
    if name not in kinds:
        raise ValueError(f"type: expected one of {', '.join(kinds)}, got {name!r:.50}")
    return kinds[name](**arguments)


def _or_none(describe: Callable[[Any], dict[str, Any]], part: Any) -> dict[str, Any] | None:
    """A description, or None of what is code of the user's."""
    try:
        return describe(part)
    except TypeError:
        return None
