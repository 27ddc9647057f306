"""Count MaxViT as its published multiply-adds were counted.

Same rules as :mod:`mmtoken.analysis.counting`, and in addition:

    norm    2 per number in a batch norm, 5 per number in a layer norm
    lookup  h P^2 (2P - 1) (2Q - 1) + h P^2 Q^2 (2Q - 1) per attention of the form 'tf', for groups
            of P x Q cells: the authors (and timm) look relative positions up by two products with
            one-hot matrices, we by an index
    conv    the row and the column that ``SameConv2d`` computes and drops are not counted

These rules are inferred. With the classifier they give the counts of all MaxViTs that timm
published, at 224, 256, 384 and 512, in all digits (``tests/maxvit/test_published.py``). The
README of the authors has figures that are up to 1 % larger and do not follow from these rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from torch import Tensor, nn

from ..analysis.operations import Operation, results_of_calls
from .block import GroupedAttention
from .maxvit import MaxViT
from .mbconv import SameConv2d

RULES = (
    'MaxViT: as exact, and 2 per number in a batch norm, 5 in a layer norm, products with one-hot '
    'matrices for relative positions, and no margins of strided convolutions.'
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
    own = {name: module for name, module in model.named_modules() if applies_to(module)}

    def rewrite(operations: list[Operation]) -> list[Operation]:
        added = [
            Operation((outer, name), 'published', kind, macs, sizes=(), out_size=())
            for outer, maxvit in own.items()
            for name, counts in calls.items()
            for kind, macs in counts
            if not outer or name.startswith(f'{outer}.')
            if kind != 'lookup' or maxvit.spec['form'] == 'tf'
        ]
        return [_without_margin(model, operation) for operation in operations] + added

    with results_of_calls(model, _FORMULAS) as calls:
        yield rewrite


def _without_margin(model: nn.Module, operation: Operation) -> Operation:
    """Count the cells that a strided convolution returns, not those that it computes."""
    if not isinstance(model.get_submodule(operation.module), SameConv2d):
        return operation
    returned = prod((side + 1) // 2 for side in operation.sizes[0][2:])
    return replace(operation, macs=operation.macs // prod(operation.out_size[2:]) * returned)


def _norm(module: nn.Module, args: tuple, _out: Tensor) -> tuple[str, int]:
    return 'norm', _PER_NUMBER[type(module)] * args[0].numel()


def _lookup(module: GroupedAttention, args: tuple, _out: Tensor) -> tuple[str, int]:
    rows, cols = args[1].size
    each = rows**2 * (2 * cols - 1) * (2 * rows - 1 + cols**2)
    return 'lookup', module.num_heads * each


_FORMULAS = {nn.BatchNorm2d: _norm, nn.LayerNorm: _norm, GroupedAttention: _lookup}
