"""Symbolic tracing by ``torch.fx``, which mmengine's ``efficient_conv_bn_eval`` is built on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy


def as_one_call(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``forward``: ``torch.fx`` records one call of it instead of tracing it.

    Sizes, checks and the training mode decide what runs, which no symbolic trace can follow. Norms
    inside are therefore not fused; name a submodule that can be traced to have its norms fused.

    Args:
        forward: Method of a module with one input.

    Returns:
        The method; unchanged for everything but a symbolic input.
    """

    @functools.wraps(forward)
    def traced(self: nn.Module, inputs: Any) -> Any:
        if not isinstance(inputs, Proxy):
            return forward(self, inputs)
        path = f'{inputs.tracer.path_of_module(self)}.forward'.lstrip('.')
        return inputs.tracer.create_proxy('get_attr', path, (), {})(inputs)

    return traced
