"""What the attention layers of a model read during a forward pass: tokens, and their real logits.

Letters as in interaction.py; B images, G groups of tokens that attend to each other, e.g. windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ..common.recorder import record_tokens
from .adapters import Layer

PRODUCTS = (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default)
SOFTMAX = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)
KEPT_NORMS = 4  # outputs in which the tokens of a projection are looked for


@dataclass(frozen=True)
class Source:
    """The tokens that a projection reads.

    Args:
        tokens: ``(..., N, D)`` as it reads them, possibly cut into windows.
        norm: Name of the norm that they come from; empty if there is none.
        normed: Output of that norm, ``(B, ..., D)``, before windows are cut; else ``tokens``.
    """

    tokens: Tensor
    norm: str
    normed: Tensor


@dataclass(frozen=True)
class Product:
    """One softmax of a layer.

    Args:
        logits: ``(G, h, N, M)``, all terms included.
        queries: ``(G, h, N, d)`` operand of the matrix product.
        keys: ``(G, h, M, d)`` operand of the matrix product.
    """

    logits: Tensor
    queries: Tensor
    keys: Tensor


@dataclass
class Seen:
    """Everything that one layer read and compared.

    Args:
        queries: Of each call of the projection to queries; the first are the image's tokens.
        keys: Of each call of the projection to keys.
        products: Of each softmax.
        inputs: Arguments of the layer.
        output: Of the layer.
    """

    queries: list[Source] = field(default_factory=list)
    keys: list[Source] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    inputs: tuple[Any, ...] = ()
    output: Any = None


def arrange(layer: Layer, seen: Seen, product: Product) -> tuple[Tensor, Tensor]:
    """Which tokens a product compares, whatever windows a model cuts after the projections.

    Args:
        layer: The layer.
        seen: What it read.
        product: One of its products.

    Returns:
        ``(G, N)`` indices into all query tokens, ``(G, M)`` into all key tokens; -1 for padding
        after the projection.
    """
    found = []
    for sources, operand, weight, bias in (
        (seen.queries, product.queries, layer.projections.wq, layer.projections.bq),
        (seen.keys, product.keys, layer.projections.wk, layer.projections.bk),
    ):
        groups, _, count, _ = operand.shape
        first = sources[0].tokens
        if (
            len(sources) == 1
            and first.shape[:-1].numel() == groups * count
            and groups in (len(first), first.shape[:-2].numel())
        ):
            found.append(torch.arange(groups * count).view(groups, count))
            continue
        rows = all_tokens(sources).double() @ weight[0].double().mT
        rows = rows if bias is None else rows + bias[0].double()
        wanted = operand[:, 0].double().flatten(0, 1)
        # operands may be scaled
        apart = torch.cdist(F.normalize(wanted, dim=-1), F.normalize(rows, dim=-1))
        distance, index = apart.min(-1)
        outside = ~wanted.any(-1)
        distance[outside], index[outside] = 0.0, -1
        if distance.max() > 1e-3:
            raise ValueError(
                f'the queries and keys of {layer.name} must be projections of its tokens, got '
                f'others (distance {distance.max():.2g}); rotary positions in windows are not known'
            )
        found.append(index.view(groups, count))
    return found[0], found[1]


def all_tokens(sources: Sequence[Source]) -> Tensor:
    """Tokens of all calls of a projection, ``(R, D)``."""
    return torch.cat([source.tokens.flatten(0, -2) for source in sources])


@torch.no_grad()
def observe(
    model: nn.Module, layers: Sequence[Layer], run: Callable[[], Any], products: bool = True
) -> dict[str, Seen]:
    """Run a model once in eval mode, and collect what its layers read and compare.

    Args:
        model: The model.
        layers: Layers to observe.
        run: Calls the model.
        products: Collect logits too, which need ``h N M`` numbers per layer.

    Returns:
        By name of the layer; layers that did not run are left out.
    """
    found = {layer.name: Seen() for layer in layers}
    was_training = model.training
    model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodule
    try:
        with ExitStack() as stack:
            for handle in _hooks(model, layers, found):
                stack.callback(handle.remove)
            if products:
                stack.enter_context(record_tokens(model))  # ours attend explicitly and at once
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(_watch_products(model, layers, found))
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(was_training)
    return {name: seen for name, seen in found.items() if seen.queries}


def _hooks(model: nn.Module, layers: Sequence[Layer], found: dict[str, Seen]) -> Iterator[Any]:
    modules = dict(model.named_modules())
    norms: list[tuple[str, Tensor]] = []

    def after_norm(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                norms[:] = [*norms[1 - KEPT_NORMS :], (name, output)]

        return keep

    for name, module in modules.items():
        if 'norm' in type(module).__name__.lower():
            yield module.register_forward_hook(after_norm(name))
    for layer in layers:
        seen, module, own = found[layer.name], modules[layer.name], layer.projections

        def keep_call(_module: nn.Module, args: Any, kwargs: Any, output: Any, seen=seen) -> None:
            seen.inputs, seen.output = (*args, *kwargs.values()), output

        yield module.register_forward_hook(keep_call, with_kwargs=True)
        for sources, part, place in (
            (seen.queries, own.query_from, 0),
            (seen.keys, own.key_from, 1),
        ):
            projection = module.get_submodule(part) if part else module
            place = place if isinstance(projection, nn.MultiheadAttention) else 0

            def keep_tokens(module, args, kwargs, sources=sources, place=place) -> None:
                given = (*args, *kwargs.values())[place]
                sources.append(_source(_channels_last(module, given), norms))

            yield projection.register_forward_pre_hook(keep_tokens, with_kwargs=True)


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return x.permute(0, 2, 3, 1)
    if isinstance(module, nn.MultiheadAttention) and not module.batch_first and x.ndim == 3:
        return x.transpose(0, 1)
    return x


def _source(tokens: Tensor, norms: Sequence[tuple[str, Tensor]]) -> Source:
    """Look for the tokens among the outputs of norms; padding of windows is zero."""
    rows = tokens.detach().flatten(0, -2)
    probe = rows[:, :2] if rows.shape[1] > 1 else rows
    probe = probe[rows.any(-1)]
    for name, output in reversed(norms):
        maps = (output, output.flatten(2).mT if output.ndim == 4 else output)
        for one in maps:
            if one.shape[-1] != rows.shape[1]:
                continue
            known = one.detach().flatten(0, -2)[:, : probe.shape[1]]
            if all(torch.isin(probe[:, c], known[:, c]).all() for c in range(probe.shape[1])):
                return Source(tokens.detach(), name, one.detach())
    return Source(tokens.detach(), '', tokens.detach())


@contextmanager
def _watch_products(
    model: nn.Module, layers: Sequence[Layer], found: dict[str, Seen]
) -> Iterator[None]:
    running: list[Layer] = []
    modules = dict(model.named_modules())

    class Watch(TorchDispatchMode):
        operands: tuple[Tensor, ...] = ()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func in PRODUCTS:
                self.operands = args[-2:]
            elif func in SOFTMAX and running:
                product = _as_product(running[-1], args[0], self.operands)
                if product is not None:
                    found[running[-1].name].products.append(product)
            return out

    with ExitStack() as stack:
        for layer in layers:
            module = modules[layer.name]
            before = module.register_forward_pre_hook(lambda *_, one=layer: running.append(one))
            after = module.register_forward_hook(lambda *_: running.pop() and None)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(Watch())
        yield


def _as_product(layer: Layer, logits: Tensor, operands: Sequence[Tensor]) -> Product | None:
    """None if it is another softmax, e.g. one that assigns patches to clusters."""
    h, d, _ = layer.projections.wq.shape
    if not operands:
        return None
    # positions may be further channels
    wide_queries, wide_keys = operands[0], operands[1].mT
    if wide_queries.shape[-1] < d:
        return None
    queries, keys = wide_queries[..., :d], wide_keys[..., :d]
    count = queries.shape[-2] * keys.shape[-2]
    if logits.numel() != queries[..., 0, 0].numel() * count:
        return None
    split = (-1, h)
    return Product(
        logits.reshape(*split, queries.shape[-2], keys.shape[-2]),
        queries.reshape(*split, *queries.shape[-2:]),
        keys.reshape(*split, *keys.shape[-2:]),
    )
