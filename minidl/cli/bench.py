"""minidl against the NumPy baseline: the same networks, starting weights and data, in turns."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

import minidl
from minidl import numpy_baseline as baseline
from minidl.cli.model import mlp

NETWORKS = (
    ((20, 32, 16, 2), 32),
    ((64, 64, 32, 10), 64),
    ((784, 128, 64, 10), 128),
    ((256, 256, 256, 10), 256),
)
BATCHES = 20  # different ones; a block of steps goes over them again and again
LR = 1e-3
PAUSE = 0.05  # seconds before each block: idle threads of the other side spin for up to 25 ms


@dataclass(frozen=True)
class Timing:
    """Median microseconds a step, and the loss of the last epoch, which should agree."""

    sizes: tuple[int, ...]
    batch_size: int
    minidl_us: float
    numpy_us: float
    minidl_loss: float
    numpy_loss: float


@contextmanager
def blas_threads(limit: int | None) -> Iterator[None]:
    """Limit the threads of NumPy's BLAS, where threadpoolctl (a part of scikit-learn) is there."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        yield
        return
    with threadpool_limits(limit, user_api="blas"):
        yield


def compare(
    sizes: tuple[int, ...], batch_size: int, steps: int, repeats: int, batch_norm: bool
) -> Timing:
    """Time blocks of `steps` training steps, minidl and NumPy in turns, after a warm-up block."""
    rng = np.random.default_rng(0)
    batches = min(BATCHES, steps)
    X = rng.standard_normal((batches * batch_size, sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], len(X))
    epochs = -(-steps // batches)

    model = mlp(sizes, batch_norm, seed=0)
    network = baseline.MLP.build(sizes, batch_norm=batch_norm)
    network.load(model.parameters())
    trainer = minidl.Trainer(model, loss=minidl.CrossEntropyLoss(), optimizer=minidl.Adam(lr=LR))
    optimizer = baseline.Adam(network.parameters(), lr=LR)

    def run_minidl() -> float:
        history = trainer.fit(
            X, y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0
        ).history
        return float(history["loss"][-1])

    def run_numpy() -> float:
        total = 0.0
        for _ in range(epochs):
            total = 0.0
            for start in range(0, len(X), batch_size):
                rows = slice(start, start + batch_size)
                total += baseline.train_step(
                    network, baseline.cross_entropy, optimizer, X[rows], y[rows]
                )
        return total / batches

    def timed(run: Callable[[], float]) -> tuple[float, float]:
        time.sleep(PAUSE)
        start = time.perf_counter()
        loss = run()
        return (time.perf_counter() - start) * 1e6 / (epochs * batches), loss

    blocks = [(timed(run_minidl), timed(run_numpy)) for _ in range(1 + repeats)][1:]
    (_, minidl_loss), (_, numpy_loss) = blocks[-1]
    minidl_us, numpy_us = (float(np.median([block[i][0] for block in blocks])) for i in (0, 1))
    return Timing(sizes, batch_size, minidl_us, numpy_us, minidl_loss, numpy_loss)
