"""The three figures of the ViT paper, for any backbone that has what they show.

Source: "An Image is Worth 16x16 Words" (arXiv:2010.11929), Fig. 7: filters of the patch embedding,
similarity of position embeddings, and mean attention distance. Letters as in attention.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from .attention import GridAttention, thin_out
from .maps import count_prefix

POSITIONS = ('pos_embed', 'position_embedding', 'position_embeddings', 'absolute_pos_embed')
COMPONENTS, MOST_TILES = 28, 7
MOST_QUERIES = 256


def mean_distance(attention: GridAttention, input_hw: HW) -> Tensor:
    """Distance between a query and what it attends to, ``(h,)`` in pixels of the input.

    Args:
        attention: Of a layer.
        input_hw: Size of the input.

    Returns:
        The mean over queries, of larger grids over at most 256 evenly spread ones. Attention to
        padding and to tokens that are no patches is left out.
    """
    _, cells = thin_out(tuple(attention.queries.shape), MOST_QUERIES)
    total = torch.zeros(attention.num_heads, dtype=torch.float64)
    centres = _centres(attention.keys, input_hw)  # H' W' 2
    for query, place in zip(cells.tolist(), _centres(attention.queries, input_hw)[tuple(cells.T)]):
        weights = attention.of_token(int(attention.queries[tuple(query)])).double().nan_to_num()
        distance = (centres - place).norm(dim=-1)
        total += (weights * distance).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-30)
    return total / len(cells)


def _centres(cells: Tensor, input_hw: HW) -> Tensor:
    sides = (
        (torch.arange(count, dtype=torch.float64) + 0.5) * -(-side // count)
        for side, count in zip(input_hw, cells.shape)
    )
    return torch.stack(torch.meshgrid(*sides, indexing='ij'), -1)


def find_positions(model: nn.Module) -> Tensor | None:
    """Learnt absolute position embeddings of the patches ``(h, w, D)``; None if there are none.

    Args:
        model: A backbone.

    Returns:
        The embeddings, without those of tokens in front of the patches.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name.rpartition('.')[2] not in POSITIONS:
            continue
        value = value.detach().double()
        if value.ndim == 4:  # (1, D, h, w) or (1, h, w, D): equal sides are those of the grid
            return value[0].permute(1, 2, 0) if value.shape[2] == value.shape[3] else value[0]
        for prefix in dict.fromkeys((count_prefix(model), 0)):
            side = round((value.shape[1] - prefix) ** 0.5)
            if side * side == value.shape[1] - prefix:
                return value[0, prefix:].unflatten(0, (side, side))
    return None


def position_similarity(positions: Tensor) -> Tensor:
    """Cosine of the embeddings of all pairs of patches ``(h, w, h, w)``."""
    unit = F.normalize(positions, dim=-1)
    return torch.einsum('abd,xyd->abxy', unit, unit)


def find_filters(model: nn.Module) -> Tensor | None:
    """Filters of the patch embedding ``(D, C, p, p)``; None if its patches overlap."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride or first.kernel_size[0] < 2:
        return None
    return first.weight.detach().double()


def principal_filters(filters: Tensor, count: int = COMPONENTS) -> tuple[Tensor, Tensor]:
    """Principal components of filters.

    Args:
        filters: ``(D, C, p, p)``.
        count: Number of components.

    Returns:
        ``(count, C, p, p)``, unit vectors of arbitrary sign, and their shares of the variance.
    """
    rows = filters.flatten(1)
    _, s, vh = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return vh[:count].unflatten(1, filters.shape[1:]), (s.square() / s.square().sum())[:count]


def draw_filters(filters: Tensor) -> Figure:
    """The first components, each stretched to the range of colours."""
    parts, shares = (one.numpy() for one in principal_filters(filters))
    figure = Figure((7, 4.6))
    for axes, part, share in zip(figure.subplots(4, COMPONENTS // 4).flat, parts, shares):
        low, high = part.min(), part.max()
        picture = ((part - low) / max(high - low, 1e-30)).transpose(1, 2, 0)
        axes.imshow(picture[..., :3] if len(part) >= 3 else picture[..., 0], cmap='gray')
        axes.set_title(f'{100 * share:.1f} %', fontsize=7)
    for axes in figure.axes:
        axes.axis('off')
    figure.suptitle(
        'Principal components of the patch embedding, share of the variance', fontsize=9
    )
    return figure


def draw_positions(positions: Tensor) -> Figure:
    """Cosine with all patches, for evenly spread patches."""
    similarity = position_similarity(positions).numpy()
    rows, cols = (
        np.unique(np.linspace(0, side - 1, MOST_TILES).round().astype(int))
        for side in positions.shape[:2]
    )
    figure = Figure((7, 6))
    panels = figure.subplots(len(rows), len(cols), squeeze=False)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            image = panels[i, j].imshow(similarity[row, col], vmin=-1, vmax=1, cmap='viridis')
            panels[i, j].set(xticks=[], yticks=[])
    figure.suptitle('Cosine of the position embedding of a patch with those of all', fontsize=9)
    figure.colorbar(image, ax=panels)
    return figure


def draw_distances(distances: Mapping[str, Tensor]) -> Figure:
    """Mean attention distance of each head ``(h,)`` over depth."""
    figure = Figure((7, 4), layout='constrained')
    axes = figure.subplots()
    for depth, heads in enumerate(distances.values()):
        axes.scatter([depth] * len(heads), heads, s=14, alpha=0.7, lw=0)
    axes.set(xlabel='attention layer', ylabel='mean attention distance in pixels', ylim=(0, None))
    if len(distances) <= 24:
        axes.set_xticks(range(len(distances)), distances, rotation=90, fontsize=7)
    return figure
