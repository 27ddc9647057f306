"""Count parameters and multiply-adds, with fused attention, clustering and token pooling.

One multiply with one add counts 1. Operations are counted where PyTorch dispatches them
(``torch.utils.flop_counter``), regardless of the layer or function that calls them:

    linear      matrix products of layers and of functional calls
    conv        convolutions, depthwise and 1x1 ones included
    attention   both products of attention, fused or explicit
    clustering  distances between tokens, N * M * C for N x M distances; every operation of
                modules that assign patches to clusters, and the weighted sums over patches
    transforms  sums over gathered rows (tokens to map and back, merging): 1 per number added

Biases, norms, activations, softmax, pooling, sorting and searching count 0, as do operations that
a module lists in ``recomputes``: they repeat products that it does not store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .operations import KINDS, Operation, Watch

OTHER = 'other'


@dataclass(frozen=True)
class Complexity:
    """Counts by row (stage, neck, head) and kind.

    Args:
        macs: Row to kind to multiply-adds.
        params: Row to kind of layer (linear, conv, norm, other) to number of parameters.
        operations: All counted operations.
        uncounted: Modules with weight matrices that ran without a countable operation, e.g.
            compiled operators of a host.
    """

    macs: dict[str, dict[str, int]]
    params: dict[str, dict[str, int]]
    operations: tuple[Operation, ...] = field(repr=False, default=())
    uncounted: tuple[str, ...] = ()

    @property
    def total_macs(self) -> int:
        """Multiply-adds of all rows."""
        return sum(sum(kinds.values()) for kinds in self.macs.values())

    @property
    def total_params(self) -> int:
        """Parameters of all rows."""
        return sum(sum(kinds.values()) for kinds in self.params.values())

    def macs_of(self, kind: str) -> int:
        """Multiply-adds of one kind."""
        return sum(kinds.get(kind, 0) for kinds in self.macs.values())


def stage_rows(model: nn.Module) -> dict[str, str]:
    """Row of each module: qualified module name to label.

    A backbone of this suite names its stages. In any other model each child is a row, or each of
    its entries if it is a list. A model with a ``backbone`` has the rows of the backbone, then
    one for each other child (neck, head).
    """
    if isinstance(getattr(model, 'backbone', None), nn.Module):
        rows = {f'backbone.{name}': label for name, label in stage_rows(model.backbone).items()}
        rows.update({name: name for name, _ in model.named_children() if name != 'backbone'})
        return rows
    if hasattr(model, 'stage_modules'):
        labels = ['stem', *(f'stage {i}' for i in range(1, len(model.stage_modules)))]
        return {name: label for label, names in zip(labels, model.stage_modules) for name in names}
    rows = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            rows.update({f'{name}.{i}': f'{name}.{i}' for i in range(len(child))})
        else:
            rows[name] = name
    return rows


def _row(name: str, rows: dict[str, str]) -> str:
    while name and name not in rows:
        name = name.rpartition('.')[0]
    return rows.get(name, OTHER)


def _parameter_kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return 'linear'
    if isinstance(module, _ConvNd):
        return 'conv'
    norms = (_NormBase, nn.LayerNorm, nn.GroupNorm)
    return 'norm' if isinstance(module, norms) else OTHER


def count_parameters(
    model: nn.Module, rows: dict[str, str] | None = None
) -> dict[str, dict[str, int]]:
    """Number of parameters by row and kind of layer; shared ones count once."""
    rows = stage_rows(model) if rows is None else rows
    counts: dict[str, dict[str, int]] = {label: Counter() for label in rows.values()}
    for key, parameter in model.named_parameters():
        name = key.rpartition('.')[0]
        kinds = counts.setdefault(_row(name, rows), Counter())
        kinds[_parameter_kind(model.get_submodule(name))] += parameter.numel()
    return {label: kinds for label, kinds in counts.items() if kinds}


def count_complexity(
    model: nn.Module, run: Callable[[], Any], rows: dict[str, str] | None = None
) -> Complexity:
    """Count the operations of ``model`` during one call of ``run``.

    Args:
        model: Its mode is kept.
        run: Calls the model with one image, e.g. ``lambda: model(torch.zeros(1, 3, 224, 224))``.
        rows: See :func:`stage_rows`, which is the default.

    Returns:
        The counts.
    """
    rows = stage_rows(model) if rows is None else rows
    watch = Watch(model)
    watch.run(run)
    params = count_parameters(model, rows)
    return Complexity(
        macs=sum_by_row(model, watch.operations, params, rows),
        params=params,
        operations=tuple(watch.operations),
        uncounted=_uncounted(model, watch),
    )


def sum_by_row(
    model: nn.Module,
    operations: Iterable[Operation],
    params: dict[str, dict[str, int]],
    rows: dict[str, str] | None = None,
) -> dict[str, dict[str, int]]:
    """Row to kind to multiply-adds; rows with neither operations nor parameters are left out."""
    rows = stage_rows(model) if rows is None else rows
    macs: dict[str, dict[str, int]] = {label: Counter() for label in rows.values()}
    for operation in operations:
        if operation.kind is not None:
            kinds = macs.setdefault(_row(operation.module, rows), Counter())
            kinds[operation.kind] += operation.macs
    return {label: kinds for label, kinds in macs.items() if kinds or label in params}


def _uncounted(model: nn.Module, watch: Watch) -> tuple[str, ...]:
    """Modules with a weight matrix that ran without a countable operation of their own."""
    busy = {operation.module for operation in watch.operations}
    return tuple(
        name
        for name, module in model.named_modules()
        if name in watch.ran - busy
        and not isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        and any(
            key.endswith('weight') and parameter.ndim > 1
            for key, parameter in module.named_parameters(recurse=False)
        )
    )


def format_table(complexity: Complexity) -> str:
    """The counts as an aligned table: one line per row, one column per kind."""
    kinds = [kind for kind in KINDS if complexity.macs_of(kind)]
    kinds += sorted({k for row in complexity.macs.values() for k in row} - set(KINDS))
    header = ['', 'params M', *(f'{kind} G' for kind in kinds), 'total G', 'share']
    total = complexity.total_macs
    lines = [header]
    for label in dict.fromkeys([*complexity.macs, *complexity.params]):
        counts = complexity.macs.get(label, {})
        lines.append(
            _line(label, complexity.params.get(label, {}), [counts.get(k, 0) for k in kinds], total)
        )
    sums = [complexity.macs_of(kind) for kind in kinds]
    lines.append(_line('total', {'': complexity.total_params}, sums, total))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        '  '.join([label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for label, *cells in lines
    ]
    rule = '-' * len(text[0])
    return '\n'.join([text[0], rule, *text[1:-1], rule, text[-1]])


def _line(label: str, params: dict[str, int], counts: list[int], total: int) -> list[str]:
    share = f'{100 * sum(counts) / total:.1f} %' if total else '-'
    cells = [f'{count / 1e9:.3f}' if count else '-' for count in [*counts, sum(counts)]]
    return [label, f'{sum(params.values()) / 1e6:.3f}', *cells, share]
