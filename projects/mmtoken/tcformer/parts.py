"""Clustering part by part: the split of tokens into parts, and DPC-kNN inside each.

Source: TCFormerV2 (TPAMI 2024), local CTM.

Letters: B batch, N tokens, M clusters, C channels, P parts, S slots per part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW
from .clustering import Clustering, cluster_dpc_knn


@dataclass(frozen=True)
class Parts:
    """A split of tokens into parts, the same for every sample.

    Args:
        index: ``(P, S)`` long; the token in each slot of each part. Smaller parts are padded with
            their first token.
        slot: ``(N,)`` long in [0, P*S); the slot of each token, the inverse of ``index``.
        valid: ``(P, S)`` bool, False for padding; None if all parts have the same size.
        min_size: Tokens in the smallest part.
    """

    index: Tensor
    slot: Tensor
    valid: Tensor | None
    min_size: int


def part_order(local_parts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Row and column of the finest parts, ordered so that coarser parts are contiguous runs.

    Args:
        local_parts: Parts per side, finest first, each divisible by the next, e.g. ``(4, 2, 1)``.

    Returns:
        ``local_parts[0] ** 2`` pairs.
    """
    side = local_parts[0]
    runs = [side // parts for parts in reversed(local_parts)]
    finest = [(row, col) for row in range(side) for col in range(side)]
    return sorted(finest, key=lambda at: [(at[0] // run, at[1] // run) for run in runs])


def grid_parts(hw: HW, local_parts: tuple[int, ...], device: torch.device) -> Parts:
    """Cut a grid of tokens in raster order into ``local_parts[0] ** 2`` near-equal rectangles.

    Part i of a side of length L spans ``[i*L // parts, (i+1)*L // parts)``: no part is empty,
    sizes differ by at most one row and column, and coarser cuts are unions of finer ones.

    Args:
        hw: Grid size; both sides at least ``local_parts[0]``.
        local_parts: Parts per side at this and the later stages, see :func:`part_order`.
        device: Device of the index.

    Returns:
        The parts, in the order of :func:`part_order`.

    Raises:
        ValueError: If the grid has fewer rows or columns than parts per side.
    """
    side = local_parts[0]
    if min(hw) < side:
        raise ValueError(
            f'local_parts={tuple(local_parts)} needs a token grid of at least {side}x{side}, got '
            f'{hw[0]}x{hw[1]}; lower local_parts or use a larger image'
        )
    tops, lefts = ([i * length // side for i in range(side + 1)] for length in hw)
    grid = torch.arange(hw[0] * hw[1], device=device).view(hw)
    pieces = [
        grid[tops[r] : tops[r + 1], lefts[c] : lefts[c + 1]].flatten()
        for r, c in part_order(local_parts)
    ]
    sizes = [piece.numel() for piece in pieces]
    slots = max(sizes)
    index = torch.stack([torch.cat([p, p[:1].expand(slots - len(p))]) for p in pieces])
    slot = torch.empty_like(grid).flatten()
    for number, piece in enumerate(pieces):
        slot[piece] = number * slots + torch.arange(len(piece), device=device)
    if min(sizes) == slots:
        return Parts(index, slot, None, slots)
    valid = torch.arange(slots, device=device) < torch.tensor(sizes, device=device)[:, None]
    return Parts(index, slot, valid, min(sizes))


def run_parts(num_tokens: int, num_parts: int, device: torch.device) -> Parts:
    """Parts of tokens that are already part-major: equal contiguous runs."""
    if num_tokens % num_parts:
        raise ValueError(
            f'{num_tokens} part-major tokens do not split into {num_parts} equal parts; each '
            'entry of local_parts must divide the one before it'
        )
    slot = torch.arange(num_tokens, device=device)
    return Parts(slot.view(num_parts, -1), slot, None, num_tokens // num_parts)


@torch.no_grad()
def cluster_by_parts(
    x: Tensor, parts: Parts, num_clusters: int, num_neighbors: int = 5, density_noise: float = 0.0
) -> Clustering:
    """DPC-kNN inside each part: O(N^2 / P) instead of O(N^2), and clusters stay local.

    Args:
        x: ``(B, N, C)`` tokens.
        parts: Their split into P parts.
        num_clusters: Requested M. Each part gets ``round(M / P)`` clusters, at least 1 and at
            most ``parts.min_size``, so that M may change slightly.
        num_neighbors: k of the density; at most ``parts.min_size`` is used.
        density_noise: See :func:`cluster_dpc_knn`.

    Returns:
        The clustering; clusters are part-major, best score first within a part.
    """
    batch, _, dim = x.shape
    num_parts, slots = (int(size) for size in parts.index.shape)  # tensors while tracing
    per_part = min(max(round(int(num_clusters) / num_parts), 1), parts.min_size)
    local = cluster_dpc_knn(
        x[:, parts.index].reshape(batch * num_parts, slots, dim),
        per_part,
        min(num_neighbors, parts.min_size),
        density_noise,
        None if parts.valid is None else parts.valid.repeat(batch, 1),
        num_parts,
    )
    first_cluster = torch.arange(num_parts, device=x.device)[:, None] * per_part
    assign = local.assign_idx.view(batch, num_parts, slots) + first_cluster
    centers = local.center_idx.view(batch, num_parts, per_part)
    return Clustering(
        assign_idx=assign.flatten(1)[:, parts.slot],
        center_idx=parts.index.expand(batch, -1, -1).gather(2, centers).flatten(1),
        center_score=local.center_score.view(batch, num_parts * per_part),
    )
