"""Keep the arguments of a function instead of its intermediate results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .recorder import is_recording


def recompute(function: Callable[..., Any], *args: Any, is_random: bool = False) -> Any:
    """``function(*args)``, whose intermediate results are computed again in the backward pass.

    A plain call in inference, and while a recorder is active, which would otherwise record the
    repeated call of the backward pass, too.

    Args:
        function: What to call.
        *args: Its arguments.
        is_random: Whether it draws random numbers, which have to be drawn again.

    Returns:
        What it returns.
    """
    if is_recording() or not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=is_random)
