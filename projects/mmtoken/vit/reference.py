"""Slow, obvious twin of the plain vision transformer; for tests only.

One loop per patch, window, head and query; an explicit bias for each pair of positions; one sample
at a time. Letters: T tokens, N = h * w patches, D channels, d channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import HW
from .attention import Attention
from .plain_vit import PlainViT


def plain_vit(model: PlainViT, image: Tensor) -> list[Tensor]:
    """Maps of a model without a stem, in eval mode: one ``(B, D, h, w)`` per ``out_indices``."""
    samples = [_sample(model, picture) for picture in image]
    return [torch.stack(maps) for maps in zip(*samples)]


def _sample(model: PlainViT, picture: Tensor) -> list[Tensor]:
    x, hw = patches(model.patch_embed.proj, picture)
    if model.pos_embed is not None:
        x = x + resize(model.pos_embed[0], hw, model.pos_antialias, model.pos_offset)
    prefix = [token[0] for token in (model.cls_token, model.reg_token) if token is not None]
    x = model.norm_pre(torch.cat([*prefix, x]))
    maps = []
    for index, block in enumerate(model.blocks):
        x = x + block.ls1(attention(block.attn, block.norm1(x), hw, model.rope))
        x = x + block.ls2(block.mlp.fc2(_hidden(block.mlp, block.norm2(x))))
        if index in model.out_indices:
            is_last = index == model.num_stages - 1
            normed = model.out_norm == 'all' or (model.out_norm == 'last' and is_last)
            tokens = model.norm(x) if normed else x
            maps.append(tokens[model.num_prefix :].T.reshape(-1, *hw))
    return maps


def patches(proj: torch.nn.Conv2d, picture: Tensor) -> tuple[Tensor, HW]:
    """Project each patch, filled up with zeros at the edge -> ``(N, D)``, ``(h, w)``."""
    size = proj.kernel_size[0]
    hw = tuple(math.ceil(side / size) for side in picture.shape[1:])
    rows = []
    for i in range(hw[0]):
        for j in range(hw[1]):
            patch = picture.new_zeros(len(picture), size, size)
            cut = picture[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            patch[:, : cut.shape[1], : cut.shape[2]] = cut
            value = (proj.weight * patch).sum((1, 2, 3))
            rows.append(value if proj.bias is None else value + proj.bias)
    return torch.stack(rows), hw


def resize(positions: Tensor, hw: HW, antialias: bool, offset: float) -> Tensor:
    """Bicubic interpolation of ``(g * g, D)``, as a sum over the grid for each patch."""
    side = math.isqrt(len(positions))
    if hw == (side, side):
        return positions
    rows, cols = ([_taps(side, new, i, antialias, offset) for i in range(new)] for new in hw)
    return torch.stack(
        [
            sum(a * b * positions[i * side + j] for i, a in down for j, b in across)
            for down in rows
            for across in cols
        ]
    )


def _taps(side: int, new: int, index: int, antialias: bool, offset: float) -> list:
    """Old indices of one axis and their weights for one new index."""
    scale = side / (new + offset)
    center = (index + 0.5) * scale
    if not antialias:
        first = math.floor(center - 0.5) - 1
        taps = [(i, _cubic(i + 0.5 - center, -0.75)) for i in range(first, first + 4)]
        return [(min(max(i, 0), side - 1), weight) for i, weight in taps]
    stretch = max(scale, 1.0)
    taps = [(i, _cubic((i + 0.5 - center) / stretch, -0.5)) for i in range(side)]
    total = sum(weight for _, weight in taps)
    return [(i, weight / total) for i, weight in taps]


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def attention(module: Attention, x: Tensor, hw: HW, rope: str | None) -> Tensor:
    """Self-attention of ``(T, D)``, window by window in a block with windows."""
    places = [(i, j) for i in range(hw[0]) for j in range(hw[1])]
    size = module.window_size
    if not size:
        return _attend(module, x, places, [True] * len(x), hw, hw, rope)
    rows = list(x)
    for top in range(0, hw[0], size):
        for left in range(0, hw[1], size):
            window = [(top + i, left + j) for i in range(size) for j in range(size)]
            real = [place in places for place in window]
            inside = [
                x[places.index(at)] if at in places else torch.zeros_like(x[0]) for at in window
            ]
            seen = real if not module.has_rel_pos else [True] * len(window)
            out = _attend(module, torch.stack(inside), window, seen, hw, (size, size), rope)
            for at, value, is_real in zip(window, out, real):
                if is_real:
                    rows[places.index(at)] = value
    return torch.stack(rows)


def _attend(
    module: Attention, x: Tensor, places: list, seen: list, hw: HW, attended: HW, rope: str | None
) -> Tensor:
    """Attention of tokens of which the last ones have places; keys that are not seen are left out.

    ``hw`` are the sides of the map, ``attended`` of the part of it that the tables are for.
    """
    head_dim = x.shape[1] // module.num_heads
    num_prefix = len(x) - len(places)
    bias = module.qkv.bias.clone()
    if rope:
        bias = torch.cat([bias[: x.shape[1]], 0 * x[0], bias[2 * x.shape[1] :]])
    qkv = x @ module.qkv.weight.T + bias
    heads = []
    for head in range(module.num_heads):
        q, k, v = (part[:, head * head_dim : (head + 1) * head_dim] for part in qkv.chunk(3, -1))
        if rope:
            q, k = (
                torch.stack(
                    [
                        *each[:num_prefix],
                        *(turn(one, at, hw, rope) for one, at in zip(each[num_prefix:], places)),
                    ]
                )
                for each in (q, k)
            )
        rows = []
        for i in range(len(x)):
            logits = k @ q[i] / math.sqrt(head_dim)
            if module.has_rel_pos:
                logits = logits + _relative(module, q[i], places[i], places, attended)
            weights = logits.masked_fill(~torch.tensor(seen), -torch.inf).softmax(0)
            rows.append(weights @ v)
        heads.append(torch.stack(rows))
    return module.proj(module.norm(torch.cat(heads, -1)))


def _relative(module: Attention, q: Tensor, at: HW, places: list, attended: HW) -> Tensor:
    """Bias of one query for each place, from the distance down and across."""
    tables = (module.rel_pos_h, module.rel_pos_w)
    bias = 0
    for axis, (table, side) in enumerate(zip(tables, attended)):
        if len(table) != 2 * side - 1:
            table = F.interpolate(table.T[None], size=2 * side - 1, mode='linear')[0].T
        rows = torch.stack([table[at[axis] - place[axis] + side - 1] for place in places])
        bias = bias + rows @ q
    return bias


def turn(x: Tensor, at: HW, hw: HW, rope: str) -> Tensor:
    """Rotate the channels of one head at one place, pair by pair."""
    half, quarter = len(x) // 2, len(x) // 4
    channels = list(x)
    for pair in range(half):
        axis, j = divmod(pair, quarter)
        if rope == 'dinov3':
            angle = 2 * math.pi * (2 * (at[axis] + 0.5) / hw[axis] - 1) / 100 ** (j / quarter)
            first, second = pair, pair + half
        else:
            angle = at[axis] * 16 / hw[axis] / 10000 ** (j / quarter)
            first, second = 2 * pair, 2 * pair + 1
        u, v = x[first], x[second]
        channels[first] = u * math.cos(angle) - v * math.sin(angle)
        channels[second] = v * math.cos(angle) + u * math.sin(angle)
    return torch.stack(channels)


def _hidden(mlp: torch.nn.Module, x: Tensor) -> Tensor:
    """Between the two layers of an MLP."""
    hidden = mlp.fc1(x)
    kind = type(mlp.act).__name__
    if kind == 'GELU':
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    elif kind == 'QuickGELU':
        hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    else:
        half = hidden.shape[-1] // 2
        gate, value = hidden[..., :half], hidden[..., half:]
        hidden = gate / (1 + torch.exp(-gate)) * value
    return mlp.norm(hidden)
