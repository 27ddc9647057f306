"""Count TCFormer as its authors' own tool did, to compare with the figures they published.

Their counter is a layer-by-layer one (mmcv's), to which they added formulas for what it cannot
see. It differs from :mod:`mmtoken.analysis.counting` in these rules (N tokens, M keys, C
channels, N0 grid cells, k neighbours):

    conv        one more per output for the bias; the linear laterals of MTA are convolutions
    norm        2 per number in a LayerNorm;  pool: 1 per number that is averaged
    attention   2 * N * min(N, M) * C: the first block of stage 4 has 4 times more keys than
                queries, and is counted as if it had not
    clustering  N^2 C (distances) + N^2 (denser?) + k N (density) + N C (merging), per part
    transforms  N0 * (C + 4) for each map read from tokens or spread to tokens, and each
                interpolation between token sets; where tokens are the grid itself, only in the
                first CTM and for the keys and the result of MTA's finest level

These rules are inferred, not copied: published are only the sums, and every one of them comes
out in both decimals. N^2 next to N^2 C follows from the figures for local clustering. The sums
do not determine terms below 0.1 % (bias, pool, k N, N C, the exceptions for the grid).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from torch import nn

from ..analysis.operations import Operation, results_of_calls
from ..common.backbone import Backbone
from .ctm import ClusteringTokenMerge, TokenConv
from .layers import TokenAttention
from .mta_neck import MTA

Count = tuple[str, int]  # kind, multiply-adds
OP = 'published'  # name of the operations that the formulas add
INDEX_COST = 4  # per grid cell of a transform, in addition to its channels
RULES = (
    'TCFormer: inferred from the published sums: biases of convolutions, 2 per normalised number, '
    'N^2 (C + 1) + k N + N C per clustering, N0 (C + 4) per token transform, too few keys in the '
    'first block of stage 4.'
)


def applies_to(module: nn.Module) -> bool:
    """Whether the rules concern a module."""
    return isinstance(module, ClusteringTokenMerge)


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith(__package__)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[list[Operation]], list[Operation]]]:
    """Yield a function from the counted operations to those of the authors' counter.

    It has the kinds ``norm`` and ``pool`` in addition to those of the other convention.
    """
    own = {name for name, module in model.named_modules() if _is_own(module)}
    # modules of other papers, which have rules of their own
    others = {
        name
        for name, module in model.named_modules()
        if not _is_own(module) and (isinstance(module, Backbone) or hasattr(module, 'counts_as'))
    }

    def rewrite(operations: list[Operation]) -> list[Operation]:
        kept = []
        found = [
            (name, count) for name, seen in calls.items() for counts in seen for count in counts
        ]
        for op in operations:
            if not others.isdisjoint(op.path):
                kept.append(op)
            elif op.kind not in ('clustering', 'transforms'):
                found += [(op.module, count) for count in _layer(op)]
            elif own.isdisjoint(op.path):  # the formulas replace those of this paper
                kept.append(op)
        added = [Operation((name,), OP, *count, sizes=(), out_size=()) for name, count in found]
        return kept + added

    with results_of_calls(model, _FORMULAS) as calls:
        yield rewrite


def _layer(operation: Operation) -> list[Count]:
    """What the layer-by-layer counter makes of an operation."""
    if operation.kind == 'conv':
        bias = prod(operation.out_size) if operation.has_bias else 0
        return [('conv', operation.macs + bias)]
    if operation.kind == 'attention':
        queries, keys = operation.sizes[:2]
        seen = min(1.0, queries[-2] / keys[-2])
        return [('attention', round(operation.macs * seen))]
    if operation.kind == 'linear':
        return [('linear', operation.macs)]
    if operation.op == 'native_layer_norm':
        return [('norm', 2 * prod(operation.sizes[0]))]
    if operation.op == 'avg_pool2d':
        return [('pool', prod(operation.sizes[0]))]
    return []


def _merge(module: ClusteringTokenMerge, args: tuple, _out: Any) -> list[Count]:
    tokens, k = args[0], module.num_neighbors
    parts = 1 if module.local_parts is None else module.local_parts[0] ** 2
    count, dim = tokens.num_tokens / parts, module.score.in_features
    macs = round(parts * (count**2 * (dim + 1) + k * count + count * dim))
    return [('clustering', macs)]


def _conv(module: TokenConv, args: tuple, _out: Any) -> list[Count]:
    tokens = args[0]
    if tokens.on_grid and module.stride[0] == 1:
        return []
    channels = module.in_channels + module.out_channels
    return [('transforms', prod(tokens.init_hw) * (channels + 2 * INDEX_COST))]


def _keys(module: TokenAttention, args: tuple, _out: Any) -> list[Count]:
    _query, key, _score, context = args
    in_neck = context is not None  # only MTA passes one
    on_map = module.sr_ratio > 1 and (in_neck or not key.on_grid)
    if not on_map and module.reduction != 'cluster':
        return []
    return [('transforms', prod(key.init_hw) * (key.x.shape[-1] + INDEX_COST))]


def _neck(module: MTA, args: tuple, _out: Any) -> list[Count]:
    tokens = [args[0][level] for level in module.levels]
    transform = prod(tokens[0].init_hw) * (module.out_channels + INDEX_COST)
    return [
        # interpolation to every level but the last, and a map of every level
        ('transforms', (2 * len(tokens) - 1) * transform),
        ('conv', sum(level.num_tokens for level in tokens) * module.out_channels),
    ]


_FORMULAS = {ClusteringTokenMerge: _merge, TokenConv: _conv, TokenAttention: _keys, MTA: _neck}
