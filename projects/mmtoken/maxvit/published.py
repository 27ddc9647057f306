"""Count MaxViT as its published multiply-adds were counted.

Same rules as :mod:`mmtoken.analysis.counting`, and in addition, for groups of P x Q cells:

    norm    2 per number in a batch norm, 5 per number in a layer norm
    lookup  h P^2 (2P - 1) (2Q - 1) + h P^2 Q^2 (2Q - 1) per attention with a table: the authors
            (and timm) look relative positions up by two products with one-hot matrices, we by an
            index

These rules are inferred: the counts of timm's models at 224x224 (5.60, 11.66, 24.04 and 43.68 G),
and of the tiny one with groups of image / 32 (57.1 G at 640x640, 138.0 G at 896x896), come out in
all published digits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ..analysis.counting import Operation
from .block import GroupedAttention
from .maxvit import MaxViT
from .relative_position import TableBias

RULES = (
    'MaxViT: as exact, and 2 per number in a batch norm, 5 in a layer norm, and products with '
    'one-hot matrices for relative positions.'
)
_PER_NUMBER = {nn.BatchNorm2d: 2, nn.LayerNorm: 5}


def applies_to(module: nn.Module) -> bool:
    """Whether the rules concern a module."""
    return isinstance(module, MaxViT)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[list[Operation]], list[Operation]]]:
    """Yield a function from the counted operations to those of the published counts.

    It has the kinds ``norm`` and ``lookup`` in addition to those of the other convention.
    """
    added: list[Operation] = []
    with contextlib.ExitStack() as hooks:
        for outer, backbone in model.named_modules():
            for name, module in backbone.named_modules() if applies_to(backbone) else ():
                where = (outer, f'{outer}.{name}' if outer else name)
                for kind, formula in _FORMULAS.items():
                    if isinstance(module, kind):
                        hook = partial(_add, added, formula, where)
                        hooks.enter_context(module.register_forward_pre_hook(hook))
        yield lambda operations: operations + added


def _add(
    added: list[Operation], formula: Callable, path: tuple, module: nn.Module, args: tuple
) -> None:
    kind, macs = formula(module, *args)
    added.append(Operation(path, 'published', kind, macs, sizes=(), out_size=()))


def _norm(module: nn.Module, *args: Any) -> tuple[str, int]:
    return 'norm', _PER_NUMBER[type(module)] * args[0].numel()


def _lookup(module: GroupedAttention, *args: Any) -> tuple[str, int]:
    rows, cols = args[1].size
    each = rows**2 * (2 * cols - 1) * (2 * rows - 1 + cols**2)
    return 'lookup', module.num_heads * each if isinstance(module.rel_pos, TableBias) else 0


_FORMULAS = {nn.BatchNorm2d: _norm, nn.LayerNorm: _norm, GroupedAttention: _lookup}
