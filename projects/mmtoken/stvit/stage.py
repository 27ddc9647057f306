"""Stages: blocks in windows, or a list of named steps that ``forward`` loops over.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Letters as in plan.py; h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.recorder import is_recording, is_recording_attention, last_attention, record
from .attention_maps import crop_attention, neighborhood_attention
from .maps import SemanticUnit
from .plan import TILE, Geometry, Plan, describe, make_plan, plan_windows
from .steps import (
    GenerateStep,
    GlobalSemanticStep,
    LocalSemanticStep,
    LocalStep,
    RecoverStep,
    RefineStep,
    ShiftedStep,
)
from .swin import PatchMerging, SwinBlock

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
Run = Callable[..., Any]


class SwinStage(nn.Module):
    """Blocks with attention in windows, every second one shifted, and optional patch merging.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        drop_paths: Stochastic depth of each block.
        window_size: w.
        merges: Whether patch merging follows.
        shifts_small_maps: Shift the windows even if one covers a side of the map.

    Shape:
        - x: ``(B, N, C)``; hw: sides of the map.
        - run: Calls a block with arguments; a backbone checkpoints there.
        - returns: ``(B, N, C)`` before the merging, which the backbone calls.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_paths: Sequence[float],
        window_size: int = 7,
        merges: bool = True,
        shifts_small_maps: bool = True,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shifts_small_maps = shifts_small_maps
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, drop_path, window_size) for drop_path in drop_paths
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor, hw: HW, run: Run) -> Tensor:
        shift = self.window_size // 2
        if min(hw) <= self.window_size and not self.shifts_small_maps:
            shift = 0
        windows = [plan_windows(hw, self.window_size, by, x.device, x.dtype) for by in (0, shift)]
        for i, block in enumerate(self.blocks):
            x = run(block, x, windows[i % 2])
        return x


class SemanticStage(nn.Module):
    """Named steps from patches to semantic tokens and, with recovery, back.

    Args:
        number: 1-based stage index, used by the recorder.
        dim: C.
        num_heads: h; divides ``dim``.
        steps: Names in ``STEPS``, in order.
        drop_paths: Stochastic depth of each step.
        flavour: ``'dense'``: every attention sees a neighbourhood; ``'classification'``: the
            first generation step sees pooled tokens and a crop, the other steps see everything.
        mask: See :func:`~mmtoken.stvit.plan.visible_keys`.
        residual: Add the pooled tokens to the attention branch of the first generation step.
        use_global_center: Add a learned map to the queries of the first ``'refine'``.
        window_size: w.
        semantic_window: s.
        key_windows: Sides of the squares that the two generation steps (in patches) and recovery
            (in semantic tokens) see in dense models.
        merges: Whether patch merging follows.

    Shape:
        - x: ``(B, N, C)``; hw: sides of the map.
        - run: Calls a step with arguments; a backbone checkpoints there.
        - returns: before the merging, which the backbone calls, patches ``(B, N, C)``, or semantic
          tokens ``(B, S, C)`` if the last step is not ``'recover'``.
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
        options = {
            'local': dict(window_size=window_size),
            'shifted': dict(window_size=window_size),
            'generate': dict(residual=residual),
        }
        self.blocks = nn.ModuleList(
            STEPS[step](dim, num_heads, drop_path, **options.get(step, {}))
            for step, drop_path in zip(self.steps, drop_paths)
        )
        self.semantic_token2 = None  # the released name of the global centre
        if use_global_center:
            # for the four windows of a 14x14 map
            center = torch.empty(1, (2 * semantic_window) ** 2, dim)
            self.semantic_token2 = nn.Parameter(nn.init.trunc_normal_(center, std=0.02))
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor, hw: HW, run: Run) -> Tensor:
        plan = self.plan(hw, x.device, x.dtype)
        semantic, center, units = None, self.semantic_token2, []
        for step, block in zip(self.steps, self.blocks):
            extra = ()
            if step == 'refine' and center is not None:
                extra, center = (center,), None  # in the first unit only
            x, semantic = run(block, x, semantic, plan, *extra)
            self._note(step, plan, semantic, units)
        for number, unit in enumerate(units):
            record(SemanticUnit(self.number, number, **unit))
        return x if semantic is None else semantic

    def plan(self, hw: HW, device: torch.device, dtype: torch.dtype) -> Plan:
        """Plan all units for a map of ``hw``."""
        return make_plan(
            Geometry(hw, self.window_size, self.semantic_window),
            self.steps,
            self.key_windows if self.flavour == 'dense' else None,
            self.mask,
            device,
            dtype,
            # one tile records all weights of a patch together
            tile=None if is_recording_attention() else TILE,
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
