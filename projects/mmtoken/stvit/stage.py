"""Stages: blocks in windows, or a list of named steps that ``forward`` loops over.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Letters as in plan.py; h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.memory import recompute
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


class Stage(nn.Module):
    """Base of both stages, which call the transition before their blocks and checkpoint the blocks.

    The transition is the ``downsample`` of the stage before: released checkpoints name it so.

    Args:
        with_cp: Recompute the activations of each block in the backward pass.
    """

    def __init__(self, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Call a block, with activation checkpointing if asked for."""
        if self.with_cp and self.training:
            return recompute(block, *args, is_random=True)
        return block(*args)

    def map_size(self, hw: HW) -> HW:
        """Return the sides of the map of the returned tokens for ``hw`` patches."""
        return hw


class SwinStage(Stage):
    """Blocks with attention in windows, every second one shifted.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        drop_paths: Stochastic depth of each block.
        window_size: w.
        merges: Whether patch merging follows, as ``downsample``.
        shifts_small_maps: Shift the windows even if one covers a side of the map.
        with_cp: See :class:`Stage`.

    Shape:
        - x: ``(B, N, C)``; hw: sides of the map.
        - transition: patch merging before the blocks, or None.
        - returns: ``(B, N, C)`` and the sides of the map.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_paths: Sequence[float],
        window_size: int = 7,
        merges: bool = True,
        shifts_small_maps: bool = True,
        with_cp: bool = False,
    ) -> None:
        super().__init__(with_cp)
        self.window_size = window_size
        self.shifts_small_maps = shifts_small_maps
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, drop_path, window_size) for drop_path in drop_paths
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(
        self, x: Tensor, hw: HW, transition: PatchMerging | None = None
    ) -> tuple[Tensor, HW]:
        if transition is not None:
            x, hw = transition(x, hw)
        shift = self.window_size // 2
        if min(hw) <= self.window_size and not self.shifts_small_maps:
            shift = 0
        windows = [plan_windows(hw, self.window_size, by, x.device, x.dtype) for by in (0, shift)]
        for i, block in enumerate(self.blocks):
            x = self.run_block(block, x, windows[i % 2])
        return x, hw


class SemanticStage(Stage):
    """Named steps from patches to semantic tokens and, with recovery, back.

    Without a generation step, the stage continues with the semantic tokens of the stage before.

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
        merges: Whether patch merging follows, as ``downsample``.
        with_cp: See :class:`Stage`.

    Shape:
        - x: patches ``(B, N, C)`` or semantic tokens ``(B, S, C)``; hw: sides of the patch map.
        - transition: patch merging, or a linear layer on semantic tokens; or None.
        - returns: patches, or semantic tokens without recovery; and the sides of the patch map.
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
        with_cp: bool = False,
    ) -> None:
        super().__init__(with_cp)
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

    def forward(self, x: Tensor, hw: HW, transition: nn.Module | None = None) -> tuple[Tensor, HW]:
        semantic, center, units = None, self.semantic_token2, []
        if 'generate' not in self.steps:
            semantic, x = x if transition is None else transition(x), x[:, :0]
        elif transition is not None:
            x, hw = transition(x, hw)
        plan = self.plan(hw, x.device, x.dtype)
        for step, block in zip(self.steps, self.blocks):
            extra = ()
            if step == 'refine' and center is not None:
                extra, center = (center,), None  # in the first unit only
            x, semantic = self.run_block(block, x, semantic, plan, *extra)
            self._note(step, plan, semantic, units)
        for number, unit in enumerate(units):
            record(SemanticUnit(self.number, number, **unit))
        return x if semantic is None else semantic, hw

    def map_size(self, hw: HW) -> HW:
        geometry = Geometry(hw, self.window_size, self.semantic_window)
        return hw if self.steps[-1] == 'recover' else geometry.semantic_hw

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
        if not units:
            return
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
