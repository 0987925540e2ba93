"""A training that is killed in the middle of an epoch goes on from its checkpoint, to the bit.

A child process trains and writes a checkpoint every 40 steps. It is killed with SIGKILL, which it
cannot notice; another process resumes from the file, and ends with the parameters of a training
that nobody has interrupted:

    python examples/resume_after_a_kill.py
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import minidl

EPOCHS, BATCH, STEPS = 12, 32, 125  # 4000 rows are 125 steps
EVERY = 40  # steps from checkpoint to checkpoint: most of them are within an epoch


def data():
    """4000 points in a cube, and in which of its eight corners they are."""
    X = np.random.default_rng(0).normal(size=(4000, 3))
    return X, (X > 0) @ [1, 2, 4]


def new_trainer():
    """All that has a memory: dropout, running averages, Adam's moments, a moving average."""
    model = minidl.Sequential(
        minidl.Linear(3, 64), minidl.BatchNorm1d(64), minidl.ReLU(), minidl.Dropout(0.1),
        minidl.Linear(64, 8), seed=0,
    )  # fmt: skip
    return minidl.Trainer(model, optimizer=minidl.Adam(lr=3e-3), ema_decay=0.99)


class Slowly(minidl.Callback):
    """Waits a little every five steps, to be killed in time."""

    every = 5

    def on_train_batch_end(self, step, logs):
        """Wait."""
        time.sleep(0.01)


def child(path):
    """Train, and write a checkpoint every so many steps."""
    saver = minidl.ModelCheckpoint(path, save_freq=EVERY, checkpoint=True)
    new_trainer().fit(
        *data(), epochs=EPOCHS, batch_size=BATCH, seed=0, callbacks=[saver, Slowly()], verbose=0
    )


def step_of(path):
    """Steps made in a checkpoint; 0 if there is none yet."""
    return minidl.Trainer.resume(path).step if path.exists() else 0


def train_and_kill(path, after):
    """Start the child, and kill it when its checkpoint has gone beyond a step."""
    process = subprocess.Popen([sys.executable, __file__, path])
    try:
        while step_of(path) < after and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.kill()
    return process.wait()


def same(a, b):
    """Whether two models have the same bits in all parameters and running averages."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def main():
    """Kill, resume, compare."""
    whole = new_trainer()
    whole.fit(*data(), epochs=EPOCHS, batch_size=BATCH, seed=0)
    print(f"not interrupted: {whole.epoch} epochs, {whole.step} steps, "
          f"loss {whole.history.history['loss'][-1]:.6f}")  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.ckpt"
        status = train_and_kill(path, after=4 * STEPS + STEPS // 2)
        resumed = minidl.Trainer.resume(path)
    steps = resumed.step
    print(f"killed with {signal.Signals(-status).name}; the last checkpoint is after step {steps}: "
          f"{resumed.epoch} epochs and {steps % STEPS} of {STEPS} steps of the next")  # fmt: skip

    resumed.fit(*data(), epochs=EPOCHS - resumed.epoch, batch_size=BATCH)
    parameters = same(whole.model, resumed.model)
    average = same(whole.ema_model(), resumed.ema_model())
    print(f"resumed: {resumed.epoch} epochs, {resumed.step} steps, "
          f"loss {resumed.history.history['loss'][-1]:.6f}")  # fmt: skip
    print(f"parameters and running averages bit for bit the same: {parameters}; "
          f"moving averages of the parameters: {average}")  # fmt: skip

    assert -status == signal.SIGKILL
    assert steps % STEPS, "killed within an epoch"
    assert parameters
    assert average
    assert resumed.history.history == whole.history.history


if __name__ == "__main__":
    child(sys.argv[1]) if len(sys.argv) > 1 else main()
