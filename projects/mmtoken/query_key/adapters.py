"""Find ``W_q`` and ``W_k`` in the attention modules of a model, whoever wrote it.

An adapter takes a module and returns its :class:`Projections`, or None if the module is of another
kind; it raises :class:`NotBilinear` if the module's logits are no bilinear form of its tokens. The
adapters here go by the names of submodules, as timm, the hosts, torch and this suite share them.
Register others with ``@QK_ADAPTERS.register_module()``; they are asked before those here.

Letters as in interaction.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from mmengine.registry import Registry
from torch import Tensor, nn

from .interaction import ROPE_BASES

QK_ADAPTERS = Registry('query-key adapter', scope='mmengine', locations=['mmtoken.query_key'])

HEADS = ('num_heads', 'heads', 'n_heads', 'num_attention_heads')
HEAD_DIMS = ('head_dim', 'dim_head', 'attention_head_size')
FUSED = ('qkv', 'to_qkv')
SHARED_KEYS = (('q', 'kv'), ('to_q', 'to_kv'))
SEPARATE = (
    ('q', 'k'),
    ('q_proj', 'k_proj'),
    ('query', 'key'),
    ('to_q', 'to_k'),
    ('wq', 'wk'),
)
NORMS = (('q_norm', 'k_norm'), ('norm_q', 'norm_k'), ('query_norm', 'key_norm'))
ATTENTION = re.compile(r'attention|attn|MSA|MHA', re.IGNORECASE)
# class names of attention whose logits do not compare tokens
OTHER_KINDS = {
    r'Channel|XCA|CrossCovariance': 'attention between channels, not tokens',
    r'Linear(Self)?Att|LiteMLA|FactorAt': 'linear attention has no logits',
    r'TalkingHead': 'logits are mixed between heads',
    r'Deformable': 'deformable attention predicts its weights from the query alone',
    r'SqueezeExcit|^SE': 'a gate of channels, not attention between tokens',
}


class NotBilinear(ValueError):
    """The logits of a module are not ``x^T W_q^T W_k c`` plus terms of the biases."""


@dataclass(frozen=True)
class Projections:
    """What an attention module compares.

    Args:
        wq: ``(h, d, D)``.
        wk: ``(h, d, D)``.
        bq: ``(h, d)``, None for zero.
        bk: ``(h, d)``, None for zero.
        scale: Factor of ``q k^T``; None if it differs between tokens.
        query_from: Submodule whose input are the query tokens; empty for the module itself, which
            may use the weights of a submodule without calling it.
        key_from: Submodule whose input are the key tokens.
        notes: Everything else that shapes the logits.
    """

    wq: Tensor
    wk: Tensor
    bq: Tensor | None = None
    bk: Tensor | None = None
    scale: float | None = None
    query_from: str = ''
    key_from: str = ''
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """An attention layer of a model.

    Args:
        name: Of the module in the model.
        kind: Classes of the module and of its parent.
        projections: Of the module.
        rope: Form of its rotary positions; None for none.
    """

    name: str
    kind: str
    projections: Projections
    rope: str | None = None


@dataclass(frozen=True)
class Skipped:
    """An attention layer that cannot be analysed.

    Args:
        name: Of the module in the model.
        kind: Classes of the module and of its parent.
        reason: Why not.
    """

    name: str
    kind: str
    reason: str


def find_layers(model: nn.Module) -> tuple[list[Layer], list[Skipped]]:
    """All attention layers, in the order of the model's modules.

    Args:
        model: Any model.

    Returns:
        Those that can be analysed, and the others.

    Raises:
        ValueError: If the model has no attention at all.
    """
    layers, skipped, unknown = [], [], []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent = modules.get(name.rpartition('.')[0]) if name else None
        kind = '.'.join(type(one).__name__ for one in (parent, module) if one is not None)
        try:
            found = read_projections(module)
        except NotBilinear as error:
            skipped.append(Skipped(name, kind, str(error)))
            continue
        if found is not None:
            layers.append(_in_context(Layer(name, kind, found), modules))
        elif ATTENTION.search(type(module).__name__) or hasattr(module, 'qk'):
            unknown.append(Skipped(name, kind, 'no adapter finds its queries and keys'))
    for one in unknown:  # a wrapper of a layer, or a part of one, is no layer of its own
        if not any(
            _encloses(one.name, o.name) or _encloses(o.name, one.name) for o in (*layers, *skipped)
        ):
            skipped.append(one)
    if not layers and not skipped:
        raise ValueError(
            f'the model must have attention layers, got a {type(model).__name__} without any; '
            'choose another model'
        )
    order = list(modules)
    return layers, sorted(skipped, key=lambda one: order.index(one.name))


def _encloses(outer: str, inner: str) -> bool:
    return f'{inner}.'.startswith(f'{outer}.' if outer else '')


def read_projections(module: nn.Module) -> Projections | None:
    """Ask all adapters, those registered last first."""
    if ATTENTION.search(type(module).__name__) or hasattr(module, 'qkv'):
        for pattern, reason in OTHER_KINDS.items():
            if re.search(pattern, type(module).__name__):
                raise NotBilinear(reason)
    for adapter in reversed(QK_ADAPTERS.module_dict.values()):
        found = adapter(module)
        if found is not None:
            return found
    return None


def packed(module: nn.Module) -> Projections | None:
    """``nn.MultiheadAttention``, which several hosts wrap."""
    if not isinstance(module, nn.MultiheadAttention):
        return None
    h, bias = module.num_heads, module.in_proj_bias
    if module.in_proj_weight is None:
        wq, wk = module.q_proj_weight, module.k_proj_weight
    else:
        wq, wk = module.in_proj_weight.chunk(3)[:2]
    bq, bk = (None, None) if bias is None else bias.chunk(3)[:2]
    notes = ('one more key, a parameter',) if module.bias_k is not None else ()
    return _finish(module, (wq, wk, bq, bk), h, ('', ''), notes)


def fused(module: nn.Module) -> Projections | None:
    """One projection to queries, keys and values."""
    name = next((name for name in FUSED if _has(module, name)), None)
    if name is None:
        return None
    weight, bias = _affine(module, name)
    if hasattr(module, 'key_dim'):
        raise NotBilinear(f'{name} has values of another width than keys (key_dim)')
    inner, width = len(weight) // 3, weight.shape[1]
    known = _number(module, HEADS, 0) * _number(module, HEAD_DIMS, 0)
    if len(weight) % 3 or inner not in (width, known):
        raise NotBilinear(f'{name} has {len(weight)} rows, which is not 3 x {known or width}')
    h = _count_heads(module, inner)
    heads_first = getattr(module, 'heads_first', getattr(module, 'head_first', False))

    def part(x: Tensor | None, index: int) -> Tensor | None:
        if x is None or not heads_first:
            return None if x is None else x.chunk(3)[index]
        return x.unflatten(0, (h, 3, -1))[:, index].flatten(0, 1)

    biases, sources = (part(bias, 0), part(bias, 1)), (name, name)
    if isinstance(getattr(module, 'q_bias', None), Tensor):
        if bias is not None:
            raise NotBilinear(f'{name} has a bias next to q_bias')
        biases, sources = (module.q_bias, getattr(module, 'k_bias', None)), ('', '')
    return _finish(module, (part(weight, 0), part(weight, 1), *biases), h, sources)


def shared_keys(module: nn.Module) -> Projections | None:
    """A projection to queries, and one to keys and values."""
    names = next((pair for pair in SHARED_KEYS if all(_has(module, n) for n in pair)), None)
    if names is None:
        return None
    (wq, bq), (wkv, bkv) = (_affine(module, name) for name in names)
    if len(wkv) != 2 * len(wq):
        raise NotBilinear(f'{names[1]} has {len(wkv)} rows, which is not 2 x {len(wq)}')
    h = _count_heads(module, len(wq))
    bk = None if bkv is None else bkv.chunk(2)[0]
    return _finish(module, (wq, wkv.chunk(2)[0], bq, bk), h, names)


def separate(module: nn.Module) -> Projections | None:
    """A projection each."""
    names = next((pair for pair in SEPARATE if all(_has(module, n) for n in pair)), None)
    if names is None:
        return None
    (wq, bq), (wk, bk) = (_affine(module, name) for name in names)
    return _finish(module, (wq, wk, bq, bk), _count_heads(module, len(wq)), names)


for adapter in (separate, shared_keys, fused, packed):
    QK_ADAPTERS.register_module(module=adapter)


def _finish(
    module: nn.Module,
    factors: tuple[Tensor | None, ...],
    num_heads: int,
    sources: tuple[str, str],
    notes: tuple[str, ...] = (),
) -> Projections:
    """Check and split heads; see to norms of queries and keys, and to what happens after them."""
    wq, wk, *_ = factors
    if wq.shape != wk.shape:
        raise NotBilinear(
            f'queries and keys must be projected alike, got {(*wq.shape,)} and {(*wk.shape,)}'
        )
    for name in ('pool_q', 'pool_k'):
        if _has(module, name):
            raise NotBilinear(f'{name} pools queries or keys after the projection')
    if _number(module, ('q_stride',), 1) > 1:
        raise NotBilinear('q_stride pools queries after the projection')
    factors = (None if x is None else x.detach().unflatten(0, (num_heads, -1)) for x in factors)
    scale = next((s for n in ('scale', 'scale_factor', 'scaling') if (s := _get(module, n))), None)
    if not isinstance(scale, float):
        scale = wq.shape[0] // num_heads
        scale = scale**-0.5
    found = Projections(*factors, scale, *sources, notes)
    if hasattr(module, 'logit_scale'):
        found = replace(found, scale=None, notes=(*notes, 'cosine attention: a factor per token'))
    return _fold_head_norms(module, found)


def _fold_head_norms(module: nn.Module, found: Projections) -> Projections:
    """Norms of queries and keys: their linear part, up to a positive factor per token."""
    for pair in NORMS:
        if not any(_has(module, name) for name in pair):
            continue
        parts, notes = [], (*found.notes, 'norm of queries and keys: a factor per token')
        for name, weight, bias in zip(pair, (found.wq, found.wk), (found.bq, found.bk)):
            norm = getattr(module, name, None)
            if norm is not None and not isinstance(norm, nn.Identity):
                weight, bias, moved = _fold_head_norm(norm, name, weight, bias)
                notes += (f'{name} adds a bias after its factor',) if moved else ()
            parts.append((weight, bias))
        (wq, bq), (wk, bk) = parts
        return replace(found, wq=wq, wk=wk, bq=bq, bk=bk, scale=None, notes=notes)
    return found


def _fold_head_norm(
    norm: nn.Module, name: str, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, bool]:
    """Weight and bias of a projection with the norm's linear part; whether the norm has a bias."""
    centres = isinstance(norm, nn.LayerNorm)
    if not centres and not re.search('RMS_?norm', type(norm).__name__, re.IGNORECASE):
        raise NotBilinear(f'{name} is a {type(norm).__name__}, not LayerNorm or RMSNorm')
    h, d, _ = weight.shape
    gain = torch.ones(d) if norm.weight is None else norm.weight.detach()
    if len(gain) not in (d, h * d) or (centres and len(gain) != d):
        raise NotBilinear(f'{name} normalises {len(gain)} channels together, of several heads')
    gain = gain.to(weight).view(-1, d, 1)
    if centres:
        weight = weight - weight.mean(1, keepdim=True)
        bias = None if bias is None else bias - bias.mean(1, keepdim=True)
    bias = None if bias is None else bias * gain[..., 0]
    has_bias = getattr(norm, 'bias', None) is not None and bool(norm.bias.any())
    return weight * gain, bias, has_bias


def _in_context(layer: Layer, modules: dict[str, nn.Module]) -> Layer:
    """Add what the modules around a layer say: rotary positions, and how keys are made."""
    notes, rope = [], None
    module, parent = modules[layer.name], modules.get(layer.name.rpartition('.')[0])
    for one in (module, parent):
        if isinstance(getattr(one, 'sr', None), nn.Module):
            notes.append('key_transform=conv')
            break
    if _number(module, ('num_clusters',), 0):
        notes.append('keys are clusters')
    if getattr(module, 'reduction', None) in ('avg_pool', 'cluster') and not notes:
        notes.append(f'key_transform={module.reduction}')
    outer = layer.name
    while rope is None and outer:
        outer = outer.rpartition('.')[0]
        rope = _rope_form(
            next(
                (
                    r
                    for n in ('rope', 'rope_embeddings')
                    if (r := getattr(modules[outer], n, None)) is not None
                ),
                None,
            )
        )
    if rope is not None and rope not in ROPE_BASES:
        notes.append(f'rotary positions {rope}: only the offset 0')
    projections = replace(layer.projections, notes=(*layer.projections.notes, *notes))
    return replace(layer, projections=projections, rope=rope)


def _rope_form(rope: object) -> str | None:
    """Form of rotary positions: a key of ``ROPE_BASES``, or else the name of the class."""
    if rope is None or isinstance(rope, str):
        return rope and rope.replace('eva02', 'eva')
    name, base = type(rope).__name__, getattr(rope, 'temperature', None)
    form = 'dinov3' if 'DinoV3' in name else 'eva' if name == 'RotaryEmbeddingCat' else name
    return form if base in (ROPE_BASES.get(form), None) else name


def _has(module: nn.Module, name: str) -> bool:
    value = getattr(module, name, None)
    return isinstance(value, nn.Module) and not isinstance(value, nn.Identity)


def _get(module: nn.Module, name: str) -> object:
    value = getattr(module, name, None)
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _number(module: nn.Module, names: tuple[str, ...], default: int) -> int:
    values = (getattr(module, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), default)


def _count_heads(module: nn.Module, rows: int) -> int:
    heads = _number(module, HEADS, 0) or rows // (_number(module, HEAD_DIMS, 0) or rows + 1)
    if not heads or rows % heads:
        raise NotBilinear(f'the number of heads is unknown, of {rows} rows of queries')
    return heads


def _affine(module: nn.Module, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight ``(rows, D)`` and bias of a linear layer or 1x1 convolution, as it applies them."""
    layer = getattr(module, name)
    weight = getattr(layer, 'weight', None)
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return weight.flatten(1), layer.bias
    if not isinstance(layer, nn.Linear):
        raise NotBilinear(f'{name} is a {type(layer).__name__}, not a linear layer')
    if layer.bias is None:
        return weight, None
    # what the layer makes of it: some leave the part of the keys out
    return weight, layer(weight.new_zeros(1, weight.shape[1])).squeeze(0).detach()
