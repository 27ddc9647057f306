"""Token sets: clustered tokens, the grid cells they own, and the conversion to maps and back.

The stage-1 grid of ``H0 x W0`` cells is fixed for an image. Every token owns some of its cells, and
every cell of a map covers some of them. Features pass between tokens and maps through these cells:

    tokens (B, N, C)  --assign_idx-->  cells (B, N0)  --nearest lookup-->  map (B, C, H, W)

Source: TCFormer (CVPR 2022), Sec. 3.2-3.3, "token-to-map" and "map-to-token".

Letters: B batch, N tokens, N0 = H0*W0 grid cells, C channels, H x W map.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import HW, check_shape
from ..common.layers import to_map, to_tokens
from ..common.tracing import is_onnx_export

# The released models divide by (count + EPS), also in nearest-neighbour up-sampling, where the
# factor 1 / (1 + EPS) remains.
EPS = 1e-6

# Looked up once, because torch.compile cannot trace the lookup in torch 2.4.
AUTOCAST_DEVICES = tuple(
    name for name in ('cpu', 'cuda', 'mps', 'xpu') if torch.amp.is_autocast_available(name)
)


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Compute in the given precision, on whatever device ``x`` is."""
    if is_onnx_export():  # a file is float32 throughout
        return nullcontext()
    known = x.device.type in AUTOCAST_DEVICES
    return torch.autocast(x.device.type if known else 'cpu', enabled=False)


@dataclass(frozen=True)
class Bags:
    """Groups of rows to be summed, in compressed form; all pooling here is such a sum.

    Args:
        rows: ``(R,)`` row numbers, bag after bag.
        offsets: ``(K,)`` start of each of the K bags in ``rows``.
        owner: ``(R,)`` bag of each row, for an ONNX export, where rows are in any order.
    """

    rows: Tensor
    offsets: Tensor
    owner: Tensor | None = None

    def sum(self, table: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum (optionally weighted) rows of ``table (T, C)`` within each bag -> ``(K, C)``.

        A fused gather and segment sum: it needs no ``(R, C)`` copy and no atomics, and adds the
        rows of a bag in their order.
        """
        if self.owner is not None:  # ONNX would need a loop over the bags
            taken = table[self.rows]
            taken = taken if weights is None else taken * weights[:, None]
            sums = taken.new_zeros(self.offsets.shape[0], taken.shape[1])
            return sums.index_add(0, self.owner, taken)
        return F.embedding_bag(
            self.rows, table, self.offsets, mode='sum', per_sample_weights=weights
        )


@dataclass(frozen=True)
class Groups:
    """Positions sorted by the group they belong to.

    Args:
        order: ``(B, R)`` positions, group after group (stable).
        counts: ``(B, K)`` positions in each group.
        offsets: ``(B*K,)`` start of each group in the flattened order.
        owner: ``(B*R,)`` group of each entry of the flattened order, only in an ONNX export, which
            has no stable sort: ``order`` lists the positions from 0 there.
    """

    order: Tensor
    counts: Tensor
    offsets: Tensor
    owner: Tensor | None = None

    def bags(self, rows: Tensor) -> Bags:
        """Bags of the ``rows (B*R,)`` at the sorted positions, one for each group."""
        return Bags(rows, self.offsets, self.owner)


def nearest_cells(source: int, target: int, device: torch.device) -> Tensor:
    """For each of ``target`` positions the nearest of ``source``, as in PyTorch's resize.

    The scale is a float32 number, as in the released models.
    """
    scale = torch.tensor(source, dtype=torch.float32, device=device) / target
    steps = torch.arange(target, dtype=torch.float32, device=device)
    return (steps * scale).floor().clamp(max=source - 1).long()


def map_index(init_hw: HW, hw: HW, device: torch.device) -> Tensor:
    """Flat index of the ``hw`` map cell that covers each initial grid cell -> ``(N0,)``."""
    rows = nearest_cells(hw[0], init_hw[0], device)
    cols = nearest_cells(hw[1], init_hw[1], device)
    return (rows[:, None] * hw[1] + cols).flatten()


def group_rows(index: Tensor, num_groups: int) -> Groups:
    """Sort positions by the group they belong to.

    Args:
        index: ``(B, R)`` group of each position, in [0, num_groups).
        num_groups: K.

    Returns:
        The groups.
    """
    counts = index.new_zeros(index.shape[0], num_groups)
    counts.scatter_add_(1, index, torch.ones_like(index))
    if is_onnx_export():
        order = torch.arange(index.shape[1], device=index.device).expand_as(index)
        return Groups(order, counts, starts(counts), flatten_rows(index, num_groups))
    return Groups(index.argsort(dim=1, stable=True), counts, starts(counts))


def starts(counts: Tensor) -> Tensor:
    """Flat start ``(B*K,)`` of each of the groups of ``counts (B, K)`` positions."""
    flat = counts.flatten()
    return flat.cumsum(0) - flat


def flatten_rows(index: Tensor, rows_per_sample: int) -> Tensor:
    """Per-sample row numbers ``(B, R)`` -> rows of the ``(B*rows_per_sample, C)`` table."""
    shift = torch.arange(index.shape[0], device=index.device)[:, None] * rows_per_sample
    return (index + shift).flatten()


@dataclass(frozen=True)
class TokenSet:
    """Tokens of one stage and the grid cells they own. Immutable: blocks return new ones.

    Args:
        x: ``(B, N, C)`` token features.
        assign_idx: ``(B, N0)`` long; the token that owns each initial grid cell.
        token_weight: ``(B, N0, 1)`` product of the merge weights on the way; detached.
        init_hw: ``(H0, W0)``, the stage-1 grid; N0 = H0*W0.
        hw: ``(H, W)``, nominal map size of this stage.
        on_grid: Whether the tokens are the grid cells in raster order, so that a map of
            ``init_hw`` is a view.
    """

    x: Tensor
    assign_idx: Tensor
    token_weight: Tensor
    init_hw: HW
    hw: HW
    on_grid: bool = False
    # shared by the blocks of a stage and filled on first use
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_map(cls, feature_map: Tensor) -> TokenSet:
        """Each cell of a map ``(B, C, H, W)`` becomes a token that owns itself."""
        batch, _, height, width = feature_map.shape
        cells = torch.arange(height * width, device=feature_map.device)
        return cls(
            x=to_tokens(feature_map),
            assign_idx=cells.expand(batch, -1),
            token_weight=feature_map.new_ones(batch, height * width, 1),
            init_hw=(height, width),
            hw=(height, width),
            on_grid=True,
        )

    def with_x(self, x: Tensor) -> TokenSet:
        """The same tokens with new features ``(B, N, C')``; pooling structures are shared."""
        # not dataclasses.replace, which torch.compile cannot trace in torch 2.4
        rest = (self.token_weight, self.init_hw, self.hw, self.on_grid, self._cache)
        return TokenSet(x, self.assign_idx, *rest)

    def with_hw(self, hw: HW) -> TokenSet:
        """The same tokens with another nominal map size."""
        tokens = (self.x, self.assign_idx, self.token_weight, self.init_hw)
        return TokenSet(*tokens, hw, self.on_grid, self._cache)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.x.shape[1]

    @classmethod
    def __torch_function__(cls, function: Callable, *_unused: object) -> NoReturn:
        raise ValueError(
            f'{function.__name__} needs a map, got a TokenSet; build TCFormer with '
            "out_type='maps', or place an MTA neck behind it"
        )

    def is_raster(self, hw: HW) -> bool:
        """Whether a map of size ``hw`` is a view of the tokens."""
        return self.on_grid and tuple(hw) == tuple(self.init_hw)

    def _cells(self) -> Groups:
        """Cells ``(B, N0)`` grouped by the token that owns them."""
        if 'cells' not in self._cache:
            self._cache['cells'] = group_rows(self.assign_idx, self.num_tokens)
        return self._cache['cells']

    def _cell_weights(self) -> Tensor:
        """Share ``(B*N0,)`` of each cell, sorted by owner, in the token that owns it."""
        if 'weights' not in self._cache:
            cells = self._cells()
            weights = self.token_weight.squeeze(2).gather(1, cells.order).flatten()
            rows = torch.arange(weights.numel(), device=weights.device)
            totals = cells.bags(rows).sum(weights[:, None])  # B*N 1
            owner = flatten_rows(self.assign_idx.gather(1, cells.order), self.num_tokens)
            self._cache['weights'] = weights / (totals[owner, 0] + EPS)
        return self._cache['weights']

    def _map_bags(self, hw: HW) -> tuple[Bags, Tensor]:
        """Bags of tokens per map cell, and the number of grid cells ``(1, H*W, 1)`` in each."""
        key = ('map', tuple(hw))
        if key not in self._cache:
            index = map_index(self.init_hw, hw, self.x.device)[None]
            cells = group_rows(index, hw[0] * hw[1])
            batch, owner = self.x.shape[0], cells.owner
            tokens = self.assign_idx[:, cells.order[0]]  # B N0, sorted by map cell
            if owner is not None:
                owner = flatten_rows(owner.expand(batch, -1), hw[0] * hw[1])
            offsets = starts(cells.counts.repeat(batch, 1))
            bags = Bags(flatten_rows(tokens, self.num_tokens), offsets, owner)
            self._cache[key] = bags, cells.counts[..., None]
        return self._cache[key]


def tokens_to_map(tokens: TokenSet, hw: HW | None = None) -> Tensor:
    """Average, in each map cell, the tokens that own the initial grid cells inside it.

    ``token_weight`` is not used.

    Args:
        tokens: N tokens.
        hw: Map size; ``tokens.hw`` by default.

    Returns:
        ``(B, C, H, W)``.
    """
    height, width = hw or tokens.hw
    if tokens.is_raster((height, width)):
        return to_map(tokens.x, (height, width))
    bags, counts = tokens._map_bags((height, width))
    batch, _, dim = tokens.x.shape
    pooled = bags.sum(tokens.x.reshape(-1, dim)).view(batch, height * width, dim)  # B H*W C
    pooled = pooled / (counts.to(pooled.dtype) + EPS)
    return to_map(pooled, (height, width))


def map_to_tokens(feature_map: Tensor, tokens: TokenSet) -> Tensor:
    """Average, for each token, the map over the grid cells that the token owns.

    Args:
        feature_map: ``(B, C, H, W)``, any H and W.
        tokens: N tokens; only their ownership of cells is used.

    Returns:
        ``(B, N, C)``.
    """
    check_shape('feature_map', feature_map, 'B C H W')
    batch, dim, height, width = feature_map.shape
    cells = to_tokens(feature_map)  # B H*W C
    if tokens.is_raster((height, width)):
        return cells
    owned = tokens._cells()
    source = map_index(tokens.init_hw, (height, width), feature_map.device)[owned.order]  # B N0
    bags = owned.bags(flatten_rows(source, height * width))
    spread = bags.sum(cells.reshape(-1, dim)).view(batch, tokens.num_tokens, dim)  # B N C
    return spread / (owned.counts[..., None].to(spread.dtype) + EPS)


def interpolate_tokens(target: TokenSet, source: TokenSet) -> Tensor:
    """Interpolate features from one clustering of the grid to another.

    Target token t is the mean of the source features over the grid cells that t owns, weighted
    by the target's ``token_weight`` (TCFormer, Sec. 3.3, token upsampling).

    Args:
        target: T tokens; their ownership of cells and their weights are used.
        source: S tokens on the same initial grid; their features are used.

    Returns:
        ``(B, T, C)``.
    """
    cells = target._cells()
    batch, _, dim = source.x.shape
    bags = cells.bags(flatten_rows(source.assign_idx.gather(1, cells.order), source.num_tokens))
    weights = target._cell_weights().to(source.x.dtype)
    summed = bags.sum(source.x.reshape(-1, dim), weights)
    return summed.view(batch, target.num_tokens, dim)
