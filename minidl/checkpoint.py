"""Checkpoints: a training as one safetensors file, from which it goes on to the bit. No pickle.

Tensors are the parameters and running averages (``model.*``), the optimizer's states
(``moment0.*``, ...) and the moving average (``average.*``), in PyTorch's shapes. All else is JSON
in the metadata: architecture, loss, optimizer, schedule and metrics by name and arguments, the place
in the training, seeds, history, and what callbacks keep.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from minidl import losses, optimizers, schedulers
from minidl.files import FormatError, read_safetensors, write_safetensors
from minidl.history import History
from minidl.layers.base import Layer
from minidl.memory import Array
from minidl.parameters import Parameter
from minidl.serialization import architecture, build

if TYPE_CHECKING:
    from minidl.optimizers import OptimizerState
    from minidl.trainer import Trainer

# json is imported where it is used: `import minidl` stays cheap.

FORMAT = "minidl-checkpoint-1"
OPTIONS = ("clip_grad_norm", "clip_grad_value", "accumulate", "ema_decay")


# What an optimizer keeps for a model, by the names of the parameters.


def state_tensors(model: Layer, state: OptimizerState) -> dict[str, Array]:
    """The vectors of an optimizer's state, cut into the parameters' shapes."""
    return {
        f"{kind}.{name}": parameter.view(vector).copy(order="C")
        for kind, vector in _vectors(state)
        for name, parameter in _trainable(model)
    }


def restore_state(model: Layer, state: OptimizerState, tensors: dict[str, Array]) -> None:
    """Put back what `state_tensors` gave."""
    if any(name.startswith("average.") for name in tensors):
        state.begin_average()
    for kind, vector in _vectors(state):
        for name, parameter in _trainable(model):
            value, own = tensors[f"{kind}.{name}"], parameter.view(vector)
            if value.shape != own.shape or value.dtype != own.dtype:
                raise ValueError(
                    f"{kind}.{name}: expected shape {own.shape}, {own.dtype}, got {value.shape}, "
                    f"{value.dtype}"
                )
            own[...] = value


def _vectors(state: OptimizerState) -> Iterator[tuple[str, Array]]:
    yield from ((f"moment{i}", vector) for i, vector in enumerate(state.moments))
    if state.average is not None:
        yield "average", state.average


def _trainable(model: Layer) -> Iterator[tuple[str, Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.trainable)


# Files.


def save_checkpoint(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """What `Trainer.save_checkpoint` does."""
    import json

    model, state = trainer.model, trainer._state()
    progress = trainer.progress
    scheduler = trainer.scheduler
    parts = {
        "architecture": _or_none(architecture, model),
        "loss": _or_none(_described, trainer.loss),
        "optimizer": _described(trainer.optimizer),
        "scheduler": None if scheduler is None else _or_none(_described, scheduler),
        "has_scheduler": scheduler is not None,
        "metrics": [metric.name for metric in trainer.metrics],
        "options": {name: getattr(trainer, name) for name in OPTIONS},
        "state": {name: getattr(state, name) for name in ("step", "tick", "average_from")},
        "progress": progress.to_dict(),
        "keys": {name: layer.key for name, layer in model.layers() if hasattr(layer, "key")},
        "history": trainer.history.to_dict(),
        "callbacks": [[type(c).__name__, c.state()] for c in trainer.callbacks],
        "training": model.__dict__.get("training_record"),
    }
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    header = {name: json.dumps(value) for name, value in parts.items()}
    tensors |= state_tensors(model, state)
    write_safetensors(path, tensors, {"format": FORMAT, **header})


def resume(
    kind: type[Trainer],
    path: str | os.PathLike[str],
    model: Layer | None,
    loss: Any,
    optimizer: Any,
    scheduler: Any,
    metrics: Any,
) -> Trainer:
    """What `Trainer.resume` does."""
    header, tensors = read_safetensors(path, FORMAT, "a checkpoint of minidl")
    own = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    rest = {name: value for name, value in tensors.items() if not name.startswith("model.")}
    with FormatError.explains(path):
        stored = {name: header.read(name) for name in header if name != "format"}
        parts = {
            "model": (model, stored["architecture"], lambda config: build(config, own)),
            "loss": (loss, stored["loss"], lambda config: _made(losses, losses.Loss, config)),
            "optimizer": (
                optimizer,
                stored["optimizer"],
                lambda config: _made(optimizers, optimizers.Optimizer, config),
            ),
        }
        made = {name: _given_or_made(name, *part) for name, part in parts.items()}
        if scheduler is None and stored["has_scheduler"]:
            made["scheduler"] = _given_or_made(
                "scheduler", None, stored["scheduler"], schedulers.from_config
            )
        else:
            made["scheduler"] = scheduler
        names = stored["metrics"] if metrics is None else metrics
    trainer = kind(
        made["model"], made["loss"], made["optimizer"], scheduler=made["scheduler"], metrics=names,
        **stored["options"],
    )  # fmt: skip
    with FormatError.explains(path):
        trainer.model.load_state_dict(own)
        state = trainer._state()
        for name, value in stored["state"].items():
            setattr(state, name, int(value))
        restore_state(trainer.model, state, rest)
        state.average_from = int(stored["state"]["average_from"])
        for name, layer in trainer.model.layers():
            if name in stored["keys"]:
                layer.key = int(stored["keys"][name])
        trainer.history = History.from_dict(stored["history"])
        trainer.progress.load(stored["progress"])
        trainer.resumed_callbacks = [
            (str(name), dict(value)) for name, value in stored["callbacks"]
        ]
        trainer.model.__dict__["training_record"] = stored["training"]
    trainer.model.train()
    return trainer


def _described(part: Any) -> dict[str, Any]:
    """A class of minidl's and its arguments."""
    return {"type": type(part).__name__, **part.config()}


def _made(module: Any, base: type, config: Any) -> Any:
    """The object that is described."""
    arguments = dict(config)
    name = arguments.pop("type")
    made = getattr(module, name, None) if name in module.__all__ else None
    if not isinstance(made, type) or not issubclass(made, base):
        raise ValueError(f"unknown {base.__name__} {name!r}")
    return made(**arguments)


def _or_none(describe: Callable[[Any], Any], part: Any) -> Any:
    """A description, or None of what is code of the user's."""
    try:
        return describe(part)
    except TypeError:
        return None


def _given_or_made(name: str, given: Any, config: Any, make: Callable[[Any], Any]) -> Any:
    """What the caller has given, else what the file describes."""
    if given is not None:
        return given
    if config is None:
        raise _Missing(
            f"{name}: expected the one that was trained with, since it is code of yours and not in "
            f"the file: Trainer.resume(path, {name}=...)"
        )
    return make(config)


class _Missing(FormatError):
    """A part that only the caller has."""
