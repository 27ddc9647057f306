"""Save memory: recompute intermediate results, and process large inputs in chunks.

Both are switched off while they would change what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .recorder import is_recording, is_recording_attention

# Rows of a chunk per thread; with 4 * 96 channels 1.5 MiB
ROWS = 1024
# Elements of a result that is worth repeating a cheap operation for; 2 MiB
LARGE = 2**19


def recompute(function: Callable[..., Any], *args: Any, is_random: bool = False) -> Any:
    """``function(*args)``; its intermediate results are recomputed in the backward pass.

    A plain call in inference, and while a recorder is active, which would otherwise also record
    the repeated call of the backward pass.

    Args:
        function: Any function of tensors.
        *args: Its arguments.
        is_random: Whether it draws random numbers, which must be the same in the backward pass.

    Returns:
        Its result.
    """
    if is_recording() or not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=is_random)


def is_worth_recomputing(num_elements: float) -> bool:
    """Whether to repeat a cheap operation in the backward pass rather than keep its result.

    For small results, the bookkeeping takes longer than the memory is worth. A compiler decides by
    itself what to keep.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and num_elements > LARGE


def recompute_if_large(
    function: Callable[..., Any], x: Tensor, *args: Any, is_random: bool = False
) -> Any:
    """``function(x, *args)``, recomputed if ``x`` is large; see :func:`recompute`."""
    if is_worth_recomputing(x.numel()):
        return recompute(function, x, *args, is_random=is_random)
    return function(x, *args)


def map_chunks(function: Callable[..., Tensor], *inputs: Tensor, rows: int = ROWS) -> Tensor:
    """``function(*inputs)``, on a CPU in chunks along the second dimension.

    Large intermediate results do not fit in the cache, and malloc returns freshly zeroed pages for
    every block above 32 MiB. Letters: B batch, M rows, C channels.

    Args:
        function: Maps chunks of the inputs to a chunk of the result; row m of the result depends
            on row m of the inputs only.
        *inputs: The first is ``(B, M, ..., C)``; others have the same M.
        rows: Chunk size per thread, in rows of C channels.

    Returns:
        ``(B, M, ...)``.
    """
    x = inputs[0]
    if x.device.type != 'cpu' or torch.compiler.is_compiling() or is_recording_attention():
        return function(*inputs)
    if not x.numel():
        return function(*inputs)
    rows_of_one = x.numel() // (x.shape[1] * x.shape[-1])
    size = max(rows * torch.get_num_threads() // rows_of_one, 1)
    if x.shape[1] <= size:
        return function(*inputs)
    chunks = zip(*(each.split(size, 1) for each in inputs))
    return torch.cat([function(*chunk) for chunk in chunks], 1)
