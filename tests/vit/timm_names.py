"""From timm's parameters of any family to ours, written down once more, for tests only."""

import torch


def block_names(state: dict, inside: str) -> list[str]:
    """Prefixes of the blocks that have a key with this end."""
    return [key.removesuffix(inside) for key in state if key.endswith(inside)]


def to_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename, concatenate, fold the positions of the class token and registers."""
    state = {k: v for k, v in state.items() if not k.startswith(('head', 'rope.', 'fc_norm'))}
    for block in block_names(state, 'attn.q_proj.weight'):
        parts = [state.pop(f'{block}attn.{name}_proj.weight') for name in 'qkv']
        state[f'{block}attn.qkv.weight'] = torch.cat(parts)
        for name in 'qv':
            state[f'{block}attn.{name}_bias'] = state.pop(f'{block}attn.{name}_proj.bias')
    for block in block_names(state, 'attn.q_bias'):
        q, v = (state.pop(f'{block}attn.{name}_bias') for name in 'qv')
        state[f'{block}attn.qkv.bias'] = torch.cat((q, torch.zeros_like(q), v))
    for block in block_names(state, 'attn.qkv.weight'):
        weight = state[f'{block}attn.qkv.weight']
        state.setdefault(f'{block}attn.qkv.bias', torch.zeros_like(weight[:, 0]))
    for block in block_names(state, 'mlp.fc1_g.weight'):
        for kind in ('weight', 'bias'):
            gate, value = (state.pop(f'{block}mlp.fc1_{name}.{kind}') for name in 'gx')
            state[f'{block}mlp.fc1.{kind}'] = torch.cat((gate, value))
    for block in block_names(state, 'gamma_1'):
        for i in (1, 2):
            state[f'{block}ls{i}.gamma'] = state.pop(f'{block}gamma_{i}')
    return fold(state)


def fold(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the position of each token that is no patch to the token, where there are any."""
    if 'dist_token' in state:
        state['reg_token'] = state.pop('dist_token')
    pos = state.get('pos_embed')
    if pos is None or 'cls_token' not in state:
        return state
    extra = pos.shape[1] - int(pos.shape[1] ** 0.5) ** 2
    state['pos_embed'] = pos[:, extra:]
    if extra:
        state['cls_token'] = state['cls_token'] + pos[:, :1]
    if extra > 1:
        state['reg_token'] = state['reg_token'] + pos[:, 1:extra]
    return state
