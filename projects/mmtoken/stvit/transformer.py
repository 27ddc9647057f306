"""The plain pre-norm transformer block of ViT (arXiv:2010.11929), with the names of its releases.

Letters: B batch, N tokens, C channels, h heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..common.attention import multi_head_attention
from ..common.checks import check_divides
from ..common.layers import DropPath, Mlp


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.

    Shape:
        - x: ``(B, N, C)``, returned in the same shape.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(multi_head_attention(*self.qkv(x).chunk(3, -1), self.num_heads))

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP, each normed before and added.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        mlp_ratio: Hidden width of the MLP per channel.
        drop_path: Stochastic depth of both branches, in [0, 1).
        norm_eps: Epsilon of the norms.

    Shape:
        - x: ``(B, N, C)``, returned in the same shape.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
