"""Slow, obvious reference implementations of the fast functions in this folder; for tests only.

One loop per letter, no padding of groups, no masks. Same names, same results, same gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from .block import AttentionLayer, GroupedAttention, MaxViTBlock
from .maxvit import MaxViT
from .mbconv import MBConv, SameConv2d, Shortcut, SqueezeExcite, Stem
from .partition import KINDS
from .relative_position import MlpBias


def groups_of(kind: str, hw: HW, size: HW) -> list[list[tuple[HW, HW]]]:
    """For each group its cells: row and column inside the group, then in the map."""
    steps = [-(-cells // side) for cells, side in zip(hw, size)]
    found = {}
    for y in range(hw[0]):
        for x in range(hw[1]):
            if kind == 'block':
                group = (y // size[0], x // size[1])
                place = (y - group[0] * size[0], x - group[1] * size[1])
            else:
                group = (y % steps[0], x % steps[1])
                place = ((y - group[0]) // steps[0], (x - group[1]) // steps[1])
            found.setdefault(group, []).append((place, (y, x)))
    return [found[group] for group in sorted(found)]


def resize_table(table: Tensor, size: HW) -> Tensor:
    """Bilinear interpolation between the centres of the entries, one number at a time."""
    for dim, side in ((1, 2 * size[0] - 1), (2, 2 * size[1] - 1)):
        old, lines = table.shape[dim], []
        for i in range(side):
            at = min(max((i + 0.5) * old / side - 0.5, 0), old - 1)
            low = int(at)
            high = min(low + 1, old - 1)
            lines.append(
                table.select(dim, low) * (low + 1 - at) + table.select(dim, high) * (at - low)
            )
        table = torch.stack(lines, dim)
    return table


def relative_bias(rel_pos: nn.Module, query: HW, key: HW, size: HW) -> Tensor:
    """Bias of each head between two places of a group -> ``(h,)``."""
    down, across = key[0] - query[0], key[1] - query[1]
    if isinstance(rel_pos, MlpBias):
        distance = torch.tensor([-down, -across], dtype=torch.float32)
        logs = distance.sign() * torch.log(1 + distance.abs())
        return rel_pos.mlp(logs.to(rel_pos.mlp.fc1.weight.dtype))
    table = resize_table(rel_pos.relative_position_bias_table, size)
    return table[:, down + size[0] - 1, across + size[1] - 1]


def rows_of_head(attn: GroupedAttention, part: int, head: int) -> Tensor:
    """Rows of ``qkv`` of the queries (part 0), keys or values of a head."""
    dim = attn.qkv.out_features // 3
    width = dim // attn.num_heads
    start = (3 * head + part) * width if attn.heads_first else part * dim + head * width
    return torch.arange(start, start + width)


def grouped_attention(attn: GroupedAttention, x: Tensor, kind: str, size: HW) -> Tensor:
    """Attention one sample, group, query and head at a time: ``(B, H, W, C)``, returned alike."""
    places = {(a, b) for a in range(size[0]) for b in range(size[1])}
    biases = {(q, k): relative_bias(attn.rel_pos, q, k, size) for q in places for k in places}
    outs = []
    for sample in x:
        out = {}
        for group in groups_of(kind, x.shape[1:3], size):
            tokens = torch.stack([attn.qkv(sample[cell]) for _, cell in group])
            for i, (place, cell) in enumerate(group):
                heads = []
                for head in range(attn.num_heads):
                    q, k, v = (tokens[:, rows_of_head(attn, part, head)] for part in range(3))
                    bias = torch.stack([biases[place, other][head] for other, _ in group])
                    weights = (k @ q[i] / q.shape[1] ** 0.5 + bias).softmax(0)
                    heads.append(weights @ v)
                out[cell] = attn.proj(torch.cat(heads))
        rows = (torch.stack([out[y, x] for x in range(x.shape[2])]) for y in range(x.shape[1]))
        outs.append(torch.stack(list(rows)))
    return torch.stack(outs)


def attention_layer(layer: AttentionLayer, x: Tensor, kind: str, size: HW) -> Tensor:
    """Attention and MLP, each with its norm and residual."""
    x = x + layer.ls1(grouped_attention(layer.attn, layer.norm1(x), kind, size))
    return x + layer.ls2(layer.mlp.fc2(layer.mlp.act(layer.mlp.fc1(layer.norm2(x)))))


def conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Pad the input with zeros as stated, then convolve without padding."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        before = after = 1
        if isinstance(conv, SameConv2d):  # as much as the last window needs, half of it before
            total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
            before, after = total // 2, total - total // 2
        pads += [before, after]
    return F.conv2d(F.pad(x, pads), conv.weight, conv.bias, conv.stride, groups=conv.groups)


def shortcut(module: Shortcut, x: Tensor) -> Tensor:
    """Means of 2x2 or 3x3 pixels, one window at a time; pixels beyond the map are zeros."""
    first, side = (-1, 3) if module.wide else (0, 2)
    height, width = x.shape[2:]
    rows = []
    for y in range(first, first + height + height % 2, 2):
        row = []
        for x0 in range(first, first + width + width % 2, 2):
            window = x[:, :, max(y, 0) : y + side, max(x0, 0) : x0 + side]
            row.append(window.sum((2, 3)) / side**2)
        rows.append(torch.stack(row, -1))
    return module.expand(torch.stack(rows, -2))


def squeeze_excite(se: SqueezeExcite, x: Tensor) -> Tensor:
    """A small MLP on the mean of all cells."""
    mean = x.flatten(2).sum(2) / (x.shape[2] * x.shape[3])
    hidden = F.silu(F.linear(mean, se.fc1.weight.flatten(1), se.fc1.bias))
    scale = F.linear(hidden, se.fc2.weight.flatten(1), se.fc2.bias).sigmoid()
    return x * scale[:, :, None, None]


def mbconv(block: MBConv, x: Tensor) -> Tensor:
    """The inverted bottleneck, step by step."""
    hidden = block.act(block.norm1(block.conv1_1x1(block.pre_norm(x))))
    hidden = block.act(block.norm2(conv3x3(block.conv2_kxk, hidden)))
    short = shortcut(block.shortcut, x) if isinstance(block.shortcut, Shortcut) else x
    return short + block.conv3_1x1(squeeze_excite(block.se, hidden))


def stem(module: Stem, image: Tensor) -> Tensor:
    """Two convolutions."""
    return conv3x3(module.conv2, module.act(module.norm1(conv3x3(module.conv1, image))))


def block(module: MaxViTBlock, x: Tensor, size: HW) -> Tensor:
    """MBConv, blocks, grid."""
    x = mbconv(module.conv, x).permute(0, 2, 3, 1)
    for kind in KINDS:
        x = attention_layer(getattr(module, f'attn_{kind}'), x, kind, size)
    return x.permute(0, 3, 1, 2)


def maxvit(model: MaxViT, image: Tensor, size: HW) -> list[Tensor]:
    """All stages with groups of a size."""
    x, maps = stem(model.stem, image), []
    for stage in model.stages:
        for module in stage['blocks']:
            x = block(module, x, size)
        maps.append(x)
    return maps
