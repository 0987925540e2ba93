"""A process for one system and one number of threads, and the other end of its pipe.

Each system runs in a process of its own, which may use as many CPUs as it shall have threads
(`Worker` starts it that way, before any library is loaded: most count their threads by the CPUs
that they may use). So no library's settings or threads are in the way of another's, and while one
process works the others sleep on their pipes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WARM_UP = 1  # epochs before those that are timed


class WorkerError(RuntimeError):
    """A system failed; the message has its traceback."""


class Worker:
    """Starts the process and asks it for work.

    Parameters
    ----------
    system : str
        A name of `peers.REGISTRY`.
    cpus : list of int
        CPUs that the process may use, one for each thread.
    """

    def __init__(self, system: str, cpus: list[int]) -> None:
        self.system, self.threads = system, len(cpus)
        self.pipe, other = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(other.fileno()), system, ",".join(map(str, cpus))],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        )
        other.close()
        self.versions: dict[str, str] = self._receive()

    def _receive(self) -> Any:
        try:
            error, answer = self.pipe.recv()
        except EOFError:
            code = self.process.wait()
            raise WorkerError(f"{self.system}: its process ended with code {code}") from None
        if error:
            raise WorkerError(f"{self.system}, {self.threads} thread(s):\n{error}")
        return answer

    def _ask(self, *request: Any) -> Any:
        self.pipe.send(request)
        return self._receive()

    def prepare(self, case: Any) -> dict[str, Any]:
        """Compile if need be; the loss and the state after one epoch, and how long an epoch takes.

        Returns
        -------
        dict
            ``first`` and ``epoch``, seconds of the very first epoch and of a warm one; ``loss``
            and ``state`` after the first.
        """
        return self._ask("prepare", case)

    def round(self, epochs: int) -> float:
        """Seconds of some epochs after a new start and a warm-up."""
        return self._ask("round", epochs)

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# ---- in the process


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


class Runner:
    """Answers a `Worker`."""

    def __init__(self, system: Any) -> None:
        self.system = system

    def begin(self) -> None:
        """The system, anew."""
        self.system.start(self.case, self.X, self.y, self.weights)

    def prepare(self, case: Any) -> dict[str, Any]:
        """See `Worker.prepare`."""
        self.case = case
        self.X, self.y = case.data()
        self.weights = case.weights()
        self.begin()
        first, loss = timed(self.system.run, 1)
        state = self.system.state()
        epoch = min(timed(self.system.run, 1)[0] for _ in range(2))
        return {"first": first, "epoch": epoch, "loss": loss, "state": state}

    def round(self, epochs: int) -> float:
        """See `Worker.round`."""
        self.begin()
        self.system.run(WARM_UP)
        return timed(self.system.run, epochs)[0]


def main() -> None:
    """Answer requests until the pipe is closed."""
    descriptor, name, cpus = sys.argv[1:]
    allowed = [int(cpu) for cpu in cpus.split(",")]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, allowed)
    pipe = Connection(int(descriptor))

    def answer(work: Callable[[], Any]) -> None:
        try:
            result = None, work()
        except Exception:
            result = traceback.format_exc(), None
        pipe.send(result)

    runner: Runner | None = None

    def load() -> dict[str, str]:
        nonlocal runner
        from peers import REGISTRY

        runner = Runner(REGISTRY[name].load()(len(allowed)))
        return runner.system.versions()

    answer(load)
    while True:
        try:
            method, argument = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        answer(lambda method=method, argument=argument: getattr(runner, method)(argument))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
