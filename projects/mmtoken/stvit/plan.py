"""Plans: which token attends to which, for one size of the map.

A plan holds sizes, indices and biases. It depends on the size of the map, never on its values; a
stage makes it once per forward pass and all its blocks share it.

Source: STViT-R (arXiv:2303.08685), Sec. 3; shifted windows: Swin (arXiv:2103.14030), Sec. 3.2.

Letters: B batch, H and W sides of the map of patches, N = H*W, w side of a window (7), K windows in
raster order, s side of the semantic tokens of a window (3), S semantic tokens in raster order, C
channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common.checks import HW
from ..common.windows import WindowOrder, partition_windows, window_grid, window_order

# How padding is hidden from attention; see visible_keys
MASKS = ('released', 'exact', 'none')
# Crops of classification models have this many rows and columns more than a window
CROP_REACH = 3
# Side of a tile in windows: larger tiles compute more logits in vain, smaller ones make more calls
TILE = 4
SHIFT_MASK = -100.0  # added to the logits between patches that only the shift made neighbours


@dataclass(frozen=True)
class Geometry:
    """Sizes of a stage with semantic tokens.

    Args:
        hw: H and W.
        window_size: w.
        semantic_window: s.
    """

    hw: HW
    window_size: int = 7
    semantic_window: int = 3

    def __post_init__(self) -> None:
        # torch.jit.trace passes sizes as tensors
        object.__setattr__(self, 'hw', (int(self.hw[0]), int(self.hw[1])))

    @property
    def grid(self) -> HW:
        """Windows down and across; K is their product."""
        return window_grid(self.hw, self.window_size)

    @property
    def padded_hw(self) -> HW:
        """Sides of the map padded to whole windows."""
        return self.grid[0] * self.window_size, self.grid[1] * self.window_size

    @property
    def padding(self) -> HW:
        """Rows and columns of padding."""
        return self.padded_hw[0] - self.hw[0], self.padded_hw[1] - self.hw[1]

    @property
    def semantic_hw(self) -> HW:
        """Sides of the map of semantic tokens; S is their product."""
        return self.grid[0] * self.semantic_window, self.grid[1] * self.semantic_window


def describe(geometry: Geometry) -> dict[str, HW]:
    """Sizes that are recorded for every unit."""
    names = ('hw', 'padded_hw', 'semantic_hw')
    return {name: getattr(geometry, name) for name in names}


def visible_keys(
    geometry: Geometry, of: str, mask: str, device: torch.device
) -> tuple[Tensor | None, bool]:
    """Return which keys are visible, on their padded map and outside it.

    ``'exact'`` hides all padding, ``'none'`` hides nothing. ``'released'`` reproduces the released
    detectors: with Pb rows and Pr columns of padding and a map of ``h x w`` keys, it hides the
    outside and the keys that lie both in the last Pb rows and in the last Pr columns. A count of 0
    is read as the whole side, and if that hides all keys, nothing is hidden. Pb and Pr are counted
    in patches even if the keys are semantic tokens.

    Args:
        geometry: Sizes.
        of: Kind of the keys, ``'patches'`` or ``'semantic'``.
        mask: One of ``MASKS``.
        device: Device of the result.

    Returns:
        ``(h, w)`` booleans, None if all are visible; and whether the outside is visible.
    """
    if mask == 'none':
        return None, True
    hw = geometry.padded_hw if of == 'patches' else geometry.semantic_hw
    rows, cols = (torch.arange(side, device=device) for side in hw)
    if mask == 'exact':
        if not any(geometry.padding):
            return None, False
        if of == 'semantic':  # visible if the first patch that it pools is
            w, s = geometry.window_size, geometry.semantic_window
            rows, cols = (token // s * w + token % s * w // s for token in (rows, cols))
        return (rows < geometry.hw[0])[:, None] & (cols < geometry.hw[1]), False
    first = tuple(max(side - pad, 0) if pad else 0 for side, pad in zip(hw, geometry.padding))
    if first == (0, 0):
        return None, True
    return (rows < first[0])[:, None] | (cols < first[1]), False


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias on logits: 0 where ``visible``, minus infinity elsewhere."""
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return bias.masked_fill(~visible, -torch.inf)


@dataclass(frozen=True)
class Windows:
    """Partition of a map into windows.

    Args:
        order: Place of each patch.
        mask: ``(K, 1, w * w, w * w)`` of :func:`shift_mask`, None without a shift.
    """

    order: WindowOrder
    mask: Tensor | None


def plan_windows(
    hw: HW, window_size: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Windows:
    """Partition a map of ``hw`` that is rolled up and to the left by ``shift``."""
    mask = shift_mask(hw, window_size, shift, device, dtype) if shift else None
    return Windows(window_order(hw, window_size, shift, device), mask)


def shift_mask(
    hw: HW, window_size: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Separate patches that a cyclic shift brought into one window.

    Args:
        hw: Sides of the map before padding.
        window_size: w.
        shift: Rows and columns by which the padded map was rolled up and to the left.
        device: Device of the mask.
        dtype: Its dtype.

    Returns:
        ``(K, 1, w * w, w * w)`` bias on logits: 0 within a region, -100 between two.
    """

    def regions(num_windows: int) -> Tensor:
        side = num_windows * window_size
        place = torch.arange(side, device=device)
        return (place >= side - window_size).long() + (place >= side - shift)

    down, across = map(regions, window_grid(hw, window_size))
    region = (3 * down[:, None] + across)[None, :, :, None]
    region = partition_windows(region, window_size)[..., 0]  # K w*w
    apart = region[:, :, None] != region[:, None]
    mask = torch.zeros(apart.shape, dtype=dtype, device=device)
    return mask.masked_fill(apart, SHIFT_MASK)[:, None]


def gather_neighborhoods(x: Tensor, outside: Tensor, kernel: int, window_size: int) -> Tensor:
    """Cut a square around each window of a map; the squares overlap.

    Args:
        x: ``(B, H, W, C)``.
        outside: ``(C,)``, value of all places outside the map.
        kernel: Side of a square, at least w; it extends ``(kernel - w) // 2`` beyond its window at
            the top and on the left, and the rest at the bottom and on the right.
        window_size: w.

    Returns:
        ``(B * K, kernel * kernel, C)``.
    """
    height, width = x.shape[1:3]
    start = (kernel - window_size) // 2
    sides = (
        count * window_size + kernel - window_size
        for count in window_grid((height, width), window_size)
    )
    canvas = outside.to(x.dtype).expand(x.shape[0], *sides, -1).clone()
    canvas[:, start : start + height, start : start + width] = x
    squares = canvas.unfold(1, kernel, window_size).unfold(2, kernel, window_size)
    # B rows columns C kernel kernel -> B*K kernel*kernel C
    return squares.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


@dataclass(frozen=True)
class Neighborhood:
    """The patches that the semantic tokens of a window attend to: a square around the window.

    Args:
        geometry: Sizes.
        kernel: Side of the square in patches.
        bias: ``(K, 1, 1, kernel * kernel)`` on the logits, or None.
    """

    geometry: Geometry
    kernel: int
    bias: Tensor | None = None


def plan_neighborhood(
    geometry: Geometry, kernel: int, mask: str, device: torch.device, dtype: torch.dtype
) -> Neighborhood:
    """Plan a generation step of a dense model; ``mask`` as in :func:`visible_keys`."""
    visible, outside = visible_keys(geometry, 'patches', mask, device)
    if outside:
        return Neighborhood(geometry, kernel)
    if visible is None:
        visible = torch.ones(geometry.padded_hw, dtype=torch.bool, device=device)
    around = torch.zeros(1, dtype=torch.bool, device=device)
    squares = gather_neighborhoods(visible[None, ..., None], around, kernel, geometry.window_size)
    return Neighborhood(geometry, kernel, hide(squares[:, None, None, :, 0], dtype))


def crop_index(geometry: Geometry, reach: int, device: torch.device) -> Tensor:
    """Return the patches of the crop around each window; a crop never leaves the map.

    Args:
        geometry: Sizes.
        reach: Rows and columns that a crop has more than a window.
        device: Device of the result.

    Returns:
        ``(K, n)`` indices of patches, ``n = min(w + reach, H) * min(w + reach, W)``. With
        H = W = 14 and ``reach`` 3 the crops are the four 10x10 corners, as released.
    """

    def places(side: int, count: int) -> Tensor:
        size = min(geometry.window_size + reach, side)
        starts = torch.arange(count, device=device) * geometry.window_size - reach // 2
        return starts.clamp(0, side - size)[:, None] + torch.arange(size, device=device)

    down, across = (places(*one) for one in zip(geometry.hw, geometry.grid))
    index = down[:, None, :, None] * geometry.hw[1] + across[None, :, None, :]
    return index.flatten(2).flatten(0, 1)


@dataclass(frozen=True)
class Tile:
    """A rectangle of windows and the semantic tokens that its patches attend to.

    Args:
        rows: Rows of patches.
        cols: Columns of patches.
        key_rows: Rows of semantic tokens.
        key_cols: Columns of semantic tokens.
        bias: ``(1, 1, patches, keys)`` on the logits, None if every patch sees every key. With
            ``sees_outside``, one more key represents all padded semantic tokens.
        sees_outside: Whether padded semantic tokens outside the map are keys.
    """

    rows: slice
    cols: slice
    key_rows: slice
    key_cols: slice
    bias: Tensor | None
    sees_outside: bool


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: patches, semantic tokens, and ``(patches, tokens)`` booleans."""

    patches: slice
    tokens: slice
    sees: Tensor
    sees_all: bool


def _spans(
    geometry: Geometry, axis: int, kernel: int, tile: int, device: torch.device
) -> list[_Span]:
    w, s = geometry.window_size, geometry.semantic_window
    length, count = geometry.hw[axis], geometry.grid[axis]
    reach = (kernel - s) // 2
    spans = []
    for first in range(0, count, tile):
        last = min(first + tile, count) - 1
        # the first window sees tokens from low[0] to before high[0], the last one low[1], high[1]
        low = [window * s - reach for window in (first, last)]
        high = [start + kernel for start in low]
        patches = slice(first * w, min((last + 1) * w, length))
        tokens = slice(max(low[0], 0), min(high[1], count * s))
        own = torch.arange(patches.start, patches.stop, device=device)[:, None] // w * s - reach
        keys = torch.arange(tokens.start, tokens.stop, device=device)
        sees = (keys >= own) & (keys < own + kernel)
        sees_all = low[1] <= tokens.start and high[0] >= tokens.stop
        spans.append(_Span(patches, tokens, sees, sees_all))
    return spans


def plan_recovery(
    geometry: Geometry,
    kernel: int | None,
    mask: str,
    device: torch.device,
    dtype: torch.dtype,
    tile: int | None = TILE,
) -> list[Tile]:
    """Plan recovery: the tiles of a map, in raster order.

    Windows of a tile attend to almost the same semantic tokens, so a tile is one dense attention
    with a bias, and nothing is copied per window.

    Args:
        geometry: Sizes.
        kernel: Side of the square of semantic tokens that a window attends to, centred on its own;
            None: all semantic tokens.
        mask: See :func:`visible_keys`.
        device: Device of the biases.
        dtype: Their dtype.
        tile: Side of a tile in windows; None: one tile.

    Returns:
        Tiles in raster order.
    """
    visible, outside = visible_keys(geometry, 'semantic', mask, device)
    if kernel is None:
        kernel, outside, tile = 2 * max(geometry.semantic_hw), False, None
    size = tile or max(geometry.grid)
    down, across = (_spans(geometry, axis, kernel, size, device) for axis in (0, 1))
    tiles = []
    for rows in down:
        for cols in across:
            bias = None
            if outside or visible is not None or not (rows.sees_all and cols.sees_all):
                sees = rows.sees[:, None, :, None] & cols.sees[:, None]  # patches, tokens
                if visible is not None:
                    sees = sees & visible[rows.tokens, cols.tokens]
                sees = sees.flatten(2).flatten(0, 1)
                bias = hide(sees, dtype)
                if outside:  # log(n) weighs the last key as n padded tokens
                    places = kernel**2 - sees.sum(-1, keepdim=True)
                    bias = torch.cat((bias, places.to(dtype).log()), -1)
                bias = bias[None, None]
            tiles.append(Tile(rows.patches, cols.patches, rows.tokens, cols.tokens, bias, outside))
    return tiles


@dataclass(frozen=True)
class Plan:
    """The plan of a stage; dense models have neighbourhoods, classification models crops.

    Args:
        geometry: Sizes.
        ignore_padding: Leave padding out when windows are pooled.
        near: Patches that the first generation step sees, of dense models.
        far: Patches that the second one sees, of dense models; else it sees all.
        crops: ``(K, n)`` patches that the first generation step sees, of classification models.
        tiles: Semantic tokens that recovery sees.
        semantic_bias: ``(s * K_down, s * K_across)``, hides semantic tokens that pool nothing but
            padding; None if nothing is hidden.
        windows: Partition of the map for each kind of window block.
    """

    geometry: Geometry
    ignore_padding: bool = False
    near: Neighborhood | None = None
    far: Neighborhood | None = None
    crops: Tensor | None = None
    tiles: Sequence[Tile] = ()
    semantic_bias: Tensor | None = None
    windows: Mapping[str, Windows] = field(default_factory=dict)

    @property
    def window_bias(self) -> Tensor | None:
        """``semantic_bias`` per window, ``(K, 1, 1, s * s)``."""
        if self.semantic_bias is None:
            return None
        side = self.geometry.semantic_window
        return partition_windows(self.semantic_bias[None, ..., None], side)[:, None, None, :, 0]


def make_plan(
    geometry: Geometry,
    steps: Sequence[str],
    key_windows: tuple[int, int, int] | None,
    mask: str,
    device: torch.device,
    dtype: torch.dtype,
    tile: int | None = TILE,
) -> Plan:
    """Plan all steps of a stage.

    Args:
        geometry: Sizes.
        steps: Names of the steps.
        key_windows: Sides of the squares that the two generation steps (in patches) and recovery
            (in semantic tokens) see; None for classification models.
        mask: See :func:`visible_keys`; classification models hide all padding unless ``'none'``.
        device: Device of the tensors.
        dtype: Dtype of the biases.
        tile: Side of a tile of recovery in windows; None: one tile.

    Returns:
        The plan.
    """
    at = dict(device=device, dtype=dtype)
    dense = key_windows is not None
    exact = mask == 'exact' or (mask == 'released' and not dense)
    mask = 'exact' if exact else mask
    near, far, recover = key_windows or (None, None, None)
    visible = visible_keys(geometry, 'semantic', mask, device)[0] if exact else None
    crops = None
    if not dense and 'generate' in steps:
        crops = crop_index(geometry, CROP_REACH, device)
    # a map that one window covers along a side is not shifted
    shift = geometry.window_size // 2 if min(geometry.hw) > geometry.window_size else 0
    return Plan(
        geometry,
        ignore_padding=exact,
        near=plan_neighborhood(geometry, near, mask, **at) if dense else None,
        far=plan_neighborhood(geometry, far, mask, **at) if dense else None,
        crops=crops,
        tiles=plan_recovery(geometry, recover, mask, **at, tile=tile) if 'recover' in steps else (),
        semantic_bias=None if visible is None else hide(visible, dtype),
        windows={
            step: plan_windows(geometry.hw, geometry.window_size, offset, **at)
            for step, offset in (('local', 0), ('shifted', shift))
            if step in steps
        },
    )
