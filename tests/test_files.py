"""Files are written whole or not at all, where they were asked for; what is no file is refused."""

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import python
from test_checkpoint import BATCH, COLUMNS, everything, make_data, make_trainer

import minidl
from minidl import files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions, links and devices")


def small(seed=0):
    return minidl.Sequential(minidl.Linear(2, 1, seed=seed))


def large():
    """A model of some 240 kB."""
    return minidl.Sequential(minidl.Linear(300, 200, seed=0))


def write_onnx(model, path):
    pytest.importorskip("onnx")
    minidl.export_onnx(model, path)


WRITERS = {
    "save": minidl.save,
    "save_checkpoint": lambda model, path: minidl.Trainer(model).save_checkpoint(path),
    "export_onnx": write_onnx,
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
readers = pytest.mark.parametrize("read", [minidl.load, minidl.Trainer.resume])


kinds = pytest.mark.parametrize(
    "kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "Path"]
)


def permissions(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@writers
@pytest.mark.parametrize(
    "kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "Path"]
)
def test_paths_of_all_kinds(write, kind, tmp_path):
    write(small(), kind(tmp_path / "é ñ"))
    assert os.listdir(tmp_path) == ["é ñ"]


@pytest.mark.parametrize(
    "kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "Path"]
)
def test_paths_of_all_kinds_are_read(kind, tmp_path):
    minidl.save(small(), tmp_path / "m")
    assert repr(minidl.load(kind(tmp_path / "m"))) == repr(small())
    minidl.Trainer(small()).save_checkpoint(tmp_path / "c")
    assert minidl.Trainer.resume(kind(tmp_path / "c")).epoch == 0


@writers
@pytest.mark.parametrize("path", [None, 3, ["m"]])
def test_what_is_no_path(write, path):
    with pytest.raises(TypeError, match=rf"^path: expected a path, got {type(path).__name__}$"):
        write(small(), path)


@readers
@pytest.mark.parametrize("path", [None, 3, ["m"]])
def test_what_is_no_path_is_not_read(read, path):
    with pytest.raises(TypeError, match=rf"^path: expected a path, got {type(path).__name__}$"):
        read(path)


def test_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    minidl.save(small(), "m")
    assert os.listdir() == ["m"]
    minidl.load("m")


@writers
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_of_any_new_file(write, mask, tmp_path):
    before = os.umask(mask)
    try:
        write(small(), tmp_path / "m")
    finally:
        os.umask(before)
    assert permissions(tmp_path / "m") == 0o666 & ~mask


@writers
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(write, mode, tmp_path):
    (tmp_path / "m").touch()
    (tmp_path / "m").chmod(mode)
    write(small(), tmp_path / "m")
    assert permissions(tmp_path / "m") == mode
    assert (tmp_path / "m").stat().st_size > 0


def test_what_is_private_is_so_from_the_start(tmp_path, monkeypatch):
    """Nobody may read the file beside it either, not even before the first byte."""
    (tmp_path / "m").touch(0o600)
    seen = []
    own = os.open

    def watched(path, flags, mode=0o777, **options):
        handle = own(path, flags, mode, **options)
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    before = os.umask(0)
    monkeypatch.setattr(os, "open", watched)
    try:
        files.write_atomically(tmp_path / "m", b"secret")
    finally:
        os.umask(before)
    assert seen[0] == 0o600


@writers
def test_a_link_stays_one(write, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/m")
    for _ in range(2):  # what it leads to is not there, is there
        write(small(), tmp_path / "link")
        assert os.readlink(tmp_path / "link") == "there/m"
        assert os.listdir(tmp_path / "there") == ["m"]
        assert sorted(os.listdir(tmp_path)) == ["link", "there"]


@writers
def test_a_folder_is_no_place_for_a_file(write, tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write(small(), tmp_path / "m")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "m"), None)
    assert os.listdir(tmp_path) == ["m"]


@writers
@pytest.mark.parametrize(
    ("place", "error"), [("none/m", FileNotFoundError), ("file/m", NotADirectoryError)]
)
def test_a_folder_that_is_not_there(write, place, error, tmp_path):
    """The message names the path that was given, not that of the file beside it."""
    (tmp_path / "file").touch()
    with pytest.raises(error) as caught:
        write(small(), tmp_path / place)
    assert caught.value.filename == str(tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]


def test_long_names(tmp_path):
    """As long as the system lets them be."""
    minidl.save(small(), tmp_path / ("m" * 255))
    assert os.listdir(tmp_path) == ["m" * 255]
    with pytest.raises(OSError, match="too long") as caught:
        minidl.save(small(), tmp_path / ("m" * 256))
    assert caught.value.filename == str(tmp_path / ("m" * 256))
    assert os.listdir(tmp_path) == ["m" * 255]


@writers
def test_a_pipe_is_left_alone(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        write(small(), tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@readers
def test_a_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def late(*_):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        with pytest.raises(OSError, match="Not a regular file"):
            read(tmp_path / "pipe")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


LIMITED = """
import resource, signal, sys
import minidl
from test_files import WRITERS, large
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    WRITERS[sys.argv[1]](large(), sys.argv[2])
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_to_its_end(name, tmp_path):
    """The system itself refuses, in the middle: as a full disk does."""
    path = tmp_path / "m"
    WRITERS[name](small(), path)
    old = path.read_bytes()
    said = python("-c", LIMITED, name, path).stdout.split()
    assert said == [str(errno.EFBIG), str(path)]
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m"]


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 kB, for those who may mount one; others have the test above."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a disk is not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


@writers
def test_a_full_disk(write, disk):
    path = disk / "m"
    write(small(), path)
    old = path.read_bytes()
    with pytest.raises(OSError, match="No space left") as caught:
        write(large(), path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == old
    assert os.listdir(disk) == ["m"]
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        write(small(1), path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == old


def test_order_of_what_is_written(tmp_path, monkeypatch):
    """All bytes to the disk, then the new name, then the folder that holds the name."""
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("folder" if folder else f"{os.fstat(handle).st_size} bytes")
        fsync(handle)

    def replaced(source, target):
        done.append((os.path.dirname(source), target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    files.write_atomically(tmp_path / "m", b"12345")
    assert done == ["5 bytes", (str(tmp_path), str(tmp_path / "m")), "folder"]


STEPS = ["open", "fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_each_step_leaves_the_old_file_or_the_new_one(step, tmp_path):
    """The process ends before the step is made, and after it."""
    for when in ("before", "after"):
        path = tmp_path / f"m {when}"
        files.write_atomically(path, b"old")
        script = f"""
import os, signal, sys
from minidl import files
own = os.{step}
def last(*arguments, **options):
    if {when!r} == "after":
        own(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
os.{step} = last
files.write_atomically(sys.argv[1], b"new" * 100000)
"""
        assert python("-c", script, path, check=False).returncode == -signal.SIGKILL
        is_new = (step, when) == ("replace", "after")
        assert path.read_bytes() == (b"new" * 100000 if is_new else b"old")


def test_a_header_with_tensors_that_numpy_does_not_have(tmp_path):
    import json
    import struct

    path = tmp_path / "m"
    for dtype, size in (("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("F4", 1)):
        for form, read in (("minidl-1", minidl.load),
                           ("minidl-checkpoint-1", minidl.Trainer.resume)):  # fmt: skip
            header = {"__metadata__": {"format": form},
                      "w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}  # fmt: skip
            text = json.dumps(header).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
            with pytest.raises(minidl.FormatError, match=f"^{path}: "):
                read(path)
    header["w"] = {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(minidl.FormatError, match=f"^{path}: .*dimension"):
        minidl.Trainer.resume(path)


def test_a_safetensors_file_written_here_is_read_by_safetensors(tmp_path):
    from safetensors.numpy import load_file

    model = small()
    minidl.save(model, tmp_path / "m")
    found = load_file(tmp_path / "m")
    assert found.keys() == model.state_dict().keys()
    assert all(np.array_equal(found[k], v) for k, v in model.state_dict().items())


# --------------------------------------------------------- folders that are not to be written to

# As a user for whom permissions count: root may write anywhere.
READ_ONLY = """
import os, sys
import minidl
from test_files import WRITERS, large, small
name, path = sys.argv[1:]
WRITERS[name](small(), path + ".none")  # all that is imported late is there
os.unlink(path + ".none")
os.chmod(os.path.dirname(path), 0o555)
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    WRITERS[name](large(), path)
except OSError as error:
    print(type(error).__name__, error.filename)
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder(name):
    with tempfile.TemporaryDirectory() as folder:  # one that others may enter
        os.chmod(folder, 0o755)
        path = Path(folder, "m")
        WRITERS[name](small(), path)
        old = path.read_bytes()
        try:
            assert python("-c", READ_ONLY, name, path).stdout.split() == [
                "PermissionError", str(path)
            ]  # fmt: skip
        finally:
            os.chmod(folder, 0o755)
        assert path.read_bytes() == old
        assert os.listdir(folder) == ["m"]


@writers
def test_a_folder_that_is_gone(write, tmp_path, monkeypatch):
    """Where it was, and as the current one."""
    (tmp_path / "f").mkdir()
    write(small(), tmp_path / "f" / "m")
    monkeypatch.chdir(tmp_path / "f")
    shutil.rmtree(tmp_path / "f")
    for path in (tmp_path / "f" / "m", "m"):
        with pytest.raises(FileNotFoundError) as caught:
            write(small(), path)
        assert caught.value.filename == str(path)
    monkeypatch.chdir(tmp_path)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------ in the middle of `fit`


def checkpoints(folder):
    return minidl.ModelCheckpoint(folder / "{epoch}", checkpoint=True)


def lines(folder):
    return minidl.CSVLogger(folder / "log.csv")


def fill(folder):
    """Take all the room that there is."""
    with contextlib.suppress(OSError), open(folder / "rest", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


class Fill(minidl.Callback):
    """Takes all the room in an epoch."""

    def __init__(self, folder, epoch):
        self.folder, self.epoch = folder, epoch

    def on_epoch_begin(self, epoch):
        if epoch == self.epoch:
            fill(self.folder)


def wide_trainer():
    """One whose checkpoints have some 16 kB."""
    return make_trainer(model=minidl.Sequential(minidl.Linear(COLUMNS, 90, seed=0)))


def train(trainer, epochs, *callbacks):
    """Some epochs, with callbacks."""
    X, y = make_data()
    trainer.fit(X, y, epochs=epochs, batch_size=BATCH, seed=0, callbacks=callbacks)


def test_a_disk_that_fills_up_while_it_is_trained(disk):
    """The error names the file, the trainer goes on as if nothing had been, old files are whole."""
    whole, trainer = wide_trainer(), wide_trainer()
    train(whole, 4)
    with pytest.raises(OSError, match="No space left") as caught:
        train(trainer, 4, Fill(disk, 2), checkpoints(disk))
    assert caught.value.filename == str(disk / "3")
    assert sorted(os.listdir(disk)) == ["1", "2", "rest"]
    resumed = minidl.Trainer.resume(disk / "2")
    for each in (trainer, resumed):
        train(each, 4 - each.epoch)
        assert everything(each) == everything(whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
def test_a_log_on_a_full_disk():
    trainer, whole = make_trainer(), make_trainer()
    train(whole, 3)
    with pytest.raises(OSError, match="No space left") as caught:
        train(trainer, 3, minidl.CSVLogger("/dev/full"))
    assert caught.value.filename == "/dev/full"
    train(trainer, 3 - trainer.epoch)
    assert everything(trainer) == everything(whole)


def test_a_folder_that_is_taken_away_while_it_is_trained(tmp_path):
    """Checkpoints make it again; what is open is written to the end, wherever it is."""

    class TakeAway(minidl.Callback):
        def on_epoch_begin(self, epoch):
            if epoch == 1:
                shutil.rmtree(tmp_path / "f")

    (tmp_path / "f").mkdir()
    trainer, whole = make_trainer(), make_trainer()
    train(whole, 3)
    train(trainer, 3, TakeAway(), lines(tmp_path / "f"), checkpoints(tmp_path / "f"))
    assert everything(trainer) == everything(whole)
    assert sorted(os.listdir(tmp_path / "f")) == ["2", "3"]
    assert everything(minidl.Trainer.resume(tmp_path / "f" / "3"))[0] == everything(whole)[0]
