"""Slow, obvious reference implementations of the fast functions in this folder; for tests only.

One loop per letter, no batching, no fused kernels. Same names, same results, same gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attention one sample, one head and one query at a time."""
    head_dim = q.shape[-1] // num_heads
    if bias is not None:
        bias = bias.expand(q.shape[0], num_heads, q.shape[1], k.shape[1])
    samples = []
    for b in range(q.shape[0]):
        rows = []
        for n in range(q.shape[1]):
            heads = []
            for head in range(num_heads):
                at = slice(head * head_dim, (head + 1) * head_dim)
                logits = k[b, :, at] @ q[b, n, at] / math.sqrt(head_dim)
                if bias is not None:
                    logits = logits + bias[b, head, n]
                heads.append(logits.softmax(0) @ v[b, :, at])
            rows.append(torch.cat(heads))
        samples.append(torch.stack(rows))
    return torch.stack(samples)
