"""Forks, threads, other libraries in the same process, and the end of the process."""

import hashlib
import itertools
import os
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import OPENMP, python

import minidl
from minidl.data import blocks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# ------------------------------------------------------------------ all ways to use minidl

ROWS, COLUMNS, CLASSES, BATCH = 200, 9, 3, 32


def make_data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, COLUMNS)).astype(np.float32), rng.integers(0, CLASSES, ROWS)


def make_trainer(seed=0):
    model = minidl.Sequential(
        minidl.Linear(COLUMNS, 31), minidl.BatchNorm1d(31), minidl.ReLU(), minidl.Dropout(0.2),
        minidl.Linear(31, CLASSES), seed=seed,
    )  # fmt: skip
    return minidl.Trainer(model, metrics=["f1"])


def bits(model):
    return b"".join(array.tobytes() for array in model.state_dict().values())


def mapped(folder):
    return np.load(Path(folder, "X.npy"), mmap_mode="r")


def fit(X, y):
    trainer = make_trainer()
    history = trainer.fit(X, y, epochs=3, batch_size=BATCH, seed=0, validation_data=make_data())
    return bits(trainer.model) + repr(history.history).encode()


def fit_arrays(folder):
    return fit(*make_data())


def fit_memmap(folder):
    return fit(mapped(folder), make_data()[1])


def fit_batches(folder):
    X, y = make_data()
    return fit([(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, ROWS, BATCH)], None)


def train_step(folder):
    trainer = make_trainer()
    for _ in range(4):
        trainer.train_step(*make_data())
    return bits(trainer.model)


def by_hand(folder):
    """Layer by layer, with a step of the optimizer."""
    X, y = make_data()
    model, loss, optimizer = make_trainer().model, minidl.CrossEntropyLoss(), minidl.Adam()
    for _ in range(4):
        loss(model.forward(X), y)
        model.backward(loss.backward())
        optimizer.step(model)
    return bits(model)


def predict(folder):
    X, _ = make_data()
    model = make_trainer().model
    parts = [X, X[:3], np.tile(X, (20, 1)), mapped(folder)]
    return b"".join(model.predict(part).tobytes() for part in parts * 2)


def evaluate(folder):
    X, y = make_data()
    trainer = make_trainer()
    return repr([trainer.evaluate(X, y), trainer.evaluate(mapped(folder), y)]).encode()


def checkpoint(folder):
    path = Path(folder, f"{os.getpid()} {threading.get_ident()}")
    trainer = make_trainer()
    trainer.fit(*make_data(), seed=0)
    trainer.save_checkpoint(path)
    resumed = minidl.Trainer.resume(path)
    resumed.fit(*make_data())
    path.unlink()
    return bits(resumed.model)


def estimator(folder):
    from minidl.sklearn import MLPClassifier

    X, y = make_data()
    classifier = MLPClassifier((31,), max_iter=3, n_iter_no_change=9, random_state=0, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(X, y)
    return classifier.predict_proba(X).tobytes()


USES = {
    use.__name__: use
    for use in (fit_arrays, fit_memmap, fit_batches, train_step, by_hand, predict, evaluate,
                checkpoint, *([estimator] if find_spec("sklearn") else []))
}  # fmt: skip


def use_all_threads(threads):
    """Programs use so many, however little each has to do; blocks hold a few batches."""
    from minidl.lowering import plan

    plan.WORK_PER_THREAD = 0
    blocks.BLOCK = blocks.SCATTERED = 2 * BATCH * COLUMNS * 4
    minidl.set_num_threads(threads)


def used(folder):
    """What every use gives; the folder holds the data too."""
    return {name: use(folder) for name, use in USES.items()}


# -------------------------------------------------------------------------------- forks


@pytest.fixture
def folder(tmp_path):
    """A folder with the data in a file."""
    np.save(tmp_path / "X.npy", make_data()[0])
    return tmp_path


# A way to fork calls `child()` in a child of this process, and returns what that returned.
FORKS = """
import multiprocessing, os, pickle, sys, threading
import numpy as np
import minidl
from test_processes import bits, make_data, make_trainer, use_all_threads, used

folder = sys.argv[1]
use_all_threads(2)
context = multiprocessing.get_context("fork")
X, y = make_data()
wanted, kept, busy, stop = used(folder), make_trainer(), make_trainer(), threading.Event()
kept.fit(X, y, seed=0)

class Stop(minidl.Callback):
    def on_epoch_end(self, epoch, logs):
        self.trainer.stop_training = stop.is_set()

def child():
    kept.fit(X, y)  # the parent's own, program and all
    kept.evaluate(X, y)
    return used(folder), bits(kept.model) + kept.model.predict(X).tobytes()

def by_pool():
    with context.Pool(1) as pool:
        return pool.apply_async(child).get(timeout=45)

def by_process():
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(child()), daemon=True)
    process.start()
    found = queue.get()
    process.join()
    assert process.exitcode == 0
    return found

def by_fork(child=child):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(write, "wb") as file:
                pickle.dump(child(), file)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        found = pickle.load(file)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return found

def by_grandchild():
    return by_fork(by_fork)

def from_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(by_fork()))
    thread.start()
    thread.join()
    return found[0]

def while_another_trains():
    tall = np.tile(X, (50, 1)), np.tile(y, 50)
    thread = threading.Thread(target=busy.fit, args=tall, daemon=True,
                              kwargs={"epochs": 10**6, "callbacks": [Stop()]})
    thread.start()
    try:
        return by_fork()
    finally:
        stop.set()
        thread.join()

found = {}
for way in (by_pool, by_process, by_fork, by_grandchild, from_a_thread, while_another_trains):
    found[way.__name__] = way()
again = child()  # the parent works on
for name, (uses, of_kept) in found.items():
    print(name, *(use for use in wanted if uses[use] != wanted[use]), of_kept == again[1])
print("parent", again[0] == wanted)
"""
WAYS = ["by_pool", "by_process", "by_fork", "by_grandchild", "from_a_thread",
        "while_another_trains", "parent"]  # fmt: skip


def test_a_child_of_a_fork_does_all_that_its_parent_did(folder):
    """To the bit, and without threads: those of the parent are not there to wait for."""
    done = python("-c", FORKS, folder, timeout=120)
    assert done.stdout.splitlines() == [f"{way} True" for way in WAYS]


IN_CALLBACKS = """
import os, sys
import minidl
from test_processes import BATCH, bits, make_data, make_trainer, mapped, use_all_threads

folder = sys.argv[1]
use_all_threads(2)
X, y = make_data()

class Fork(minidl.Callback):
    def __init__(self, every):
        self.every, self.child = every, None

    def fork(self, *arguments):
        if self.child is None:
            self.child = os.fork()

    on_train_batch_end = on_epoch_end = fork

for data in (X, mapped(folder)):
    for every in (None, 3):
        options = {"batch_size": BATCH, "seed": 0}
        trainer, fork, whole = make_trainer(), Fork(every), make_trainer()
        whole.fit(data, y, epochs=3, **options)
        said = "the same"
        try:
            trainer.fit(data, y, epochs=3, callbacks=[fork], **options)
        except RuntimeError as error:
            said = str(error)
            trainer.fit(data, y, epochs=3 - trainer.epoch, **options)  # it is free, and goes on
        if fork.child == 0:
            print(said if bits(trainer.model) == bits(whole.model) else "other", flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(fork.child, 0)[1]) == 0
        assert said == "the same" and bits(trainer.model) == bits(whole.model)
"""


def test_a_fork_in_the_middle_of_a_fit(folder):
    """The child goes on, or says why it cannot; it never waits for a thread that is not there."""
    said = python("-c", IN_CALLBACKS, folder).stdout.splitlines()
    assert said == 3 * ["the same"] + [
        "these data are read ahead by a thread of the parent process"
    ]


# A child is serial even where the parent's threads were another library's: PyTorch may have the
# same OpenMP, and then its pool is ours too.
OTHERS = """
import os
import torch
import minidl
from test_processes import fit_arrays

torch.set_num_threads(2)
for _ in range(3):
    torch.randn(500, 500).exp().sum()
    torch.randn(400, 400) @ torch.randn(400, 400)
if os.fork() == 0:
    minidl.lowering.plan.WORK_PER_THREAD = 0
    fit_arrays(None)
    os._exit(minidl.get_num_threads())
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_child_whose_parent_used_the_threads_of_pytorch():
    pytest.importorskip("torch")
    assert python("-c", OTHERS).stdout.split() == ["1"]


NUMBERS = """
import os
import minidl
from test_processes import fit_arrays, use_all_threads

def in_a_child(ask):
    child = os.fork()
    if child == 0:
        ask()
        os._exit(minidl.get_num_threads())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def block():
    with minidl.set_num_threads(2):
        pass

print(in_a_child(lambda: None), in_a_child(lambda: minidl.set_num_threads(2)), in_a_child(block))
use_all_threads(2)
fit_arrays(None)
print(in_a_child(lambda: None), in_a_child(lambda: minidl.set_num_threads(2)))
"""


@pytest.mark.skipif(not OPENMP, reason="serial build")
def test_a_child_may_ask_for_threads_if_its_parent_used_none():
    assert python("-c", NUMBERS).stdout.split() == ["1", "2", "1", "1", "1"]


# ------------------------------------------------------------------- several Python threads

TOGETHER = """
import sys, threading
from test_processes import USES, use_all_threads, used

folder = sys.argv[1]
use_all_threads(2)
wanted = used(folder)
start, right = threading.Barrier(2 * len(USES)), []

def call(name):
    start.wait()
    for _ in range(2):
        right.append(USES[name](folder) == wanted[name])

workers = [threading.Thread(target=call, args=(name,)) for name in USES for _ in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(right == [True] * 4 * len(USES))
"""


def test_all_uses_in_threads_at_once(folder):
    """Each with a model of its own, two of each use: the bits are those of one after the other."""
    assert python("-c", TOGETHER, folder).stdout.split() == ["True"]


# --------------------------------------------------------------------------- other libraries


def work_numpy():
    a = np.random.default_rng(0).normal(size=(300, 300))
    return lambda: np.linalg.svd(a @ a)


def work_torch():
    import torch

    torch.set_num_threads(2)
    net = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1))
    x = torch.randn(500, 200)
    return lambda: net(x).square().mean().backward()


def work_sklearn():
    from sklearn.cluster import KMeans
    from sklearn.ensemble import HistGradientBoostingClassifier

    X, y = make_data()
    return lambda: (
        HistGradientBoostingClassifier(max_iter=2).fit(X, y), KMeans(3, n_init=1).fit(X)
    )  # fmt: skip


def work_lightgbm():
    import lightgbm

    X, y = make_data()
    return lambda: lightgbm.LGBMClassifier(n_estimators=3, n_jobs=2, verbose=-1).fit(X, y)


def work_minidl():
    return lambda: fit_arrays(None)


LIBRARIES = {name: globals()[f"work_{name}"] for name in
             ("numpy", "minidl", "torch", "sklearn", "lightgbm")}  # fmt: skip

# Libraries are imported in an order; then each works, in turns, at once, and minidl in children.
BESIDE = """
import hashlib, importlib, os, sys, threading, warnings
order = sys.argv[1:]
for name in order:
    importlib.import_module(name)
warnings.simplefilter("ignore")
from test_processes import LIBRARIES, fit_arrays, use_all_threads

use_all_threads(2)
work = [LIBRARIES[name]() for name in order]
found = []
for _ in range(2):
    for one in work:
        one()
    found.append(fit_arrays(None))
workers = [threading.Thread(target=one) for one in work + work]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
found.append(fit_arrays(None))
if os.fork() == 0:
    os._exit(fit_arrays(None) != found[0])
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
print(*{hashlib.sha256(one).hexdigest() for one in found})
"""


def installed():
    return [name for name in LIBRARIES if find_spec(name) is not None]


def assert_beside(order):
    """Libraries that are imported in this order work, and minidl trains the bits it always does."""
    found = python("-c", BESIDE, *order, timeout=120).stdout.split()
    assert found == [hashlib.sha256(fit_arrays(None)).hexdigest()], order


@pytest.mark.parametrize("step", [1, -1], ids=["in order", "turned"])
def test_beside_other_libraries(step):
    """Each two of them in both orders: no crash, no deadlock."""
    assert_beside(installed()[::step])


@pytest.mark.soak
def test_beside_other_libraries_in_every_order():
    assert len(installed()) > 3
    for order in itertools.permutations(installed()):
        assert_beside(order)


JOBLIB = """
import sys
import joblib
from test_processes import USES, use_all_threads, used

def call(name, folder):
    use_all_threads(2)
    return USES[name](folder)

if __name__ == "__main__":
    folder = sys.argv[1]
    use_all_threads(2)
    wanted = used(folder)
    for backend in ("loky", "threading", "multiprocessing"):
        jobs = (joblib.delayed(call)(name, folder) for name in USES)
        found = joblib.Parallel(n_jobs=2, backend=backend)(jobs)
        print(backend, found == list(wanted.values()))
"""


def test_joblib(folder):
    pytest.importorskip("joblib")
    script = folder / "script.py"
    script.write_text(JOBLIB, encoding="utf-8")
    said = python(script, folder).stdout.splitlines()
    assert said == ["loky True", "threading True", "multiprocessing True"]


# ------------------------------------------------------------------------ the end of a process

# Each case is a child, which ends as a process of its own does.
ENDS = """
import os, sys, threading, time
import minidl
from test_processes import make_data, make_trainer, mapped, use_all_threads

X, y = make_data()
data = {"arrays": X, "memmap": mapped(sys.argv[1])}
with minidl.set_num_threads(1):
    make_trainer().evaluate(X, y)  # all that is imported late is there

class Began(minidl.Callback):
    every = 20

    def __init__(self, leave):
        self.began, self.leave = threading.Event(), leave

    def on_train_batch_end(self, step, logs):
        self.began.set()
        if self.leave:
            os._exit(7)

def case(kind, how, threads):
    use_all_threads(threads)
    callback, trainer = Began(how == "os._exit in a callback"), make_trainer()
    options = {"epochs": 10**7, "callbacks": [] if how == "alone" else [callback]}
    thread = threading.Thread(
        target=trainer.fit, args=(data[kind], y), kwargs=options, daemon=True)
    thread.start()
    time.sleep(0.05) if how == "alone" else callback.began.wait(30)
    if how == "an error":
        raise SystemExit(7)
    if how == "os._exit":
        os._exit(7)
    if how == "os._exit in a callback":
        time.sleep(30)

for how in ("the end", "alone", "an error", "os._exit", "os._exit in a callback"):
    for kind in data:
        for threads in (1, 2):
            start, child = time.monotonic(), os.fork()
            if child == 0:
                case(kind, how, threads)
                sys.exit()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            wanted = 0 if how in ("the end", "alone") else 7
            if code != wanted or time.monotonic() > start + 10:
                print(how, kind, threads, code, time.monotonic() - start)
"""


def test_the_end_of_a_process_while_a_thread_trains(folder):
    """It ends soon, with the code it should have and nothing to say."""
    done = python("-c", ENDS, folder)
    assert (done.stdout, done.stderr) == ("", "")


# -------------------------------------------------------------------------------- memory

FLAT = """
import gc, os, sys
import minidl
from test_processes import BATCH, make_data, make_trainer, mapped, use_all_threads
from test_program import malloc_in_use

what, threads, folder = sys.argv[1:]
use_all_threads(int(threads))
X, y = make_data()
kept, files = make_trainer(), mapped(folder)

def fits():
    kept.fit(X, y, batch_size=BATCH, seed=0)

def fits_of_files():
    kept.fit(files, y, batch_size=2 * BATCH, seed=0)

def models():
    trainer = make_trainer()
    trainer.fit(X, y, batch_size=2 * BATCH, seed=0)
    trainer.model.predict(X)
    trainer.model.backward(trainer.model.forward(X))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

for i in range(1, 1001):
    globals()[what]()
    if i > 300 and i % 100 == 0:
        gc.collect()
        print(malloc_in_use(), resident())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.skipif(bool(minidl.get_config()["sanitizers"]), reason="sanitizers replace malloc")
@pytest.mark.parametrize(("what", "threads"), [("fits", 2), ("fits_of_files", 1), ("models", 1)])
def test_memory_stays_flat(what, threads, folder):
    """Over a thousand calls of `fit`, and a thousand models made, trained and dropped.

    What malloc has given out may grow by a table that is made larger; a model with its program
    takes 100 kB, and the history eight bytes a result.
    """
    lines = python("-c", FLAT, what, threads, folder).stdout.splitlines()
    used, resident = zip(*(map(int, line.split()) for line in lines), strict=True)
    assert sorted(b - a for a, b in itertools.pairwise(used))[3] < 100 * 100, used
    assert resident[-1] - resident[0] < 600 * 6000, resident
