"""Who may import whom, what `import minidl` brings in, and that the public names are documented."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from helpers import python

import minidl

SOURCE = Path(__file__).parents[1] / "minidl"

# Lowest first: a module imports, when it is imported itself, only from lines above its own. What
# is left out imports nothing of minidl but kernels, or is not imported by minidl itself (cli).
ORDER = [
    {"kernels", "cgroups"},
    {"memory", "errors", "extras", "parallel", "changes", "ending"},
    {"checks", "parameters", "tables", "metrics.convert"},
    {"distributed", "summary", "figures", "health"},
    {"files", "history"},
    {"initializers"},
    {"metrics.named"},
    {"metrics.metric"},
    {"metrics"},
    {"data.kinds", "data.npy", "data.background"},
    {"data.source", "data.frames"},
    {"data.blocks", "data.npy_rows", "data.arrow", "data.sparse"},
    {"data.rows"},
    {"data.opening"},
    {"data.stream"},
    {"data"},
    {"layers.base"},
    {"layers.activations", "layers.batchnorm", "layers.container", "layers.dropout",
     "layers.embedding", "layers.flatten", "layers.layernorm", "layers.linear", "layers.prelu",
     "layers.softmax"},
    {"layers.branches", "layers.residual", "layers.rmsnorm", "layers.sequential"},
    {"layers"},
    {"inputs", "lowering.graph"},
    {"lowering.placement", "lowering.segments"},
    {"lowering.emitters.columns", "lowering.emitters.elementwise", "lowering.emitters.embedding",
     "lowering.emitters.python", "lowering.emitters.rows"},
    {"lowering.emitters.linear", "lowering.emitters.norms"},
    {"lowering.emitters"},
    {"lowering.plan"},
    {"lowering.programs"},
    {"lowering"},
    {"observation", "jacobians"},
    {"prediction", "evaluation"},
    {"recalibration", "losses.base", "footprint"},
    {"memory_report"},
    {"losses.classification", "losses.function", "losses.regression"},
    {"optimizers.groups"},
    {"optimizers.base"},
    {"optimizers.adam", "optimizers.descent"},
    {"losses", "optimizers", "serialization", "config", "convert", "export", "fuse"},
    {"schedulers.base"},
    {"schedulers.decay", "schedulers.cycles", "schedulers.function", "schedulers.plateau"},
    {"schedulers.compose"},
    {"schedulers.names"},
    {"schedulers"},
    {"checkpoint"},
    {"callbacks.base", "callbacks.monitor"},
    {"callbacks.csv_logger", "callbacks.early_stopping", "callbacks.learning_rate_monitor",
     "callbacks.model_checkpoint", "callbacks.optuna_pruning", "callbacks.progress_bar",
     "callbacks.tensorboard", "callbacks.terminate_on_nan", "callbacks.time_limit"},
    {"callbacks.gradient_monitor"},
    {"callbacks"},
    {"plotting", "plotting_health", "loop"},
    {"trainer"},
    {"diagnosis", "ensemble", "many"},
    {"cross_validation"},
    {"sklearn.network", "sklearn.objectives", "sklearn.parameters", "sklearn.threads"},
    {"sklearn.solvers"},
    {"sklearn.lbfgs", "sklearn.stopping"},
    {"sklearn.base"},
    {"sklearn.classifier", "sklearn.regressor"},
    {"__init__"},
    {"sklearn.tabular_columns", "sklearn.tabular_network"},
    {"sklearn.tabular_encoder"},
    {"sklearn.tabular"},
    {"sklearn.tabular_files"},
    {"sklearn"},
]  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def module_name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PYTHON = {module_name(p): p for p in sorted(SOURCE.rglob("*.py")) if "kernels" not in p.parts}
SHIPPED = {name: path for name, path in PYTHON.items() if name in RANK}


def imported(tree, *, everywhere):
    """Modules of minidl that a module imports, without the package's name."""
    found = set()
    for node in tree.body if hasattr(tree, "body") else []:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minidl":
            module = node.module.partition(".")[2]
            names = [f"{module}.{a.name}" if module else a.name for a in node.names]
            found |= {name if name in PYTHON else module or name for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("minidl.")}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found |= imported(node, everywhere=everywhere)
    return {"kernels" if name.startswith("kernels") else name for name in found}


def imports_of(name, *, everywhere=False):
    return imported(ast.parse(SHIPPED[name].read_text(encoding="utf-8")), everywhere=everywhere)


def test_the_modules_are_those_of_the_list():
    others = {"numpy_baseline"} | {name for name in PYTHON if name.split(".")[0] == "cli"}
    assert set(PYTHON) - others == set(RANK) - {"kernels"}


@pytest.mark.parametrize("name", SHIPPED)
def test_imports_go_one_way(name):
    wrong = {other for other in imports_of(name) if RANK[other] >= RANK[name]}
    allowed = {"layers.base"} if name == "layers" else set()
    assert wrong - allowed == set()


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("layers.")])
def test_layers_know_nothing_of_training(name):
    """Not even inside functions."""
    found = imports_of(name, everywhere=True)
    assert {o for o in found if not o.startswith("layers.")} <= {
        "kernels",
        "memory",
        "checks",
        "parameters",
        "initializers",
        "lowering",
        "summary",
        "fuse",
        "changes",
        "inputs",
        "prediction",
        "memory_report",
    }


@pytest.mark.parametrize(
    "name", ["cgroups", "memory", "checks", "parameters", "initializers", "parallel"]
)
def test_the_basement_knows_nothing_above(name):
    basement = {"kernels", "cgroups", "memory", "checks", "changes"}
    assert imports_of(name, everywhere=True) <= basement


def test_the_trainer_has_no_maths():
    """No kernels, and of numpy nothing but arrays."""
    tree = ast.parse(SHIPPED["trainer"].read_text(encoding="utf-8"))
    assert "kernels" not in imports_of("trainer", everywhere=True)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
    }
    assert used <= {"empty", "intp", "random"}


KERNELS = sorted((SOURCE / "kernels").glob("*.p[yx][xd]"))
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)


def without_docstrings(text):
    return re.sub(r'"""(?:.|\n)*?"""', '""', text)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernels_import_nothing_but_kernels(path):
    found = {a or b for a, b in IMPORT.findall(without_docstrings(path.read_text("utf-8")))}
    rest = {name for name in found if not name.startswith(("minidl.kernels.", "libc."))}
    assert rest <= {"cpython.buffer", "cpython.mem", "cython.parallel", "cython", "array"}


def test_the_search_for_imports_finds_some():
    text = "".join(path.read_text("utf-8") for path in KERNELS)
    assert len(KERNELS) > 10
    assert {"minidl.kernels.threads", "libc.math"} <= {a or b for a, b in IMPORT.findall(text)}
    assert "lowering" in imports_of("layers.base", everywhere=True)
    assert "lowering" not in imports_of("layers.base")


def test_only_threads_speaks_to_openmp():
    users = {
        path.name
        for path in KERNELS
        if re.search(r"omp_|cython\.parallel|prange", without_docstrings(path.read_text("utf-8")))
    }
    assert users - {"cpu.pyx"} == {"threads.pyx"}


LAZY = ["tqdm", "safetensors", "typer", "rich", "sklearn", "click", "torch", "pandas", "matplotlib",
        "scipy", "joblib", "onnx", "onnxruntime", "tensorboard", "csv", "difflib", "minidl.cli",
        "minidl.sklearn", "minidl.numpy_baseline", "minidl.plotting", "minidl.summary",
        "minidl.convert", "minidl.export", "minidl.fuse", "minidl.tables", "minidl.figures",
        "minidl.health", "minidl.observation", "minidl.diagnosis", "minidl.jacobians",
        "minidl.memory_report", "minidl.distributed", "mpi4py", "optuna", "minidl.many",
        "minidl.ensemble", "minidl.cross_validation"]  # fmt: skip


def test_import_brings_in_little():
    code = f"import sys, minidl; print([n for n in {LAZY} if n in sys.modules])"
    done = python("-c", code)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_import_brings_in_nothing_but_numpy_and_itself():
    code = (
        "import sys, numpy; before = set(sys.modules)\n"
        "import minidl; print(*set(sys.modules) - before)"
    )
    done = python("-c", code)
    gained = {name.partition(".")[0] for name in done.stdout.split()}
    cython = {name for name in gained if name.startswith(("cython_runtime", "_cython_"))}
    small = {"__future__", "atexit", "importlib"}  # the last by editable installs
    assert gained - cython <= {"minidl"} | small


def test_training_without_a_bar_brings_in_no_tqdm():
    code = (
        "import sys, numpy as np, minidl\n"
        "m = minidl.Sequential(minidl.Linear(2, 2))\n"
        "minidl.Trainer(m).fit(np.zeros((4, 2)), np.zeros(4, int))\n"
        f"print([n for n in {LAZY} if n in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "[]"


# Documentation.


def test_all_is_sorted_out():
    assert len(set(minidl.__all__)) == len(minidl.__all__)
    assert all(hasattr(minidl, name) for name in minidl.__all__)
    modules = {n for n, v in vars(minidl).items() if inspect.ismodule(v)}
    public = {n for n in vars(minidl) if not n.startswith("_")} - modules
    assert public <= set(minidl.__all__)


PUBLIC = [name for name in minidl.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    thing = getattr(minidl, name)
    assert (thing.__doc__ or "").strip()
    if inspect.isclass(thing):
        assert thing.__doc__ != inspect.getdoc(thing.__mro__[1])
        undocumented = [
            attribute
            for attribute, value in inspect.getmembers(thing)
            if not attribute.startswith("_")
            and (callable(value) or isinstance(value, property))
            and not (value.__doc__ or "").strip()
        ]
        assert undocumented == []


def test_initializers_are_documented():
    assert all(function.__doc__ for function in minidl.initializers.NAMES.values())
