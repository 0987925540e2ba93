"""Files that somebody has written to do harm: how they are made, changed and tried."""

import copy
import json
import random
import struct

import numpy as np

import minidl
from minidl import sklearn
from minidl.serialization import _tensors

READERS = {
    "load": minidl.load, "resume": minidl.Trainer.resume, "ensemble": minidl.Ensemble.load,
}  # fmt: skip
FORMS = {
    "load": "minidl-1", "resume": "minidl-checkpoint-1", "ensemble": "minidl-ensemble-1",
}  # fmt: skip


def raw(header, data=b"", length=None):
    """The bytes of a safetensors file: its header, as JSON or as bytes, and the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def cut_up(data):
    """Header and tensors of the bytes of a file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


# ------------------------------------------------------------------------- files to start from


def networks():
    """One with all kinds of layers, and some that are small."""
    wide = minidl.Sequential(
        minidl.Parallel(
            minidl.Linear(2, 3), minidl.Embedding(4, 2), minidl.Identity(), columns=[2, 1, 1]
        ),
        minidl.Concat(
            minidl.Residual(minidl.Sequential(minidl.Linear(6, 6), minidl.Dropout(0.25))),
            minidl.Linear(6, 2, bias=False),
        ),
        minidl.BatchNorm1d(8), minidl.ReLU(), minidl.LayerNorm(8), minidl.RMSNorm(8),
        minidl.PReLU(8), minidl.LeakyReLU(0.1), minidl.ELU(0.5), minidl.GELU("tanh"),
        minidl.Softplus(2.0, 7.0), minidl.Linear(8, 3), minidl.Softmax(), seed=0,
    )  # fmt: skip
    return [
        wide,
        minidl.Sequential(minidl.Linear(2, 1), dtype="float64", seed=0),
        minidl.Sequential(minidl.Flatten(), minidl.Tanh(), minidl.Sigmoid(), minidl.SiLU()),
        minidl.Sequential(minidl.Embedding(3, 2), minidl.Linear(2, 2), seed=0),
    ]


def trainings():
    """Trainers with all that a checkpoint can hold."""
    everything = {
        "accumulate": 2, "clip_grad_norm": 1.0, "clip_grad_value": 0.5, "ema_decay": 0.9,
        "metrics": ["f1", "top_2"],
    }  # fmt: skip
    chain = minidl.ChainedScheduler([minidl.LinearLR(total_iters=2), minidl.StepLR(2)])
    parts = [
        ("CrossEntropyLoss", minidl.AdamW(groups=[{"params": ["0.*", "*.bias"], "lr": 0.1}]),
         minidl.SequentialLR([chain, minidl.ExponentialLR(0.5)], [2])),
        ("MSELoss", minidl.NAdam(), minidl.ReduceLROnPlateau(monitor="loss", patience=0)),
        ("HuberLoss", minidl.RMSprop(momentum=0.5, centered=True), minidl.OneCycleLR(0.1, 9)),
        ("KLDivLoss", minidl.SGD(momentum=0.9), minidl.CosineAnnealingWarmRestarts(2, 2)),
    ]  # fmt: skip
    X = np.random.default_rng(0).normal(size=(12, 2))
    for i, (loss, optimizer, scheduler) in enumerate(parts):
        model = minidl.Sequential(
            minidl.Linear(2, 3), minidl.BatchNorm1d(3), minidl.Dropout(0.1), minidl.Linear(3, 3),
            seed=0,
        )  # fmt: skip
        trainer = minidl.Trainer(
            model, minidl.losses.by_name(loss), optimizer, scheduler=scheduler,
            **everything if i == 0 else {},
        )  # fmt: skip
        y = np.arange(12) % 3 if i == 0 else np.full((12, 3), 1 / 3)
        stop = minidl.EarlyStopping("loss", patience=9)
        trainer.fit(X, y, epochs=2, batch_size=4, seed=0, total_epochs=9, callbacks=[stop])
        yield trainer


def ensembles():
    """Of one model, and of models that differ inside, trained and not."""
    yield minidl.Ensemble([networks()[0]])
    members = [
        minidl.Sequential(minidl.Linear(2, 3, seed=0), minidl.ReLU(), minidl.Linear(3, 2, seed=1)),
        minidl.Sequential(minidl.Linear(2, 2, seed=2), minidl.BatchNorm1d(2)),
        minidl.Sequential(minidl.Linear(2, 2, seed=3)),
    ]
    minidl.Trainer(members[0]).fit(np.ones((4, 2)), [0, 1, 0, 1], seed=0)
    yield minidl.Ensemble(members, "binary")
    yield minidl.Ensemble(members[1:])
    yield minidl.Ensemble([minidl.Sequential(minidl.Flatten(), minidl.Tanh())] * 2)


def tables():
    """Tabular estimators, with numbers, categories and missing values."""
    X = [[i, i % 3 and float(i), "even" if i % 2 == 0 else None] for i in range(40)]
    for kind, y in (("TabularClassifier", ["a", "b"] * 20), ("TabularRegressor", range(40))):
        yield getattr(sklearn, kind)(2, max_iter=2, random_state=0).fit(X, y)


def seeds(folder):
    """The bytes of sound files, models and checkpoints."""
    path = folder / "seed"
    found = []
    for model in networks():
        minidl.save(model, path, metadata={"classes": ["a", "b"], "mean": [0.5, 1e-300]})
        found.append(path.read_bytes())
    for trainer in trainings():
        trainer.save_checkpoint(path)
        found.append(path.read_bytes())
        minidl.save(trainer.model, path)
        found.append(path.read_bytes())
    for ensemble in ensembles():
        ensemble.save(path, metadata={"a": [1, None]})
        found.append(path.read_bytes())
    for estimator in tables():
        sklearn.save_tabular(estimator, path, metadata={"a": None})
        found.append(path.read_bytes())
    path.unlink()
    return found


# ------------------------------------------------------------------------------------- trying


def try_file(data, folder):
    """Read a file of these bytes in all ways; give the names of the readers that took it.

    It is refused by a FormatError that names it and is no longer than a page, or what comes out of
    it is sound: it can be shown, written, and read again as the same.
    """
    path = folder / "file"
    path.write_bytes(data)
    took = []
    for name, read in {**READERS, "tabular": sklearn.load_tabular}.items():
        try:
            found = read(path)
        except minidl.FormatError as error:
            said = str(error).removeprefix(str(path))
            assert said.startswith(": ")
            assert len(said) < 12_000
            assert said.isprintable()
            continue
        took.append(name)
        USES[name](found, folder / "again")
    return took


def use_model(model, path):
    """Show it, write it, read it again, and predict if it is small."""
    shown = str(model)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert not any(layer.training for _, layer in model.layers())
    minidl.save(model, path, model.metadata)
    written = cut_up(path.read_bytes())
    again = minidl.load(path)
    assert repr(again) == repr(model)
    minidl.save(again, path, again.metadata)
    assert cut_up(path.read_bytes()) == written
    predict(model)


def predict(model):
    """A row of zeros, where the columns of no layer are so many that it would not fit."""
    columns = model.in_features_or_none() or 3
    widths, reach = [columns], columns
    for _, layer in model.tree():
        if not layer.children():
            reach = min(layer.output_features(max(columns, reach)), 10**9)
            widths.append(reach)
    if max(widths) > 10_000:
        return
    try:
        y = model.predict(np.zeros((2, columns)))
    except ValueError:  # layers that do not fit each other, an Embedding that is not the first
        return
    assert len(y) == 2


def use_trainer(trainer, path):
    """Show it, write it, and read it again."""
    str(trainer.model)
    repr((trainer.optimizer, trainer.loss, trainer.scheduler, trainer.metrics))
    trainer.save_checkpoint(path)
    written = cut_up(path.read_bytes())
    minidl.Trainer.resume(path).save_checkpoint(path)
    assert cut_up(path.read_bytes()) == written
    predict(trainer.model)


def use_ensemble(ensemble, path):
    """Show it, write it, read it again, and predict if it is small."""
    shown = repr(ensemble)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert not any(layer.training for model in ensemble.models for _, layer in model.layers())
    ensemble.save(path, ensemble.metadata)
    written = cut_up(path.read_bytes())
    again = minidl.Ensemble.load(path)
    assert repr(again) == shown
    again.save(path, again.metadata)
    assert cut_up(path.read_bytes()) == written
    for model in ensemble.models:
        str(model)
        predict(model)


def use_tabular(estimator, path):
    """Write it, and read it again."""
    repr(estimator)
    sklearn.save_tabular(estimator, path, estimator.metadata_)
    written = cut_up(path.read_bytes())
    again = sklearn.load_tabular(path)
    sklearn.save_tabular(again, path, again.metadata_)
    assert cut_up(path.read_bytes()) == written


USES = {
    "load": use_model, "resume": use_trainer, "ensemble": use_ensemble, "tabular": use_tabular,
}  # fmt: skip


# ----------------------------------------------------------------------------------- changing

VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 255, 2**24, 2**29, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64,
    10**30, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), "", "x", "float64", "F64", "ReLU",
    "\x1b[2J", "é\u2028", "../x", "\ud800", [], [1], [[]], {}, {"type": "ReLU"}, {"x": {}},
]  # fmt: skip
NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 3e38]


def descriptions():
    """Layers, losses, optimizers and schedules, as files describe them."""
    found = [{"type": type(one).__name__, **one.config()}
             for model in networks() for _, one in model.tree()]  # fmt: skip
    for trainer in trainings():
        for part in (trainer.loss, trainer.optimizer, trainer.scheduler):
            found.append({"type": type(part).__name__, **part.config()})
    return found


class Mutator:
    """Changes files: bytes, the JSON of their parts, tensors, and what is said of these."""

    def __init__(self, files):
        self.described = descriptions()
        self.names = sorted({one["type"] for one in self.described} | {"Layer", "Loss", "Trainer"})
        self.files = files

    def mutate(self, data, rng):
        """The bytes of another file."""
        try:
            header, body = cut_up(data)
            parts = header.pop("__metadata__")
            parts = {name: text if name == "format" else json.loads(text)
                     for name, text in parts.items()}  # fmt: skip
            tensors = {
                name: (one["dtype"], one["shape"], body[slice(*one["data_offsets"])])
                for name, one in header.items()
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            if rng.random() < 0.5:
                return self.bytes_changed(data, rng)
            return self.mutate(rng.choice(self.files), rng)
        for _ in range(rng.choice((1, 1, 1, 3))):
            change = rng.choice(
                (self.a_part, self.a_part, self.a_part, self.a_layer, self.a_tensor)
            )
            change(parts, tensors, rng)
        if rng.random() < 0.5:
            fit_tensors(parts, tensors)
        data = self.joined(parts, tensors, rng)
        return self.bytes_changed(data, rng) if rng.random() < 0.1 else data

    def bytes_changed(self, data, rng):
        """Some bytes changed, cut out or doubled."""
        data = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(4)
            if kind == 0 and at < len(data):
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.choice((1, 8, 100))]
            elif kind == 2:
                data[at:at] = data[at : at + rng.choice((1, 8, 100))]
            else:
                data[at:at] = rng.choice(
                    (b"[" * 2000, b'{"a":' * 2000, b"\xff", b"\x00", b"9" * 99)
                )
        return bytes(data)

    def a_part(self, parts, tensors, rng):
        """A value somewhere in the JSON."""
        node, key = place(parts, rng)
        kind = rng.randrange(9)
        if kind == 0:
            del node[key]
        elif kind > 6 and type(node[key]) in (int, float):
            node[key] = rng.choice((node[key] + 1, node[key] * 2, node[key] * 0.5, -node[key]))
        elif kind == 1:
            node[key] = some((*self.described, *self.names), rng)
        elif kind == 2 and isinstance(node, list):
            node.insert(key, some((node[key], *VALUES), rng))
        elif kind == 3:
            other, at = place(parts, rng)
            node[key] = copy.deepcopy(other[at])
        elif kind == 4:
            node[key] = [node[key]] if rng.random() < 0.5 else {"layers": [node[key]]}
        elif kind == 5 and isinstance(node, dict):
            node[rng.choice((*map(str, node), "type", "dtype", "seed", "x"))] = some(VALUES, rng)
        else:
            node[key] = some(VALUES, rng)

    def a_layer(self, parts, tensors, rng):
        """A layer more, less, or inside others."""
        layers = parts.get("architecture")
        if isinstance(layers, list) and layers:  # of an ensemble
            layers = rng.choice(layers)
        layers = layers.get("layers") if isinstance(layers, dict) else None
        if not isinstance(layers, list) or not layers:
            return
        at = rng.randrange(len(layers))
        kind = rng.randrange(4)
        if kind == 0:
            del layers[at]
        elif kind == 1:
            layers.insert(at, some(self.described, rng))
        elif kind == 2:
            for _ in range(rng.choice((1, 2, 49, 60))):
                layers[at] = rng.choice((
                    {"type": "Residual", "block": layers[at]},
                    {"type": rng.choice(("Sequential", "Concat")), "layers": [layers[at]]},
                ))  # fmt: skip
        else:
            layers[at:at] = [copy.deepcopy(layers[at]) for _ in range(rng.choice((1, 10, 300)))]

    def a_tensor(self, parts, tensors, rng):
        """What is said of a tensor, or what is in it."""
        if not tensors:
            return
        name = rng.choice(list(tensors))
        dtype, shape, data = tensors[name]
        kind = rng.randrange(7)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[rng.choice(("x", name + "x", "é", ""))] = tensors[name]
        elif kind == 2:
            tensors[name] = rng.choice(("F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64",
                                        "F8_E4M3", "f32", None)), shape, data  # fmt: skip
        elif kind == 3:
            shape = [*shape, some(VALUES, rng)] if rng.random() < 0.5 else shape[1:]
            tensors[name] = dtype, shape, data
        elif kind == 4:
            tensors[name] = dtype, [2**32, 2**32, *shape], data
        elif kind == 5:
            tensors[name] = dtype, shape, data + bytes(rng.choice((1, 4, 8)))
        elif data:
            size = rng.choice((4, 8))
            number = struct.pack("<f" if size == 4 else "<d", rng.choice(NUMBERS))
            at = rng.randrange(max(len(data) // size, 1)) * size
            tensors[name] = dtype, shape, data[:at] + number + data[at + size :]

    def joined(self, parts, tensors, rng):
        """The file; sometimes its header says something else than it holds."""
        header, body = {}, b""
        for name, (dtype, shape, data) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape,
                            "data_offsets": [len(body), len(body) + len(data)]}  # fmt: skip
            body += data
        if header and rng.random() < 0.1:
            offsets = rng.choice(list(header.values()))["data_offsets"]
            offsets[rng.randrange(2)] = some(VALUES, rng)
        texts = {name: part if name == "format" else json.dumps(part)
                 for name, part in parts.items()}  # fmt: skip
        text = json.dumps({"__metadata__": texts, **header}).encode()
        if rng.random() < 0.05:  # a name twice
            text = b"{" + rng.choice((b'"__metadata__":{},', b'"0.bias":{},')) + text[1:]
        return raw(
            text,
            body,
            length=rng.choice((0, 1, 2**24, 2**31, 2**63, 2**64 - 1))
            if rng.random() < 0.02
            else None,
        )


def some(values, rng):
    """One of them, as a copy that may be changed."""
    return copy.deepcopy(rng.choice(values))


def place(parts, rng):
    """A container within JSON values, and an index or name in it."""
    places = []

    def walk(node, depth):
        if isinstance(node, (dict, list)) and depth < 60:
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                walk(node[key], depth + 1)

    walk(parts, 0)
    return rng.choice(places) if places else ({"x": 0}, "x")


def fit_tensors(parts, tensors):
    """Make the tensors of a model those that its architecture asks for, if they are small."""
    try:
        told = parts["architecture"]
        models = {f"{i}.": one for i, one in enumerate(told)} if type(told) is list else {"": told}
        wanted = {prefix + name: shape for prefix, one in models.items()
                  for name, shape in _tensors(one["layers"]).items()}  # fmt: skip
        first = next(iter(models.values()), {})
        dtype = {"float32": "F32", "float64": "F64"}[first["dtype"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    size = 4 if dtype == "F32" else 8
    if sum(np.prod(shape, dtype=float) for shape in wanted.values()) > 100_000:
        return
    kinds = [""] if parts.get("format") != FORMS["resume"] else ["model."]
    for kind in ("moment0.", "moment1.", "moment2.", "average."):
        if any(name.startswith(kind) for name in tensors):
            kinds.append(kind)
    history = {name: one for name, one in tensors.items() if name.startswith("history.")}
    tensors.clear()
    tensors.update(history)
    for kind in kinds:
        for name, shape in wanted.items():
            whole = name.endswith("num_batches_tracked")
            if kind in ("", "model.") or not ("running" in name or whole):
                one = ("I64", [], bytes(8)) if whole else (
                    dtype, list(shape), bytes(int(np.prod(shape)) * size))  # fmt: skip
                tensors[kind + name] = one


def mutants(files, seed):
    """Changed files, one of the other, without an end."""
    rng = random.Random(seed)
    mutator = Mutator(files)
    while True:
        data = rng.choice(files)
        for _ in range(rng.choice((1, 1, 1, 4))):
            data = mutator.mutate(data, rng)
            yield data
