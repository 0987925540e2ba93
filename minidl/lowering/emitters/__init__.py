"""What each kind of node becomes: operations of the forward pass, and of the backward pass.

Fusion is decided here: an activation that alone reads what a Linear or BatchNorm gives runs inside
it; its derivative runs inside the product that makes the gradient; the optimizer runs on the tiles
of the weight gradients when nothing else asks for them. A first layer that is large beside the
batch is shared by columns, between two barriers.

A backward function takes the gradient of the node's output from `plan.gradients` and gives those of
its inputs to `plan.give`, unless nobody needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from minidl.lowering.emitters.columns import (
    columns_backward,
    columns_forward,
    concat_backward,
    concat_forward,
)
from minidl.lowering.emitters.elementwise import (
    activation_backward,
    activation_forward,
    add_backward,
    add_forward,
    dropout_backward,
    dropout_forward,
)
from minidl.lowering.emitters.embedding import embedding_backward, embedding_forward
from minidl.lowering.emitters.linear import linear_backward, linear_forward
from minidl.lowering.emitters.norms import batchnorm_backward, batchnorm_forward
from minidl.lowering.emitters.python import python_backward, python_forward
from minidl.lowering.emitters.rows import (
    layernorm_backward,
    layernorm_forward,
    prelu_backward,
    prelu_forward,
    softmax_backward,
    softmax_forward,
)

if TYPE_CHECKING:
    from minidl.lowering.graph import Node
    from minidl.lowering.plan import Plan


class Emitter(NamedTuple):
    """The two functions of a kind of node."""

    forward: Callable[[Plan, Node], None]
    backward: Callable[[Plan, Node], None]


EMITTERS = {
    "linear": Emitter(linear_forward, linear_backward),
    "activation": Emitter(activation_forward, activation_backward),
    "batchnorm": Emitter(batchnorm_forward, batchnorm_backward),
    "layernorm": Emitter(layernorm_forward, layernorm_backward),
    "softmax": Emitter(softmax_forward, softmax_backward),
    "prelu": Emitter(prelu_forward, prelu_backward),
    "embedding": Emitter(embedding_forward, embedding_backward),
    "dropout": Emitter(dropout_forward, dropout_backward),
    "add": Emitter(add_forward, add_backward),
    "columns": Emitter(columns_forward, columns_backward),
    "concat": Emitter(concat_forward, concat_backward),
    "python": Emitter(python_forward, python_backward),
}
