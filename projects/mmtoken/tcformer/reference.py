"""Slow reference implementation of TCFormer, for tests only.

Python loops over samples, tokens and cells; parameters are those of the modules passed in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from ..common.reference import multi_head_attention
from .backbone import TCFormer
from .ctm import ClusteringTokenMerge, TokenConv
from .layers import TokenAttention, TokenBlock
from .mta_neck import MTA
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


def cluster_dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int = 5
) -> tuple[list[list[int]], list[list[int]]]:
    """DPC-kNN by its definition: assignment and centres, one list per sample."""
    assigns, centers = [], []
    for tokens in x.detach():
        count, dim = tokens.shape
        floor = math.sqrt(16 * torch.finfo(x.dtype).eps * tokens.square().mean().item())
        distance = [
            [(tokens[i] - tokens[j]).norm().item() / math.sqrt(dim) for j in range(count)]
            for i in range(count)
        ]
        distance = [[0.0 if d <= floor else d for d in row] for row in distance]
        # copies share the position of the first one
        first = [row.index(0.0) for row in distance]
        distance = [[distance[i][j] for j in first] for i in first]
        k = min(num_neighbors, count)
        density = [math.exp(-sum(d * d for d in sorted(row)[:k]) / k) for row in distance]
        farthest = max(max(row) for row in distance)
        score = []
        for i in range(count):
            denser = [distance[i][j] for j in range(count) if (-density[j], j) < (-density[i], i)]
            score.append(density[i] * min(denser, default=farthest))
        center = sorted(range(count), key=lambda i: (-score[i], i))[:num_clusters]
        assign = [
            min(range(num_clusters), key=lambda m: distance[center[m]][i]) for i in range(count)
        ]
        for cluster, token in enumerate(center):
            assign[token] = cluster
        assigns.append(assign)
        centers.append(center)
    return assigns, centers


def merge_tokens(
    tokens: TokenSet, assign_idx: Tensor, num_clusters: int, weight: Tensor
) -> TokenSet:
    """Weighted mean per cluster, one token at a time."""
    merged, inherited = [], []
    for b in range(tokens.x.shape[0]):
        assign = assign_idx[b].tolist()
        totals = [
            sum(weight[b, i, 0] for i, m in enumerate(assign) if m == cluster) + EPS
            for cluster in range(num_clusters)
        ]
        share = [weight[b, i, 0] / totals[m] for i, m in enumerate(assign)]
        merged.append(
            torch.stack(
                [
                    sum(share[i] * tokens.x[b, i] for i, m in enumerate(assign) if m == cluster)
                    for cluster in range(num_clusters)
                ]
            )
        )
        owners = tokens.assign_idx[b].tolist()
        inherited.append(torch.stack([share[owner] for owner in owners])[:, None].detach())
    owner = torch.stack([a[t] for a, t in zip(assign_idx, tokens.assign_idx)])
    weights = tokens.token_weight * torch.stack(inherited)
    return TokenSet(torch.stack(merged), owner, weights, tokens.init_hw, tokens.hw)


def token_conv(conv: TokenConv, tokens: TokenSet) -> Tensor:
    """``skip(x) + map_to_tokens(conv(tokens_to_map(x)))``."""
    feature_map = F.conv2d(
        tokens_to_map(tokens), conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups
    )
    skip = conv.skip(tokens.x.transpose(1, 2)).transpose(1, 2)
    return skip + map_to_tokens(feature_map, tokens)


def merge_stage(merge: ClusteringTokenMerge, tokens: TokenSet) -> tuple[TokenSet, TokenSet, Tensor]:
    """The CTM block: merged tokens, tokens before merging, their score."""
    tokens = tokens.with_x(merge.norm(token_conv(merge.conv, tokens)))
    score = merge.score(tokens.x)
    num_clusters = max(math.ceil(tokens.num_tokens * merge.sample_ratio), 1)
    assign, _ = cluster_dpc_knn(tokens.x, num_clusters, merge.num_neighbors)
    merged = merge_tokens(tokens, torch.tensor(assign), num_clusters, score.exp())
    height, width = tokens.hw
    return merged.with_hw((math.ceil(height / 2), math.ceil(width / 2))), tokens, score


def token_attention(
    attn: TokenAttention,
    query: TokenSet,
    key: TokenSet,
    key_score: Tensor | None,
    context: TokenSet | None,
) -> Tensor:
    """Attention to keys that are pooled on the map, over clusters, or not at all."""
    score = torch.zeros_like(key.x[..., :1]) if key_score is None else key_score
    if attn.reduction == 'cluster':
        reduced = interpolate_tokens(context, key)
        score = interpolate_tokens(context, key.with_x(score))
        if attn.gather is not None:
            reduced = F.gelu(attn.norm(attn.gather(reduced)))
    elif attn.sr_ratio > 1:
        reduced = shrink(tokens_to_map(key, query.hw), attn)
        score_map = tokens_to_map(key.with_x(score), query.hw)
        score = F.avg_pool2d(score_map, attn.sr_ratio).flatten(2).transpose(1, 2)
    else:
        reduced = key.x
    k, v = attn.kv(reduced).chunk(2, -1)
    bias = score.transpose(1, 2)[:, None]
    out = multi_head_attention(attn.q(query.x), k, v, attn.num_heads, bias)
    return attn.proj(out)


def shrink(feature_map: Tensor, attn: TokenAttention) -> Tensor:
    """Key map ``(B, C, H, W)`` to reduced keys ``(B, M, C)``."""
    if attn.sr is None:
        return F.avg_pool2d(feature_map, attn.sr_ratio).flatten(2).transpose(1, 2)
    return attn.norm(attn.sr(feature_map).flatten(2).transpose(1, 2))


def token_block(
    block: TokenBlock,
    tokens: TokenSet,
    key: TokenSet | None = None,
    key_score: Tensor | None = None,
    context: TokenSet | None = None,
) -> TokenSet:
    """A block in eval mode: attention, then MLP, both with a residual."""
    query = tokens.with_x(block.norm1(tokens.x))
    key = query if key is None else key.with_x(block.norm1(key.x))
    x = tokens.x + token_attention(block.attn, query, key, key_score, context)
    hidden = tokens.with_x(block.mlp.fc1(block.norm2(x)))
    if isinstance(block.mlp.dwconv, TokenConv):
        hidden = token_conv(block.mlp.dwconv, hidden)
    else:
        hidden = grid_conv(block.mlp.dwconv, hidden.x, tokens.init_hw)
    return tokens.with_x(x + block.mlp.fc2(F.gelu(hidden)))


def grid_conv(conv: nn.Module, x: Tensor, hw: HW) -> Tensor:
    """A map convolution on tokens in raster order."""
    return conv(x.transpose(1, 2).unflatten(2, hw)).flatten(2).transpose(1, 2)


def tcformer(model: TCFormer, image: Tensor) -> list[TokenSet]:
    """Stages of a TCFormer in eval mode with global clustering."""
    tokens, stages = TokenSet.from_map(model.patch_embed1(image)), []
    for number in range(1, len(model.depths) + 1):
        key = score = None
        if number > 1:
            tokens, key, score = merge_stage(getattr(model, f'ctm{number - 1}'), tokens)
        for block in getattr(model, f'block{number}'):
            tokens = token_block(block, tokens, key, score)
            key = score = None
        tokens = tokens.with_x(getattr(model, f'norm{number}')(tokens.x))
        stages.append(tokens)
    return stages


def mta(neck: MTA, inputs: list[TokenSet]) -> list[Tensor]:
    """Maps of an MTA neck that uses all levels and adds none."""
    tokens = [
        level.with_x(lateral(level.x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2))
        for level, lateral in zip(inputs, neck.lateral_convs)
    ]
    context = tokens[-1]
    for i in reversed(range(len(tokens) - 1)):
        x = tokens[i].x + interpolate_tokens(tokens[i], tokens[i + 1])
        tokens[i] = token_block(neck.merge_blocks[i], tokens[i].with_x(x), context=context)
    return [tokens_to_map(level) for level in tokens]
