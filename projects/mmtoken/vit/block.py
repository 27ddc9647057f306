"""The block of a plain vision transformer: attention and MLP, each in a residual branch.

Source: ViT (arXiv:2010.11929), Eq. 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..common.checks import check_bool, check_choice, check_divides, check_int, check_range
from ..common.layers import DropPath, LayerScale
from .attention import Attention, Grid
from .mlp import ACTIVATIONS, ViTMlp


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a model have in common.

    Args:
        embed_dims: D.
        num_heads: Divides D.
        hidden_dim: Of the MLP.
        mlp: Kind of the MLP, a key of ``ACTIVATIONS``.
        mlp_norm: Whether the MLP has a norm before its second layer.
        attn_norm: Whether attention has a norm before its projection.
        norm_eps: Of all norms.
        layer_scale: Initial factor of both branches; None for no layer scale.
        has_key_bias: Whether keys have a bias.

    Raises:
        ValueError: If an option is invalid.
    """

    embed_dims: int
    num_heads: int
    hidden_dim: int
    mlp: str
    mlp_norm: bool
    attn_norm: bool
    norm_eps: float
    layer_scale: float | None
    has_key_bias: bool

    def __post_init__(self) -> None:
        check_divides('num_heads', self.num_heads, 'embed_dims', self.embed_dims)
        check_int('hidden_dim', self.hidden_dim)
        check_choice('mlp', self.mlp, ACTIVATIONS)
        check_bool('mlp_norm', self.mlp_norm)
        check_bool('attn_norm', self.attn_norm)
        check_range('norm_eps', self.norm_eps, 0, 1, ends='()')
        if self.layer_scale is not None:
            check_range('layer_scale', self.layer_scale)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.embed_dims // self.num_heads

    def norm(self, dim: int, is_wanted: bool = True) -> nn.Module:
        """A layer norm, or nothing where the model has none."""
        return nn.LayerNorm(dim, eps=self.norm_eps) if is_wanted else nn.Identity()

    def scale(self) -> nn.Module:
        """Layer scale of a branch, or nothing."""
        has_scale = self.layer_scale is not None
        return LayerScale(self.embed_dims, self.layer_scale) if has_scale else nn.Identity()


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        options: Of all blocks.
        window_size: See :class:`~mmtoken.vit.attention.Attention`.
        rel_pos_side: See :class:`~mmtoken.vit.attention.Attention`.
        drop_path: Stochastic depth of both branches, in [0, 1).

    Shape:
        - x: ``(B, T, D)``, returned in the same shape.
        - grid: see :class:`~mmtoken.vit.attention.Grid`.
    """

    def __init__(
        self,
        options: BlockOptions,
        window_size: int = 0,
        rel_pos_side: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        dim, hidden = options.embed_dims, options.hidden_dim
        attn_norm = options.norm(dim, options.attn_norm)
        places = (window_size, rel_pos_side)
        self.norm1 = options.norm(dim)
        self.attn = Attention(dim, options.num_heads, attn_norm, options.has_key_bias, *places)
        self.ls1 = options.scale()
        self.norm2 = options.norm(dim)
        self.mlp = ViTMlp(dim, hidden, options.mlp, options.norm(hidden, options.mlp_norm))
        self.ls2 = options.scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), grid)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
