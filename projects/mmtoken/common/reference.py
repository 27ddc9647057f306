"""Slow, obvious twins of the fast functions in this folder; for tests only.

One loop per letter, no batching, no fused kernels. Same names, same results, same gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import HW
from .tokens import EPS, TokenSet


def map_index(init_hw: HW, hw: HW) -> list[int]:
    """Map cell that covers each initial grid cell; the scale is a float32 number."""
    scales = [torch.tensor(side, dtype=torch.float32) / cells for side, cells in zip(hw, init_hw)]
    index = []
    for row in range(init_hw[0]):
        for col in range(init_hw[1]):
            place = [
                min(math.floor((torch.tensor(float(at)) * scale).item()), side - 1)
                for at, scale, side in zip((row, col), scales, hw)
            ]
            index.append(place[0] * hw[1] + place[1])
    return index


def tokens_to_map(tokens: TokenSet, hw: HW | None = None) -> Tensor:
    """Mean, in each map cell, of the tokens that own its grid cells -> ``(B, C, H, W)``."""
    height, width = hw or tokens.hw
    covers = map_index(tokens.init_hw, (height, width))
    samples = []
    for x, owner in zip(tokens.x, tokens.assign_idx.tolist()):
        cells = []
        for place in range(height * width):
            inside = [x[owner[cell]] for cell, over in enumerate(covers) if over == place]
            total = sum(inside, torch.zeros_like(x[0]))
            count = len(inside)
            exact = tokens.is_raster((height, width))
            cells.append(total if exact else total / (count + EPS))
        samples.append(torch.stack(cells, 1).view(-1, height, width))
    return torch.stack(samples)


def map_to_tokens(feature_map: Tensor, tokens: TokenSet) -> Tensor:
    """Mean, for each token, of the map over the grid cells that it owns -> ``(B, N, C)``."""
    hw = tuple(feature_map.shape[2:])
    covers = map_index(tokens.init_hw, hw)
    samples = []
    for cells, owner in zip(feature_map.flatten(2), tokens.assign_idx.tolist()):
        rows = []
        for token in range(tokens.num_tokens):
            owned = [cells[:, covers[cell]] for cell, by in enumerate(owner) if by == token]
            total = sum(owned, torch.zeros_like(cells[:, 0]))
            rows.append(total if tokens.is_raster(hw) else total / (len(owned) + EPS))
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def interpolate_tokens(target: TokenSet, source: TokenSet) -> Tensor:
    """Weighted mean, for each target token, of the source tokens on its cells."""
    samples = []
    for b in range(source.x.shape[0]):
        rows = []
        for token in range(target.num_tokens):
            total = torch.zeros_like(source.x[b, 0])
            weight = torch.zeros((), dtype=source.x.dtype)
            for cell in range(target.assign_idx.shape[1]):
                if target.assign_idx[b, cell] == token:
                    share = target.token_weight[b, cell, 0]
                    total = total + share * source.x[b, source.assign_idx[b, cell]]
                    weight = weight + share
            rows.append(total / (weight + EPS))
        samples.append(torch.stack(rows))
    return torch.stack(samples)


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
