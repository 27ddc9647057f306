"""Record every operation of a model that can be counted, and the module that runs it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten

KINDS = ('linear', 'conv', 'attention', 'clustering', 'transforms')  # see counting.py


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


@contextlib.contextmanager
def results_of_calls(
    model: nn.Module, compute: dict[type[nn.Module], Callable[..., Any]]
) -> Iterator[dict[str, list]]:
    """Compute something at each call of the modules of some classes.

    Args:
        model: Contains the modules.
        compute: Class of modules to a function of the module, its arguments and its output.

    Yields:
        Qualified module name to the results, one per call.
    """
    results: dict[str, list] = defaultdict(list)

    def add(name: str, function: Callable[..., Any], *call: Any) -> None:
        results[name].append(function(*call))

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            for kind, function in compute.items():
                if isinstance(module, kind):
                    hook = module.register_forward_hook(partial(add, name, function))
                    hooks.enter_context(hook)
        yield results


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


class Watch:
    """Tracks the path of running modules and collects every countable operation."""

    def __init__(self, model: nn.Module) -> None:
        self.operations: list[Operation] = []
        self.ran: set[str] = set()
        self._path: list[tuple[str, nn.Module]] = []
        self._model = model
        self._own, self._inside = declared_kinds(model)

    @torch.no_grad()
    def run(self, function: Callable[[], Any]) -> None:
        """Call a function that runs the model, and collect its operations."""
        counter = FlopCounterMode(display=False, custom_mapping=self._formulas())
        with _plain_multi_head_attention(), self._attached(), counter:
            function()

    def _formulas(self) -> dict[Any, Callable[..., int]]:
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
    def _attached(self) -> Iterator[None]:
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


@contextlib.contextmanager
def _plain_multi_head_attention() -> Iterator[None]:
    """Keep ``nn.MultiheadAttention`` off its fused evaluation path, which cannot be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
