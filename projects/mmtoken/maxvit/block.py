"""The MaxViT block: MBConv, attention in blocks, attention on the grid (Sec. 3.2).

Letters: B batch, H and W cells, C channels, h heads, K groups, n tokens of a group.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..common.attention import multi_head_attention
from ..common.layers import DropPath, LayerScale, Mlp
from ..common.memory import map_chunks
from ..common.recorder import is_recording, is_recording_attention, last_attention, record
from .forms import ACTIVATIONS, Form
from .maps import GroupAttention
from .mbconv import MBConv
from .partition import KINDS, Groups

MLP_RATIO = 4
MASK_NUMBERS = 2**25  # of the masks that one image has at a time


class GroupedAttention(nn.Module):
    """Self-attention inside each group, with a bias of relative positions.

    Padded tokens are no keys. The projections see only real tokens.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        rel_pos: Bias of relative positions.
        heads_first: Order of the rows of ``qkv``, see :class:`~mmtoken.maxvit.forms.Form`.

    Shape:
        - x: ``(B, H, W, C)``; groups: partition of its map.
        - returns: ``(B, H, W, C)``.
    """

    def __init__(self, dim: int, num_heads: int, rel_pos: nn.Module, heads_first: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.heads_first = heads_first
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos = rel_pos
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        bias = self.rel_pos(groups, x.dtype)
        attend = partial(self._attend, bias=bias)
        qkv = groups.split(self.qkv(x))
        if groups.padding is None:
            return self.proj(groups.join(map_chunks(attend, qkv)))
        # one mask for each group, and a few groups at a time if these are large
        size = qkv.shape[1]
        if not is_recording_attention():
            size = min(size, max(MASK_NUMBERS // bias.numel(), 1))
        chunks = zip(qkv.split(size, 1), groups.padding.split(size, 1))
        return self.proj(groups.join(torch.cat([map_chunks(attend, *one) for one in chunks], 1)))

    def _attend(self, qkv: Tensor, padding: Tensor | None = None, *, bias: Tensor) -> Tensor:
        """``(B, K, n, 3C)`` and ``(1, K, n)`` -> ``(B, K, n, C)``; bias: ``(1, h, n, n)``."""
        if padding is not None:
            bias = torch.where(padding[0, :, None, None], -torch.inf, bias)
            bias = bias.repeat(qkv.shape[0], 1, 1, 1)
        if self.heads_first:
            parts = qkv.unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)
            parts = [part.flatten(-2) for part in parts]
        else:
            parts = qkv.chunk(3, -1)
        q, k, v = (part.flatten(0, 1) for part in parts)
        out = multi_head_attention(q, k, v, self.num_heads, bias)
        return out.unflatten(0, qkv.shape[:2])

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, heads_first={self.heads_first}'


class AttentionLayer(nn.Module):
    """Pre-norm attention inside groups, then an MLP.

    Args:
        attn: Attention.
        dim: C.
        form: Details of a release.
        layer_scale: Initial factor of both branches; None for none.
        drop_path: Stochastic depth of both branches, in [0, 1).
        place: 1-based stage and 0-based block, for records.

    Shape:
        - x: ``(B, H, W, C)``; groups: partition of its map.
        - returns: ``(B, H, W, C)``.
    """

    def __init__(
        self,
        attn: GroupedAttention,
        dim: int,
        form: Form,
        layer_scale: float | None,
        drop_path: float,
        place: tuple[int, int],
    ) -> None:
        super().__init__()
        self.place = place
        self.norm1 = nn.LayerNorm(dim, eps=form.norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=form.norm_eps)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.mlp.act = ACTIVATIONS[form.mlp_act]()
        scaled = layer_scale is not None
        self.ls1 = LayerScale(dim, layer_scale) if scaled else nn.Identity()
        self.ls2 = LayerScale(dim, layer_scale) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), groups)))
        if is_recording():
            where = dict(zip(('stage', 'block'), self.place))
            shape = dict(kind=groups.kind, hw=groups.hw, size=groups.size)
            record(GroupAttention(**where, **shape, attention=last_attention()))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class MaxViTBlock(nn.Module):
    """MBConv, then attention in blocks and attention on the grid, each with an MLP.

    Args:
        conv: MBConv.
        *layers: :class:`AttentionLayer` of blocks, and that of the grid.

    Shape:
        - x: ``(B, D, H', W')``; groups: blocks and grid of the map ``(H, W)`` after the MBConv.
        - returns: ``(B, C, H, W)``.
    """

    def __init__(self, conv: MBConv, *layers: AttentionLayer) -> None:
        super().__init__()
        self.conv = conv
        for kind, layer in zip(KINDS, layers):
            self.add_module(f'attn_{kind}', layer)

    def forward(self, x: Tensor, groups: tuple[Groups, Groups]) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        x = self.attn_block(x, groups[0])
        x = self.attn_grid(x, groups[1])
        return x.permute(0, 3, 1, 2)
