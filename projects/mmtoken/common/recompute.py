"""Keep the arguments of a function instead of its intermediate results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, whose intermediate results are computed again in the backward pass.

    For functions without randomness, of which the intermediate results are large and cheap. In
    inference a plain call.

    Args:
        function: What to call.
        *args: Its arguments, tensors among them.

    Returns:
        What it returns.
    """
    needs_grad = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
    if not (needs_grad and torch.is_grad_enabled()):
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
