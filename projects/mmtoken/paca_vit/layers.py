"""The PaCa transformer block and its stride-2 embeddings.

Source: PaCa-ViT (arXiv:2203.11987), Sec. 3.1-3.3. Letters: B batch, N = H*W patches, M clusters,
C channels.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.checks import HW, check_int, check_range
from ..common.layers import ConvMlp, DropPath, to_tokens
from .attention import NORM_EPS, PatchToClusterAttention


class StridedEmbed(nn.Module):
    """Stride-2 convolutions without activations between them, then LayerNorm over the channels.

    The stem has two, a transition one. They cannot be fused, because each pads its own input.

    Args:
        *dims: Channels from input to output; one convolution per step.

    Shape:
        - x: ``(B, dims[0], H, W)``.
        - returns: ``(B, H' * W', dims[-1])`` in raster order, and ``(H', W')``, each side halved
          (rounded up) per step.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        for dim in dims:
            check_int('dims', dim)
        convs = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(dims)]
        self.proj = convs[0] if len(convs) == 1 else nn.Sequential(*convs)
        self.norm = nn.LayerNorm(dims[-1], eps=NORM_EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, HW]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), tuple(x.shape[2:])


class PaCaBlock(nn.Module):
    """Transformer block with patch-to-cluster attention.

    Args:
        dim: C.
        num_heads: See :class:`PatchToClusterAttention`.
        num_clusters: See :class:`PatchToClusterAttention`.
        clustering: See :class:`PatchToClusterAttention`.
        mlp_ratio: Hidden width of the MLP divided by C.
        drop: Dropout after projections and in the MLP, in [0, 1).
        attn_drop: Dropout on the attention weights, in [0, 1).
        drop_path: Stochastic depth of both branches, in [0, 1).

    Shape:
        - x: ``(B, N, C)`` in raster order, returned in the same shape.
        - hw: the grid, ``(H, W)``.
        - assign: ``(B, M, N)`` or None; returned as this block used it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_clusters: int,
        clustering: str | dict | None = None,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_range('mlp_ratio', mlp_ratio, 0, ends='()')
        self.norm1_before = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = PatchToClusterAttention(
            dim, num_heads, num_clusters, clustering, attn_drop, drop
        )
        self.norm2_before = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = PaCaMlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, hw: HW, assign: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        out, assign = self.attn(x, hw, assign, self.norm1_before)
        x = x + self.drop_path(out)
        return x + self.drop_path(self.mlp(x, hw, self.norm2_before)), assign


class PaCaMlp(ConvMlp):
    """:class:`~mmtoken.common.layers.ConvMlp` with a shortcut around its convolution."""

    def mix(self, x: Tensor) -> Tensor:
        """``x + dwconv(x)`` as one convolution, which saves passes over the widest map.

        The shortcut is 1 more in the middle of the kernel. Half precision has no digits for that.
        """
        conv = self.dwconv.dwconv
        if type(conv) is not nn.Conv2d or x.dtype not in (torch.float32, torch.float64):
            return x + self.dwconv(x)
        kernel = conv.weight + F.pad(conv.weight.new_ones(1, 1, 1, 1), (1, 1, 1, 1))
        return F.conv2d(x, kernel, conv.bias, padding=conv.padding, groups=conv.groups)


def check_batch_statistics(module: nn.Module, *sizes: int) -> None:
    """Raise if a batch norm in training mode would see a single value per channel.

    Args:
        module: Module with batch norms; synchronised ones may see more values on other GPUs.
        *sizes: B, H and W of its smallest map.
    """
    if not module.training or math.prod(sizes) != 1:
        return
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    if any(norm.training and not isinstance(norm, nn.SyncBatchNorm) for norm in norms):
        raise ValueError(
            'batch norms in training mode need at least 2 values per channel, got one image with a '
            '1x1 map; use a batch of 2, larger images, norm_eval=True or a norm_cfg without batches'
        )
