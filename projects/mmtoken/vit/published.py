"""Count ViTDet as its authors wrote it.

Same rules as :mod:`mmtoken.analysis.counting`. Where two formulations are equal, this suite
computes the cheaper one, or the one that needs less memory, and the authors the other:

    windows              queries, keys, values and results are projected for padding, too
    relative positions   products of queries with tables, ``N * (h + w) * D``; here they are
                         channels of queries and keys
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from torch import nn

from ..analysis.operations import Operation, results_of_calls
from ..common.checks import HW
from ..common.windows import window_grid
from .attention import Attention
from .plain_vit import PlainViT

RULES = (
    'ViTDet: as exact, but padding of windows is projected too, and relative positions are '
    'products of queries with tables.'
)


def applies_to(module: nn.Module) -> bool:
    """Whether the rules concern a module."""
    return isinstance(module, PlainViT)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[list[Operation]], list[Operation]]]:
    """Yield a function from the counted operations to those of the authors' formulation."""
    batch_and_map = {Attention: lambda _attention, args, _out: (len(args[0]), args[1].hw)}

    def rewrite(operations: list[Operation]) -> list[Operation]:
        for name, seen in calls.items():
            module = model.get_submodule(name)
            if module.window_size or module.has_rel_pos:
                operations = _rewritten(operations, name, module, seen)
        return operations

    with results_of_calls(model, batch_and_map) as calls:
        yield rewrite


def _rewritten(
    operations: list[Operation], name: str, module: Attention, calls: list[tuple[int, HW]]
) -> list[Operation]:
    """Replace everything inside a module that was called."""
    own = [op for op in operations if f'{op.module}.'.startswith(f'{name}.')]
    if not own:
        return operations
    dim, macs = module.proj.in_features, dict(linear=0, attention=0)
    for batch, hw in calls:
        windows, attended = batch, hw
        if module.window_size:
            windows *= prod(window_grid(hw, module.window_size))
            attended = (module.window_size, module.window_size)
        queries = windows * prod(attended)
        keys = 2 * prod(attended) + (sum(attended) if module.has_rel_pos else 0)
        macs['linear'] += queries * 4 * dim**2
        macs['attention'] += queries * keys * dim
    added = [replace(own[0], kind=kind, macs=number) for kind, number in macs.items()]
    return [op for op in operations if op not in own] + added
