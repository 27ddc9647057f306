"""Transformer blocks on token sets: attention with reduced keys, MLP with a token convolution.

Source: TCFormer (CVPR 2022), Sec. 3.1-3.2; spatial reduction: PVT (arXiv:2102.12122).

Letters: B batch, N queries, S key tokens, M reduced keys, C channels, H x W map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.checks import check_choice, check_divides, check_range
from ..common.layers import ConvMlp, DropPath, to_tokens
from .ctm import TokenConv
from .tokens import TokenSet, interpolate_tokens, tokens_to_map

REDUCTIONS = ('conv', 'avg_pool', 'cluster')


class TokenAttention(nn.Module):
    """Multi-head attention to a reduced number of keys and values.

    The importance score of a key token is added to its logits, which draws attention to it.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        sr_ratio: Spatial reduction: each side of the key map shrinks by this factor; 1 attends
            to the key tokens themselves.
        reduction: How keys are reduced: ``'conv'`` (strided convolution of the map and
            LayerNorm), ``'avg_pool'`` (average pooling of the map), or ``'cluster'`` (average
            over the clusters of ``context``, without a map).
        qkv_bias: Whether q, k and v have a bias.
        attn_drop: Dropout on attention weights, in [0, 1).
        proj_drop: Dropout after the output projection, in [0, 1).
        gather_layer: Apply Linear, LayerNorm and GELU to keys reduced by ``'cluster'``.

    Shape:
        - query: N tokens with normalised features.
        - key: S tokens on the same initial grid.
        - key_score: ``(B, S, 1)`` or None for no bias.
        - context: the tokens over whose clusters ``'cluster'`` averages.
        - returns: ``(B, N, C)``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int = 1,
        reduction: str = 'conv',
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        gather_layer: bool = False,
    ) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        check_choice('reduction', reduction, REDUCTIONS)
        check_range('attn_drop', attn_drop, 0.0, 1.0)
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.reduction = reduction
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr = self.gather = self.norm = None
        if reduction == 'conv' and sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
        if reduction == 'cluster' and gather_layer:
            self.gather = nn.Linear(dim, dim)
        if self.sr is not None or self.gather is not None:
            self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        query: TokenSet,
        key: TokenSet,
        key_score: Tensor | None = None,
        context: TokenSet | None = None,
    ) -> Tensor:
        if self.reduction == 'cluster':
            reduced, bias = self._reduce_by_clusters(key, key_score, context)
        elif self.sr_ratio > 1:
            reduced, bias = self._reduce_on_map(key.with_hw(query.hw), key_score)
        else:
            reduced, bias = key.x, key_score
        if bias is not None:
            bias = bias.transpose(1, 2)[:, None]  # B 1 1 M, the same for all heads and queries
        k, v = self.kv(reduced).chunk(2, dim=-1)  # B M C
        dropout = self.attn_drop if self.training else 0.0
        out = multi_head_attention(self.q(query.x), k, v, self.num_heads, bias, dropout)
        return self.proj_drop(self.proj(out))

    def _reduce_on_map(
        self, key: TokenSet, key_score: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Keys ``(B, M, C)`` and bias ``(B, M, 1)`` from the map, shrunk by ``sr_ratio``."""
        dim = key.x.shape[-1]
        if key_score is None:
            feature_map, score_map = tokens_to_map(key), None
        else:
            both = tokens_to_map(key.with_x(torch.cat([key.x, key_score.to(key.x.dtype)], -1)))
            feature_map, score_map = both.split([dim, 1], dim=1)  # B C H W, B 1 H W
            score_map = to_tokens(F.avg_pool2d(score_map, self.sr_ratio))
        if self.sr is None:
            reduced = to_tokens(F.avg_pool2d(feature_map, self.sr_ratio))
        else:
            reduced = self.norm(to_tokens(self.sr(feature_map)))
        return reduced, score_map

    def _reduce_by_clusters(
        self, key: TokenSet, key_score: Tensor | None, context: TokenSet | None
    ) -> tuple[Tensor, Tensor | None]:
        """Keys ``(B, M, C)`` and bias ``(B, M, 1)``, averaged over the clusters of ``context``."""
        if context is None:
            raise ValueError(
                "reduction='cluster' averages keys over the clusters of a context, got "
                'context=None; pass the tokens of the last stage'
            )
        bias = None
        if key_score is not None:
            bias = interpolate_tokens(context, key.with_x(key_score))
        reduced = interpolate_tokens(context, key)
        if self.gather is not None:
            reduced = F.gelu(self.norm(self.gather(reduced)))
        return reduced, bias

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, sr_ratio={self.sr_ratio}, {self.reduction!r}'


class TokenMlp(nn.Module):
    """MLP with a depthwise token convolution between its layers.

    Args:
        dim: C.
        hidden_dim: Width between the two layers.
        drop: Dropout after each layer, in [0, 1).

    Shape:
        - tokens: N tokens of C channels; returns ``(B, N, C)``.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = TokenConv(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, tokens: TokenSet) -> Tensor:
        x = self.act(self.dwconv(tokens.with_x(self.fc1(tokens.x))))
        return self.drop(self.fc2(self.drop(x)))


class GridMlp(ConvMlp):
    """:class:`ConvMlp` for token sets that are still on the grid."""

    def forward(self, tokens: TokenSet) -> Tensor:
        return super().forward(tokens.x, tokens.init_hw)


class TokenBlock(nn.Module):
    """Pre-norm transformer block on token sets.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        mlp_ratio: Hidden width of the MLP per channel.
        sr_ratio: See :class:`TokenAttention`.
        reduction: See :class:`TokenAttention`.
        qkv_bias: See :class:`TokenAttention`.
        drop: Dropout after projections and in the MLP, in [0, 1).
        attn_drop: See :class:`TokenAttention`.
        drop_path: Stochastic depth of both branches, in [0, 1).
        norm_eps: Epsilon of both pre-norms.
        on_grid: Whether all tokens are on the grid (stage 1), where the MLP has no skip.
        gather_layer: See :class:`TokenAttention`.

    Shape:
        - tokens: N tokens; returned with new features.
        - key: S tokens to attend to; the tokens themselves by default.
        - key_score: ``(B, S, 1)`` importance of the key tokens.
        - context: see :class:`TokenAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        sr_ratio: int = 1,
        reduction: str = 'conv',
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        on_grid: bool = False,
        gather_layer: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = TokenAttention(
            dim, num_heads, sr_ratio, reduction, qkv_bias, attn_drop, drop, gather_layer
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        mlp = GridMlp if on_grid else TokenMlp
        self.mlp = mlp(dim, int(dim * mlp_ratio), drop)

    def forward(
        self,
        tokens: TokenSet,
        key: TokenSet | None = None,
        key_score: Tensor | None = None,
        context: TokenSet | None = None,
    ) -> TokenSet:
        query = tokens.with_x(self.norm1(tokens.x))
        # the same norm for the merged tokens (queries) and the tokens before merging (keys)
        key = query if key is None else key.with_x(self.norm1(key.x))
        x = tokens.x + self.drop_path(self.attn(query, key, key_score, context))
        x = x + self.drop_path(self.mlp(tokens.with_x(self.norm2(x))))
        return tokens.with_x(x)
