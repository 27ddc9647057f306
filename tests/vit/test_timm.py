"""Equality with timm's models of every family, with random parameters, at odd sizes."""

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import PlainViT

timm = pytest.importorskip('timm')
save_file = pytest.importorskip('safetensors.torch').save_file

ANY_SIZE = dict(dynamic_img_size=True, dynamic_img_pad=True)
SMALL = dict(embed_dim=48, depth=3, num_heads=3, global_pool='token', **ANY_SIZE)
ARCH = dict(embed_dims=48, depth=3, num_heads=3, hidden_dim=192)
NARROW = dict(ARCH, hidden_dim=128)
DINOV3 = dict(img_size=None, num_registers=4, rope='dinov3', layer_scale=1.0, norm_eps=1e-5)
EVA = dict(arch=NARROW, rope='eva02', mlp='swiglu')
CLIP = dict(pre_norm=True, norm_eps=1e-5)
# name of the model to our arguments
CASES = {
    'vit_base_patch16_224': {},
    'vit_small_patch32_224': dict(patch_size=32),
    'vit_small_patch8_224': dict(patch_size=8),
    'deit_small_distilled_patch16_224': dict(num_registers=1),
    'deit3_small_patch16_224': dict(layer_scale=1.0),
    'vit_small_patch14_dinov2': dict(patch_size=14, img_size=518, layer_scale=1.0),
    'vit_small_patch14_reg4_dinov2': dict(
        patch_size=14, img_size=518, layer_scale=1.0, num_registers=4
    ),
    'vit_giant_patch14_dinov2': dict(
        arch=NARROW, patch_size=14, img_size=518, layer_scale=1.0, mlp='swiglu'
    ),
    'vit_small_patch16_dinov3': DINOV3,
    'vit_small_patch16_dinov3_qkvb': DINOV3,
    'vit_small_plus_patch16_dinov3_qkvb': DINOV3 | dict(mlp='swiglu'),
    'eva_giant_patch14_224': dict(arch=dict(ARCH, hidden_dim=209), patch_size=14),
    'eva02_tiny_patch14_224': dict(EVA, patch_size=14),
    'eva02_base_patch14_448': dict(EVA, patch_size=14, img_size=448, mlp_norm=True),
    'eva02_base_patch16_clip_224': dict(EVA, mlp_norm=True, attn_norm=True),
    'vit_base_patch16_clip_224': CLIP,
    'vit_base_patch16_clip_quickgelu_224': CLIP | dict(mlp='quickgelu'),
}
SIZES = [(224, 224), (100, 75)]


def theirs(name, randomize):
    """A small one; its buffers hold the angles and the bias of the keys, which are fixed."""
    model = timm.create_model(name, num_classes=0, **SMALL)
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
    randomize(model)
    for key, buffer in model.named_buffers():
        buffer.copy_(buffers[key])
    return model.double().eval()


@pytest.mark.parametrize('name', CASES)
@torch.no_grad()
def test_family(name, tmp_path, randomize):
    model = theirs(name, randomize)
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'model.safetensors'))
    ours = dict(dict(arch=ARCH, out_indices=(0, 2), out_norm='all'), **CASES[name])
    ours = PlainViT(**ours, init_cfg=init_cfg).double().eval()
    ours.init_weights()
    for hw in SIZES:
        image = torch.randn(2, 3, *hw, dtype=torch.float64)
        want = model.forward_intermediates(
            image, indices=[0, 2], norm=True, intermediates_only=True, return_prefix_tokens=True
        )
        for (wanted, _), found in zip(want, ours(image)):
            torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
        prefix = want[-1][1]
        tokens = ours.norm(ours.run_stages(image)[-1][0][:, : ours.num_prefix])
        torch.testing.assert_close(tokens, prefix, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    'name, patch_size, stride', [('vit_tiny_r_s16_p8_224', 8, 32), ('vit_small_r26_s32_224', 1, 32)]
)
@torch.no_grad()
def test_hybrid(name, patch_size, stride, randomize, monkeypatch):
    model = theirs(name, randomize)
    cnn = model.patch_embed.backbone
    monkeypatch.setitem(MODELS.module_dict, 'TheirCnn', lambda: cnn)
    ours = PlainViT(ARCH, patch_size, stem=dict(type='TheirCnn'), out_norm='all').double().eval()
    ours.load_state_dict(model.state_dict(), strict=True)
    assert ours.out_strides == (stride,) and not ours.training
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    (want,) = model.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(*ours(image), want, atol=2e-6, rtol=0)
    assert ours(image[:, :, :50, :65])[0].shape == want.shape
