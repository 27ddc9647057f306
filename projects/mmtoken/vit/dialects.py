"""Names that other releases give to the parameters of plain vision transformers and their neck."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """How releases name the parameters; parts of ours end in ``[i]`` and are concatenated.

    Args:
        anchor: Of one key; its first group is the prefix of all keys of the backbone.
        names: Patterns and what they are replaced by, in turn, after the prefix was stripped.
        left_out: Of keys that the backbone does not need.
    """

    anchor: str
    names: tuple[tuple[str, str], ...]
    left_out: str


DIALECTS = {
    'timm': Dialect(
        r'((?:(?!.*patch_embed).*\.)?)blocks\.(?:0\.)?0\.norm1\.weight',
        (
            (r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.'),  # chunks of sharded training
            (r'\.gamma_([12])$', r'.ls\1.gamma'),
            (r'\.q_(?:proj\.)?(weight|bias)$', r'.qkv.\1[0]'),
            (r'\.k_(?:proj\.)?(weight|bias)$', r'.qkv.\1[1]'),
            (r'\.v_(?:proj\.)?(weight|bias)$', r'.qkv.\1[2]'),
            (r'\.inner_attn_ln\.', r'.norm.'),
            (r'\.ffn_ln\.', r'.norm.'),
            (r'\.mlp\.(?:fc1_g|w1)\.(\w+)$', r'.mlp.fc1.\1[0]'),
            (r'\.mlp\.(?:fc1_x|w2)\.(\w+)$', r'.mlp.fc1.\1[1]'),
            (r'\.mlp\.w12\.', r'.mlp.fc1.'),
            (r'\.mlp\.w3\.', r'.mlp.fc2.'),
            (r'^(?:register_tokens|storage_tokens|dist_token)$', r'reg_token'),
        ),
        r'head|lm_head|fc_norm|attn_pool|pre_logits|mask_token|decoder|projectors'
        r'|(local_)?cls_norm|rope|.*\.rope\.|.*\.bias_mask$',
    ),
    'Hugging Face': Dialect(
        r'((?:.*\.)?)embeddings\.cls_token',
        (
            (r'^embeddings\.register_tokens$', r'reg_token'),
            (r'^embeddings\.position_embeddings$', r'pos_embed'),
            (r'^embeddings\.patch_embeddings\.(?:projection\.)?', r'patch_embed.proj.'),
            (r'^embeddings\.', r''),
            (r'^(?:.*\.)?layer\.(?=\d)', r'blocks.'),
            (r'\.attention\.output\.dense\.', r'.attn.proj.'),
            (r'\.attention\.o_proj\.', r'.attn.proj.'),
            (r'\.attention\.(?:attention\.query|q_proj)\.(\w+)$', r'.attn.qkv.\1[0]'),
            (r'\.attention\.(?:attention\.key|k_proj)\.(\w+)$', r'.attn.qkv.\1[1]'),
            (r'\.attention\.(?:attention\.value|v_proj)\.(\w+)$', r'.attn.qkv.\1[2]'),
            (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
            (r'\.mlp\.weights_in\.', r'.mlp.fc1.'),
            (r'\.mlp\.(?:weights_out|down_proj)\.', r'.mlp.fc2.'),
            (r'\.mlp\.gate_proj\.(\w+)$', r'.mlp.fc1.\1[0]'),
            (r'\.mlp\.up_proj\.(\w+)$', r'.mlp.fc1.\1[1]'),  # fc1 alone without a gate
            (r'^layernorm\.', r'norm.'),
        ),
        r'mask_token|classifier|pooler|rope',
    ),
    'CLIP': Dialect(
        r'((?:.*\.)?)class_embedding',
        (
            (r'^conv1\.', r'patch_embed.proj.'),
            (r'^class_embedding$', r'cls_token'),
            (r'^positional_embedding$', r'pos_embed'),
            (r'^ln_pre\.', r'norm_pre.'),
            (r'^ln_post\.', r'norm.'),
            (r'^transformer\.resblocks\.', r'blocks.'),
            (r'\.ln_([12])\.', r'.norm\1.'),
            (r'\.attn\.in_proj_', r'.attn.qkv.'),
            (r'\.attn\.out_proj\.', r'.attn.proj.'),
            (r'\.mlp\.c_fc\.', r'.mlp.fc1.'),
            (r'\.mlp\.c_proj\.', r'.mlp.fc2.'),
        ),
        r'proj$',
    ),
    'mmpretrain': Dialect(
        r'((?:.*\.)?)layers\.0\.ln1\.weight',
        (
            (r'^patch_embed\.projection\.', r'patch_embed.proj.'),
            (r'^pre_norm\.', r'norm_pre.'),
            (r'^ln1\.', r'norm.'),
            (r'^layers\.', r'blocks.'),
            (r'\.ln([12])\.', r'.norm\1.'),
            (r'\.attn\.gamma1\.weight$', r'.ls1.gamma'),
            (r'\.ffn\.gamma2\.weight$', r'.ls2.gamma'),
            (r'\.ffn\.(?:layers\.0\.0|w12)\.', r'.mlp.fc1.'),
            (r'\.ffn\.(?:layers\.1|w3)\.', r'.mlp.fc2.'),
        ),
        r'ln2\.|mask_token',
    ),
}
REFUSED = {
    r'.*relative_position_bias_table$': 'BEiT or Swin with their tables of relative positions',
    r'.*layernorm_before\.weight$': "Hugging Face's own ViT with its other epsilons",
    r'.*rope\.freqs$': 'a model with learned frequencies of rotary positions',
    r'.*attn\.[qk]_norm\.weight$': 'a model with norms of queries and keys (Sapiens2 in timm)',
    r'.*attn\.wq\.weight$': 'Sapiens2 with its grouped queries',
}


def refuse(keys: Collection[str]) -> None:
    """Raise for transformers that PlainViT cannot be."""
    for pattern, kind in REFUSED.items():
        found = next((key for key in keys if re.match(pattern, key)), None)
        if found:
            raise ValueError(f'PlainViT cannot load {kind}, which has the key {found!r}')


def find_dialect(keys: Collection[str]) -> tuple[str, str]:
    """Find out how a file names its parameters.

    Args:
        keys: Of the file.

    Returns:
        A key of ``DIALECTS``, and the prefix of the backbone's parameters.

    Raises:
        ValueError: If there are several backbones, or none that is known.
    """
    for name, dialect in DIALECTS.items():
        matches = [re.fullmatch(dialect.anchor, key) for key in keys]
        prefixes = sorted({match[1] for match in matches if match})
        if len(prefixes) > 1:  # stages of a hierarchy are none
            prefixes = [one for one in prefixes if f'{one}patch_embed.proj.weight' in keys]
        if len(prefixes) > 1:
            raise ValueError(
                f'the file must hold one backbone, got {prefixes}; choose one: '
                f"init_cfg=dict(type='Pretrained', checkpoint=..., prefix={prefixes[0][:-1]!r})"
            )
        if prefixes:
            return name, prefixes[0]
    words = sorted({key.partition('.')[0] for key in keys})
    raise ValueError(
        f'the file must hold a plain vision transformer under the names of {list(DIALECTS)}, got '
        f'keys that start with {words[:8]}'
    )


def our_name(key: str, dialect: Dialect) -> str:
    """Name of a parameter in this package; empty if it is left out.

    Parts of one parameter end in ``[0]``, ``[1]`` and ``[2]``.
    """
    if re.match(dialect.left_out, key):
        return ''
    for pattern, name in dialect.names:
        key = re.sub(pattern, name, key)
    return key


def mmdet_pyramid(keys: Collection[str]) -> dict[str, str]:
    """The neck of ViTDet in mmdet, which collects the convolutions of all levels in two lists."""
    names = {}
    for key in keys:
        match = re.fullmatch(r'(fpn1|fpn2|lateral_convs|fpn_convs)\.(\d)\.(.+)', key)
        if not match:
            continue
        module, index, rest = match[1], int(match[2]), match[3]
        if module.startswith('fpn') and module != 'fpn_convs':
            names[key] = f'simfp_{int(module[3:]) + 1}.{index}.{rest}'
        elif index < 4:  # levels 2 to 5 resize with 4, 1, 0 and 1 layers
            position = (4, 1, 0, 1)[index] + (module == 'fpn_convs')
            rest = rest.replace('norm_layer.', 'norm.').removeprefix('conv.')
            names[key] = f'simfp_{index + 2}.{position}.{rest}'
    return names
