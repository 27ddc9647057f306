"""Density-peaks clustering with k nearest neighbours (DPC-kNN) in O(N) memory.

Source: TCFormer (CVPR 2022), Sec. 3.2.

Matrix products, one chunk of rows at a time, only select candidates. Every distance that is
compared with another one is a sum of squared differences, added in an order that depends on C
alone: it is the same for (i, j) and (j, i) and in every batch, memory layout and thread. Ties are
therefore exact and go to the lower index, in density, in score and in distance.

Letters: B batch, N tokens, M clusters, C channels, k neighbours, R rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import check_shape
from ..common.tracing import is_compiled_for_cpu, is_onnx_export
from .bags import flatten_rows
from .tokens import no_autocast


@dataclass(frozen=True)
class Clustering:
    """A hard clustering.

    Args:
        assign_idx: ``(B, N)`` long in [0, M), the cluster of each token; no cluster is empty.
        center_idx: ``(B, M)`` long in [0, N), the token at the centre of each cluster, in
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


@torch.no_grad()
def cluster_dpc_knn(
    x: Tensor,
    num_clusters: int,
    num_neighbors: int = 5,
    density_noise: float = 0.0,
    valid: Tensor | None = None,
    num_parts: int = 1,
) -> Clustering:
    """Make the M tokens of highest density x separation centres; join the nearest centre.

    The density of a token is ``exp(-mean of the k smallest squared distances)``, its own 0
    included. Its separation is the distance to the nearest denser token, or the largest distance
    of all for the densest token. Distances are divided by ``sqrt(C)``. Distances up to the
    rounding error of a matrix product, ``4 * sqrt(eps)`` times the size of the tokens, are 0.
    Such tokens are copies, as in flat image areas, and share the position and the density of the
    first one.

    Args:
        x: ``(B, N, C)`` tokens; half precision is clustered in float32.
        num_clusters: M, in [1, number of valid tokens].
        num_neighbors: k; ``min(k, N)`` is used.
        density_noise: Amplitude of the uniform noise added to the density. The released models
            were trained with 1e-6; 0 is deterministic.
        valid: ``(B, N)`` bool, False for padding, which repeats other tokens; every sample needs
            at least ``max(M, k)`` True values. Padding joins clusters but does not shape them.
        num_parts: Consecutive samples that are the parts of one image; divides B.

    Returns:
        The clustering.

    Raises:
        ValueError: If ``num_clusters`` or ``num_neighbors`` is out of range.
    """
    check_shape('x', x, 'B N C')
    num_tokens = int(x.shape[1])
    if not 1 <= num_clusters <= num_tokens:
        raise ValueError(
            f'num_clusters must be in [1, {num_tokens}], the number of tokens, got '
            f'{num_clusters}; lower sample_ratios or use a larger image'
        )
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    k = min(num_neighbors, num_tokens)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    noise = torch.rand_like(x[..., 0]) * density_noise if density_noise else None

    cluster = _cluster_as_one_node if is_compiled_for_cpu(x) else _cluster_in_groups
    with no_autocast(x):
        return Clustering(*cluster(x, num_clusters, k, noise, valid, num_parts))


def _cluster_in_groups(
    x: Tensor,
    num_clusters: int,
    k: int,
    noise: Tensor | None,
    valid: Tensor | None,
    num_parts: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors of a :class:`Clustering`; on a CPU, for a few parts of an image at a time.

    Products have the same size whatever the batch: that of one image, or of some of its parts.
    """

    def cluster(at: slice) -> tuple[Tensor, Tensor, Tensor]:
        extras = (None if each is None else each[at] for each in (noise, valid))
        return _cluster(x[at], num_clusters, k, *extras)

    if not _is_eager_cpu(x):
        return cluster(slice(None))
    most = max(2**20 // x.shape[1] ** 2, 1)
    size = max(n for n in range(1, num_parts + 1) if n <= most and num_parts % n == 0)
    groups = [cluster(slice(i, i + size)) for i in range(0, max(len(x), 1), size)]
    assign_idx, center_idx, score = map(torch.cat, zip(*groups))
    return assign_idx, center_idx, score


# A node whose inside is not compiled: values may decide about shapes, as in eager mode
_cluster_as_one_node = torch.library.custom_op(
    'mmtoken::cluster_dpc_knn',
    _cluster_in_groups,
    mutates_args=(),
    device_types='cpu',
    schema='(Tensor x, SymInt num_clusters, SymInt k, Tensor? noise, Tensor? valid, '
    'SymInt num_parts) -> (Tensor, Tensor, Tensor)',
)


@_cluster_as_one_node.register_fake
def _shapes_of_clusters(
    x: Tensor, num_clusters: int, *_: Tensor | int | None
) -> tuple[Tensor, Tensor, Tensor]:
    index = x.new_empty(x.shape[:2], dtype=torch.long)
    per_cluster = x.new_empty((x.shape[0], num_clusters))
    return index, per_cluster.long(), per_cluster


def _cluster(
    x: Tensor, num_clusters: int, k: int, noise: Tensor | None, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_cluster_in_groups`, at once."""
    floor = 16 * torch.finfo(x.dtype).eps * x.square().mean((1, 2))[:, None, None]  # B 1 1
    # moving the mean to the origin changes no distance and keeps products accurate
    x = (x - x.mean(1, keepdim=True)) / x.shape[-1] ** 0.5
    neighbors, farthest = nearest_neighbors(x, k, valid)
    squares = neighbor_squares(x, neighbors, floor)
    first_copy = neighbors.masked_fill(squares > 0, x.shape[1]).amin(-1)  # B N, at most itself
    if len(_rows_where(first_copy != torch.arange(x.shape[1], device=x.device))):
        x = take_rows(x, first_copy)
        squares = neighbor_squares(x, neighbors, floor)
    density = (-add_halves(squares.clone()) / k).exp().gather(1, first_copy)
    if noise is not None:
        density = density + noise
    if valid is not None:
        density = density.masked_fill(~valid, -1.0)

    order = stable_order(density)
    rank = invert(order)
    nearest = nearest_denser(x, neighbors, squares, order, rank, floor)
    farthest = farthest.masked_fill(farthest <= floor[:, 0, 0], 0.0)
    farthest = torch.maximum(farthest, nearest.amax(1))  # the densest token comes first
    separation = nearest.scatter(1, order[:, :1], farthest[:, None]).sqrt()

    score = separation * density
    if valid is not None:
        score = score.masked_fill(~valid, -math.inf)
    center_idx = stable_order(score)[:, :num_clusters]
    # of copies only the densest attracts tokens
    is_copy = (separation == 0).logical_and(rank > 0).gather(1, center_idx)
    assign_idx = nearest_center(x, neighbors, squares, center_idx, is_copy)
    return assign_idx, center_idx, score.gather(1, center_idx)


def nearest_neighbors(x: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest ``(B, N, k)`` of the tokens, and the largest squared distance ``(B,)``."""
    size = x.square().sum(-1)  # B N
    neighbors, farthest = [], []
    for start, stop in _chunks(x, x.shape[1], x.shape[1]):
        squares = torch.baddbmm(size[:, None], x[:, start:stop], x.mT, alpha=-2)  # less |row|^2
        farthest.append(squares.amax(-1) + size[:, start:stop])
        if valid is not None:
            squares.masked_fill_(~valid[:, None], math.inf)
        if is_onnx_export():  # which has no views
            index = torch.arange(x.shape[1], device=x.device)
            squares = squares.masked_fill(index == index[start:stop, None], -math.inf)
        else:
            squares[..., start:stop].diagonal(dim1=1, dim2=2).fill_(-math.inf)  # itself first
        neighbors.append(squares.topk(k, largest=False).indices)
    return torch.cat(neighbors, 1), torch.cat(farthest, 1).amax(1)


def stable_order(values: Tensor) -> Tensor:
    """Indices in descending order of ``values (B, N)``, lower ones first in ties.

    ONNX has no stable sort. There, ranks are counted, chunk by chunk.
    """
    if not is_onnx_export():
        return values.argsort(dim=-1, descending=True, stable=True)
    index = torch.arange(values.shape[1], device=values.device)
    ranks = []
    for start, stop in _chunks(values, values.shape[1], values.shape[1]):
        own = values[:, start:stop, None]
        ties = (values[:, None] == own).logical_and(index < index[start:stop, None])
        ranks.append((values[:, None] > own).logical_or(ties).sum(-1))
    return invert(torch.cat(ranks, 1))


def invert(order: Tensor) -> Tensor:
    """Inverse of a permutation ``(B, N)`` of each row."""
    index = torch.arange(order.shape[1], device=order.device)
    return torch.zeros_like(order).scatter(1, order, index.expand_as(order))


def nearest_denser(
    x: Tensor, neighbors: Tensor, squares: Tensor, order: Tensor, rank: Tensor, floor: Tensor
) -> Tensor:
    """Squared distance of each token to the nearest denser one, 0 for the densest -> ``(B, N)``.

    Almost always one of the k neighbours is denser. Only the others, local density peaks, are
    compared with all denser tokens. ``order`` lists tokens by falling density; ``rank`` inverts it.
    """
    is_denser = rank.gather(1, neighbors.flatten(1)).view_as(neighbors) < rank[..., None]
    nearest = squares.masked_fill(~is_denser, math.inf).amin(-1).gather(1, order)
    x = take_rows(x, order)
    size = x.square().sum(-1)
    peaks = _rows_where(nearest.isinf())
    for start, stop in _chunks(x, len(peaks), x.shape[1]):
        rows = peaks[start:stop]
        end = stop if len(peaks) == x.shape[1] else x.shape[1]  # all rows: nothing denser behind
        to_denser = relative_squares(x[:, rows], x[:, :end], size[:, :end])
        to_denser.masked_fill_(torch.arange(end, device=x.device) >= rows[:, None], math.inf)
        found = squared_distance(x[:, rows], take_rows(x, to_denser.argmin(-1)), floor[..., 0])
        nearest[:, rows] = torch.minimum(nearest[:, rows], found)
    return nearest.gather(1, rank)


def nearest_center(
    x: Tensor, neighbors: Tensor, squares: Tensor, center_idx: Tensor, is_copy: Tensor
) -> Tensor:
    """Cluster ``(B, N)`` of each token: the nearest centre among its neighbours, else among all.

    Centres own themselves, and those with ``is_copy (B, M)`` nothing else.
    """
    num_clusters = center_idx.shape[1]
    number = torch.arange(num_clusters, device=x.device).expand_as(center_idx)
    cluster = torch.full_like(neighbors[..., 0], num_clusters)
    cluster.scatter_(1, center_idx, number.masked_fill(is_copy, num_clusters))
    choices = cluster.gather(1, neighbors.flatten(1)).view_as(neighbors)
    best = squares.masked_fill(choices == num_clusters, math.inf).argmin(-1, keepdim=True)
    assign_idx = choices.gather(-1, best)[..., 0]

    centers = take_rows(x, center_idx)
    size = centers.square().sum(-1).masked_fill(is_copy, math.inf)
    remote = _rows_where(assign_idx == num_clusters)
    for start, stop in _chunks(x, len(remote), num_clusters):
        rows = remote[start:stop]
        assign_idx[:, rows] = relative_squares(x[:, rows], centers, size).argmin(-1)
    return assign_idx.scatter(1, center_idx, number)


def relative_squares(rows: Tensor, columns: Tensor, size: Tensor) -> Tensor:
    """``|r - c|^2 - |r|^2`` of ``rows (B, R, C)`` and ``columns (B, N, C)`` -> ``(B, R, N)``.

    ``size (B, N)`` is ``|c|^2``, or infinite to exclude a column. These distances are computed a
    second time instead of being stored. The in-place product is one of the ``recomputes`` of the
    merging module, so that DPC-kNN counts as N * N * C.
    """
    result = size[:, None].repeat(1, rows.shape[1], 1)
    return result.baddbmm_(rows, columns.mT, alpha=-2)


def neighbor_squares(x: Tensor, neighbors: Tensor, floor: Tensor) -> Tensor:
    """Squared distances of ``x (B, N, C)`` to their ``neighbors (B, N, k)`` -> ``(B, N, k)``."""
    chunks = _chunks(x, x.shape[1], neighbors.shape[2] * x.shape[2])
    squares = [
        squared_distance(x[:, at:to, None], take_rows(x, neighbors[:, at:to]), floor)
        for at, to in chunks
    ]
    return torch.cat(squares, 1)


def squared_distance(a: Tensor, b: Tensor, floor: Tensor) -> Tensor:
    """``|a - b|^2`` over the last dimension, 0 up to ``floor``; exactly symmetric."""
    squares = add_halves((a - b).square_())
    return squares.masked_fill_(squares <= floor, 0.0)


def add_halves(x: Tensor) -> Tensor:
    """Sum over the last dimension; overwrites ``x``.

    One half is added to the other until one number is left, so that no kernel chooses the order.
    """
    while (width := x.shape[-1]) > 1:
        half = (width + 1) // 2
        if _is_eager_cpu(x):
            x[..., : width - half] += x[..., half:]
            x = x[..., :half]
        else:  # ONNX has no views, and compilers turn them into copies
            sums = x[..., : width - half] + x[..., half:]
            x = sums if 2 * half == width else torch.cat((sums, x[..., width - half : half]), -1)
    return x[..., 0]


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x (B, N, C)`` by ``index (B, ...)`` -> ``(B, ..., C)``."""
    rows = x.flatten(0, 1).index_select(0, flatten_rows(index.flatten(1), x.shape[1]))
    return rows.view(*index.shape, x.shape[-1])


def _is_eager_cpu(x: Tensor) -> bool:
    """Whether the values of a tensor may decide about shapes."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return type(x) is Tensor and x.device.type == 'cpu' and not is_traced


def _rows_where(mask: Tensor) -> Tensor:
    """Indices at which ``mask (B, N)`` is True in a sample; all where shapes are static."""
    rows = torch.arange(mask.shape[1], device=mask.device)
    return rows[mask.any(0)] if _is_eager_cpu(mask) else rows


def _chunks(x: Tensor, num_rows: int, num_columns: int) -> Iterator[tuple[int, int]]:
    """Start and end of chunks of rows: 4 MB, which stay in the cache of a CPU, elsewhere 16 MB."""
    rows = max(2 ** (20 if _is_eager_cpu(x) else 22) // num_columns, 256)
    return ((start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))
