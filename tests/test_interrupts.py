"""Interrupts at any moment: the model is valid, training goes on to the bit, files are whole."""

import dis
import gc
import os
import sys
import threading
from functools import cache

import numpy as np
import pytest
from helpers import THREADS, python
from safetensors import safe_open
from test_checkpoint import (
    BATCH,
    COLUMNS,
    DATA,
    everything,
    make_data,
    make_model,
    make_trainer,
    small_blocks,  # noqa: F401
)

import minidl
from minidl import files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")

EPOCHS = 3

# ---------------------------------------------------------------- every moment, one by one

# CPython looks for signals when a function or a generator begins or goes on, when a loop goes back,
# and after a call of C. A trace function is told of all these.
CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW"}
LOOPS = {"JUMP_BACKWARD"}


@cache
def operations(code):
    """Names of the instructions, by their places."""
    return {one.offset: one.opname for one in dis.get_instructions(code)}


# Here Python's own lock is let go and taken again; between, an interrupt becomes another error.
UNSAFE = {
    getattr(threading.Condition, name).__code__
    for name in ("wait", "_release_save", "_acquire_restore")
}


class Interrupt:
    """Raises KeyboardInterrupt in the block, at one of the moments at which a signal could."""

    def __init__(self, moment):
        self.moment, self.seen, self.calls = moment, 0, 0

    def __enter__(self):
        sys.settrace(self._begin)
        return self

    def __exit__(self, *error):
        sys.settrace(None)

    def _moment(self):
        self.seen += 1
        if self.seen == self.moment:
            raise KeyboardInterrupt

    def _begin(self, frame, event, argument):
        if frame.f_code in UNSAFE:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        names, last, calls = operations(frame.f_code), "", 0
        self.calls += 1
        self._moment()

        def follow(frame, event, argument):
            nonlocal last, calls
            if event == "opcode":
                name = names[frame.f_lasti]
                came_back = last in CALLS and calls == self.calls and name != "PUSH_EXC_INFO"
                last, calls = name, self.calls
                if came_back or name in LOOPS:
                    self._moment()
            return follow

        return follow


def moments(action):
    """How many there are while the action runs."""
    with Interrupt(0) as count:
        action()
    return count.seen


def is_interrupted(action, moment):
    """True if it was; nothing of it is kept, as a traceback would."""
    try:
        with Interrupt(moment):
            action()
    except KeyboardInterrupt:
        return True
    return False


def some(count, few):
    """All moments in a long run, else a few from all over."""
    rng = np.random.default_rng(count)
    return sorted(rng.choice(count, min(few, count), replace=False) + 1)


@pytest.fixture
def quiet(monkeypatch):
    """What is raised where Python can only print it is printed, and swallowed, for users too."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


def assert_goes_on(trainer, fit, whole):
    """The model is valid, the trainer free, and the training ends with the bits of a whole one."""
    assert all(layer.training for _, layer in trainer.model.tree())
    assert all(np.isfinite(value).all() for value in trainer.model.state().values())
    fit(trainer, EPOCHS - trainer.epoch)
    assert everything(trainer) == everything(whole)


def interrupt_fit(data, path, few):
    """How many interrupts came while it was trained."""
    X, y = data(path)

    def fit(trainer, epochs):
        trainer.fit(X, y, epochs=epochs, batch_size=BATCH, seed=3)

    whole = make_trainer()
    fit(whole, EPOCHS)
    trainer, met = make_trainer(), 0
    count = moments(lambda: fit(trainer, EPOCHS))
    threads = threading.active_count()
    for moment in some(count, few):
        trainer = make_trainer()
        met += is_interrupted(lambda: fit(trainer, EPOCHS), moment)  # noqa: B023
        assert_goes_on(trainer, fit, whole)
    gc.collect()
    assert threading.active_count() == threads
    return met


kinds = pytest.mark.parametrize("data", [DATA[kind] for kind in ("arrays", "memmap", "batches")])


@kinds
def test_fit(data, tmp_path, small_blocks, quiet):  # noqa: F811
    assert interrupt_fit(data, tmp_path, 40) > 30


class Stops(minidl.Layer):
    """y = x, but that one of its calls ends with an interrupt, or an error."""

    def __init__(self):
        super().__init__()
        self.calls, self.last, self.error = 0, 0, KeyboardInterrupt

    def forward(self, x):
        self.calls += 1
        if self.calls == self.last:
            raise self.error
        return x

    backward = forward


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"micro_batch_size": 5}], ids=repr)
def test_a_layer_in_python_ends_a_step(options, error):
    """Running averages and sums of the loss go back to where the update began."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    ends = []
    for last in (0, 3, 4, 13, 14, 15, 16):
        layer = Stops()
        model = minidl.Sequential(
            minidl.Linear(3, 4), minidl.BatchNorm1d(4), layer, minidl.Dropout(0.2),
            minidl.Linear(4, 2), seed=0,
        )  # fmt: skip
        trainer = minidl.Trainer(model, **options)
        layer.last, layer.error = last, error
        if last:
            with pytest.raises(error):
                trainer.fit(X, y, epochs=3, batch_size=10, seed=0)
        trainer.fit(X, y, epochs=3 - trainer.epoch, batch_size=10, seed=0)
        state = {name: value.tolist() for name, value in model.state().items()}
        ends.append((state, trainer.history.history))
    assert ends == ends[:1] * 7


@pytest.mark.soak
@kinds
def test_fit_at_every_moment(data, tmp_path, small_blocks, quiet):  # noqa: F811
    assert interrupt_fit(data, tmp_path, 10**6) > 1000


def test_the_first_moments_of_a_model(quiet):
    """A layer that is put into a model keeps its values, and works on."""
    single = [minidl.Linear(COLUMNS, 8, seed=0), minidl.BatchNorm1d(8), minidl.Linear(8, 3, seed=1)]
    wanted = [array.copy() for layer in single for array in layer.state().values()]
    output = minidl.Sequential(*single).predict(np.ones((2, COLUMNS))).tobytes()
    count = moments(lambda: minidl.Sequential(*single, dtype="float64"))
    for moment in range(1, count + 1):
        parts = [minidl.Linear(COLUMNS, 8, seed=0), minidl.BatchNorm1d(8),
                 minidl.Linear(8, 3, seed=1)]  # fmt: skip
        is_interrupted(lambda: minidl.Sequential(*parts, dtype="float64"), moment)  # noqa: B023
        found = [array for layer in parts for array in layer.state().values()]
        assert all(map(np.array_equal, found, wanted)), moment
        model = minidl.Sequential(*parts, dtype="float32")
        assert model.predict(np.ones((2, COLUMNS))).tobytes() == output


def test_load_state_dict_is_all_or_nothing(quiet):
    one, other = make_model(), make_model()
    other.reset_parameters(np.random.default_rng(5))
    old, new = one.state_dict(), other.state_dict()
    for moment in range(1, moments(lambda: one.load_state_dict(new)) + 1):
        one.load_state_dict(old)
        is_interrupted(lambda: one.load_state_dict(new), moment)
        found = b"".join(array.tobytes() for array in one.state().values())
        assert found in {b"".join(a.tobytes() for a in state.values()) for state in (old, new)}


@pytest.mark.parametrize("call", ["evaluate", "predict", "train_step", "recalibrate_batchnorm"])
def test_what_is_not_training_leaves_a_trainer_that_goes_on(call, quiet):
    X, y = make_data()
    calls = {
        "evaluate": lambda trainer: trainer.evaluate(X, y),
        "predict": lambda trainer: trainer.model.predict(X),
        "train_step": lambda trainer: trainer.train_step(X, y),
        "recalibrate_batchnorm": lambda trainer: trainer.recalibrate_batchnorm(X),
    }
    before, after = make_trainer(accumulate=1), make_trainer(accumulate=1)
    count = moments(lambda: calls[call](after))
    for moment in some(count, 60):
        trainer = make_trainer(accumulate=1)
        is_interrupted(lambda: calls[call](trainer), moment)  # noqa: B023
        assert all(layer.training for _, layer in trainer.model.tree())
        found = trainer.model.state_dict()
        assert any(
            all(map(np.array_equal, found.values(), other.model.state_dict().values()))
            for other in (before, after)
        ), moment
        trainer.fit(X, y, batch_size=BATCH)


def contents(path):
    """What a file holds; its bytes differ, since safetensors writes metadata in any order."""
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        return file.metadata(), tensors


WRITERS = {
    "save": lambda trainer, path: minidl.save(trainer.model, path),
    "save_checkpoint": lambda trainer, path: trainer.save_checkpoint(path),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@writers
def test_a_file_is_the_old_one_or_the_new_one(write, tmp_path, quiet):
    """And nothing stays beside it, nor open."""
    old, new = make_trainer(), make_trainer()
    new.fit(*make_data(), seed=0)
    path, known = tmp_path / "m", []
    for trainer in (new, old):
        write(trainer, path)
        known.append(contents(path))
    before, count, written = path.read_bytes(), moments(lambda: write(new, path)), []
    for moment in sorted({*some(count, 80), *range(count - 20, count + 1)}):
        path.write_bytes(before)
        is_interrupted(lambda: write(new, path), moment)
        assert os.listdir(tmp_path) == ["m"], moment
        written.append(known.index(contents(path)))
    assert written == sorted(written, reverse=True)
    assert set(written) == {0, 1}


def test_a_file_is_written_at_every_moment(tmp_path, quiet):
    """The moments of `write_atomically` alone: all of them."""
    path = tmp_path / "m"
    for moment in range(1, moments(lambda: files.write_atomically(path, b"new")) + 1):
        path.write_bytes(b"old")
        is_interrupted(lambda: files.write_atomically(path, b"new"), moment)
        assert path.read_bytes() in (b"old", b"new")
        assert os.listdir(tmp_path) == ["m"], moment


# ---------------------------------------------------------------- signals at random moments

# An interrupt comes from another process, somewhere in the time that the action takes.
STORM = """
import os, random, signal, struct, sys, time
orders, order = os.pipe()
if os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(order)
    while seconds := os.read(orders, 8):
        time.sleep(*struct.unpack("d", seconds))
        os.kill(os.getppid(), signal.SIGINT)
    os._exit(0)
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from test_checkpoint import BATCH, COLUMNS, everything, make_data, make_trainer
import minidl
from minidl.data import blocks
from test_interrupts import WRITERS, contents

what, count, seed, threads, folder = sys.argv[1:]
rng, count, path = random.Random(int(seed)), int(count), folder + "/m"
minidl.set_num_threads(int(threads))

def interrupt(action, seconds):
    ended = False
    try:
        os.write(order, struct.pack("d", rng.uniform(0, seconds)))
        action()
        ended = True
        time.sleep(5)  # it comes, unless it came where Python can only print it
    except KeyboardInterrupt:
        pass
    return not ended

def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

X, y = make_data(600)
met = tries = 0

def another():
    global tries
    tries += 1
    return met < count and tries <= 50 * count  # some come too late, the more the busier it is

if what == "fit":
    blocks.BLOCK = blocks.SCATTERED = 32 * BATCH * COLUMNS * 4
    np.save(path + ".npy", X)
    mapped, epochs = np.load(path + ".npy", mmap_mode="r"), 20
    def fit(trainer, epochs, kind):
        callbacks = [minidl.Callback()] if kind == 1 else []
        trainer.fit(mapped if kind == 2 else X, y, epochs=epochs, batch_size=BATCH, seed=3,
                    callbacks=callbacks)
    whole = [make_trainer() for _ in range(3)]
    seconds = [timed(lambda: fit(trainer, epochs, kind)) for kind, trainer in enumerate(whole)]
    while another():
        trainer, kind = make_trainer(), tries % 3
        met += interrupt(lambda: fit(trainer, epochs, kind), seconds[kind])
        assert all(layer.training for _, layer in trainer.model.tree())
        minidl.save(trainer.model, path)
        minidl.load(path).predict(X)
        fit(trainer, epochs - trainer.epoch, kind)
        assert everything(trainer) == everything(whole[kind])
else:
    known, write = [], WRITERS[what]
    old, new = make_trainer(), make_trainer()
    new.fit(X, y, seed=0)
    for trainer in (old, new):
        write(trainer, path)
        known.append(contents(path))
    seconds = timed(lambda: write(new, path))
    while another():
        write(old, path)
        met += interrupt(lambda: write(new, path), seconds)
        assert os.listdir(folder) == ["m"]
        assert contents(path) in known
print(met)
"""
whats = pytest.mark.parametrize("what", ["fit", *WRITERS])


@whats
@pytest.mark.parametrize("threads", THREADS[:2])
def test_ctrl_c_at_random_moments(what, threads, tmp_path):
    assert int(python("-c", STORM, what, 6, 0, threads, tmp_path).stdout) == 6


@pytest.mark.soak
@whats
@pytest.mark.parametrize("threads", THREADS[:2])
def test_many_times_ctrl_c(what, threads, tmp_path):
    done = python("-c", STORM, what, 200, 1, threads, tmp_path, timeout=900)
    assert int(done.stdout) == 200


# A child works in a loop until it is killed; its parent looks at what it has left.
KILL = """
import os, random, signal, sys, time
from test_checkpoint import BATCH, Save, everything, make_data, make_trainer
import minidl
from test_interrupts import EPOCHS, WRITERS, contents

what, count, seed, folder = sys.argv[1:]
rng, path = random.Random(int(seed)), folder + "/m"
X, y = make_data()

def fit(trainer, epochs, **options):
    trainer.fit(X, y, epochs=epochs, batch_size=BATCH, seed=3, **options)

whole, old = make_trainer(), make_trainer()
fit(whole, EPOCHS)

def work():
    if what == "fit":
        fit(make_trainer(), EPOCHS, callbacks=[Save(path, every=1)])
    else:
        WRITERS[what](old, path)
        WRITERS[what](whole, path)

if what == "fit":
    old.save_checkpoint(path)
else:
    known = []
    for trainer in (old, whole):
        WRITERS[what](trainer, path)
        known.append(contents(path))

for _ in range(int(count)):
    child = os.fork()
    if child == 0:
        while True:
            work()
    time.sleep(rng.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if what == "fit":
        resumed = minidl.Trainer.resume(path)
        fit(resumed, EPOCHS - resumed.epoch)
        assert everything(resumed) == everything(whole)
    else:
        assert contents(path) in known
    for name in os.listdir(folder):
        if name != "m":
            assert name.startswith(".minidl-") and name.endswith(".tmp")
            os.unlink(os.path.join(folder, name))
print("whole")
"""


@whats
def test_kill_at_random_moments(what, tmp_path):
    assert python("-c", KILL, what, 12, 0, tmp_path).stdout.split() == ["whole"]


@pytest.mark.soak
@whats
def test_many_kills(what, tmp_path):
    done = python("-c", KILL, what, 300, 1, tmp_path, timeout=600)
    assert done.stdout.split() == ["whole"]
