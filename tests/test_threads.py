"""How many threads, where from, and that they do no harm."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import python

import minidl
from minidl import parallel

OPENMP = minidl.get_config()["openmp"]
needs_openmp = pytest.mark.skipif(not OPENMP, reason="serial build")
CPUS = len(parallel.affinity())


def run(code, **environment):
    """A new process's standard output; it must not hang."""
    return python("-c", code, environment={"OMP_NUM_THREADS": None} | environment).stdout.strip()


def train(seed=0, rows=400, epochs=5, threads=None):
    """A model trained on its own data, as bytes."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(rows, 9)), rng.integers(0, 3, rows)
    model = minidl.Sequential(
        minidl.Linear(9, 31), minidl.BatchNorm1d(31), minidl.ReLU(), minidl.Dropout(0.2),
        minidl.Linear(31, 3), seed=seed)  # fmt: skip
    with minidl.set_num_threads(threads):
        minidl.Trainer(model).fit(X, y, epochs=epochs, batch_size=128, seed=seed)
    return b"".join(array.tobytes() for array in model.state_dict().values())


# set_num_threads.


def test_a_serial_build_has_one_thread():
    with minidl.set_num_threads(8):
        assert minidl.get_num_threads() == (8 if OPENMP else 1)


@needs_openmp
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_set_num_threads(n):
    before = minidl.get_num_threads()
    try:
        minidl.set_num_threads(n)
        assert minidl.get_num_threads() == n
        assert minidl.get_config()["num_threads"] == n
        assert minidl.get_config()["num_threads_reason"] == "set_num_threads"
    finally:
        minidl.set_num_threads(None)
    assert minidl.get_num_threads() == before


@needs_openmp
def test_a_limit_of_one_thread_alone():
    """Another thread keeps its own number meanwhile, and the old one comes back after an error."""
    found = {}

    def other(name):
        found[name] = minidl.get_num_threads()

    def ask(name):
        thread = threading.Thread(target=other, args=(name,))
        thread.start()
        thread.join()

    ask("before")
    here = minidl.get_num_threads()
    with parallel.own_limit(1):
        assert minidl.get_num_threads() == 1
        ask("within")
    assert minidl.get_num_threads() == here
    with pytest.raises(ZeroDivisionError), parallel.own_limit(1):
        1 / 0  # noqa: B018
    assert minidl.get_num_threads() == here
    assert found["before"] == found["within"] == min(parallel.available()[0], here)


@needs_openmp
def test_a_with_block_brings_back_the_old_number():
    with minidl.set_num_threads(3):
        with minidl.set_num_threads(1):
            assert minidl.get_num_threads() == 1
        assert minidl.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), minidl.set_num_threads(2):
            raise ZeroDivisionError
        assert minidl.get_num_threads() == 3


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", True, [1]])
def test_a_wrong_number_of_threads_is_an_error(n):
    before = minidl.get_num_threads()
    with pytest.raises(ValueError, match="n: expected an integer from 1 to 2147483647 or"):
        minidl.set_num_threads(n)
    assert minidl.get_num_threads() == before


@needs_openmp
def test_a_change_between_two_fits_changes_nothing_but_the_threads():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 9)), rng.integers(0, 3, 300)
    states = []
    for numbers in ([1, 1, 1], [1, 8, 2]):
        trainer = minidl.Trainer(
            minidl.Sequential(
                minidl.Linear(9, 20), minidl.BatchNorm1d(20), minidl.Linear(20, 3), seed=0
            )
        )
        for n in numbers:
            with minidl.set_num_threads(n):
                trainer.fit(X, y, epochs=2, seed=n * 0)
                trainer.model.predict(X)
        states.append(b"".join(a.tobytes() for a in trainer.model.state_dict().values()))
    assert states[0] == states[1]


# The environment.

SHOW = "import minidl; c = minidl.get_config(); print(c['num_threads'], c['num_threads_reason'])"


@needs_openmp
def test_omp_num_threads():
    count, why = run(SHOW, OMP_NUM_THREADS="1").split(" ", 1)
    assert count == "1"
    assert "OMP_NUM_THREADS" in why or CPUS == 1


@needs_openmp
def test_omp_num_threads_is_no_way_past_the_cpus_that_there_are():
    assert int(run(SHOW, OMP_NUM_THREADS="64").split()[0]) <= CPUS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_affinity_is_respected():
    one = min(os.sched_getaffinity(0))
    assert run(f"import os; os.sched_setaffinity(0, {{{one}}}); {SHOW}").split()[0] == "1"


@needs_openmp
def test_all_cpus_are_used_without_limits():
    limit = parallel.quota()
    expected = CPUS if limit is None else max(1, min(CPUS, int(limit)))
    assert int(run(SHOW).split()[0]) == expected


@needs_openmp
def test_threadpoolctl_sees_and_limits_minidl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    libraries = threadpoolctl.threadpool_info()
    assert any(library["user_api"] == "openmp" for library in libraries)
    with minidl.set_num_threads(2):
        with threadpoolctl.threadpool_limits(1):
            assert minidl.get_num_threads() == 1
            limited = train()
        assert minidl.get_num_threads() == 2
        assert train() == limited


# Quotas of containers.


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def version_1(quota, period):
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": f"{period}\n"}


def inside(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


V2, V1 = "0::{}\n", "5:memory:/other\n4:cpu,cpuacct:{}\n1:name=systemd:/x\n"

QUOTAS = {
    "2: none": (V2.format("/"), {}, None),
    "2: max": (V2.format("/"), {"cpu.max": "max 100000\n"}, None),
    "2: a quota": (V2.format("/"), {"cpu.max": "400000 100000\n"}, 4.0),
    "2: a fraction": (V2.format("/a"), {"a/cpu.max": "250000 100000\n"}, 2.5),
    "2: less than one": (V2.format("/a"), {"a/cpu.max": "50000 100000\n"}, 0.5),
    "2: another period": (V2.format("/a"), {"a/cpu.max": "30000 10000\n"}, 3.0),
    "2: no period": (V2.format("/a"), {"a/cpu.max": "200000\n"}, 2.0),
    "2: the parent's is less": (
        V2.format("/a/b/c"),
        {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "3000 1000"},
        1.0,
    ),
    "2: the child's is less": (
        V2.format("/a/b"), {"a/cpu.max": "800000 100000", "a/b/cpu.max": "150000 100000"}, 1.5),
    "2: another group's": (V2.format("/a"), {"b/cpu.max": "100000 100000"}, None),
    "2: seen from a namespace": (V2.format("/../a"), {"cpu.max": "200000 100000"}, 2.0),
    "2: nonsense": (V2.format("/a"), {"a/cpu.max": "many\n"}, None),
    "2: empty": (V2.format("/a"), {"a/cpu.max": ""}, None),
    "2: zero": (V2.format("/a"), {"a/cpu.max": "0 0"}, None),
    "1: none": (V1.format("/"), {}, None),
    "1: unlimited": (V1.format("/"), inside("cpu,cpuacct", version_1(-1, 100000)), None),
    "1: a quota": (V1.format("/"), inside("cpu,cpuacct", version_1(300000, 100000)), 3.0),
    "1: a folder called cpu": (V1.format("/"), inside("cpu", version_1(300000, 100000)), 3.0),
    "1: a group": (V1.format("/a"), inside("cpu,cpuacct/a", version_1(150000, 100000)), 1.5),
    "1: the parent's is less": (
        V1.format("/a/b"),
        inside("cpu,cpuacct/a", version_1(100000, 100000))
        | inside("cpu,cpuacct/a/b", version_1(400000, 100000)),
        1.0,
    ),
    "1: the host's path in a container": (
        V1.format("/docker/0123"), inside("cpu,cpuacct", version_1(200000, 100000)), 2.0),
    "1: nonsense": (V1.format("/"), inside("cpu,cpuacct", version_1("x", "y")), None),
    "1 and 2": (
        V1.format("/a") + V2.format("/a"),
        inside("cpu,cpuacct/a", version_1(200000, 100000)) | {"a/cpu.max": "300000 100000"},
        2.0,
    ),
    "no membership": (None, {"cpu.max": "200000 100000"}, 2.0),
    "broken membership": ("nonsense\n", {"cpu.max": "200000 100000"}, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("case", QUOTAS)
def test_quota(case, tmp_path):
    membership, files, wanted = QUOTAS[case]
    root = tmp_path / "cgroup"
    root.mkdir()
    write(root, files)
    if membership is not None:
        (tmp_path / "self").write_text(membership)
    assert parallel.quota(str(root), str(tmp_path / "self")) == wanted


@pytest.mark.parametrize(
    ("cpus", "quota", "wanted"),
    [(8, None, 8), (8, 4.0, 4), (8, 2.9, 2), (8, 1.0, 1), (8, 0.3, 1), (2, 4.0, 2), (8, 7.5, 7)],
)
def test_a_quota_is_rounded_down_to_at_least_one_thread(cpus, quota, wanted, monkeypatch):
    monkeypatch.setattr(parallel, "affinity", lambda: set(range(cpus)))
    monkeypatch.setattr(parallel, "quota", lambda: quota)
    count, why = parallel.available()
    assert count == wanted
    assert ("quota" in why) == (wanted < cpus)


# A container with half a core, as the files have it that tell of it.
HALF = """
import builtins, os, sys
import numpy as np

folder = sys.argv[1]
before = set(os.listdir("/proc/self/task"))  # threads of NumPy's
own_open, own_isdir = builtins.open, os.path.isdir

def moved(path):
    there = str(path).startswith(("/sys/fs/cgroup", "/proc/self/cgroup"))
    return folder + path if there else path

builtins.open = lambda path, *arguments, **options: own_open(moved(path), *arguments, **options)
os.path.isdir = lambda path: own_isdir(moved(path))
import minidl
from minidl.lowering import plan
from test_threads import fit

plan.WORK_PER_THREAD = 0
fit(0)
print(len(set(os.listdir("/proc/self/task")) - before), minidl.get_config()["num_threads_reason"])
minidl.set_num_threads(2)
print(minidl.get_num_threads())
"""
CONTAINERS = {
    "version 2": ("0::/a\n", {"a/cpu.max": "50000 100000\n"}),
    "version 1": (V1.format("/a"), inside("cpu,cpuacct/a", version_1(50000, 100000))),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads /proc")
@pytest.mark.parametrize("container", CONTAINERS)
def test_half_a_core_is_one_thread(container, tmp_path):
    """Of the program too, and not for want of cores; who asks for more still gets it."""
    membership, files = CONTAINERS[container]
    write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    write(tmp_path, {"proc/self/cgroup": membership})
    variables = {"OMP_NUM_THREADS": None, "OPENBLAS_NUM_THREADS": "1"}
    said = python("-c", HALF, tmp_path, environment=variables).stdout.splitlines()
    assert said == ["0 container quota of 0.5 CPUs", "2" if OPENMP else "1"]


REAL = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
import minidl
from test_threads import fit
fit(0)
print(minidl.get_config()["num_threads"], minidl.get_config()["num_threads_reason"])
"""


@pytest.fixture
def half_a_core():
    """A control group with half a core, for those who may make one; others have the test above."""
    version_2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    folder = Path("/sys/fs/cgroup", "" if version_2 else "cpu", f"minidl-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("making a control group is not allowed here")
    try:
        files = {"cpu.max": "50000 100000"} if version_2 else version_1(50000, 100000)
        for name, text in files.items():
            (folder / name).write_text(text)
        yield folder
    except OSError:
        pytest.skip("setting a quota is not allowed here")
    finally:
        folder.rmdir()


def test_a_real_group_with_half_a_core(half_a_core):
    done = python("-c", REAL, half_a_core, environment={"OMP_NUM_THREADS": None})
    assert done.stdout.split(" ", 1) == ["1", "container quota of 0.5 CPUs\n"]


# A prediction begins anew in the middle of the rows while the pace is being tried; the other thread
# has fallen asleep by then, and wakes when the first has done its share of a step.
WOKEN = """
import time, numpy as np, minidl
minidl.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(10000, 20)).astype("float32")
model = minidl.Sequential(
    minidl.Linear(20, 32), minidl.ReLU(), minidl.Linear(32, 16), minidl.ReLU(),
    minidl.Linear(16, 2), seed=0)
with minidl.set_num_threads(1):
    wanted = model.predict(X)
found = []  # all are kept, so that none finds the numbers of another in its memory
for _ in range(40):
    time.sleep(0.02)
    model.__dict__.pop("_predictor", None)  # a new program, which tries its pace
    found.append(model.predict(X))
print(sum(y.tobytes() != wanted.tobytes() for y in found))
"""


@needs_openmp
def test_a_thread_that_wakes_late_does_its_own_share():
    assert run(WOKEN) == "0"


# Several Python threads.


def together(work, count):
    """Run work(0), work(1), ... at the same time."""
    results, errors = [None] * count, []
    start = threading.Barrier(count)

    def call(i):
        try:
            start.wait()
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive()
    assert not errors, errors
    return results


@pytest.mark.parametrize("threads", [1, 2] if OPENMP else [1])
def test_models_trained_at_once_have_the_bits_of_models_trained_alone(threads):
    with minidl.set_num_threads(threads):
        alone = [fit(i) for i in range(4)]
        assert together(fit, 4) == alone


def fit(seed):
    """Like `train`, without touching the number of threads."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(500, 9)), rng.integers(0, 3, 500)
    model = minidl.Sequential(
        minidl.Linear(9, 31), minidl.BatchNorm1d(31), minidl.GELU(), minidl.Linear(31, 3),
        seed=seed)  # fmt: skip
    history = minidl.Trainer(model).fit(X, y, epochs=20, batch_size=50, seed=seed)
    return history.history["loss"], model.predict(X).tobytes()


@pytest.mark.parametrize("micro_batch_size", [None, 70])
@pytest.mark.parametrize("width", [16, 270])  # the wide layer is shared by columns
def test_two_monitors_look_alike_on_all_numbers_of_threads(width, micro_batch_size):
    """To the bit, with layers of all kinds; and training has the bits of one without them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 140)).astype(np.float32)
    X[:, 139:] = rng.integers(0, 5, (300, 1))
    y = rng.integers(0, 3, 300)
    found = []
    for threads, monitored in [(1, False), (1, True), (2, True), (3, True)]:
        first = minidl.Sequential(minidl.Linear(139, width), minidl.BatchNorm1d(width))
        inner = minidl.Sequential(minidl.Linear(20, 20), minidl.PReLU(1))
        model = minidl.Sequential(
            minidl.Parallel(first, minidl.Embedding(5, 4), columns=[139, 1]), minidl.ReLU(),
            minidl.LayerNorm(width + 4), minidl.Linear(width + 4, 20), minidl.Residual(inner),
            minidl.Concat(minidl.Linear(20, 8), minidl.Dropout(0.3)), minidl.Tanh(),
            minidl.Linear(28, 3), seed=0,
        )  # fmt: skip
        monitors = [minidl.GradientMonitor(n, window=1) for n in (1, 2)] if monitored else []
        trainer = minidl.Trainer(model, micro_batch_size=micro_batch_size)
        with minidl.set_num_threads(threads):
            trainer.fit(X, y, epochs=2, batch_size=140, seed=0, callbacks=monitors)
        looks = [
            [tuple(map(repr, layer)) for layer in monitor._report(i).layers]
            for monitor in monitors for i in range(len(monitor.steps))
        ]  # fmt: skip
        found.append((b"".join(a.tobytes() for a in model.state().values()), looks))
    assert len({bits for bits, _ in found}) == 1
    assert [len(looks) for _, looks in found] == [0, 9, 9, 9]
    assert found[1][1] == found[2][1] == found[3][1]
    assert found[1][1][6:] == found[1][1][1:6:2]


class Square(minidl.Layer):
    """y = x^2; it keeps what it was given until backward, as it was given."""

    def forward(self, x):
        self.x = x
        return x**2

    def backward(self, dy):
        return 2 * dy * self.x


@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_in_python_finds_its_input_in_backward(threads):
    """Though nothing else reads it then, no other buffer has taken its place."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 5)), rng.integers(0, 3, 64)
    model = minidl.Sequential(
        minidl.Linear(5, 5), Square(), minidl.Linear(5, 5), minidl.Tanh(), minidl.Linear(5, 3),
        dtype="float64", seed=0,
    )  # fmt: skip
    before, loss = model.state_dict(), minidl.CrossEntropyLoss()
    loss(model.forward(X), y)
    model.backward(loss.backward())
    gradients = [gradient.copy() for gradient in model.gradients()]
    with minidl.set_num_threads(threads):
        minidl.Trainer(model, optimizer=minidl.SGD(1.0)).train_step(X, y)
    moved = [before[name] - value for name, value in model.state_dict().items()]
    for one, other in zip(moved, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-15)


def test_one_model_predicts_for_several_threads_at_once():
    rng = np.random.default_rng(0)
    model = minidl.Sequential(
        minidl.Linear(9, 64), minidl.ReLU(), minidl.Linear(64, 3), seed=0
    ).eval()
    inputs = [rng.normal(size=(rows, 9)).astype(np.float32) for rows in (3000, 2000, 2500, 10)]
    alone = [model.predict(x).tobytes() for x in inputs]

    def predict(i):
        return {model.predict(inputs[i]).tobytes() for _ in range(40)}

    assert together(predict, 4) == [{result} for result in alone]


def test_two_threads_cannot_train_with_one_trainer():
    X, y = np.random.default_rng(0).normal(size=(5000, 9)), np.zeros(5000, int)
    trainer = minidl.Trainer(minidl.Sequential(minidl.Linear(9, 64), minidl.Linear(64, 3), seed=0))
    began = threading.Event()

    class Begin(minidl.Callback):
        def on_epoch_begin(self, epoch):
            began.set()
            self.trainer.stop_training = stop.is_set()

    stop = threading.Event()
    worker = threading.Thread(
        target=lambda: trainer.fit(X, y, epochs=10**6, callbacks=[Begin()]), daemon=True
    )
    worker.start()
    assert began.wait(60)
    try:
        with pytest.raises(RuntimeError, match="training already"):
            trainer.fit(X, y)
        with pytest.raises(RuntimeError, match="training already"):
            trainer.train_step(X, y)
        assert set(trainer.evaluate(X, y)) == {"loss", "accuracy"}
    finally:
        stop.set()
        worker.join(60)
    assert not worker.is_alive()
    assert len(trainer.fit(X[:20], y[:20])) == 1
