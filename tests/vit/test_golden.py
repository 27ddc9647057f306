"""Equality with detectron2 and timm on every golden case that is present."""

import pytest
import torch
from golden import cases as golden
from mmtoken import PlainViT

DINO = dict(out_indices=(2, 5, 8, 11), out_norm='all')
MODELS = {
    'dinov2_small_reg4': dict(
        arch='small', patch_size=14, img_size=518, num_registers=4, layer_scale=1e-5, **DINO
    ),
    'dinov3_small_qkvb': dict(
        arch='small',
        img_size=None,
        num_registers=4,
        rope='dinov3',
        layer_scale=1e-5,
        norm_eps=1e-5,
        **DINO,
    ),
    'vitdet_d192_img1024': dict(
        arch=dict(embed_dims=192, depth=6, num_heads=3, hidden_dim=768),
        pos_antialias=False,
        class_token=False,
        window_block_indexes=(0, 1, 3, 4),
        rel_pos_size=1024,
        out_norm='none',
    ),
}
CASES = [case for name in MODELS for case in golden.names(name)]


def arguments(name):
    return MODELS[name.rsplit('_', 1)[0]]


def outputs(model, image, case):
    """Maps by the names of the case, and the tokens before the patches where it has them."""
    maps = model(image)
    if 'fpn' in case['architecture']:
        return {'last_feat': maps[-1]}
    found = {f'map{i}': value for i, value in zip(model.out_indices, maps)}
    tokens = model.run_stages(image)[-1][0][:, : model.num_prefix]
    return {**found, 'prefix': model.norm(tokens).transpose(1, 2)}


@pytest.mark.parametrize('name', CASES)
@torch.no_grad()
def test_backbone(name):
    case = golden.CASES[name]
    model = PlainViT(**arguments(name)).double().eval()
    model.load_state_dict(
        golden.state(case, 'backbone.net.' if 'fpn' in case['architecture'] else '')
    )
    for dtype, atol in ((torch.float64, 3e-6), (torch.float32, 2e-5)):
        model.to(dtype)
        found = outputs(model, golden.image(case).to(dtype), case)
        golden.check(case, found, atol, partly='fpn' in case['architecture'])
