LEVELS_BUILT: tuple[str, ...]
VERSION: str
COMPILER: str
OPENMP: bool
DEBUG: bool
SANITIZERS: str

def supports(level: str) -> bool: ...
