"""Every option equals the loop-by-loop twin: outputs and gradients, in float64, at odd sizes."""

import pytest
import torch
from mmtoken import PlainViT
from mmtoken.vit import reference
from parity import check_equal

ARCH = dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=12)
WINDOWS = dict(class_token=False, window_block_indexes=(0,), window_size=3)
OPTIONS = {
    'vit': {},
    'registers, no position': dict(img_size=None, num_registers=2),
    'dinov2': dict(pos_antialias=False, pos_offset=0.1, layer_scale=1.0, out_norm='all'),
    'dinov3': dict(img_size=None, rope='dinov3', num_registers=2, mlp='swiglu'),
    'eva02': dict(rope='eva02', mlp='swiglu', mlp_norm=True, attn_norm=True),
    'clip': dict(pre_norm=True, mlp='quickgelu'),
    'vitdet': dict(WINDOWS, rel_pos_size=35, pos_antialias=False, out_norm='none'),
    'windows': dict(WINDOWS, out_norm='none'),
    'dinov3 in windows': dict(WINDOWS, img_size=None, rope='dinov3'),
}


@pytest.mark.parametrize('hw', [(13, 28), (22, 9)], ids=str)
@pytest.mark.parametrize('name', OPTIONS)
def test_equals_its_twin(name, hw, randomize):
    options = dict(dict(img_size=21, out_indices=(0, 1)), **OPTIONS[name])
    model = randomize(PlainViT(ARCH, 7, **options)).double().eval()
    image = torch.randn(2, 3, *hw, dtype=torch.float64, requires_grad=True)
    tensors = dict(model.named_parameters(), image=image)
    got, want = model(image), reference.plain_vit(model, image)
    assert len(got) == len(want) == 2
    check_equal(*(torch.cat([x.flatten() for x in maps]) for maps in (got, want)), tensors)
