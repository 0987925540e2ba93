"""Where the layers of a model are cut so that activations are recomputed, a segment at a time.

Forward keeps what crosses a cut, and what the last segment gives; backward computes the rest of a
segment anew before it goes through it. Of L layers alike in n segments, n + L / n activations are
there at a time: least, about twice the root of L, for n near the root of L (Chen et al., 2016,
"Training deep nets with sublinear memory cost"). Forward is a third of a step, and the last segment
is not repeated: a step takes at most a third longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from minidl.lowering.graph import Node, Value


def segments_of(
    nodes: Sequence[Node], given: Sequence[Value], checkpoint: int | str | None
) -> tuple[list[list[Node]], set[Value]]:
    """The nodes in segments, and the values that go over the cuts; `given`: what each node gives.

    `checkpoint` is the number of segments, "sqrt" for the root of the number of layers with
    weights. Cuts are made where a single value crosses, so there may be fewer.
    """
    if checkpoint is None or not nodes:
        return [list(nodes)], set()
    layers = sum(node.has_weights for node in nodes)
    count = round(math.sqrt(layers)) if checkpoint == "sqrt" else min(int(checkpoint), len(nodes))
    columns = list(accumulate((value.columns for value in given), initial=0))
    crossing = _single(nodes, given)
    count = min(count, len(crossing) + 1)  # with so many, all places are cuts
    cuts: set[int] = set()
    for k in range(1, count):
        target = columns[-1] * k / count
        left = crossing.keys() - cuts
        if left:
            cuts.add(min(left, key=lambda cut: (abs(columns[cut] - target), cut)))
    edges = [0, *sorted(cuts), len(nodes)]
    return [list(nodes[a:b]) for a, b in pairwise(edges)], {crossing[cut] for cut in cuts}


def _single(nodes: Sequence[Node], given: Sequence[Value]) -> dict[int, Value]:
    """Places between nodes that one value alone crosses, and that value.

    The input, which is there anyway, does not count.
    """
    place = {node: i for i, node in enumerate(nodes)}
    begins: list[int] = [0] * (len(nodes) + 1)
    numbers = list(begins)
    for i, value in enumerate(given):
        last = max((place[node] for node in value.readers if node in place), default=i)
        for there, sign in ((i + 1, 1), (last + 1, -1)):
            begins[there] += sign
            numbers[there] += sign * i
    live, total = accumulate(begins), accumulate(numbers)
    return {
        cut: given[number]
        for cut, (count, number) in enumerate(zip(live, total, strict=True))
        if count == 1 and cut < len(nodes)
    }
