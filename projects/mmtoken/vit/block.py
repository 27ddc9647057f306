"""The block of a plain vision transformer: attention and MLP, each in a residual branch.

Source: ViT (arXiv:2010.11929), Eq. 2 and 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..common.layers import DropPath, LayerScale
from .attention import Attention, Grid


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        dim: D.
        attn: Attention.
        mlp: MLP.
        norm_eps: Of both norms.
        layer_scale: Initial factor of both branches; None for no layer scale.
        drop_path: Stochastic depth of both branches, in [0, 1).

    Shape:
        - x: ``(B, T, D)``, returned in the same shape.
        - grid: see :class:`~mmtoken.vit.attention.Grid`.
    """

    def __init__(
        self,
        dim: int,
        attn: Attention,
        mlp: nn.Module,
        norm_eps: float,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        scales = layer_scale is not None
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.ls1 = LayerScale(dim, layer_scale) if scales else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.ls2 = LayerScale(dim, layer_scale) if scales else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), grid)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
