"""Families of released weights: how to recognise each, and the arguments that PlainViT needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..common.layers import LayerScale
from .mlp import ACTIVATIONS


@dataclass(frozen=True)
class Family:
    """A release of plain vision transformers.

    Args:
        name: For messages.
        arguments: Of PlainViT, by name; of several values in a tuple, each is right.
        has_key_bias: Whether keys have a bias.
    """

    name: str
    arguments: Mapping[str, Any]
    has_key_bias: bool = True


def _absolute(name: str, eps: float | tuple[float, ...] = 1e-6, **arguments: Any) -> Family:
    return Family(name, dict(rope=None, norm_eps=eps, **arguments))


def _rotary(name: str, rope: str | None, eps: float) -> Family:
    rule = {} if rope == 'dinov3' else dict(pos_antialias=True, pos_offset=0.0)
    return Family(name, dict(rope=rope, norm_eps=eps, **rule), has_key_bias=False)


SMOOTH = dict(pos_antialias=True, pos_offset=0.0)
SHARP = dict(pos_antialias=False, pos_offset=0.0)
CLIP = dict(SMOOTH, eps=1e-5, mlp=('gelu', 'quickgelu'))
EVA02 = _rotary('EVA-02 (official)', 'eva02', 1e-6)
EVA02_TIMM = _rotary('EVA-02 (timm)', 'eva02', 1e-6)
DINOV3_TIMM = _rotary('DINOv3 (timm)', 'dinov3', 1e-5)
PERCEPTION = 'the Perception Encoder, which has rotary and absolute positions'
# dialect, signs that a file has, a sign that it has not, family or what is refused; the first that
# applies counts
RELEASES = (
    (
        'Hugging Face',
        ('position_embeddings', 'register_tokens'),
        None,
        _absolute('DINOv2 with registers (Hugging Face)', **SMOOTH),
    ),
    ('Hugging Face', ('position_embeddings',), None, _absolute('DINOv2 (Hugging Face)', **SHARP)),
    ('Hugging Face', (), None, _rotary('DINOv3 (Hugging Face)', 'dinov3', 1e-5)),
    ('CLIP', (), None, _absolute('CLIP (OpenAI, OpenCLIP)', **CLIP)),
    ('mmpretrain', ('pre_norm.weight',), None, _absolute('CLIP (mmpretrain)', 1e-5, **SHARP)),
    ('mmpretrain', (), None, _absolute('ViT (mmpretrain)', **SHARP)),
    ('timm', ('storage_tokens',), None, _rotary('DINOv3 (official)', 'dinov3', 1e-5)),
    ('timm', ('attn.inner_attn_ln.weight',), None, EVA02),
    ('timm', ('mlp.ffn_ln.weight',), None, EVA02),
    ('timm', ('mlp.w1.weight',), None, EVA02),
    ('timm', ('attn.q_bias', 'reg_token', 'cls_token'), 'pos_embed', DINOV3_TIMM),
    ('timm', ('gamma_1', 'reg_token', 'cls_token'), 'pos_embed', DINOV3_TIMM),
    (
        'timm',
        (),
        'pos_embed',
        'a model with positions of another form (vit_*_rope_*, vit_relpos_*)',
    ),
    ('timm', ('norm_pre.weight', 'attn_pool.latent'), None, PERCEPTION),
    ('timm', ('norm_pre.weight',), 'norm.weight', PERCEPTION),
    ('timm', ('attn.q_bias', 'gated'), None, EVA02_TIMM),
    ('timm', ('attn.q_proj.weight', 'gated'), None, EVA02_TIMM),
    ('timm', ('attn.q_bias',), None, _rotary('EVA (timm)', None, 1e-6)),
    ('timm', ('attn.rel_pos_h', 'in net'), None, _absolute('ViTDet (detectron2)', **SHARP)),
    ('timm', ('attn.rel_pos_h', 'in backbone'), None, _absolute('ViTDet (mmdet)', 1e-5, **SHARP)),
    ('timm', ('attn.rel_pos_h',), None, _absolute('ViTDet', (1e-6, 1e-5), **SHARP)),
    ('timm', ('decoder_embed.weight',), None, _absolute('MAE (official)', **SHARP)),
    ('timm', ('register_tokens',), None, _absolute('DINOv2 with registers (official)', **SMOOTH)),
    (
        'timm',
        ('ls1.gamma', 'flat mask_token'),
        None,
        _absolute('DINOv2 (official)', pos_antialias=False, pos_offset=0.1),
    ),
    ('timm', ('norm_pre.weight',), None, _absolute('CLIP (timm)', **CLIP)),
    ('timm', ('gamma_1',), None, _absolute('DeiT-III (official)')),
    # one set of names for several rules of resizing positions
    ('timm', (), None, _absolute('ViT (timm; official DeiT, MAE)')),
)
OURS = Family('PlainViT', {})


def recognise(dialect: str, prefix: str, state: Mapping[str, Tensor]) -> Family:
    """Find the family of a file by its keys and shapes.

    Args:
        dialect: Of its names.
        prefix: That was stripped from them.
        state: Tensors of the backbone, by the names of the file.

    Returns:
        The family.

    Raises:
        ValueError: If PlainViT cannot be such a model.
    """
    signs = {re.sub(r'^(blocks\.(\d+\.)+|embeddings\.)', '', key) for key in state}
    signs.add(f'in {prefix[:-1].rpartition(".")[2]}')
    if 'mask_token' in state and state['mask_token'].ndim == 2:
        signs.add('flat mask_token')
    if 'mlp.fc1_g.weight' in signs or _is_gated(state):
        signs.add('gated')
    family = next(
        family
        for name, present, absent, family in RELEASES
        if name == dialect and signs.issuperset(present) and absent not in signs
    )
    if isinstance(family, str):
        raise ValueError(f'PlainViT cannot load {family}')
    return family


def _is_gated(state: Mapping[str, Tensor]) -> bool:
    first, second = (state.get(f'blocks.0.mlp.fc{i}.weight') for i in (1, 2))
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def arguments_of_file(state: Mapping[str, Tensor], family: Family) -> dict[str, Any]:
    """Arguments that PlainViT needs for a state dict with our names.

    Args:
        state: Tensors by our names.
        family: Of the file.

    Returns:
        Arguments by name; those that the file does not tell are left out.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    depth = 1 + max((int(key.split('.')[1]) for key in state if key[:7] == 'blocks.'), default=-1)
    patch, hidden = (
        shapes.get(f'{key}.weight') for key in ('patch_embed.proj', 'blocks.0.mlp.fc2')
    )
    found = dict(
        family.arguments,
        depth=depth,
        num_registers=shapes.get('reg_token', (1, 0))[1],
        pre_norm='norm_pre.weight' in state,
        layer_scale='a number' if 'blocks.0.ls1.gamma' in state else None,
        mlp_norm='blocks.0.mlp.norm.weight' in state,
        attn_norm='blocks.0.attn.norm.weight' in state,
    )
    if patch:
        found.update(embed_dims=patch[0], patch_size=patch[-1])
    if hidden:
        kinds = family.arguments.get('mlp', ('gelu', 'quickgelu') if family is OURS else 'gelu')
        found.update(hidden_dim=hidden[1], mlp='swiglu' if _is_gated(state) else kinds)
    if 'cls_token' not in state:
        found['class_token'] = False
    rows = [shapes.get(f'blocks.{i}.attn.rel_pos_h', (0,))[0] for i in range(depth)]
    if len(set(rows)) > 1:
        found['window_block_indexes'] = tuple(i for i in range(depth) if rows[i] < max(rows))
        found['window_size'] = (min(rows) + 1) // 2
    return found


def arguments_of_model(model: nn.Module) -> dict[str, Any]:
    """The same arguments of a PlainViT."""
    block, kinds = model.blocks[0], {kind: name for name, kind in ACTIVATIONS.items()}
    windows = [i for i, one in enumerate(model.blocks) if one.attn.window_size]
    return dict(
        embed_dims=model.patch_embed.proj.out_channels,
        depth=model.num_stages,
        hidden_dim=block.mlp.fc2.in_features,
        mlp=kinds[type(block.mlp.act)],
        patch_size=model.patch_embed.proj.kernel_size[0],
        class_token=model.cls_token is not None,
        num_registers=0 if model.reg_token is None else model.reg_token.shape[1],
        pre_norm=isinstance(model.norm_pre, nn.LayerNorm),
        layer_scale='a number' if isinstance(block.ls1, LayerScale) else None,
        mlp_norm=isinstance(block.mlp.norm, nn.LayerNorm),
        attn_norm=isinstance(block.attn.norm, nn.LayerNorm),
        norm_eps=block.norm1.eps,
        rope=model.rope,
        pos_antialias=model.pos_antialias,
        pos_offset=model.pos_offset,
        window_block_indexes=tuple(windows),
        window_size=model.window_size,
    )


def check_arguments(model: nn.Module, state: Mapping[str, Tensor], family: Family) -> None:
    """Raise if a model was built for other weights.

    Args:
        model: A PlainViT.
        state: Tensors by our names.
        family: Of the file.
    """
    given, wanted = arguments_of_model(model), arguments_of_file(state, family)
    if family is OURS:  # may have been built without the last blocks
        wanted.pop('depth')
    if model.num_prefix == 0:  # the tokens before the patches are left out
        wanted.pop('num_registers')
    if model.resample_patches:
        wanted.pop('patch_size', None)
    if 'window_block_indexes' in wanted:
        built = len(model.blocks)
        wanted['window_block_indexes'] = tuple(
            i for i in wanted['window_block_indexes'] if i < built
        )
    wrong = [key for key, value in wanted.items() if not _agrees(given[key], value)]
    if wrong:
        needs = ', '.join(f'{key}={_shown(given[key], wanted[key])}' for key in wrong)
        has = ', '.join(f'{key}={given[key]!r}' for key in wrong)
        raise ValueError(f'{family.name} weights need {needs}, but the model has {has}')


def _agrees(given: Any, wanted: Any) -> bool:
    is_choice = isinstance(wanted, tuple) and not isinstance(given, tuple)
    return given in wanted if is_choice else given == wanted


def _shown(given: Any, wanted: Any) -> str:
    is_choice = isinstance(wanted, tuple) and not isinstance(given, tuple)
    return ' or '.join(map(repr, wanted)) if is_choice else repr(wanted)
