KINDS: dict[str, int]
BLOCKS: int
BLOCK_ROWS: int
MAX_GROUPS: int
MAX_SOURCES: int
REPLICA_ROWS: int
SUMS: int
LOOK_SUMS: int
MOVE_SUMS: int
VECTOR: int

def block_edges(rows: int) -> list[int]: ...
