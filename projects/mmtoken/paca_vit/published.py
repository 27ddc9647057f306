"""Count PaCa-ViT as its authors wrote it, to compare with the figures they published.

Same rules as :mod:`mmtoken.analysis.counting`; the published "FLOPs" are multiply-adds with both
attention products. What differs is the arithmetic: where two formulations are equal, this suite
computes the cheaper one, and the authors the other:

    teacher  the lateral 1x1 convolutions after the resize: on four times as many cells
    PaCaHead the projections for queries and clustering on the resized and concatenated levels at
             the finest resolution, N * (levels * C) * C each, and pooling over the same map,
             K * N * (levels * C) for K classes
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from torch import nn

from ..analysis.operations import Operation
from .backbone import PaCaViT
from .teacher import ConvMixerTeacher

RULES = (
    'PaCa-ViT: as exact, but the 1x1 convolutions of the teacher and of the head come after the '
    'resize.'
)


def applies_to(module: nn.Module) -> bool:
    """Whether the rules above say anything about a module."""
    return isinstance(module, (PaCaViT, ConvMixerTeacher)) or _is_head(module)


def _is_head(module: nn.Module) -> bool:
    # by name: the class can only be imported where mmseg is installed
    return type(module).__name__ == 'PaCaHead'


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[list[Operation]], list[Operation]]]:
    """Yield a function from the counted operations to those of the authors' formulation."""

    def rewrite(operations: list[Operation]) -> list[Operation]:
        for name, module in model.named_modules():
            if isinstance(module, ConvMixerTeacher):
                operations = _with_late_laterals(operations, name)
            elif _is_head(module):
                operations = _with_full_map(operations, name, module)
        return operations

    yield rewrite


def _with_late_laterals(operations: list[Operation], teacher: str) -> list[Operation]:
    """Lateral convolutions run at the resolution of the mixer that takes their result."""
    prefix = f'{teacher}.' if teacher else ''
    cells = {
        op.module.removeprefix(prefix).split('.')[0]: prod(op.out_size[2:])
        for op in operations
        if op.module.startswith(f'{prefix}fpn')
    }
    changed = []
    for op in operations:
        part = op.module.removeprefix(prefix).split('.')[0]
        if op.module.startswith(f'{prefix}lateral'):
            macs = op.macs // prod(op.out_size[2:]) * cells[part.replace('lateral', 'fpn')]
            op = replace(op, macs=macs)
        changed.append(op)
    return changed


def _with_full_map(operations: list[Operation], head: str, module: nn.Module) -> list[Operation]:
    """The head's own convolutions and pooling, on all levels at the finest resolution."""
    pool = f'{head}.pool' if head else 'pool'
    own = [op for op in operations if op.module == head and op.kind == 'conv']
    own += [op for op in operations if op.module == pool and op.kind == 'clustering']
    if not own:
        return operations
    batch, width, *hw = own[0].out_size  # of the finest level: queries and clustering at once
    cells, total = batch * prod(hw), own[0].sizes[1][1] * len(module.convs)
    full = (('conv', total * width), ('clustering', module.num_tokens * total))
    added = [replace(own[0], kind=kind, macs=cells * macs) for kind, macs in full]
    return [op for op in operations if op not in own] + added
