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

from torch import Tensor, nn

from ..analysis.operations import Operation, results_of_calls
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
    own = [name for name, module in model.named_modules() if applies_to(module)]

    def rewrite(operations: list[Operation]) -> list[Operation]:
        added = [
            Operation((outer, name), 'published', kind, macs, sizes=(), out_size=())
            for outer in own
            for name, counts in calls.items()
            for kind, macs in counts
            if not outer or name.startswith(f'{outer}.')
        ]
        return operations + added

    with results_of_calls(model, _FORMULAS) as calls:
        yield rewrite


def _norm(module: nn.Module, args: tuple, _out: Tensor) -> tuple[str, int]:
    return 'norm', _PER_NUMBER[type(module)] * args[0].numel()


def _lookup(module: GroupedAttention, args: tuple, _out: Tensor) -> tuple[str, int]:
    rows, cols = args[1].size
    each = rows**2 * (2 * cols - 1) * (2 * rows - 1 + cols**2)
    return 'lookup', module.num_heads * each if isinstance(module.rel_pos, TableBias) else 0


_FORMULAS = {nn.BatchNorm2d: _norm, nn.LayerNorm: _norm, GroupedAttention: _lookup}
