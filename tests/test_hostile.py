"""Hostile files: a FormatError in bounded time and memory, never a crash, no code that runs."""

import itertools
import json
import os
import socket
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import python
from hostile import FORMS, READERS, cut_up, mutants, raw, seeds, trainings, try_file

import minidl
from minidl import files, serialization

readers = pytest.mark.parametrize("reader", READERS)
KNOWN = sorted((Path(__file__).parent / "hostile_files").iterdir())
SMALL = 1 << 20  # bytes of Python's memory that a refusal may take


def refused(data, reader, folder, match=None, memory=None):
    """The reader refuses a file of these bytes, with an error that names it."""
    path = folder / "file"
    path.write_bytes(data)
    if memory is not None:
        tracemalloc.start()
    try:
        with pytest.raises(minidl.FormatError, match=match) as caught:
            READERS[reader](path)
        if memory is not None:
            assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 12_000


def sound(reader, folder):
    """The bytes of a small file that the reader takes."""
    path = folder / "sound"
    model = minidl.Sequential(minidl.Linear(2, 1, seed=0), minidl.BatchNorm1d(1))
    trainer = minidl.Trainer(model, minidl.MSELoss(), ema_decay=0.5)
    trainer.fit(np.ones((4, 2)), np.ones((4, 1)), seed=0)
    if reader == "load":
        minidl.save(model, path, metadata={"a": 1})
    elif reader == "ensemble":
        other = minidl.Sequential(minidl.Linear(2, 1, seed=1))
        minidl.Ensemble([model, other]).save(path, metadata={"a": 1})
    else:
        trainer.save_checkpoint(path)
    assert READERS[reader](path)
    return path.read_bytes()


def changed(reader, folder, change):
    """A sound file whose header was changed."""
    header, data = cut_up(sound(reader, folder))
    return raw(change(header) or header, data)


# ----------------------------------------------------------------------------- headers and lengths


@readers
def test_cut_at_every_byte(reader, tmp_path):
    data = sound(reader, tmp_path)
    header = 8 + int.from_bytes(data[:8], "little")
    for cut in (*range(header + 1), *range(header + 1, len(data), 7), len(data) - 1):
        refused(data[:cut], reader, tmp_path)


@readers
def test_bytes_behind_the_end(reader, tmp_path):
    data = sound(reader, tmp_path)
    for more in (b"\0", bytes(8), bytes(4096), data):
        refused(data + more, reader, tmp_path, "expected 8 bytes")


@readers
@pytest.mark.parametrize("length", [0, 1, 2, 2**24, 2**24 + 1, 10**8, 10**8 + 1, 2**31 - 1, 2**31,
                                    2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])  # fmt: skip
def test_a_length_that_is_not_the_headers(length, reader, tmp_path):
    data = sound(reader, tmp_path)
    refused(struct.pack("<Q", length) + data[8:], reader, tmp_path, memory=SMALL)


@readers
@pytest.mark.parametrize("by", [-8, -1, 1, 8])
def test_a_length_that_is_nearly_the_headers(by, reader, tmp_path):
    data = sound(reader, tmp_path)
    length = int.from_bytes(data[:8], "little") + by
    refused(struct.pack("<Q", length) + data[8:], reader, tmp_path)


@readers
@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"null", b"true", b"3", b'"text"', b"[]", b"[[1]]", b"{}", b'{"__metadata__": 3}',
     b'{"__metadata__": []}', b'{"__metadata__": {"format": 3}}', b'{"w": 3}', b'{"w": {}}',
     b'{"w": null}', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'{"\xff": 1}', b"{" * 5000,
     b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"nan", b"{'a': 1}"],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_a_header_that_is_none(text, reader, tmp_path):
    refused(raw(text), reader, tmp_path)
    refused(raw(text, bytes(100)), reader, tmp_path)


@readers
def test_a_file_that_claims_more_than_it_has_costs_nothing(reader, tmp_path):
    """Its size is held to the header before anything else is read; this one has a hole of 1 TB."""
    path = tmp_path / "file"
    header = {"__metadata__": {"format": FORMS[reader]},
              "w": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}}  # fmt: skip
    path.write_bytes(raw(header))
    os.truncate(path, 2**40)
    tracemalloc.start()
    try:
        with pytest.raises(minidl.FormatError, match="expected 8 bytes"):
            READERS[reader](path)
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------- tensors


def tensor_files(reader, folder):
    """Changes of what the header says of tensors."""
    header, data = cut_up(sound(reader, folder))
    names = [name for name in header if name != "__metadata__"]
    first = next(name for name in names if name.endswith("0.weight"))
    last = max(names, key=lambda name: header[name]["data_offsets"])
    end = len(data)

    def file(name, data=data, **said):
        return raw({**header, name: {**header[name], **said}}, data)

    low, high = header[last]["data_offsets"]
    for offsets in (
        [0, end], [low - 4, high], [low, high + 4], [low + 4, high], [high, low], [-4, high],
        [low, 2**31], [low, 2**62], [low, 2**63], [low, 2**64 - 1], [low, 2**64], [2**64 - 4, high],
        [low, 1e300], [float(low), float(high)], [str(low), str(high)], [low], [low, high, high],
        [], None, 3, {}, [None, None], [low, float("inf")], [low, float("nan")], [[low], [high]],
    ):  # fmt: skip
        yield f"offsets {offsets}", file(last, data_offsets=offsets)
        if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int):
            grown = data + bytes(max(0, min(offsets[1], 10_000) - end))
            yield f"offsets {offsets} with bytes", file(last, grown, data_offsets=offsets)
    yield "two in one place", file(last, data_offsets=header[first]["data_offsets"])
    yield "a hole", raw({**header, "hole": {"dtype": "U8", "shape": [4],
                                            "data_offsets": [end + 4, end + 8]}},
                        data + bytes(8))  # fmt: skip
    for shape in (
        [2**32, 2**32], [2**63, 2], [2**62, 4], [2**64 - 1], [2**64], [10**30], [0, 2**63],
        [2**63, 0], [3, 2**62, 4, 0], [-1], [-1, -1], [1.0], ["1"], [None], [[1]], None, 3, {}, [],
        [1] * 33, [1] * 65, [1] * 100_000, [2] * 70, [0],
    ):  # fmt: skip
        yield f"shape {str(shape)[:30]}", file(first, shape=shape)
        if shape and shape != [1] * 100_000:
            yield (
                f"no bytes, {str(shape)[:30]}",
                raw(
                    {**header, "x": {"dtype": "F32", "shape": shape, "data_offsets": [end, end]}},
                    data,
                ),
            )
    for dtype in (  # none of which is F32
        "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "I16", "U16", "F16", "BF16",
        "I32", "U32", "F64", "I64", "U64", "C64", "f32", "", "F32 ", "float32", "O", "object",
        "V4", "S4", None, 3, [], {},
    ):  # fmt: skip
        yield f"dtype {dtype!r}", file(first, dtype=dtype)
        if isinstance(dtype, str) and dtype.strip("BFUI_EMXOC")[:2].isdigit():
            size = int(dtype.strip("BFUI_EMXOC")[:2]) // 8
            yield f"{dtype} of the right size", raw(
                {**header, "x": {"dtype": dtype, "shape": [3],
                                 "data_offsets": [end, end + 3 * size]}},
                data + bytes(3 * size),
            )  # fmt: skip


@readers
def test_what_is_said_of_tensors(reader, tmp_path):
    count = 0
    for what, data in tensor_files(reader, tmp_path):
        try:
            refused(data, reader, tmp_path, memory=8 * SMALL)
        except BaseException as error:
            error.add_note(what)
            raise
        count += 1
    assert count > 100


@readers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none(value, reader, tmp_path):
    """In each of the parameters and running averages, and in the moving average."""
    header, data = cut_up(sound(reader, tmp_path))
    changed = 0
    for name, one in header.items():
        moving = name.startswith("average.")
        held = reader != "resume" or moving or name[:6] == "model."
        if one.get("dtype") != "F32" or not held:
            continue
        at = one["data_offsets"][0]
        damaged = data[:at] + np.float32(value).tobytes() + data[at + 4 :]
        refused(raw(header, damaged), reader, tmp_path, "expected finite numbers")
        changed += 1
    assert changed == {"load": 6, "resume": 10, "ensemble": 8}[reader]


# ------------------------------------------------------------------------------------- names twice


@readers
def test_a_name_twice_in_the_header(reader, tmp_path):
    """Readers differ in which one they take: what one has checked, another would not load."""
    data = sound(reader, tmp_path)
    header, body = cut_up(data)
    text = json.dumps(header).encode()
    tensor = next(name for name in header if name != "__metadata__")
    for first, what in (
        (b'"__metadata__": {"format": "other"}, ', "__metadata__"),
        (f'"{tensor}": {json.dumps(header[tensor])}, '.encode(), tensor),
        (f'"{tensor}": null, '.encode(), tensor),
    ):
        refused(raw(b"{" + first + text[1:], body), reader, tmp_path, f"once, got '{what}' twice")
    for old, new in (
        (b'"format": ', b'"format": "other", "format": '),
        (b'"dtype": ', b'"dtype": "F64", "dtype": '),
        (b'"shape": ', b'"shape": [9], "shape": '),
    ):
        refused(raw(text.replace(old, new), body), reader, tmp_path, "expected each name once")


@readers
def test_a_name_twice_in_the_json_of_a_part(reader, tmp_path):
    header, body = cut_up(sound(reader, tmp_path))
    parts, tried = header["__metadata__"], 0
    for part, text in parts.items():
        if part == "format" or not text.startswith("{"):
            continue
        names = json.loads(text)
        for name in list(names)[:1]:
            twice = f'{{"{name}": 1, {text[1:]}'
            said = {**header, "__metadata__": {**parts, part: twice}}
            refused(raw(said, body), reader, tmp_path, f"once, got '{name}' twice")
            tried += 1
    assert tried >= (1 if reader == "ensemble" else 3)
    inside = parts["architecture"].replace('"type": ', '"type": "ReLU", "type": ', 1)
    said = {**header, "__metadata__": {**parts, "architecture": inside}}
    refused(raw(said, body), reader, tmp_path, "once, got 'type' twice")


def test_what_would_be_refused_is_not_written(tmp_path):
    path, model = tmp_path / "m", minidl.Sequential(minidl.Linear(2, 1))
    for metadata in ({1: "a", "1": "b"}, {"deep": {True: 1, "true": 2}}):
        with pytest.raises(TypeError, match=r"^metadata: .*expected each name once"):
            minidl.save(model, path, metadata)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match=r"^metadata: expected what JSON can hold"):
        minidl.save(model, path, {"deep": deep})
    while deep:  # by hand: to free it by recursion would be deep too
        deep = deep.pop()
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------- sizes and depth


def test_a_header_as_long_as_may_be(tmp_path, monkeypatch):
    """What is longer is neither written nor read."""
    path, model = tmp_path / "m", minidl.Sequential(minidl.Linear(2, 1))
    metadata = {"a": "x" * 1000}
    minidl.save(model, path, metadata)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    monkeypatch.setattr(files, "MOST_HEADER", length)
    minidl.save(model, path, metadata)
    assert minidl.load(path).metadata == metadata
    monkeypatch.setattr(files, "MOST_HEADER", length - 1)
    with pytest.raises(ValueError, match=rf"^header: .* at most {length - 1} bytes of"):
        minidl.save(model, path, {"a": "x" * 2000})
    assert cut_up(path.read_bytes()) == cut_up(data)
    refused(data, "load", tmp_path, f"at most {length - 1} bytes, got {length}")


def test_a_training_of_a_million_epochs_is_kept(tmp_path):
    """Its history is longer than any header may be."""
    trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(1, 1)), minidl.MSELoss())
    rng = np.random.default_rng(0)
    trainer.history.history = {"loss": rng.random(10**6).tolist(), "val_é": [float("nan")] * 10**6}
    trainer.save_checkpoint(tmp_path / "c")
    history = minidl.Trainer.resume(tmp_path / "c").history
    assert history.history["loss"] == trainer.history.history["loss"]
    assert list(history.history) == ["loss", "val_é"]
    assert np.isnan(history.history["val_é"]).all()


def with_architecture(reader, text):
    text = f"[{text}]" if reader == "ensemble" else text
    return raw({"__metadata__": {"format": FORMS[reader], "architecture": text}})


@readers
@pytest.mark.parametrize("layer", ['{"type":"ReLU"}', "[]"])
def test_a_million_layers(layer, reader, tmp_path):
    """Refused before they are parsed, or before there is a layer."""
    text = f'{{"dtype":"float32","layers":[{",".join([layer] * 10**6)}]}}'
    data = with_architecture(reader, text)
    if len(data) > files.MOST_HEADER:
        refused(data, reader, tmp_path, "header of at most", memory=SMALL)
    else:
        refused(data, reader, tmp_path)


@readers
def test_hundreds_of_thousands_of_tensors(reader, tmp_path):
    one = "'{}': {{'dtype': 'F32', 'shape': [], 'data_offsets': [{}, {}]}}"
    said = (one.format(i, 4 * i, 4 * i + 4) for i in range(300_000))
    start = f"{{'__metadata__': {{'format': '{FORMS[reader]}'}}, "
    data = raw((start + ", ".join(said) + "}").replace("'", '"').encode(), bytes(1_200_000))
    refused(data, reader, tmp_path, "header of at most", memory=SMALL)


LARGE = """
import json, resource, sys, time
from hostile import FORMS, READERS, raw
import minidl
from minidl import files
path, room = sys.argv[1], files.MOST_HEADER - 1000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
slowest = 0.0
for reader, one in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
    text = json.dumps(one)[1:-1]
    inside = ",".join([one] * (room // (len(text) + 1)))
    architecture = '{"dtype":"float32","layers":[' + inside + "]}"
    data = raw({"__metadata__": {"format": FORMS[reader], "architecture": architecture}})
    assert 0.5 * files.MOST_HEADER < len(data) <= files.MOST_HEADER
    with open(path, "wb") as file:
        file.write(data)
    del inside, architecture, data
    start = time.process_time()
    try:
        READERS[reader](path)
    except minidl.FormatError:
        slowest = max(slowest, time.process_time() - start)
    else:
        raise AssertionError(one)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, slowest)
"""


@pytest.mark.parametrize(
    "many",
    [pytest.param(["load", "{}"], id="objects"),
     pytest.param([*("load", "[]"), *("load", "1.5"), *("resume", "{}"), *("resume", '{"a":{}}')],
                  id="more", marks=pytest.mark.soak)],
)  # fmt: skip
def test_the_longest_headers_take_bounded_memory_and_time(many, tmp_path):
    """Those that take most once they are parsed: 16 MiB of small objects."""
    done = python("-c", LARGE, tmp_path / "m", *many, timeout=300)
    kilobytes, slowest = done.stdout.split()
    assert int(kilobytes) < 1_000_000
    assert float(slowest) < 30


def large_networks(layers):
    """With so many layers: as deep as files may have them, and side by side."""
    each = layers // serialization.DEEPEST - 1
    layer = minidl.Identity()
    for _ in range(serialization.DEEPEST - 2):
        layer = minidl.Sequential(*(minidl.PReLU() for _ in range(each - 1)), layer)
    yield minidl.Sequential(layer)
    yield minidl.Sequential(*(minidl.PReLU() for _ in range(layers - 1)))


@pytest.mark.parametrize(
    "layers", [1000, pytest.param(serialization.MOST_LAYERS, marks=pytest.mark.soak)]
)
def test_the_largest_architectures_are_read_in_bounded_time(layers, tmp_path):
    for model in large_networks(layers):
        minidl.save(model, tmp_path / "m")
        start = time.process_time()
        found = minidl.load(tmp_path / "m")
        assert time.process_time() - start < 60
        assert sum(1 for _ in found.tree()) == sum(1 for _ in model.tree())


def nested(kind, depth, innermost):
    """As text: to write it by recursion would be too deep."""
    more = ', "milestones": []' if kind == "SequentialLR" else ""
    start = f'{{"type": "{kind}"{more}, "schedulers": ['
    return start * depth + json.dumps(innermost) + "]}" * depth


ONE_CYCLE = {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 9}


@pytest.mark.parametrize("depth", [9, 60, 400, 100_000])
@pytest.mark.parametrize(
    ("kind", "innermost"),
    [("ChainedScheduler", {"type": "StepLR", "step_size": 1}), ("SequentialLR", ONE_CYCLE)],
)
def test_schedules_inside_each_other(kind, innermost, depth, tmp_path):
    """Each may ask those inside it twice, and these again: 2**60 times in all."""

    def change(header):
        header["__metadata__"] |= {"scheduler": nested(kind, depth, innermost),
                                   "has_scheduler": "true"}  # fmt: skip

    refused(changed("resume", tmp_path, change), "resume", tmp_path)


def test_schedules_inside_each_other_as_deep_as_may_be():
    one = minidl.StepLR(1)
    for _ in range(8):
        one = minidl.ChainedScheduler([one])
    other = minidl.OneCycleLR(0.1, 9)
    for _ in range(8):
        other = minidl.SequentialLR([other], [])
    assert one.length is None
    assert other.momenta(0, 3) is not None
    for deepest in (one, other):
        with pytest.raises(ValueError, match=r"^schedulers: expected at most 8 inside each other"):
            minidl.SequentialLR([deepest], [])


@pytest.mark.parametrize("count", [101, 20_000])
def test_many_patterns_of_parameters(count, tmp_path):
    """Each is held against each name: both are bounded."""

    def change(header):
        parts = header["__metadata__"]
        optimizer = json.loads(parts["optimizer"])
        optimizer["groups"] = [{"params": ["1.bias"] * count, "lr": 0.1}]
        parts["optimizer"] = json.dumps(optimizer)

    said = rf'groups\[0\]\["params"\]: expected at most 100 patterns, got {count}'
    refused(changed("resume", tmp_path, change), "resume", tmp_path, said)


@readers
def test_long_names_make_short_messages(reader, tmp_path):
    name = "\x1b" * 10**6

    def change(header):
        one = {"dtype": "float32", "layers": [{"type": "ReLU", name: 1}]}
        header["__metadata__"]["architecture"] = json.dumps([one] if reader == "ensemble" else one)

    refused(changed(reader, tmp_path, change), reader, tmp_path)

    def rename(header):
        tensor = next(one for one in header if one != "__metadata__")
        header[name] = header.pop(tensor)

    refused(changed(reader, tmp_path, rename), reader, tmp_path)


@pytest.mark.parametrize("part", ["loss", "optimizer", "scheduler", "metrics"])
def test_long_names_of_parts(part, tmp_path):
    """The nearest known name is not looked for among ten million letters."""

    def change(header):
        name = "adam" * 2_500_000
        value = [name] if part == "metrics" else {"type": name}
        header["__metadata__"][part] = json.dumps(value)
        if part == "scheduler":
            header["__metadata__"]["has_scheduler"] = "true"

    start = time.process_time()
    refused(changed("resume", tmp_path, change), "resume", tmp_path, memory=200 * SMALL)
    assert time.process_time() - start < 20


# ---------------------------------------------------------------------------------- code and paths

CODE = [
    "os.system", "__import__", "builtins.exec", "eval", "save", "load", "Trainer", "Layer",
    "Loss", "Optimizer", "Scheduler", "FunctionLoss", "LambdaLR", "OptimizerState", "by_name",
    "as_loss", "from_config", "LossFunction", "__class__", "__init__", "np.load", "../../x",
]  # fmt: skip


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("part", ["architecture", "loss", "optimizer", "scheduler", "metrics"])
def test_names_of_what_is_no_part(part, name, tmp_path):
    """Names are looked up among minidl's own parts, and base classes are none."""

    def change(header):
        parts = header["__metadata__"]
        if part == "architecture":
            parts[part] = json.dumps({"dtype": "float32", "layers": [{"type": name}]})
        elif part == "metrics":
            parts[part] = json.dumps([name])
        elif part == "scheduler":
            parts |= {
                part: json.dumps({"type": name, "lr_lambda": "print"}),
                "has_scheduler": "true",
            }
        else:
            parts[part] = json.dumps(json.loads(parts[part]) | {"type": name})
        return header

    refused(changed("resume", tmp_path, change), "resume", tmp_path)
    if part == "architecture":
        refused(changed("load", tmp_path, change), "load", tmp_path)


WATCHED = """
import itertools, sys
from pathlib import Path
from hostile import mutants, seeds, try_file
folder = Path(sys.argv[1])
sound = seeds(folder)
files = [*sound, *itertools.islice(mutants(sound, 1), 300)]
watch, seen = False, set()
def hook(event, arguments):
    if watch and event == "open":
        # A number is that of a file that is open already.
        if not isinstance(arguments[0], int) and not str(arguments[0]).startswith(str(folder)):
            seen.add(f"open {arguments[0]}")
    elif watch and event.split(".")[0] not in ALLOWED:
        seen.add(event)
# What try_file itself does: write and list its folder, rename what is written, sync it.
ALLOWED = {"os", "object", "sys", "builtins", "array", "time", "tempfile", "cpython"}
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.listdir"}
def strict(event, arguments):
    if watch and event in FORBIDDEN:
        seen.add(event)
for data in files:  # once, so that all modules are there
    try_file(data, folder)
sys.addaudithook(hook)
sys.addaudithook(strict)
watch = True
for data in files:
    try_file(data, folder)
watch = False
print(sorted(seen), len(files))
"""


def test_no_code_runs(tmp_path):
    """Python tells of every import, compilation, process, socket and file: there is none."""
    said = python("-c", WATCHED, tmp_path, timeout=120).stdout.split("\n")[0]
    assert said.startswith("[] ")


@readers
def test_paths_that_are_no_files(reader, tmp_path):
    """An OSError or FormatError at once: a device, a folder, a socket, a link to itself."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in ("/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/maps", "/proc/kmsg",
                     "/", tmp_path, tmp_path / "loop", tmp_path / "nowhere", tmp_path / "empty",
                     tmp_path / "socket", tmp_path / "empty" / "m", "x" * 5000):  # fmt: skip
            with pytest.raises((OSError, minidl.FormatError)):
                READERS[reader](path)


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path, monkeypatch):
    """To read a map of it would end the process."""
    minidl.save(minidl.Sequential(minidl.Linear(100, 100)), tmp_path / "large")
    data, read = (tmp_path / "large").read_bytes(), files._read_header

    def then_cut(file):
        found = read(file)
        os.truncate(tmp_path / "file", len(data) - 9)
        return found

    monkeypatch.setattr(files, "_read_header", then_cut)
    refused(data, "load", tmp_path, "not a safetensors file, or damaged")


def test_what_is_shown_of_a_file_does_not_reach_the_terminal_as_it_is(tmp_path):
    def change(header):
        header["__metadata__"]["training"] = json.dumps(
            {"loss": "\x1b]0;title\x07", "x\r\ny": "\u202e", "results": {"\x1b[2J": 1.0}}
        )

    (tmp_path / "m").write_bytes(changed("load", tmp_path, change))
    shown = str(minidl.load(tmp_path / "m"))
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert r"loss: \x1b]0;title\x07" in shown
    assert r"x\r\ny: \u202e" in shown


# ------------------------------------------------------------------------------------------ fuzzing


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.name)
def test_what_the_fuzzer_has_found(path, tmp_path):
    try_file(path.read_bytes(), tmp_path)


def test_changed_files(tmp_path):
    """What `fuzz_files.py` does for minutes, without its eye on the lines that are reached."""
    sound = seeds(tmp_path)
    for data in sound:
        assert len(try_file(data, tmp_path)) == 1
    took = [try_file(data, tmp_path) for data in itertools.islice(mutants(sound, 0), 700)]
    counts = {name: sum(name in one for one in took) for name in READERS}
    assert min(*counts.values(), took.count([])) > 10, counts


@pytest.mark.soak
def test_ten_minutes_of_fuzzing(tmp_path):
    script = Path(__file__).parent / "fuzz_files.py"
    done = python(script, 600, tmp_path, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------- round trips


def test_a_checkpoint_that_is_read_and_written_is_the_same(tmp_path):
    """What callbacks kept, too, though they have yet to be given again."""
    for trainer in trainings():
        trainer.save_checkpoint(tmp_path / "c")
        resumed = minidl.Trainer.resume(tmp_path / "c")
        resumed.save_checkpoint(tmp_path / "again")
        one, other = (cut_up((tmp_path / name).read_bytes()) for name in ("c", "again"))
        assert one == other
