"""Stages as lists of named steps; ``forward`` is a loop over them.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Letters: B batch, N = H*W patches, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.recorder import (
    is_recording,
    is_recording_attention,
    last_attention,
    record_stage,
)
from .attention_maps import crop_attention, neighborhood_attention
from .recovery import TILE, plan_recovery
from .semantic_tokens import (
    Geometry,
    crop_index,
    describe,
    hide,
    plan_neighborhood,
    visible_keys,
)
from .steps import (
    GenerateStep,
    GlobalSemanticStep,
    LocalSemanticStep,
    LocalStep,
    Plan,
    RecoverStep,
    RefineStep,
    ShiftedStep,
)
from .swin import PatchMerging, SwinBlock, plan_windows

# A dumbbell unit: image tokens, semantic tokens, image tokens again
UNIT = ('local', 'generate', 'refine', 'semantic_local', 'semantic_global', 'recover')
STEPS = {
    'local': LocalStep,
    'shifted': ShiftedStep,
    'generate': GenerateStep,
    'refine': RefineStep,
    'semantic_local': LocalSemanticStep,
    'semantic_global': GlobalSemanticStep,
    'recover': RecoverStep,
}
FLAVOURS = ('dense', 'classification')
# Rows and columns by which the crops of classification models are larger than a window
CROP_REACH = 3
Run = Callable[..., Any]


class SwinStage(nn.Module):
    """Blocks with attention in windows, every second one shifted; then, maybe, patch merging.

    Args:
        dim: C.
        num_heads: Heads; they divide ``dim``.
        drop_paths: Stochastic depth of each block.
        window_size: Side of a window in patches.
        mlp_ratio: Hidden width of the MLPs per channel.
        merges: Whether patch merging follows.
        shifts_small_maps: Shift the windows where one covers a side of the map, too.

    Shape:
        - x: ``(B, N, C)``; hw: the map.
        - run: Calls a block with arguments; a backbone checkpoints there.
        - returns: ``(B, N, C)`` before the merging, which the backbone calls.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_paths: Sequence[float],
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        merges: bool = True,
        shifts_small_maps: bool = True,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shifts_small_maps = shifts_small_maps
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window_size, mlp_ratio, drop_path) for drop_path in drop_paths
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor, hw: HW, run: Run) -> Tensor:
        shift = self.window_size // 2
        if min(hw) <= self.window_size and not self.shifts_small_maps:
            shift = 0
        cuts = [plan_windows(hw, self.window_size, by, x.device, x.dtype) for by in (0, shift)]
        for i, block in enumerate(self.blocks):
            x = run(block, x, *cuts[i % 2])
        return x


class SemanticStage(nn.Module):
    """Named steps that pass from patches to semantic tokens and, maybe, back.

    Args:
        number: Of the stage, counted from 1, for the recorder.
        dim: C.
        num_heads: Heads; they divide ``dim``.
        steps: Names in ``STEPS``, in order.
        drop_paths: Stochastic depth of each step.
        flavour: ``'dense'``: every attention sees a neighbourhood; ``'classification'``: the
            first generation step sees pooled tokens and a crop, the other steps see everything.
        mask: See :func:`~mmtoken.stvit.semantic_tokens.visible_keys`.
        residual: Keep pooled tokens beside what the first generation step gathers.
        use_global_center: Add a learned map to the queries of the first ``'refine'``.
        window_size: w.
        semantic_window: s.
        key_windows: Sides of the squares that the two generation steps see, in patches, and of
            the one that recovery sees, in semantic tokens; of dense models.
        mlp_ratio: Hidden width of the MLPs per channel.
        layer_scale: Initial value of the scale of both branches of a step.
        merges: Whether patch merging follows.

    Shape:
        - x: ``(B, N, C)``; hw: the map.
        - run: Calls a step with arguments; a backbone checkpoints there.
        - returns: before the merging, which the backbone calls, patches ``(B, N, C)``, or semantic
          tokens ``(B, S, C)`` where no ``'recover'`` comes last.
    """

    def __init__(
        self,
        number: int,
        dim: int,
        num_heads: int,
        steps: Sequence[str],
        drop_paths: Sequence[float],
        flavour: str,
        mask: str,
        residual: bool,
        use_global_center: bool,
        window_size: int = 7,
        semantic_window: int = 3,
        key_windows: tuple[int, int, int] = (14, 21, 27),
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        merges: bool = True,
    ) -> None:
        super().__init__()
        self.number = number
        self.flavour = flavour
        self.mask = mask
        self.window_size = window_size
        self.semantic_window = semantic_window
        self.key_windows = key_windows
        self.steps = tuple(steps)

        def build(step: str, drop_path: float) -> nn.Module:
            rates = dict(mlp_ratio=mlp_ratio, drop_path=drop_path)
            if step in ('local', 'shifted'):
                return STEPS[step](dim, num_heads, window_size, **rates)
            if step == 'generate':
                return GenerateStep(dim, num_heads, residual, layer_scale=layer_scale, **rates)
            return STEPS[step](dim, num_heads, layer_scale=layer_scale, **rates)

        self.blocks = nn.ModuleList(map(build, self.steps, drop_paths))
        self.semantic_token2 = None  # the released name
        if use_global_center:
            # of the four windows that a map of 14x14 patches has
            center = torch.empty(1, (2 * semantic_window) ** 2, dim)
            self.semantic_token2 = nn.Parameter(nn.init.trunc_normal_(center, std=0.02))
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor, hw: HW, run: Run) -> Tensor:
        plan = self.plan(hw, x.device, x.dtype)
        semantic, center, units = None, self.semantic_token2, []
        for step, block in zip(self.steps, self.blocks):
            extra = ()
            if step == 'refine' and center is not None:
                extra, center = (center,), None  # in the first unit alone
            x, semantic = run(block, x, semantic, plan, *extra)
            self._note(step, plan, semantic, units)
        record_stage(self.number, units=units)
        return x if semantic is None else semantic

    def plan(self, hw: HW, device: torch.device, dtype: torch.dtype) -> Plan:
        """What all units share at this size; biases are rules of the sizes alone."""
        geometry = Geometry(hw, self.window_size, self.semantic_window)
        dense = self.flavour == 'dense'
        # released classification models know no padding
        mask = 'exact' if self.mask == 'released' and not dense else self.mask
        semantic_bias = None
        if mask == 'exact':
            visible, _ = visible_keys(geometry, 'semantic', mask, device)
            semantic_bias = None if visible is None else hide(visible, dtype)
        near, far, recover = self.key_windows
        # one tile, so that all weights of a patch are seen together
        tile = max(geometry.grid) if is_recording_attention() else TILE
        recover = recover if dense else None
        tiles = []
        if 'recover' in self.steps:
            tiles = plan_recovery(geometry, recover, mask, device, dtype, tile)
        # where a window covers a side of the map, nothing is shifted
        shift = self.window_size // 2 if min(hw) > self.window_size else 0
        cuts = {
            step: plan_windows(hw, self.window_size, by, device, dtype)
            for step, by in (('local', 0), ('shifted', shift))
            if step in self.steps
        }
        return Plan(
            geometry=geometry,
            ignore_padding=mask == 'exact',
            near=plan_neighborhood(geometry, near, mask, device, dtype) if dense else None,
            far=plan_neighborhood(geometry, far, mask, device, dtype) if dense else None,
            crops=None if dense else crop_index(geometry, CROP_REACH, device),
            tiles=tiles,
            semantic_bias=semantic_bias,
            cuts=cuts,
        )

    def _note(self, step: str, plan: Plan, semantic: Tensor | None, units: list[dict]) -> None:
        """Describe the unit that runs for the recorder."""
        if not is_recording():
            return
        geometry = plan.geometry
        if step == 'generate':
            units.append(describe(geometry))
        if semantic is not None:  # the last ones of a unit stay
            units[-1]['semantic_tokens'] = semantic
        weights = last_attention()
        if weights is None or step not in ('generate', 'refine', 'recover'):
            return
        if step == 'recover':
            spread = weights.mean(1)[..., : geometry.semantic_hw[0] * geometry.semantic_hw[1]]
        elif plan.crops is None:
            spread = neighborhood_attention(weights, plan.near if step == 'generate' else plan.far)
        elif step == 'generate':
            spread = crop_attention(weights, geometry, plan.crops)
        else:
            spread = weights.mean(1)[..., weights.shape[2] :]
        units[-1][step] = spread
