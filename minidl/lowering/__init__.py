"""From layers to a program: the list of operations that `kernels/program.pyx` runs.

1. `Layer.lower` writes a `Graph` (`graph.py`).
2. `Plan` turns nodes into operations over buffers (`plan.py`; `emitters` has each kind's), which
   `placement.py` puts where they lie; `segments.py` cuts the nodes where values are recomputed.
3. `programs.py` has the programs of a layer by itself and of a model over many batches.
"""

from minidl.lowering.graph import Graph, Node, Value
from minidl.lowering.placement import Buffer, Operation
from minidl.lowering.plan import Plan, Updates
from minidl.lowering.programs import (
    BatchProgram,
    LayerProgram,
    check_rows,
    feed,
    mode,
    signature,
)

__all__ = [
    "BatchProgram", "Buffer", "Graph", "LayerProgram", "Node", "Operation", "Plan", "Updates",
    "Value", "check_rows", "feed", "mode", "signature",
]  # fmt: skip
