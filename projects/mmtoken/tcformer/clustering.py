"""Density-peaks clustering with k nearest neighbours (DPC-kNN), globally or part by part.

Source: TCFormer (CVPR 2022), Sec. 3.2; parts: TCFormerV2 (TPAMI 2024), local CTM.
Everything here is integers out, no gradient, at least float32 inside, and deterministic: a tie
goes to the lower index, in density, in score and in distance.

Letters: B batch, N tokens, M clusters, C channels, P parts, S slots per part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW, check_shape


@dataclass(frozen=True)
class Clustering:
    """A hard clustering as a value.

    Args:
        assign_idx: ``(B, N)`` long in [0, M): the cluster of each token; no cluster is empty.
        center_idx: ``(B, M)`` long in [0, N): the token at the centre of each cluster, in
            descending order of score, which is the order of the merged tokens.
        center_score: ``(B, M)`` density times separation of the centres.
    """

    assign_idx: Tensor
    center_idx: Tensor
    center_score: Tensor

    @property
    def num_clusters(self) -> int:
        """M."""
        return self.center_idx.shape[1]


def pairwise_distance(x: Tensor) -> Tensor:
    """Euclidean distances ``(B, N, N)`` of ``x (B, N, C)``, divided by ``sqrt(C)``.

    Subtracting the mean token first changes no distance and keeps the matrix-product form
    accurate when tokens are far from the origin. What is left of rounding, ``sqrt(eps)`` of the
    tokens' size, is set to zero: in flat image areas tokens repeat, and noise between copies
    would otherwise pick the centres, differently in every batch.
    """
    noise_floor = 4 * torch.finfo(x.dtype).eps ** 0.5 * x.square().mean((1, 2), keepdim=True).sqrt()
    x = (x - x.mean(1, keepdim=True)) / x.shape[-1] ** 0.5
    distance = torch.cdist(x, x)
    return distance.masked_fill_(distance <= noise_floor, 0.0)


def local_density(distance: Tensor, num_neighbors: int) -> Tensor:
    """``exp(-mean of the k smallest squared distances)``, self included -> ``(B, N)``."""
    nearest = distance.topk(num_neighbors, dim=-1, largest=False).values
    return nearest.square().mean(-1).neg().exp()


def density_rank(density: Tensor) -> Tensor:
    """Place of each token when sorted by falling density, ties by index -> ``(B, N)``."""
    order = density.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def peak_separation(distance: Tensor, rank: Tensor, valid: Tensor | None = None) -> Tensor:
    """Distance to the nearest denser token; the largest distance for the densest one.

    Args:
        distance: ``(B, N, N)``.
        rank: ``(B, N)`` from :func:`density_rank`.
        valid: ``(B, N)`` bool; which columns exist.

    Returns:
        ``(B, N)``.
    """
    real = distance
    if valid is not None:
        real = distance.masked_fill(~(valid[:, :, None] & valid[:, None, :]), 0.0)
    farthest = real.flatten(1).amax(1)[:, None, None]
    is_denser = rank[:, None, :] < rank[:, :, None]
    return torch.where(is_denser, distance, farthest).amin(-1)


def nearest_center(to_centers: Tensor, center_idx: Tensor) -> Tensor:
    """Cluster of each token from the distances ``(B, M, N)`` to the centres -> ``(B, N)``.

    Of centres that are copies of each other only the first attracts tokens; rounding would
    otherwise deal them out at random.
    """
    num_clusters = center_idx.shape[1]
    columns = center_idx[:, None, :].expand(-1, num_clusters, -1)
    between = to_centers.gather(2, columns)  # B M M
    is_copy = (between == 0).tril(-1).any(-1)  # B M: equals a centre of lower index
    return to_centers.masked_fill(is_copy[..., None], math.inf).argmin(1)


@torch.no_grad()
def cluster_dpc_knn(
    x: Tensor,
    num_clusters: int,
    num_neighbors: int = 5,
    density_noise: float = 0.0,
    valid: Tensor | None = None,
) -> Clustering:
    """Choose the M tokens of highest density x separation as centres; join the nearest centre.

    Args:
        x: ``(B, N, C)`` tokens; half precision is clustered in float32.
        num_clusters: M, in [1, number of valid tokens].
        num_neighbors: k of the density, self included; ``min(k, N)`` is used.
        density_noise: Amplitude of the uniform noise added to the density. The released models
            were trained with 1e-6; 0 is deterministic.
        valid: ``(B, N)`` bool, True where a token exists; every row needs at least ``max(M, k)``
            True values. The others join a cluster but never shape one.

    Returns:
        The clustering. Ties go to the lower index.

    Raises:
        ValueError: ``num_clusters`` or ``num_neighbors`` out of range.
    """
    check_shape('x', x, 'B N C')
    num_tokens = x.shape[1]
    if not 1 <= num_clusters <= num_tokens:
        raise ValueError(
            f'num_clusters must lie in [1, {num_tokens}], the number of tokens, got '
            f'{num_clusters}; lower sample_ratios or use a larger image'
        )
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}; use 5')

    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        distance = pairwise_distance(x)
        if valid is None:
            neighbor_distance = distance
        else:
            neighbor_distance = distance.masked_fill(~valid[:, None, :], math.inf)
        density = local_density(neighbor_distance, min(num_neighbors, num_tokens))
        if density_noise:
            density = density + torch.rand_like(density) * density_noise
        if valid is not None:
            density = density.masked_fill(~valid, -1.0)

        separation = peak_separation(distance, density_rank(density), valid)
        score = separation * density
        if valid is not None:
            score = score.masked_fill(~valid, -math.inf)
        order = score.argsort(dim=-1, descending=True, stable=True)
        center_idx = order[:, :num_clusters]  # B M

        rows = center_idx[..., None].expand(-1, -1, num_tokens)
        assign_idx = nearest_center(distance.gather(1, rows), center_idx)  # B N
    # a centre owns itself, also when a copy of it is a centre of lower index
    own = torch.arange(num_clusters, device=x.device).expand(x.shape[0], -1)
    assign_idx.scatter_(1, center_idx, own)
    return Clustering(assign_idx, center_idx, score.gather(1, center_idx))


@dataclass(frozen=True)
class Parts:
    """How tokens are dealt into parts, the same for every sample.

    Args:
        index: ``(P, S)`` long; the token in each slot of each part. Smaller parts are filled up
            with their own first token.
        slot: ``(N,)`` long in [0, P*S); the slot of each token, the inverse of ``index``.
        valid: ``(P, S)`` bool, False in filled-up slots; None if all parts are equal.
        min_size: Tokens in the smallest part.
    """

    index: Tensor
    slot: Tensor
    valid: Tensor | None
    min_size: int


def part_order(local_parts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Finest parts (row, column), ordered so that every coarser part is a contiguous run.

    Args:
        local_parts: Parts per side, finest first, each divisible by the next, e.g. ``(4, 2, 1)``.

    Returns:
        ``local_parts[0] ** 2`` places.
    """
    *finer, coarsest = local_parts
    if not finer:
        return [(r, c) for r in range(coarsest) for c in range(coarsest)]
    inner = part_order(tuple(parts // coarsest for parts in finer))
    side = local_parts[0] // coarsest
    return [
        (r * side + row, c * side + col)
        for r in range(coarsest)
        for c in range(coarsest)
        for row, col in inner
    ]


def grid_parts(hw: HW, local_parts: tuple[int, ...], device: torch.device) -> Parts:
    """Cut a grid of tokens in raster order into ``local_parts[0] ** 2`` near-equal rectangles.

    Part i of a side of length L spans ``[i*L // parts, (i+1)*L // parts)``: no part is empty,
    sizes differ by at most one row and column, and coarser cuts are unions of finer ones.

    Args:
        hw: Grid size; both sides at least ``local_parts[0]``.
        local_parts: Parts per side at this and the later stages, see :func:`part_order`.
        device: Where the index lives.

    Returns:
        The parts, in the order of :func:`part_order`.

    Raises:
        ValueError: The grid has fewer rows or columns than there are parts.
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
    x: Tensor,
    parts: Parts,
    num_clusters: int,
    num_neighbors: int = 5,
    density_noise: float = 0.0,
) -> Clustering:
    """DPC-kNN inside each part: O(N^2 / P) instead of O(N^2), and clusters stay local.

    Args:
        x: ``(B, N, C)`` tokens.
        parts: How they are dealt into P parts.
        num_clusters: Wanted M; each part gets ``round(M / P)``, at least 1 and at most as many
            as the smallest part has tokens, so that M may change slightly.
        num_neighbors: k of the density; at most the size of the smallest part is used.
        density_noise: See :func:`cluster_dpc_knn`.

    Returns:
        The clustering; clusters are part-major, best score first within a part.
    """
    batch, _, dim = x.shape
    num_parts, slots = parts.index.shape
    per_part = min(max(round(num_clusters / num_parts), 1), parts.min_size)
    local = cluster_dpc_knn(
        x[:, parts.index].reshape(batch * num_parts, slots, dim),
        per_part,
        min(num_neighbors, parts.min_size),
        density_noise,
        None if parts.valid is None else parts.valid.repeat(batch, 1),
    )
    first_cluster = torch.arange(num_parts, device=x.device)[:, None] * per_part
    assign = local.assign_idx.view(batch, num_parts, slots) + first_cluster
    centers = local.center_idx.view(batch, num_parts, per_part)
    return Clustering(
        assign_idx=assign.flatten(1)[:, parts.slot],
        center_idx=parts.index.expand(batch, -1, -1).gather(2, centers).flatten(1),
        center_score=local.center_score.view(batch, -1),
    )
