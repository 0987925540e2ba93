from collections.abc import Callable, Sequence
from typing import Any

KINDS: dict[str, int]
BLOCKS: int
BLOCK_ROWS: int
REPLICA_ROWS: int
SUMS: int
VECTOR: int

class Program:
    def __init__(
        self,
        ops: Sequence[tuple[int, int, float, float, Sequence[int], Sequence[int]]],
        calls: Sequence[Callable[[int], None]],
        itemsize: int,
        threads: int,
        pack: int,
        pack_size: int,
        segments: Sequence[tuple[int, int, int, bool]] = (),
        keep: object = None,
        stride: int = 0,
        paced: bool = False,
    ) -> None: ...
    def set_optimizer(
        self,
        kind: int,
        nesterov: bool,
        lr: float,
        weight_decay: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> None: ...
    def set_data(
        self,
        x: tuple[int, int, int] | None,
        target: tuple[int, int, int] | None,
        label: int,
        weight: int,
        out: tuple[int, int, int] | None,
        order: int,
        rows: int,
        batch_size: int,
        merge_last: bool,
        seed: int,
    ) -> None: ...
    def seek(self, epoch: int, batch: int, step: int) -> None: ...
    def position(self) -> tuple[int, int, int]: ...
    def run(
        self, epochs: int, seconds: float, state: Any = None
    ) -> tuple[str, list[float], list[float]]: ...
    def execute(self, low: int, high: int, rows: int, step: int = 0) -> int: ...
    @property
    def last_loss(self) -> float: ...
