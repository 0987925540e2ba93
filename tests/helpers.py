"""What the tests share: lists of all layers, losses and optimizers, and all tolerances."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import minidl
from minidl import numpy_baseline as baseline

OPENMP = minidl.get_config()["openmp"]
THREADS = [1, 2, 3, 8] if OPENMP else [1]
DTYPES = ["float32", "float64"]
dtypes = pytest.mark.parametrize("dtype", DTYPES)

# ------------------------------------------------------------------------------- tolerances

# Against the float64 oracle of the same data, relative to the largest value (or to `scale`).
RTOL = {"float32": 2e-6, "float64": 1e-14}
# BatchNorm divides by the spread; its gradient is a difference of terms of equal size.
RTOL_BATCHNORM = {"float32": 2e-6, "float64": 1e-14}
# Against PyTorch, after some layers or in its own order of sums.
RTOL_TORCH = {"float32": 1e-5, "float64": 1e-13}
# Parameters after 50 training steps against PyTorch.
ATOL_TRAINED = {"float32": 1e-4, "float64": 1e-10}
# Central differences in float64.
STEP, RTOL_DIFFERENCES, ATOL_DIFFERENCES = 1e-5, 5e-6, 1e-9
# Units in the last place, over the whole range of float32 unless a test says otherwise.
ULP = {"Tanh": 4, "Sigmoid": 4, "Softplus": 4, "ELU": 4, "SiLU": 4}
# Standard deviations by which the share of a mask may miss its probability.
SIGMAS = 5


def assert_close(actual, expected, rtol, scale=None):
    """Every element within rtol * scale; scale is the largest expected value unless given."""
    expected = np.asarray(expected, np.float64)
    assert np.shape(actual) == expected.shape
    if expected.size == 0:
        return
    if scale is None:
        scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    error = np.abs(np.asarray(actual, np.float64) - expected) / scale
    assert error.max() <= rtol, f"relative error {error.max():.3g}, allowed {rtol:g}"


def same_bits(a, b):
    """True if two arrays hold the same bits."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ---------------------------------------------------------------------- other processes

TESTS = Path(__file__).parent


def start_python(*arguments, environment=None, start=subprocess.Popen, **more):
    """A process of this Python, started; None in `environment` takes a variable away.

    -P: a source tree in the current folder is not what is to be tested. Scripts find the tests'
    own modules.
    """
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    return start(
        [sys.executable, "-P", *map(str, arguments)],
        env={name: value for name, value in variables.items() if value is not None},
        text=True,
        **more,
    )


def python(*arguments, check=True, **more):
    """A process as `start_python` has it, ended within a minute; `check` that it ended well."""
    options = {"capture_output": True, "timeout": 60, "start": subprocess.run} | more
    done = start_python(*arguments, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


# ---------------------------------------------------------------------------------- layers


class Named(NamedTuple):
    """A class of minidl, by its name, and arguments; PyTorch has them under the same names."""

    name: str
    params: dict[str, Any]

    def __str__(self):
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params.items())})"

    def make(self):
        """The object of minidl."""
        return getattr(minidl, self.name)(**self.params)

    def torch(self):
        """PyTorch's layer; skips the test where PyTorch is missing."""
        return getattr(pytest.importorskip("torch").nn, self.name)(**self.params)

    def forward(self, x):
        """The baseline's activation."""
        if self.name == "Identity":
            return x
        return baseline.ACTIVATIONS[self.name].forward(x, **self.params)

    def backward(self, dy, x):
        """The baseline's gradient of the activation."""
        if self.name == "Identity":
            return dy
        function = baseline.ACTIVATIONS[self.name]
        return function.backward(dy, x, function.forward(x, **self.params), **self.params)


ACTIVATIONS = [
    Named("Identity", {}),
    Named("ReLU", {}),
    Named("LeakyReLU", {}),
    Named("LeakyReLU", {"negative_slope": 0.0}),
    Named("LeakyReLU", {"negative_slope": 1.5}),
    Named("ELU", {}),
    Named("ELU", {"alpha": 0.7}),
    Named("Tanh", {}),
    Named("Sigmoid", {}),
    Named("SiLU", {}),
    Named("GELU", {}),
    Named("GELU", {"approximate": "tanh"}),
    Named("Softplus", {}),
    Named("Softplus", {"beta": 2.0, "threshold": 6.0}),
]
activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)

FEATURES = 5


def parallel(n=FEATURES):
    """Two branches for n columns; of a single column, one."""
    if n == 1:
        return minidl.Parallel(minidl.Linear(1, 2, seed=1))
    columns = [n - n // 2, n // 2]
    return minidl.Parallel(minidl.Linear(columns[0], 2, seed=1), minidl.Tanh(), columns=columns)


def embedding(n=FEATURES):
    """A table whose categories stand in all columns but the first, beside that one."""
    if n == 1:
        return minidl.Embedding(4, 3, seed=1)
    return minidl.Parallel(
        minidl.Linear(1, 2, seed=1), minidl.Embedding(4, 3, seed=1), columns=[1, n - 1]
    )


# Every layer but Embedding, for any number of columns.
LAYERS: dict[str, Callable[..., minidl.Layer]] = {
    "Linear": lambda n=FEATURES: minidl.Linear(n, 7, seed=1),
    "Linear without bias": lambda n=FEATURES: minidl.Linear(n, 7, bias=False, seed=1),
    "BatchNorm1d": lambda n=FEATURES: minidl.BatchNorm1d(n),
    "Dropout": lambda n=FEATURES: minidl.Dropout(0.4, seed=1),
    "LayerNorm": lambda n=FEATURES: minidl.LayerNorm(n),
    "LayerNorm without bias": lambda n=FEATURES: minidl.LayerNorm(n, bias=False),
    "LayerNorm without parameters": lambda n=FEATURES: minidl.LayerNorm(
        n, elementwise_affine=False
    ),
    "RMSNorm": lambda n=FEATURES: minidl.RMSNorm(n),
    "RMSNorm without parameters": lambda n=FEATURES: minidl.RMSNorm(n, elementwise_affine=False),
    "Softmax": lambda n=FEATURES: minidl.Softmax(),
    "PReLU": lambda n=FEATURES: minidl.PReLU(),
    "PReLU by columns": lambda n=FEATURES: minidl.PReLU(n, 0.1),
    **{str(a): lambda n=FEATURES, a=a: a.make() for a in ACTIVATIONS},
    "Residual": lambda n=FEATURES: minidl.Residual(minidl.Linear(n, n, seed=1)),
    "Concat": lambda n=FEATURES: minidl.Concat(minidl.Identity(), minidl.Linear(n, 3, seed=1)),
    "Parallel": parallel,
    "Flatten": lambda n=FEATURES: minidl.Flatten(),
    "Sequential": lambda n=FEATURES: minidl.Sequential(
        minidl.Sequential(minidl.Linear(n, 4), minidl.Tanh()), minidl.Linear(4, 2), seed=1
    ),
}
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
# With Embedding, which takes categories: `inputs` has rows for each.
ALL_LAYERS = LAYERS | {
    "Embedding": lambda n=FEATURES: minidl.Embedding(4, 3, seed=1),
    "Embedding beside a Linear": embedding,
}
all_layers = pytest.mark.parametrize("layer", ALL_LAYERS.values(), ids=ALL_LAYERS)


def inputs(layer, rng, rows, columns=FEATURES, dtype="float64"):
    """Normal numbers, and categories in the columns where the layer takes them."""
    x = rng.normal(size=(rows, columns)).astype(dtype)
    for first, count, categories in layer.categories(0, columns):
        x[:, first : first + count] = rng.integers(0, categories, (rows, count))
    return x


def plain(activation):
    """A network with one activation."""
    return minidl.Sequential(
        minidl.Linear(FEATURES, 8), activation.make(), minidl.Linear(8, 3), seed=2
    )


def normalized(activation):
    """A network with the activation behind BatchNorm, which then runs it."""
    return minidl.Sequential(
        minidl.Linear(FEATURES, 8, bias=False), minidl.BatchNorm1d(8), activation.make(),
        minidl.Dropout(0.3), minidl.Linear(8, 3), seed=2,
    )  # fmt: skip


def bare(activation):
    """A network in which nothing can run the activation along: first, doubled and last."""
    return minidl.Sequential(
        activation.make(), minidl.Linear(FEATURES, 4), activation.make(), activation.make(),
        minidl.BatchNorm1d(4), minidl.Linear(4, 3), activation.make(), seed=2,
    )  # fmt: skip


networks = pytest.mark.parametrize("network", [plain, normalized, bare])


def in_dtype(layer, dtype):
    """The layer, converted."""
    layer.set_dtype(np.dtype(dtype))
    return layer


def again(layer, x):
    """Forward as the first training step: with the same dropout masks every time."""
    layer._steps = 0
    return layer(x)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran": np.asfortranarray,
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every third row": lambda x: np.repeat(x, 3, axis=0)[::3],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "inside": lambda x: np.pad(x, 1)[1:-1, 1:-1],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read-only": lambda x: read_only(x.copy()),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def read_only(x):
    """The same array, not to be written to."""
    x.flags.writeable = False
    return x


def for_all_threads(function):
    """Call `function` for each number of threads; all must give equal bits."""
    results = []
    for n in THREADS:
        with minidl.set_num_threads(n):
            results.append(function())
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert same_bits(one, other)
    return results[0]


# ---------------------------------------------------------------------------------- losses


def labels(rng, rows, columns):
    """Class numbers."""
    return rng.integers(0, columns, rows)


def probabilities(rng, rows, columns):
    """Rows that sum to 1, some of them one class alone."""
    p = rng.random((rows, columns)) ** 4
    return p / p.sum(axis=1, keepdims=True)


def weights(rng, rows, columns):
    """Rows that do not sum to 1."""
    return rng.random((rows, columns))


def numbers(rng, rows, columns):
    """Targets of a regression."""
    return rng.normal(size=(rows, columns))


def bits(rng, rows, columns):
    """Zeros and ones."""
    return rng.integers(0, 2, (rows, columns)).astype(np.float64)


def signs(rng, rows, columns):
    """Minus ones and ones."""
    return 2 * bits(rng, rows, columns) - 1


def counts(rng, rows, columns):
    """Targets of a Poisson regression."""
    return rng.poisson(2.0, (rows, columns)).astype(np.float64)


def logarithms(rng, rows, columns):
    """Logarithms of probabilities."""
    return np.log(probabilities(rng, rows, columns))


def class_weights(columns):
    """A weight for each column; some are equal."""
    return 0.5 + 0.5 * (np.arange(columns) % 4)


def quantiles(columns):
    """A quantile for each column."""
    return np.arange(1, columns + 1) / (columns + 1)


def torch_quantile(p, y, quantile, reduction="mean"):
    """The pinball loss, which PyTorch does not have."""
    import torch

    d = y - p
    value = torch.maximum(quantile * d, (quantile - 1) * d)
    return value.mean() if reduction == "mean" else value


def torch_hinge(p, y, squared=False, reduction="mean"):
    """The hinge loss, which PyTorch does not have in this form."""
    import torch

    value = torch.relu(1 - torch.where(y == 1, 1, -1) * p)
    value = value**2 if squared else value
    return value.mean() if reduction == "mean" else value


class LossCase(NamedTuple):
    """A loss with arguments and one kind of targets; a function makes one from the columns."""

    name: str
    targets: Callable[..., np.ndarray]
    baseline: Callable[..., tuple[float, np.ndarray]]
    torch: Any  # the name of the function in torch.nn.functional, or a function
    params: dict[str, Any]
    predictions: Callable[[np.ndarray], np.ndarray]

    def __str__(self):
        shown = (f"{k}={getattr(v, '__name__', v)}" for k, v in self.params.items())
        return f"{self.name}({', '.join(shown)}) of {self.targets.__name__}"

    @property
    def by_rows(self):
        """True for losses that are a sum over the columns."""
        return self.name == "CrossEntropyLoss" or self.params.get("reduction") == "batchmean"

    def params_for(self, columns):
        """The arguments for so many columns."""
        return {k: v(columns) if callable(v) else v for k, v in self.params.items()}

    def make(self, columns):
        """The object of minidl."""
        return getattr(minidl, self.name)(**self.params_for(columns))

    def oracle(self, prediction, y, sample_weight=None):
        """Loss and gradient of the baseline in float64."""
        y = y if y.dtype.kind == "i" else y.astype(np.float64)
        params = self.params_for(prediction.shape[1])
        if sample_weight is not None:
            params["sample_weight"] = sample_weight
        return self.baseline(prediction.astype(np.float64), y, **params)

    def function_of_torch(self, p, y, **more):
        """PyTorch's function of tensors."""
        import torch

        params = {
            k: torch.tensor(v, dtype=p.dtype) if isinstance(v, np.ndarray) else v
            for k, v in self.params_for(p.shape[1]).items()
        }
        f = self.torch if callable(self.torch) else getattr(torch.nn.functional, self.torch)
        return f(p, y, **params | more)

    def rows_in_torch(self, p, y):
        """The loss of each row, and what the row counts in the mean, as tensors."""
        import torch

        each = self.function_of_torch(p, y, reduction="none")
        if each.ndim == 2:
            each = each.sum(1) if self.by_rows else each.mean(1)
        if self.name == "CrossEntropyLoss" and "weight" in self.params and y.ndim == 1:
            return each, torch.tensor(self.params_for(p.shape[1])["weight"], dtype=p.dtype)[y]
        return each, torch.ones(len(y), dtype=p.dtype)

    def in_torch(self, prediction, y, sample_weight=None):
        """Loss and gradient of PyTorch."""
        torch = pytest.importorskip("torch")
        p, y = torch.tensor(prediction, requires_grad=True), torch.tensor(y)
        if sample_weight is None:
            loss = self.function_of_torch(p, y)
        else:
            w = torch.tensor(sample_weight)
            each, count = self.rows_in_torch(p, y)
            loss = (w * each).sum() / (w * count).sum()
        loss.backward()
        return loss.item(), p.grad.numpy()


def positive(x):
    """Rates."""
    return np.abs(x) + 0.125


CROSS_ENTROPY = ("CrossEntropyLoss", baseline.cross_entropy, "cross_entropy")
MARGIN = ("MultiMarginLoss", baseline.multi_margin, "multi_margin_loss")
BINARY = ("BCEWithLogitsLoss", baseline.bce_with_logits, "binary_cross_entropy_with_logits")
POISSON = ("PoissonNLLLoss", baseline.poisson_nll_loss, "poisson_nll_loss")
KL = ("KLDivLoss", baseline.kl_div, "kl_div")


def loss_case(of, targets, predictions=np.array, **params):
    """A case of a loss that is given as name, baseline and PyTorch's function."""
    return LossCase(of[0], targets, of[1], of[2], params, predictions)


LOSSES = [
    loss_case(CROSS_ENTROPY, labels),
    loss_case(CROSS_ENTROPY, labels, weight=class_weights),
    loss_case(CROSS_ENTROPY, labels, label_smoothing=0.1),
    loss_case(CROSS_ENTROPY, labels, label_smoothing=1.0),
    loss_case(CROSS_ENTROPY, labels, weight=class_weights, label_smoothing=0.1),
    loss_case(CROSS_ENTROPY, probabilities),
    loss_case(CROSS_ENTROPY, weights),
    loss_case(CROSS_ENTROPY, weights, weight=class_weights),
    loss_case(CROSS_ENTROPY, probabilities, label_smoothing=0.1),
    loss_case(CROSS_ENTROPY, probabilities, label_smoothing=1.0),
    loss_case(CROSS_ENTROPY, probabilities, weight=class_weights, label_smoothing=0.1),
    loss_case(MARGIN, labels),
    loss_case(MARGIN, labels, p=2, margin=0.5),
    loss_case(MARGIN, labels, weight=class_weights),
    loss_case(BINARY, bits),
    loss_case(BINARY, weights),
    loss_case(BINARY, bits, pos_weight=class_weights),
    loss_case(BINARY, weights, pos_weight=class_weights),
    loss_case(("HingeLoss", baseline.hinge_loss, torch_hinge), bits),
    loss_case(("HingeLoss", baseline.hinge_loss, torch_hinge), signs, squared=True),
    loss_case(KL, probabilities),
    loss_case(KL, bits, reduction="batchmean"),
    loss_case(KL, logarithms, reduction="batchmean", log_target=True),
    loss_case(("MSELoss", baseline.mse_loss, "mse_loss"), numbers),
    loss_case(("L1Loss", baseline.l1_loss, "l1_loss"), numbers),
    loss_case(("HuberLoss", baseline.huber_loss, "huber_loss"), numbers),
    loss_case(("HuberLoss", baseline.huber_loss, "huber_loss"), numbers, delta=0.3),
    loss_case(("SmoothL1Loss", baseline.smooth_l1_loss, "smooth_l1_loss"), numbers),
    loss_case(("SmoothL1Loss", baseline.smooth_l1_loss, "smooth_l1_loss"), numbers, beta=0.3),
    loss_case(("SmoothL1Loss", baseline.smooth_l1_loss, "smooth_l1_loss"), numbers, beta=0.0),
    loss_case(("QuantileLoss", baseline.quantile_loss, torch_quantile), numbers, quantile=0.2),
    loss_case(("QuantileLoss", baseline.quantile_loss, torch_quantile), numbers,
              quantile=quantiles),
    loss_case(POISSON, counts),
    loss_case(POISSON, counts, full=True),
    loss_case(POISSON, counts, positive, log_input=False, full=True, eps=1e-3),
]  # fmt: skip
losses = pytest.mark.parametrize("case", LOSSES, ids=str)


def losses_of(*columns):
    """Parametrise over losses and columns; one column of class probabilities is none."""
    return pytest.mark.parametrize(
        ("case", "columns"),
        [(case, c) for case in LOSSES for c in columns
         if c > 1 or case.name != "CrossEntropyLoss" or case.targets is labels],
        ids=str,
    )  # fmt: skip


# ------------------------------------------------------------------------------ optimizers

OPTIMIZERS = [
    Named("SGD", {"lr": 0.05}),
    Named("SGD", {"lr": 0.05, "weight_decay": 0.01}),
    Named("SGD", {"lr": 0.05, "momentum": 0.9}),
    Named("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    Named("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    Named("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    Named("Adam", {"lr": 0.01}),
    Named("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    Named("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    Named("AdamW", {"lr": 0.01}),
    Named("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
    Named("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    Named("AdamW", {"lr": 0.01, "amsgrad": True}),
    Named("NAdam", {"lr": 0.01}),
    Named("NAdam", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "momentum_decay": 0.1}),
    Named("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    Named("RAdam", {"lr": 0.01}),
    Named("RAdam", {"lr": 0.01, "betas": (0.8, 0.5), "weight_decay": 0.1}),
    Named("RAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    Named("RMSprop", {"lr": 0.01}),
    Named("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1, "momentum": 0.5}),
    Named("RMSprop", {"lr": 0.01, "centered": True}),
    Named("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True, "eps": 1e-4}),
    Named("Adagrad", {"lr": 0.05}),
    Named("Adagrad", {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1}),
    Named("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.1, "eps": 1e-6}),
    Named("Lion", {"lr": 1e-3}),
    Named("Lion", {"lr": 1e-3, "betas": (0.8, 0.95), "weight_decay": 0.1}),
]
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)


@contextmanager
def torch_scalars(dtype):
    """PyTorch's optimizers count steps, and NAdam its product, in PyTorch's default dtype."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield torch
    finally:
        torch.set_default_dtype(before)


# ------------------------------------------------------------------------------- schedules


def half(t):
    """A function of the epoch."""
    return 0.5 ** (t // 7)


# Names, arguments; inner schedules are such pairs, too.
SCHEDULES = [
    ("StepLR", {"step_size": 30}),
    ("StepLR", {"step_size": 1, "gamma": 0.97}),
    ("StepLR", {"step_size": 7, "gamma": 1.1}),
    ("MultiStepLR", {"milestones": [30, 80]}),
    ("MultiStepLR", {"milestones": [1, 2, 199], "gamma": 0.5}),
    ("ExponentialLR", {"gamma": 0.95}),
    ("ExponentialLR", {"gamma": 1.01}),
    ("ExponentialLR", {"gamma": 0.0}),
    ("CosineAnnealingLR", {"T_max": 200}),
    ("CosineAnnealingLR", {"T_max": 50, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 7}),
    ("CosineAnnealingLR", {"T_max": 1}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.5}),
    ("CosineAnnealingWarmRestarts", {"T_0": 10}),
    ("CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "total_iters": 150}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 20}),
    ("LinearLR", {"start_factor": 0.5, "total_iters": 1}),
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.7, "total_iters": 100}),
    ("PolynomialLR", {}),
    ("PolynomialLR", {"total_iters": 150, "power": 2.0}),
    ("PolynomialLR", {"total_iters": 60, "power": 0.5}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 200}),
    ("OneCycleLR", {"max_lr": 2.0, "total_steps": 200, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 201, "three_phase": True, "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 200, "three_phase": True, "pct_start": 0.7}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 203, "pct_start": 0.0, "div_factor": 3.0}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 201, "pct_start": 1.0, "final_div_factor": 7.0}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 200, "base_momentum": 0.5, "max_momentum": 0.6}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 200, "cycle_momentum": False}),
    ("LambdaLR", {"lr_lambda": half}),
    (
        "SequentialLR",
        {
            "schedulers": [
                ("LinearLR", {"start_factor": 0.1, "total_iters": 10}),
                ("CosineAnnealingLR", {"T_max": 190}),
            ],
            "milestones": [10],
        },
    ),
    (
        "SequentialLR",
        {
            "schedulers": [
                ("ConstantLR", {"factor": 0.2, "total_iters": 50}),
                ("CosineAnnealingWarmRestarts", {"T_0": 20, "T_mult": 2}),
                ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
                ("LambdaLR", {"lr_lambda": half}),
                ("StepLR", {"step_size": 9}),
            ],
            "milestones": [20, 100, 120, 160],
        },
    ),
    ("SequentialLR", {"schedulers": [("ExponentialLR", {"gamma": 0.9})], "milestones": []}),
    (
        "ChainedScheduler",
        {
            "schedulers": [
                ("ConstantLR", {"factor": 0.1, "total_iters": 20}),
                ("ExponentialLR", {"gamma": 0.97}),
            ]
        },
    ),
    (
        "ChainedScheduler",
        {
            "schedulers": [
                ("LinearLR", {"start_factor": 0.25, "total_iters": 30}),
                ("MultiStepLR", {"milestones": [40, 90], "gamma": 0.5}),
                ("StepLR", {"step_size": 50, "gamma": 0.9}),
                ("CosineAnnealingLR", {"T_max": 200}),
                ("PolynomialLR", {"total_iters": 180}),
            ]
        },
    ),
]


def make_schedule(case, **more):
    """The schedule of a name and arguments."""
    name, arguments = case
    arguments = dict(arguments) | more
    if "schedulers" in arguments:
        arguments["schedulers"] = [make_schedule(one) for one in arguments["schedulers"]]
    return getattr(minidl, name)(**arguments)


# --------------------------------------------------------------------------------- metrics

# Names, and the tasks that each is for.
METRICS = {
    **dict.fromkeys(
        ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc"),
        ("multiclass", "binary"),
    ),
    **dict.fromkeys(("top_k", "top_1", "top_2"), ("multiclass",)),
    **dict.fromkeys(("mae", "rmse", "r2"), ("regression", None)),
}
