from collections.abc import Callable, Iterable, Sequence
from typing import Any

class Program:
    def __init__(
        self,
        ops: Sequence[tuple[int, int, float, float, Sequence[int], Sequence[int]]],
        calls: Sequence[Callable[[int], bool | None]],
        itemsize: int,
        threads: int,
        pack: int,
        pack_size: int,
        segments: Sequence[tuple[int, int, int, bool]] = (),
        keep: object = None,
        stride: int = 0,
        update_from: int | None = None,
        paced: bool = False,
        rows: int | None = None,
        moving: Sequence[tuple[int, int, int]] = (),
    ) -> None: ...
    def set_optimizer(
        self,
        *,
        kind: int,
        lr: float,
        weight_decay: float,
        beta1: float = 0.0,
        beta2: float = 0.0,
        eps: float = 0.0,
        extra: float = 0.0,
        variant: bool = False,
        scheduled: float | None = None,
        clip: float = 0.0,
        accumulate: int = 1,
        groups: Sequence[tuple[float, float]] | None = None,
    ) -> None: ...
    def set_rates(self, rates: Any, first: int) -> None: ...
    def set_data(
        self,
        x: Sequence[tuple[int, int, int, int]],
        target: tuple[int, int, int] | None,
        label: int,
        weight: int,
        out: tuple[int, int, int] | None,
        order: int,
        rows: int,
        batch_size: int,
        last_batch: int,
        seed: int,
        opens: bool = True,
        ends: bool = True,
        chosen: int = 0,
    ) -> None: ...
    def watch(self, watchers: Iterable[tuple[Any, ...]]) -> None: ...
    @property
    def logs_full(self) -> bool: ...
    def seek(self, epoch: int, batch: int, step: int, tick: int) -> None: ...
    def position(self) -> tuple[int, int, int, int]: ...
    @property
    def saved_position(self) -> tuple[int, int, int]: ...
    @property
    def sums(self) -> tuple[float, float, float, float]: ...
    def rows_of(self, batch: int, part: int = -1) -> int: ...
    def parts_of(self, batch: int) -> int: ...
    def set_rank_row(self, row: int) -> None: ...
    @property
    def ends_epoch(self) -> bool: ...
    def take_sums(self, loss: float, right: float, weight: float, rows: float) -> None: ...
    def end_with_update(self) -> None: ...
    def enter_epoch(self, sums: Sequence[float]) -> None: ...
    def run(
        self,
        epochs: int,
        seconds: float,
        state: Any = None,
        progress: Any = None,
        updates: int = 0,
    ) -> tuple[str, list[float], list[float]]: ...
    def execute(self, low: int, high: int, rows: int, step: int = 0) -> int: ...
    def visit(
        self, batch: int, step: int, tick: int, part: int = -1, low: int = 0, high: int = -1
    ) -> int: ...
    def prepare_quick(
        self, array: Any, dtype: Any, features: int, outputs: int, rows: int
    ) -> None: ...
    def quick(self, x: Any) -> Any: ...
    @property
    def fresh(self) -> bool: ...
    @property
    def part(self) -> float: ...
    @property
    def last_loss(self) -> float: ...
    @property
    def last_norm(self) -> float: ...
