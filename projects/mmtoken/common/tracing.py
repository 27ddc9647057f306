"""What traces a model: ``torch.compile``, an export or ``torch.fx``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

# torch 2.4 does not say
is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def is_onnx_export() -> bool:
    """Whether ``torch.onnx.export`` traces the model: ONNX lacks some operations and strides."""
    # the second call imports the exporter, so the first one guards it
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def is_compiled_for_cpu(x: Tensor) -> bool:
    """Whether ``torch.compile`` traces ``x``, on a CPU, for this process: operators may be ours.

    An exported program has operators of PyTorch alone. In doubt, as with torch 2.4, it is one.
    """
    return (
        hasattr(torch.compiler, 'is_exporting')
        and torch.compiler.is_compiling()
        and not is_exporting()
        and x.device.type == 'cpu'
    )


def check_fixed_size(image: Tensor, reason: str) -> None:
    """Raise if an export leaves the height or width of ``image (B, C, H, W)`` free."""
    if is_exporting() and any(isinstance(side, torch.SymInt) for side in image.shape[2:]):
        raise ValueError(f'height and width must be fixed in an export, because {reason}')


def as_one_call(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``forward``: ``torch.fx`` records one call of it instead of tracing it.

    Sizes, checks and the training mode decide what runs, which no symbolic trace can follow. Norms
    inside are therefore not fused; name a submodule that can be traced to have its norms fused.

    Args:
        forward: Method of a module.

    Returns:
        The method; unchanged unless an argument is symbolic.
    """

    @functools.wraps(forward)
    def traced(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        symbols = [value for value in (*args, *kwargs.values()) if isinstance(value, Proxy)]
        if not symbols:
            return forward(self, *args, **kwargs)
        tracer = symbols[0].tracer
        path = f'{tracer.path_of_module(self)}.forward'.lstrip('.')
        return tracer.create_proxy('get_attr', path, (), {})(*args, **kwargs)

    return traced
