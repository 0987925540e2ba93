"""What the tests share: lists of all layers, losses and optimizers, and all tolerances."""

from collections.abc import Callable
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

# Every layer, each for FEATURES columns.
FEATURES = 5
LAYERS: dict[str, Callable[[], minidl.Layer]] = {
    "Linear": lambda: minidl.Linear(FEATURES, 7, seed=1),
    "Linear without bias": lambda: minidl.Linear(FEATURES, 7, bias=False, seed=1),
    "BatchNorm1d": lambda: minidl.BatchNorm1d(FEATURES),
    "Dropout": lambda: minidl.Dropout(0.4, seed=1),
    **{str(a): a.make for a in ACTIVATIONS},
    "Sequential": lambda: minidl.Sequential(
        minidl.Sequential(minidl.Linear(FEATURES, 4), minidl.Tanh()), minidl.Linear(4, 2), seed=1
    ),
}
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


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


class LossCase(NamedTuple):
    """A loss with one kind of targets."""

    name: str
    targets: Callable[..., np.ndarray]
    baseline: Callable[..., tuple[float, np.ndarray]]
    torch: str  # the function in torch.nn.functional

    def __str__(self):
        return f"{self.name} of {self.targets.__name__}"

    def make(self):
        """The object of minidl."""
        return getattr(minidl, self.name)()


LOSSES = [
    LossCase("CrossEntropyLoss", labels, baseline.cross_entropy, "cross_entropy"),
    LossCase("CrossEntropyLoss", probabilities, baseline.cross_entropy, "cross_entropy"),
    LossCase("CrossEntropyLoss", weights, baseline.cross_entropy, "cross_entropy"),
    LossCase("MSELoss", numbers, baseline.mse_loss, "mse_loss"),
    LossCase("BCEWithLogitsLoss", bits, baseline.bce_with_logits,
             "binary_cross_entropy_with_logits"),
    LossCase("BCEWithLogitsLoss", weights, baseline.bce_with_logits,
             "binary_cross_entropy_with_logits"),
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
    Named("Adam", {"lr": 0.01}),
    Named("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    Named("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    Named("AdamW", {"lr": 0.01}),
    Named("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
]
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
