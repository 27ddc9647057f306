"""Count STViT-R as its authors wrote it.

Same rules as :mod:`mmtoken.analysis.counting`. Where two formulations are equal, this suite
computes the cheaper one, and the authors the other:

    generation, recovery   keys and values are projected for each window that sees them: in dense
                           models 4, 9 and 81 times over, positions outside the map included
    recovery               queries and results are projected on padding, too
    window blocks          the result is projected on padding, too, as in Swin
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import torch
from torch import nn

from ..analysis.operations import Operation, results_of_calls
from ..common.checks import HW
from .plan import CROP_REACH, Geometry, crop_index
from .stage import SemanticStage
from .stvit_r import STViTR
from .swin import WindowAttention

RULES = (
    'STViT-R: as exact, but keys and values are projected again for each window that sees them, '
    'and padding is projected too.'
)


def applies_to(module: nn.Module) -> bool:
    """Whether the rules concern a module."""
    return isinstance(module, STViTR)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[list[Operation]], list[Operation]]]:
    """Yield a function from the counted operations to those of the authors' formulation."""
    batch_and_map = {SemanticStage: lambda _stage, _args, out: (len(out[0]), out[1])}

    def rewrite(operations: list[Operation]) -> list[Operation]:
        for name, module in model.named_modules():
            if isinstance(module, WindowAttention):
                operations = _with_projected_padding(operations, name)
            elif isinstance(module, SemanticStage):
                operations = _with_projected_copies(operations, name, module, calls[name])
        return operations

    with results_of_calls(model, batch_and_map) as calls:
        yield rewrite


def _with_projected_padding(operations: list[Operation], attention: str) -> list[Operation]:
    """Project the output of a window block on as many tokens as the input, which is 3C wide."""
    first, last = (
        [op for op in operations if op.module == f'{attention}.{name}'] for name in ('qkv', 'proj')
    )
    if not last:
        return operations
    # there may be several calls, and the first projection comes in chunks
    whole = replace(last[0], macs=sum(op.macs for op in first) // 3)
    return [op for op in operations if op not in last] + [whole]


def _with_projected_copies(
    operations: list[Operation], name: str, stage: SemanticStage, calls: list[tuple[int, HW]]
) -> list[Operation]:
    """Each attention between patches and semantic tokens, window by window."""
    for step, (i, block) in zip(stage.steps, stage.blocks.named_children()):
        attention = f'{name}.blocks.{i}.attn'
        own = [op for op in operations if f'{op.module}.'.startswith(f'{attention}.')]
        if step not in ('generate', 'refine', 'recover') or not own:
            continue
        dim, macs = block.attn.q.in_features, dict(linear=0, attention=0)
        for batch, hw in calls:
            windows, queries, keys = _windows(stage, step, hw)
            windows *= batch
            macs['linear'] += windows * (2 * queries + 2 * keys) * dim**2
            macs['attention'] += 2 * windows * queries * keys * dim
        added = [replace(own[0], kind=kind, macs=number) for kind, number in macs.items()]
        operations = [op for op in operations if op not in own] + added
    return operations


def _windows(stage: SemanticStage, step: str, hw: HW) -> tuple[int, int, int]:
    """Number of windows, and queries and keys of each."""
    geometry = Geometry(hw, stage.window_size, stage.semantic_window)
    windows, own = prod(geometry.grid), stage.semantic_window**2
    if stage.flavour == 'dense':
        kernels = dict(zip(('generate', 'refine', 'recover'), stage.key_windows))
        queries = stage.window_size**2 if step == 'recover' else own
        return windows, queries, kernels[step] ** 2
    patches, semantic = prod(hw), prod(geometry.semantic_hw)
    crop = crop_index(geometry, CROP_REACH, torch.device('cpu')).shape[1]
    return {
        'generate': (windows, own, own + crop),
        'refine': (1, semantic, semantic + patches),
        'recover': (1, patches, semantic),
    }[step]
