"""Slow, obvious twins of clustering and merging, and a whole TCFormer built from them.

For tests only: Python loops over samples, tokens and cells; the modules lend their parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import reference as common
from ..common.checks import HW
from ..common.tokens import EPS, TokenSet
from .backbone import TCFormer
from .blocks import TokenAttention, TokenBlock
from .merging import ClusteringTokenMerge, TokenConv
from .mta_neck import MTA


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
        common.tokens_to_map(tokens),
        conv.weight,
        conv.bias,
        conv.stride,
        conv.padding,
        groups=conv.groups,
    )
    skip = conv.skip(tokens.x.transpose(1, 2)).transpose(1, 2)
    return skip + common.map_to_tokens(feature_map, tokens)


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
        reduced = common.interpolate_tokens(context, key)
        score = common.interpolate_tokens(context, key.with_x(score))
        if attn.gather is not None:
            reduced = F.gelu(attn.norm(attn.gather(reduced)))
    elif attn.sr_ratio > 1:
        reduced = shrink(common.tokens_to_map(key, query.hw), attn)
        score_map = common.tokens_to_map(key.with_x(score), query.hw)
        score = F.avg_pool2d(score_map, attn.sr_ratio).flatten(2).transpose(1, 2)
    else:
        reduced = key.x
    k, v = attn.kv(reduced).chunk(2, -1)
    bias = score.transpose(1, 2)[:, None]
    out = common.multi_head_attention(attn.q(query.x), k, v, attn.num_heads, bias)
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
        x = tokens[i].x + common.interpolate_tokens(tokens[i], tokens[i + 1])
        tokens[i] = token_block(neck.merge_blocks[i], tokens[i].with_x(x), context=context)
    return [common.tokens_to_map(level) for level in tokens]
