"""Slow reference implementations of the functions and steps of this folder; for tests only.

They loop over windows, look up every key by its place, really pad, and add the released numbers as
masks. Names, results and gradients are those of the fast functions. Letters as in plan.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from ..common.layers import to_tokens
from .plan import CROP_REACH, Geometry
from .steps import resize_center

MASKED = -1000.0  # what the released code adds to the logits of hidden keys


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Attend head by head from ``(N, C)`` to ``(M, C)``; bias ``(h or 1, N, M)``."""
    heads = []
    for h, (qh, kh, vh) in enumerate(zip(*(x.chunk(num_heads, -1) for x in (q, k, v)))):
        logits = qh @ kh.T / qh.shape[-1] ** 0.5
        if bias is not None:
            logits = logits + bias[min(h, len(bias) - 1)]
        heads.append(logits.softmax(-1) @ vh)
    return torch.cat(heads, -1)


def windows(grid: HW) -> list[HW]:
    """Return the places of a grid in raster order."""
    return [(row, col) for row in range(grid[0]) for col in range(grid[1])]


def pool_windows(x: Tensor, geometry: Geometry, ignore_padding: bool = False) -> Tensor:
    """Pool each part of each window."""
    w, s = geometry.window_size, geometry.semantic_window
    height, width = geometry.hw
    pooled = x.new_zeros(len(x), *geometry.semantic_hw, x.shape[-1])
    for row, col in windows(geometry.semantic_hw):
        places = []
        for start, place in zip((0, 0), (row, col)):
            window, part = divmod(place, s)
            first, last = part * w // s, -(-(part + 1) * w // s)
            places.append(range(start + window * w + first, start + window * w + last))
        inside = [(r, c) for r in places[0] for c in places[1] if r < height and c < width]
        cells = [x[:, r, c] for r, c in inside]
        if not cells or (len(cells) < len(places[0]) * len(places[1]) and not ignore_padding):
            cells.append(torch.zeros_like(x[:, 0, 0]))
        pooled[:, row, col] = torch.stack(cells).amax(0)
    return pooled


def mask_value(geometry: Geometry, of: str, mask: str, row: int, col: int) -> float:
    """Return what is added to the logit of the key at a place, which may be outside the map."""
    height, width = geometry.padded_hw if of == 'patches' else geometry.semantic_hw
    outside = not (0 <= row < height and 0 <= col < width)
    if mask == 'none':
        return 0.0
    if mask == 'exact':
        if of == 'semantic':  # the first patch that the token pools
            w, s = geometry.window_size, geometry.semantic_window
            row, col = ((at // s) * w + (at % s) * w // s for at in (row, col))
        hidden = outside or row >= geometry.hw[0] or col >= geometry.hw[1]
        return -torch.inf if hidden else 0.0
    if outside:
        return MASKED
    below, right = geometry.padding
    first_row = max(height - below, 0) if below else 0
    first_col = max(width - right, 0) if right else 0
    return MASKED if row >= first_row and col >= first_col else 0.0


def square(
    geometry: Geometry, of: str, window: HW, kernel: int, kv: Tensor, outside: Tensor, mask: str
) -> tuple[Tensor, Tensor]:
    """Return keys and values around a window, ``(kernel * kernel, 2C)``, and their mask values.

    ``kv`` is ``(H, W, 2C)`` of one sample, ``outside`` ``(2C,)`` that of a padded token.
    """
    side = geometry.window_size if of == 'patches' else geometry.semantic_window
    reach = (kernel - side) // 2
    keys, values = [], []
    for row in range(window[0] * side - reach, window[0] * side - reach + kernel):
        for col in range(window[1] * side - reach, window[1] * side - reach + kernel):
            there = 0 <= row < kv.shape[0] and 0 <= col < kv.shape[1]
            keys.append(kv[row, col] if there else outside)
            values.append(mask_value(geometry, of, mask, row, col))
    return torch.stack(keys), kv.new_tensor(values)


def attend_neighborhood(
    q: Tensor,
    kv: Tensor,
    outside: Tensor,
    num_heads: int,
    geometry: Geometry,
    kernel: int,
    mask: str,
) -> Tensor:
    """Attend from the semantic tokens of each window to the square of patches around it."""
    s = geometry.semantic_window
    out = torch.zeros_like(q)
    for b in range(len(q)):
        for row, col in windows(geometry.grid):
            keys, added = square(geometry, 'patches', (row, col), kernel, kv[b], outside, mask)
            own = (b, slice(row * s, row * s + s), slice(col * s, col * s + s))
            found = attend(q[own].flatten(0, 1), *keys.chunk(2, -1), num_heads, added[None, None])
            out[own] = found.view(s, s, -1)
    return out


def attend_crops(q: Tensor, kv: Tensor, num_heads: int, geometry: Geometry, mask: str) -> Tensor:
    """Attend from the semantic tokens of each window to each other and to a crop."""
    s, (height, width) = geometry.semantic_window, geometry.hw
    hw = geometry.semantic_hw
    tokens = kv[:, : hw[0] * hw[1]].unflatten(1, hw)
    patches = kv[:, hw[0] * hw[1] :].unflatten(1, geometry.hw)
    out = torch.zeros_like(q)
    for row, col in windows(geometry.grid):
        places = []
        for side, window in ((height, row), (width, col)):
            size = min(geometry.window_size + CROP_REACH, side)
            start = min(max(window * geometry.window_size - CROP_REACH // 2, 0), side - size)
            places.append(slice(start, start + size))
        own = (slice(row * s, row * s + s), slice(col * s, col * s + s))
        added = [
            mask_value(geometry, 'semantic', mask, r, c)
            for r in range(own[0].start, own[0].stop)
            for c in range(own[1].start, own[1].stop)
        ]
        added += [0.0] * len(patches[0, places[0], places[1]].flatten(0, 1))
        for b in range(len(q)):
            crop = patches[b, places[0], places[1]].flatten(0, 1)
            keys = torch.cat((tokens[b][own].flatten(0, 1), crop))
            queries = q[b][own].flatten(0, 1)
            found = attend(queries, *keys.chunk(2, -1), num_heads, q.new_tensor(added)[None, None])
            out[(b, *own)] = found.view(s, s, -1)
    return out


def attend_tiles(
    q: Tensor,
    kv: Tensor,
    outside: Tensor,
    num_heads: int,
    geometry: Geometry,
    kernel: int | None,
    mask: str,
) -> Tensor:
    """Attend from the patches of each window to the square of semantic tokens, or to all."""
    w = geometry.window_size
    out = torch.zeros_like(q)
    for b in range(len(q)):
        for row, col in windows(geometry.grid):
            if kernel is None:
                keys = kv[b].flatten(0, 1)
                places = windows(geometry.semantic_hw)
                added = q.new_tensor([mask_value(geometry, 'semantic', mask, *at) for at in places])
            else:
                keys, added = square(geometry, 'semantic', (row, col), kernel, kv[b], outside, mask)
            own = (b, slice(row * w, row * w + w), slice(col * w, col * w + w))
            found = attend(q[own].flatten(0, 1), *keys.chunk(2, -1), num_heads, added[None, None])
            out[own] = found.view_as(q[own])
    return out


def window_attention(module: nn.Module, x: Tensor, shift: int) -> Tensor:
    """Attend from each patch to the patches of its shifted window and region."""
    size, heads = module.window_size, module.num_heads
    height, width = x.shape[1:3]
    rows, cols = height + -height % size, width + -width % size
    qkv = module.qkv(F.pad(x, (0, 0, 0, cols - width, 0, rows - height)))
    out = torch.zeros_like(x)
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, heads)

    def place(at: int, side: int) -> tuple[int, int, int]:
        """Return window, place in the window and region of a row or column."""
        rolled = (at - shift) % side
        region = 0 if rolled < side - size else 1 if rolled < side - shift or not shift else 2
        return rolled // size, rolled % size, region

    downs, acrosses = ([place(at, side) for at in range(side)] for side in (rows, cols))
    for r, c in windows((height, width)):
        down, across = downs[r], acrosses[c]
        keys, biases = [], []
        for rk in (at for at, other in enumerate(downs) if other[0] == down[0]):
            for ck in (at for at, other in enumerate(acrosses) if other[0] == across[0]):
                apart = (down[1] - downs[rk][1], across[1] - acrosses[ck][1])
                bias = table[apart[0] + size - 1, apart[1] + size - 1]
                same = (downs[rk][2], acrosses[ck][2]) == (down[2], across[2])
                keys.append(qkv[:, rk, ck])
                biases.append(bias if same else bias - 100.0)
        q = qkv[:, r, c].chunk(3, -1)[0]
        _, k, v = torch.stack(keys, 1).chunk(3, -1)
        bias = torch.stack(biases, 1)[:, None]
        for b in range(len(x)):
            out[b, r, c] = attend(q[b, None], k[b], v[b], heads, bias)[0]
    return module.proj(out)


def swin_block(block: nn.Module, x: Tensor, hw: HW, shift: int) -> Tensor:
    """Pre-norm attention and MLP."""
    attended = window_attention(block.attn, block.norm1(x).unflatten(1, hw), shift)
    x = x + attended.flatten(1, 2)
    return x + block.mlp(block.norm2(x))


def patch_merging(module: nn.Module, x: Tensor, hw: HW) -> tuple[Tensor, HW]:
    """Concatenate the four patches of each 2x2 square, the row as the fast index."""
    grid = F.pad(x.unflatten(1, hw), (0, 0, 0, hw[1] % 2, 0, hw[0] % 2))
    four = [grid[:, row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
    merged = torch.cat(four, -1)
    return module.reduction(module.norm(merged)).flatten(1, 2), tuple(merged.shape[1:3])


def feed_forward(block: nn.Module, x: Tensor) -> Tensor:
    """Add the scaled MLP branch."""
    return x + block.layer_scale_2 * block.mlp(block.norm2(x))


def _project(block: nn.Module, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project queries, keys with values, and a padded token, which is zero before the norm."""
    attn = block.attn
    outside = attn.kv(block.norm1(query.new_zeros(query.shape[-1])))
    return attn.q(block.norm1(query)), attn.kv(block.norm1(context)), outside


def _branch(block: nn.Module, out: Tensor) -> Tensor:
    return block.layer_scale_1 * block.attn.proj(out)


def hidden_tokens(geometry: Geometry, mask: str, like: Tensor) -> Tensor:
    """Return the mask values ``(S,)`` if all semantic tokens are keys."""
    if mask != 'exact':  # released masks do not apply between semantic tokens
        return like.new_zeros(geometry.semantic_hw).flatten()
    places = windows(geometry.semantic_hw)
    return like.new_tensor([mask_value(geometry, 'semantic', mask, *at) for at in places])


def attend_to_all(q: Tensor, kv: Tensor, num_heads: int, added: Tensor) -> Tensor:
    """Attend from ``(B, N, C)`` to ``(B, M, 2C)`` with mask values ``(M,)``."""
    samples = [attend(a, *b.chunk(2, -1), num_heads, added[None, None]) for a, b in zip(q, kv)]
    return torch.stack(samples)


def generate(
    block: nn.Module, x: Tensor, geometry: Geometry, mask: str, kernel: int | None
) -> Tensor:
    """First generation step; a kernel of None means the crops of classification models."""
    heads, image = block.attn.num_heads, x.unflatten(1, geometry.hw)
    pooled = pool_windows(image, geometry, mask == 'exact')
    if kernel is None:
        q, kv, _ = _project(block, pooled, torch.cat((pooled.flatten(1, 2), x), 1))
        out = _branch(block, attend_crops(q, kv, heads, geometry, mask))
    else:
        q, kv, outside = _project(block, pooled, image)
        found = attend_neighborhood(q, kv, outside, heads, geometry, kernel, mask)
        out = _branch(block, found)
    return feed_forward(block, (pooled + out if block.residual else out).flatten(1, 2))


def refine(
    block: nn.Module,
    s: Tensor,
    x: Tensor,
    geometry: Geometry,
    mask: str,
    kernel: int | None,
    center: Tensor | None,
) -> Tensor:
    """Second generation step; a kernel of None means all patches and semantic tokens."""
    heads = block.attn.num_heads
    if kernel is None:
        context = torch.cat((s, x), 1)
        if center is not None:
            s = s + resize_center(center, geometry.semantic_hw)
        added = F.pad(hidden_tokens(geometry, mask, x), (0, x.shape[1]))
        q, kv, _ = _project(block, s, context)
        out = attend_to_all(q, kv, heads, added)
    else:
        tokens, image = s.unflatten(1, geometry.semantic_hw), x.unflatten(1, geometry.hw)
        q, kv, outside = _project(block, tokens, image)
        out = attend_neighborhood(q, kv, outside, heads, geometry, kernel, mask).flatten(1, 2)
    return feed_forward(block, s + _branch(block, out))


def attend_locally(block: nn.Module, s: Tensor, geometry: Geometry, mask: str) -> Tensor:
    """Attend between the semantic tokens of a window."""
    side, hw = geometry.semantic_window, geometry.semantic_hw
    q, kv, _ = _project(block, s, s)
    hidden = hidden_tokens(geometry, mask, s).view(hw)
    out = torch.zeros_like(q).unflatten(1, hw)
    for row, col in windows(geometry.grid):
        at = (slice(row * side, row * side + side), slice(col * side, col * side + side))
        for b in range(len(q)):
            own_q, own_kv = (t[b].unflatten(0, hw)[at].flatten(0, 1) for t in (q, kv))
            added = hidden[at].flatten()[None, None]
            found = attend(own_q, *own_kv.chunk(2, -1), block.attn.num_heads, added)
            out[(b, *at)] = found.view(side, side, -1)
    return feed_forward(block, s + _branch(block, out.flatten(1, 2)))


def attend_globally(block: nn.Module, s: Tensor, geometry: Geometry, mask: str) -> Tensor:
    """Attend between all semantic tokens."""
    q, kv, _ = _project(block, s, s)
    out = attend_to_all(q, kv, block.attn.num_heads, hidden_tokens(geometry, mask, s))
    return feed_forward(block, s + _branch(block, out))


def recover(
    block: nn.Module, x: Tensor, s: Tensor, geometry: Geometry, mask: str, kernel: int | None
) -> Tensor:
    """Recovery; a kernel of None means all semantic tokens."""
    image, tokens = x.unflatten(1, geometry.hw), s.unflatten(1, geometry.semantic_hw)
    q, kv, outside = _project(block, image, tokens)
    out = attend_tiles(q, kv, outside, block.attn.num_heads, geometry, kernel, mask)
    return feed_forward(block, x + _branch(block, out.flatten(1, 2)))


def semantic_unit(
    stage: nn.Module, blocks: Sequence[nn.Module], x: Tensor, hw: HW, center: Tensor | None
) -> Tensor:
    """Run the six ``blocks`` of a dumbbell unit on ``(B, N, C)``."""
    geometry = Geometry(hw, stage.window_size, stage.semantic_window)
    dense = stage.flavour == 'dense'
    mask = 'exact' if stage.mask == 'released' and not dense else stage.mask
    near, far, back = stage.key_windows if dense else (None, None, None)
    x = swin_block(blocks[0], x, hw, 0)
    s = generate(blocks[1], x, geometry, mask, near)
    s = refine(blocks[2], s, x, geometry, mask, far, center)
    s = attend_locally(blocks[3], s, geometry, mask)
    s = attend_globally(blocks[4], s, geometry, mask)
    return recover(blocks[5], x, s, geometry, mask, back)


def stvit_r(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Run a whole backbone in eval mode."""
    image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
    x = model.patch_embed.proj(image)
    hw, x = tuple(x.shape[2:]), to_tokens(x)
    maps = []
    for number, stage in enumerate(model.layers):
        if hasattr(stage, 'steps'):
            center = stage.semantic_token2
            for first in range(0, len(stage.blocks), 6):
                x = semantic_unit(stage, stage.blocks[first : first + 6], x, hw, center)
                center = None
        else:
            for i, block in enumerate(stage.blocks):
                small = min(hw) <= block.attn.window_size and model.flavour == 'classification'
                shift = block.attn.window_size // 2 if i % 2 and not small else 0
                x = swin_block(block, x, hw, shift)
        if number in model.out_indices:
            last = model.flavour == 'classification' and number == 3
            norm = model.norm if last else getattr(model, f'norm{number}')
            maps.append(norm(x).transpose(1, 2).unflatten(2, hw))
        if stage.downsample is not None:
            x, hw = patch_merging(stage.downsample, x, hw)
    return tuple(maps)
