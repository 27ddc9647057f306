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

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten

KINDS = ('linear', 'conv', 'attention', 'clustering', 'transforms')
OTHER = 'other'


@dataclass(frozen=True)
class Operation:
    """One dispatched operation.

    Args:
        path: Names of the running modules, outermost first.
        op: Name of the operation, e.g. ``'addmm'``.
        kind: One of ``KINDS``, or None if it counts 0 here.
        macs: Multiply-adds.
        sizes: Shapes of the tensor arguments.
        out_size: Shape of the (first) result.
        has_bias: Whether a convolution adds a bias.
    """

    path: tuple[str, ...]
    op: str
    kind: str | None
    macs: int
    sizes: tuple[tuple[int, ...], ...]
    out_size: tuple[int, ...]
    has_bias: bool = False

    @property
    def module(self) -> str:
        """Name of the innermost running module."""
        return self.path[-1] if self.path else ''


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


def _attention_macs(q: Tensor, k: Tensor, v: Tensor) -> int:
    """``q (..., N, d)``, ``k (..., M, d)``, ``v (..., M, dv)``."""
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _distance_macs(a: Tensor, b: Tensor) -> int:
    """``a (..., N, C)``, ``b (..., M, C)``."""
    return prod(a.shape) * b.shape[-2]


def _bag_macs(table: Tensor, rows: Tensor) -> int:
    return rows.numel() * table.shape[-1]


def _added_macs(_target: Tensor, _dim: int, _index: Tensor, source: Tensor) -> int:
    return source.numel() if source.is_floating_point() else 0


# missing from torch's registry: number of arguments that the formula reads, kind, formula
_OURS: dict[str, tuple[int, str | None, Callable[..., int]]] = {
    '_scaled_dot_product_flash_attention_for_cpu': (3, 'attention', _attention_macs),
    '_scaled_dot_product_fused_attention_overrideable': (3, 'attention', _attention_macs),
    '_euclidean_dist': (2, 'clustering', _distance_macs),
    '_cdist_forward': (2, 'clustering', _distance_macs),
    '_embedding_bag': (2, 'transforms', _bag_macs),
    '_embedding_bag_forward_only': (2, 'transforms', _bag_macs),
    'index_add': (4, 'transforms', _added_macs),
    'scatter_add': (4, 'transforms', _added_macs),
    'scatter_reduce': (4, 'transforms', _added_macs),
    # a depthwise 1x1 convolution on tokens
    'addcmul': (3, 'conv', lambda _sum, x, _weight: x.numel()),
    'mv': (2, 'linear', lambda matrix, _vector: matrix.numel()),
    'addmv': (3, 'linear', lambda _sum, matrix, _vector: matrix.numel()),
    'addbmm': (3, 'linear', lambda _sum, a, b: a.numel() * b.shape[-1]),
    'dot': (2, 'linear', lambda a, _b: a.numel()),
    # recorded for other conventions; 0 in ours
    'native_layer_norm': (1, None, lambda _x: 0),
    'avg_pool2d': (1, None, lambda _x: 0),
}


class _Watch:
    """Tracks the path of running modules and collects every countable operation."""

    def __init__(self, model: nn.Module) -> None:
        self.operations: list[Operation] = []
        self.ran: set[str] = set()
        self._path: list[tuple[str, nn.Module]] = []
        self._model = model
        self._own, self._inside = declared_kinds(model)

    def formulas(self) -> dict[Any, Callable[..., int]]:
        """Torch's formulas and ours, each of which also collects the operation."""
        known = {
            packet: formula
            for packet, formula in flop_registry.items()
            if hasattr(packet, 'overloads') and 'backward' not in packet.__name__
        }
        for name, (count, _kind, formula) in _OURS.items():
            if hasattr(aten, name):
                known[getattr(aten, name)] = _first(count, formula)
        for packet, formula in list(known.items()):
            in_place = f'{packet.__name__}_'
            if hasattr(aten, in_place):
                known[getattr(aten, in_place)] = formula
        return {p: self._writing(p.__name__, formula) for p, formula in known.items()}

    def _writing(self, op: str, formula: Callable[..., int]) -> Callable[..., int]:
        def write(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops = formula(*args, out_val=out_val, **kwargs)
            result = out_val[0] if isinstance(out_val, (tuple, list)) else out_val
            self.operations.append(
                Operation(
                    path=tuple(name for name, _ in self._path),
                    op=op,
                    kind=self._kind(op),
                    macs=flops // 2,
                    sizes=tuple(tuple(a.shape) for a in args if isinstance(a, Tensor)),
                    out_size=tuple(result.shape),
                    has_bias='conv' in op and len(args) > 2 and args[2] is not None,
                )
            )
            return flops

        write._get_raw = True  # FlopCounterMode then passes tensors instead of shapes
        return write

    def _kind(self, op: str) -> str | None:
        name, innermost = self._path[-1] if self._path else ('', None)
        if op in getattr(innermost, 'recomputes', ()):
            return None
        op = op.rstrip('_')
        if op in _OURS:
            return _OURS[op][1]
        for part, kind in self._inside.items():
            if f'{name}.'.startswith(f'{part}.'):
                return kind
        if 'conv' in op:
            return 'conv'
        if 'attention' in op:
            return 'attention'
        if name in self._own:
            return self._own[name]
        if isinstance(innermost, nn.Linear) or op not in ('bmm', 'baddbmm'):
            return 'linear'
        return 'attention'

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Wrap every ``forward``; hosts call it directly, which bypasses hooks."""
        modules = dict(self._model.named_modules())
        before = {name: module.__dict__.get('forward') for name, module in modules.items()}
        for name, module in modules.items():
            module.forward = self._watched(name, module)
        try:
            yield
        finally:
            for name, module in modules.items():
                del module.forward
                if before[name] is not None:
                    module.forward = before[name]

    def _watched(self, name: str, module: nn.Module) -> Callable[..., Any]:
        forward = module.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._path.append((name, module))
            self.ran.add(name)
            try:
                return forward(*args, **kwargs)
            finally:
                self._path.pop()

        return watched


def declared_kinds(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Kinds that the modules of a model declare in their attribute ``counts_as``.

    ``counts_as`` maps the name of a child, or ``''`` for the module itself, to one of ``KINDS``.

    Args:
        model: Any model.

    Returns:
        Two dicts: qualified module name to the kind of its own matrix products, and to the kind of
        everything that runs inside it.
    """
    own, inside = {}, {}
    for name, module in model.named_modules():
        for child, kind in getattr(module, 'counts_as', {}).items():
            if child:
                inside[f'{name}.{child}' if name else child] = kind
            else:
                own[name] = kind
    return own, inside


def _first(count: int, formula: Callable[..., int]) -> Callable[..., int]:
    """Pass on the first arguments, and convert multiply-adds to torch's unit, which is half."""
    return lambda *args, **_unused: 2 * formula(*args[:count])


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


@torch.no_grad()
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
    watch = _Watch(model)
    counter = FlopCounterMode(display=False, custom_mapping=watch.formulas())
    with _plain_multi_head_attention(), watch.attached(), counter:
        run()
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


def _uncounted(model: nn.Module, watch: _Watch) -> tuple[str, ...]:
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


@contextlib.contextmanager
def _plain_multi_head_attention() -> Iterator[None]:
    """Keep ``nn.MultiheadAttention`` off its fused evaluation path, which cannot be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
