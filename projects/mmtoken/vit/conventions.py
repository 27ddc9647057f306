"""Weights of other releases of plain vision transformers become ours.

Positions of tokens that are no patches are added to the tokens, parts of one parameter are
concatenated, and a bias of the keys that a release does not have is zero. Letters: D channels,
g side of the grid that positions are stored for, S side that a relative table is for.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.conventions import rename_keys
from ..common.strict_load import State
from .dialects import DIALECTS, find_dialect, our_name, refuse
from .embed import resize_positions
from .families import OURS, Family, check_arguments, recognise
from .relative_position import resize_table

NAMES = re.compile(
    r'cls_token|reg_token|pos_embed|(patch_embed|norm_pre|norm)\..+|blocks\.\d+\.attn\.rel_pos_[hw]'
    r'|blocks\.\d+\.(norm[12]|attn\.(qkv|proj|norm)|ls[12]|mlp\.(fc[12]|norm))\.\w+'
)


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Whether all names are ours and positions are those of patches only."""
    number = math.prod(state['pos_embed'].shape[1:-1]) if 'pos_embed' in state else 0
    return math.isqrt(number) ** 2 == number and all(NAMES.fullmatch(key) for key in state)


def recognise_release(state: State) -> str:
    """Return the family of a released file, or an empty string if PlainViT has no such family."""
    try:
        refuse(state)
        name, prefix = find_dialect(state)
        inside = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        names = {our_name(key, DIALECTS[name]) for key in inside}
        if 'patch_embed.proj.weight' not in names:  # a stage of a hierarchy
            return ''
        return (OURS if is_ours(inside) else recognise(name, prefix, inside)).name
    except ValueError:
        return ''


def convert(model: nn.Module, state: State) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
    """Turn a released file into the state dict of a PlainViT.

    Args:
        model: The PlainViT.
        state: Tensors of the file.

    Returns:
        The tensors by our names, which of those were converted, and the keys of the file that are
        left out.

    Raises:
        ValueError: If the file is of another kind, or the model was built with arguments for
            another family, naming both.
    """
    if is_ours(state):
        if 'blocks.0.norm1.weight' in state:
            check_arguments(model, state, OURS)
        return state, (), ()
    refuse(state)
    name, prefix = find_dialect(state)
    inside = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    family = OURS if is_ours(inside) else recognise(name, prefix, inside)
    names = {prefix + key: our_name(key, DIALECTS[name]) for key in inside}
    taken = {key: own for key, own in names.items() if own}
    ours = join_parts(rename_keys({key: state[key] for key in taken}, taken), family)
    changed = {*fold_positions(ours)}
    if not family.has_key_bias:
        changed.update(clear_key_bias(ours))
    check_arguments(model, ours, family)
    print_log(f'{type(model).__name__}: the file is {family.name}', logger='current')
    unchanged = {key for key, own in taken.items() if key == own} - changed
    left_out = tuple(key for key in state if key not in taken)
    return ours, tuple(key for key in ours if key not in unchanged), left_out


def join_parts(state: Mapping[str, Tensor], family: Family) -> State:
    """Concatenate the tensors ``name[0]``, ``name[1]`` and so on."""
    parts = defaultdict(dict)
    for key, value in state.items():
        whole, _, index = key.partition('[')
        parts[whole][index] = value
    for key, values in parts.items():
        if key.endswith('.qkv.bias') and not family.has_key_bias and '0]' in values:
            values.setdefault('1]', torch.zeros_like(values['0]']))
    joined = {key: [v[i] for i in sorted(v)] for key, v in parts.items()}
    return {key: torch.cat(v) if len(v) > 1 else v[0] for key, v in joined.items()}


def fold_positions(state: State) -> tuple[str, ...]:
    """Add the positions of tokens that are no patches to these tokens, in place.

    Args:
        state: Tensors by our names; ``pos_embed`` is ``(1, K + g * g, D)``, also without the 1.

    Returns:
        The keys that were changed.
    """
    for key in state.keys() & {'cls_token', 'pos_embed'}:
        state[key] = state[key].reshape((1,) * (3 - state[key].ndim) + state[key].shape)
    if 'pos_embed' not in state:
        return ()
    tokens = [key for key in ('cls_token', 'reg_token') if key in state]
    positions, number = state['pos_embed'], sum(state[key].shape[1] for key in tokens)
    rest = {k: positions.shape[1] - k for k in (0, 1, number)}
    extra = next((k for k, n in rest.items() if n > 0 and math.isqrt(n) ** 2 == n), 0)
    if not extra:
        return ()
    of_tokens, state['pos_embed'] = positions[:, :extra], positions[:, extra:]
    for key in tokens:
        count = min(state[key].shape[1], of_tokens.shape[1])
        token = state[key].to(torch.promote_types(state[key].dtype, torch.float32), copy=True)
        token[:, :count] += of_tokens[:, :count]
        state[key], of_tokens = token, of_tokens[:, count:]
    return ('pos_embed', *tokens)


def clear_key_bias(state: State) -> tuple[str, ...]:
    """Set the bias of the keys to zero in each block, in place; return the keys that changed."""
    changed, was_used = [], False
    for key in [key for key in state if key.endswith('.qkv.weight')]:
        name = key.replace('weight', 'bias')
        q, k, v = state.get(name, torch.zeros_like(state[key][:, 0])).chunk(3)
        if name not in state or k.any():
            was_used = was_used or name in state
            state[name] = torch.cat((q, torch.zeros_like(k), v))
            changed.append(name)
    if was_used:
        print_log('the bias of the keys, which is not zero, is left out', logger='current')
    return tuple(changed)


def resize(model: nn.Module, state: State) -> tuple[State, tuple[str, ...]]:
    """Resize positions, tables of global blocks and patches to the sizes of the model.

    Args:
        model: A PlainViT; ``resample_patches`` allows another size of the patches.
        state: Tensors by our names.

    Returns:
        The tensors, and the names of those that were resized.
    """
    resized, own = dict(state), model.state_dict()
    for key, value in state.items():
        if key not in own or value.shape == own[key].shape or value.ndim != own[key].ndim:
            continue
        if key == 'pos_embed' and is_ours({key: value}):
            old, new = (math.isqrt(one.shape[1]) for one in (value, own[key]))
            rule = (model.pos_antialias, model.pos_offset)
            resized[key] = resize_positions(value, old, (new, new), *rule)
        elif '.rel_pos_' in key and not model.blocks[int(key.split('.')[1])].attn.window_size:
            resized[key] = resize_table(value, len(own[key]))
        elif key == 'patch_embed.proj.weight' and model.resample_patches:
            resized[key] = resample(value, own[key].shape[-1])
    return resized, tuple(key for key in state if resized[key] is not state[key])


def resample(weight: Tensor, size: int) -> Tensor:
    """Patch embedding for patches of another size (FlexiViT, arXiv:2212.08013, Sec. 3.4).

    It gives a resized patch the embedding that the patch itself had, in the least squares.

    Args:
        weight: ``(D, C, P, P)``.
        size: New P.

    Returns:
        ``(D, C, size, size)``.
    """
    side = weight.shape[-1]
    pixels = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    resized = F.interpolate(pixels, size=(size, size), mode='bicubic', antialias=True)
    inverse = torch.linalg.pinv(resized.flatten(1))  # size^2, P^2
    kernel = weight.double().flatten(2) @ inverse.t()
    return kernel.unflatten(2, (size, size)).to(weight.dtype)
