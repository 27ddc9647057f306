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

from ..common.checks import HW, check_shape
from ..common.layers import to_map, to_tokens
from ..common.tracing import is_onnx_export
from .bags import Bags, Groups, flatten_rows, group_rows, starts

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

    def _shares(self, counts: Tensor, group: Tensor) -> Tensor:
        """Factor of each cell ``(B*N0,)`` in the mean of its ``group (B, N0)``."""
        wide = torch.promote_types(self.x.dtype, torch.float32)
        return 1 / (counts.gather(1, group).flatten().to(wide) + EPS)

    def _map_bags(self, hw: HW) -> Bags:
        """Bags that average the tokens in each map cell."""
        key = ('map', tuple(hw))
        if key not in self._cache:
            index = map_index(self.init_hw, hw, self.x.device)[None]
            cells = group_rows(index, hw[0] * hw[1])
            batch, owner = self.x.shape[0], cells.owner
            tokens = self.assign_idx[:, cells.order[0]]  # B N0, sorted by map cell
            if owner is not None:
                owner = flatten_rows(owner.expand(batch, -1), hw[0] * hw[1])
            offsets = starts(cells.counts.repeat(batch, 1))
            weights = self._shares(cells.counts, index.gather(1, cells.order)).repeat(batch)
            rows = flatten_rows(tokens, self.num_tokens)
            self._cache[key] = Bags(rows, offsets, owner, weights)
        return self._cache[key]

    def _owned_bags(self, hw: HW) -> Bags:
        """Bags that average, for each token, the map over the grid cells that it owns."""
        key = ('owned', tuple(hw))
        if key not in self._cache:
            cells = self._cells()
            source = map_index(self.init_hw, hw, self.x.device)[cells.order]  # B N0
            weights = self._shares(cells.counts, self.assign_idx.gather(1, cells.order))
            self._cache[key] = cells.bags(flatten_rows(source, hw[0] * hw[1]), weights)
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
    batch, _, dim = tokens.x.shape
    pooled = tokens._map_bags((height, width)).average(tokens.x.reshape(-1, dim))
    return to_map(pooled.view(batch, height * width, dim), (height, width))


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
    spread = tokens._owned_bags((height, width)).average(cells.reshape(-1, dim))
    return spread.view(batch, tokens.num_tokens, dim)


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
    rows = flatten_rows(source.assign_idx.gather(1, cells.order), source.num_tokens)
    averaged = cells.bags(rows, target._cell_weights()).average(source.x.reshape(-1, dim))
    return averaged.view(batch, target.num_tokens, dim)
