KINDS: dict[str, int]
KEEPS_INPUT: frozenset[int]
