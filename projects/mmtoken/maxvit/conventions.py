"""Names and layouts of other releases of MaxViT, and what a released file says about its model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.conventions import Release

TABLE = 'relative_position_bias_table'
# torchvision's word -> timm's, within a block
_TORCHVISION = {
    'MBconv.proj.1': 'conv.shortcut.expand',
    'MBconv.layers.pre_norm': 'conv.pre_norm',
    'MBconv.layers.conv_a.0': 'conv.conv1_1x1',
    'MBconv.layers.conv_a.1': 'conv.norm1',
    'MBconv.layers.conv_b.0': 'conv.conv2_kxk',
    'MBconv.layers.conv_b.1': 'conv.norm2',
    'MBconv.layers.squeeze_excitation': 'conv.se',
    'MBconv.layers.conv_c': 'conv.conv3_1x1',
    'attn_layer.0': 'norm1',
    'attn_layer.1.to_qkv': 'attn.qkv',
    'attn_layer.1.merge': 'attn.proj',
    f'attn_layer.1.{TABLE}': f'attn.rel_pos.{TABLE}',
    'mlp_layer.0': 'norm2',
    'mlp_layer.1': 'mlp.fc1',
    'mlp_layer.3': 'mlp.fc2',
    'window_attention': 'attn_block',
    'grid_attention': 'attn_grid',
}
_STEM = {'stem.0.0.': 'stem.conv1.', 'stem.0.1.': 'stem.norm1.', 'stem.1.0.': 'stem.conv2.'}

_BLOCK = r'stages[._]0\.blocks\.0\.'
_TIMM = (_BLOCK + r'attn_block\.', _BLOCK + r'attn_grid\.')
RELEASES = (
    Release('MaxViT (torchvision)', (r'stem\.0\.0\.', r'blocks\.0\.layers\.0\.layers\.MBconv\.')),
    Release('MaxViT (timm, features_only)', (r'stages_0\.', *_TIMM)),
    Release('MaxViT (timm, from TensorFlow)', (r'stem\.conv1\.bias', *_TIMM)),
    Release('MaxViT (timm, rmlp)', (_BLOCK + r'attn_block\.attn\.rel_pos\.mlp\.', *_TIMM)),
    Release('MaxViT (timm)', _TIMM),
)


def torchvision(keys: Collection[str]) -> dict[str, str]:
    """Torchvision's ``maxvit_t``: ``blocks.S.layers.B.layers.MBconv...`` and so on."""
    if not any('.layers.MBconv.' in key for key in keys):
        return {}
    names = {}
    for key in keys:
        for old, new in _STEM.items():
            if key.startswith(old):
                names[key] = new + key.removeprefix(old)
        found = re.match(r'blocks\.(\d+)\.layers\.(\d+)\.layers\.(.+)', key)
        if found and not key.endswith('relative_position_index'):
            stage, block, rest = found.groups()
            for old, new in _TORCHVISION.items():
                rest = re.sub(rf'(^|\.){re.escape(old)}(?=\.|$)', rf'\g<1>{new}', rest)
            names[key] = f'stages.{stage}.blocks.{block}.{rest}'
    return names


def timm_features(keys: Collection[str]) -> dict[str, str]:
    """Timm's ``features_only`` models: ``stages_0.blocks...``."""
    found = {key: re.sub(r'^stages_(\d+)\.', r'stages.\1.', key) for key in keys}
    return {key: name for key, name in found.items() if name != key}


def is_flat(table: Tensor) -> bool:
    """Whether a table has the layout ``((2P - 1)^2, h)`` of timm's own models and torchvision."""
    side = round(table.shape[0] ** 0.5)
    return table.ndim == 2 and side**2 == table.shape[0] and side % 2 == 1


def unfold_table(table: Tensor) -> Tensor:
    """``((2P - 1)^2, h)``, query minus key -> ``(h, 2P - 1, 2P - 1)``, key minus query."""
    side = round(table.shape[0] ** 0.5)
    return table.T.unflatten(1, (side, side)).flip(1, 2)


def scale_keys(qkv: Tensor, head_dim: int) -> Tensor:
    """Fold logits scaled by ``C ** -0.5`` into the key rows of ``qkv``, a weight or a bias."""
    q, k, v = qkv.chunk(3)
    width = q.shape[0]
    return torch.cat((q, k * (head_dim / width) ** 0.5, v))


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model that a state dict with our names comes from, as far as it tells.

    Args:
        state: Tensors by name.

    Returns:
        ``form``, ``stem_dims``, ``embed_dims`` and ``depths`` of its stages, whether it has a
        ``layer_scale``, and ``window_size`` if it has tables; empty for a model of another kind.
    """
    stem = tuple(len(v) for k, v in state.items() if re.match(r'stem\.conv\d\.weight', k))
    found = (re.match(r'stages\.(\d+)\.blocks\.\d+\.conv\.conv3_1x1\.weight', k) for k in state)
    blocks = [(int(match.group(1)), len(state[match.string])) for match in found if match]
    if len(stem) != 2 or not blocks:
        return {}
    widths = dict(blocks)
    described = dict(
        form=_form(state),
        stem_dims=stem,
        embed_dims=tuple(widths.values()),
        depths=tuple(sum(stage == other for other, _ in blocks) for stage in widths),
        layer_scale=any('.ls1.' in key for key in state),
    )
    sides = {v.shape[1:] for k, v in state.items() if k.endswith(TABLE)}
    if len(sides) == 1:
        rows, cols = ((side + 1) // 2 for side in sides.pop())
        described['window_size'] = rows if rows == cols else (rows, cols)
    return described


def _form(state: Mapping[str, Tensor]) -> str:
    if 'stem.conv1.bias' in state:
        return 'tf'
    if 'stem.conv2.bias' in state:
        return 'torchvision'
    return 'rmlp' if any('.rel_pos.mlp.' in key for key in state) else 'rw'
