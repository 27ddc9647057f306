"""Parameters and multiply-adds of every released size, as published and from formulas."""

import operator

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import PlainViT
from mmtoken.analysis.counting import count_complexity
from mmtoken.analysis.operations import results_of_calls
from mmtoken.analysis.published import count_as_published
from torch import nn
from vit.smallest import TINY, VITDET

ARCH = ('embed_dims', 'depth', 'num_heads', 'hidden_dim')


def arch(*sizes):
    return dict(zip(ARCH, sizes))


REGISTERS = dict(num_registers=4)
DINOV2 = dict(patch_size=14, img_size=518, layer_scale=1e-5)
DINOV3 = dict(img_size=None, rope='dinov3', layer_scale=1e-5, norm_eps=1e-5, **REGISTERS)
EVA02 = dict(rope='eva02', mlp='swiglu')
CLIP = dict(pre_norm=True, norm_eps=1e-5)
VITDET_224 = dict(class_token=False, rel_pos_size=1024, out_norm='none')
SMALL, BASE, LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
# Our arguments, and the parameters that the encoder has in timm or detectron2. Ours are fewer by
# D for each position that is folded into a token, and more by D in each block for each third of the
# bias of queries, keys and values that theirs lack.
RELEASED = {
    'ViT-Ti/16': (dict(arch='tiny'), 5_524_416, 1, 0),
    'ViT-S/16': (dict(arch='small'), 21_665_664, 1, 0),
    'ViT-B/16': (dict(arch='base'), 85_798_656, 1, 0),
    'ViT-B/32': (dict(arch='base', patch_size=32), 87_455_232, 1, 0),
    'ViT-L/16': (dict(arch='large'), 303_301_632, 1, 0),
    'ViT-H/14': (dict(arch='huge', patch_size=14), 630_764_800, 1, 0),
    'DeiT-III S': (dict(arch='small', layer_scale=1e-6), 21_674_496, 0, 0),
    'DeiT-III B': (dict(arch='base', layer_scale=1e-6), 85_816_320, 0, 0),
    'DeiT-S distilled': (dict(arch='small', num_registers=1), 21_666_432, 2, 0),
    'CLIP B/16': (dict(arch='base', **CLIP), 85_799_424, 1, 0),
    'CLIP L/14': (dict(arch='large', patch_size=14, **CLIP), 303_179_776, 1, 0),
    'DINOv2 S': (dict(arch='small', **DINOV2), 22_056_192, 1, 0),
    'DINOv2 S, registers': (dict(arch='small', **DINOV2, **REGISTERS), 22_057_344, 0, 0),
    'DINOv2 B': (dict(arch='base', **DINOV2), 86_579_712, 1, 0),
    'DINOv2 B, registers': (dict(arch='base', **DINOV2, **REGISTERS), 86_582_016, 0, 0),
    'DINOv2 L': (dict(arch='large', **DINOV2), 304_367_616, 1, 0),
    'DINOv2 L, registers': (dict(arch='large', **DINOV2, **REGISTERS), 304_370_688, 0, 0),
    'DINOv2 g': (dict(arch='giant', **DINOV2), 1_136_479_232, 1, 0),
    'DINOv2 g, registers': (dict(arch='giant', **DINOV2, **REGISTERS), 1_136_483_840, 0, 0),
    'DINOv3 S': (dict(arch='small', **DINOV3), 21_586_944, 0, 3),
    'DINOv3 S, bias': (dict(arch='small', **DINOV3), 21_596_160, 0, 1),
    'DINOv3 S+': (dict(arch='small', **DINOV3, mlp='swiglu'), 28_683_264, 0, 3),
    'DINOv3 S+, bias': (dict(arch='small', **DINOV3, mlp='swiglu'), 28_692_480, 0, 1),
    'DINOv3 B': (dict(arch='base', **DINOV3), 85_641_216, 0, 3),
    'DINOv3 B, bias': (dict(arch='base', **DINOV3), 85_659_648, 0, 1),
    'DINOv3 L': (dict(arch='large', **DINOV3), 303_079_424, 0, 3),
    'DINOv3 L, bias': (dict(arch='large', **DINOV3), 303_128_576, 0, 1),
    'DINOv3 H+': (
        dict(arch=arch(1280, 32, 20, 5120), **DINOV3, mlp='swiglu'),
        840_509_440,
        *(0, 3),
    ),
    'DINOv3 H+, bias': (
        dict(arch=arch(1280, 32, 20, 5120), **DINOV3, mlp='swiglu'),
        840_591_360,
        *(0, 1),
    ),
    'DINOv3 7B': (
        dict(arch=arch(4096, 40, 32, 8192), **DINOV3, mlp='swiglu'),
        6_716_030_976,
        *(0, 3),
    ),
    'LingBot g': (dict(arch='giant', **DINOV3), 1_134_473_216, 0, 3),
    'EVA-02 T': (dict(arch=arch(192, 12, 3, 512), patch_size=14, **EVA02), 5_502_144, 1, 1),
    'EVA-02 S': (dict(arch=arch(384, 12, 6, 1024), patch_size=14, **EVA02), 21_621_120, 1, 1),
    'EVA-02 B': (
        dict(arch=arch(768, 12, 12, 2048), patch_size=14, img_size=448, mlp_norm=True, **EVA02),
        86_348_544,
        *(1, 1),
    ),
    'EVA-02 L': (
        dict(arch=arch(1024, 24, 16, 2730), patch_size=14, img_size=448, mlp_norm=True, **EVA02),
        304_055_232,
        *(1, 1),
    ),
    'ViTDet B': (
        dict(VITDET_224, window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10)),
        85_889_024,
        *(1, 0),
    ),
    'ViTDet L': (
        dict(VITDET_224, arch='large')
        | dict(window_block_indexes=[i for i in range(24) if i % 6 != 5]),
        303_432_704,
        *(1, 0),
    ),
    'ViTDet H': (
        dict(VITDET_224, arch='huge')
        | dict(window_block_indexes=[i for i in range(32) if i % 8 != 7]),
        631_116_800,
        *(1, 0),
    ),
}


def on_meta(**arguments):
    with torch.device('meta'):
        return PlainViT(**arguments).eval()


def count(model, *hw, batch=1, counter=count_complexity):
    return counter(model, lambda: model(torch.empty(batch, 3, *hw, device='meta')))


@pytest.mark.parametrize('name', RELEASED)
def test_parameters(name):
    arguments, theirs, folded, missing_biases = RELEASED[name]
    model = on_meta(**arguments)
    own = sum(parameter.numel() for parameter in model.parameters())
    dim, depth = model.out_channels[0], model.num_stages
    assert own == theirs - folded * dim + missing_biases * depth * dim


@pytest.mark.parametrize(
    ('arguments', 'published'),
    [
        (dict(arch='tiny'), 1_258_219_200),
        (dict(arch='small'), 4_607_954_304),
        (dict(arch='base'), 17_581_972_224),
        (dict(arch='base', img_size=384), 55_538_974_464),
        (dict(arch='base', img_size=384, patch_size=32), 13_056_716_544),
        (dict(arch='large', img_size=384), 191_210_034_176),
    ],
)
def test_multiply_adds_of_mmpretrain(arguments, published):
    """``FLOPs`` of DeiT and ViT in its metafiles, without the classifier: equal to the last one."""
    assert with_norms(on_meta(**arguments), arguments.get('img_size', 224)) == published


def test_multiply_adds_of_dinov2_giant():
    """1784 G in the metafile of mmpretrain."""
    assert round(with_norms(on_meta(arch='giant', **DINOV2), 518) / 1e9) == 1784


@pytest.mark.parametrize(
    ('arguments', 'weights', 'published'),
    [
        (dict(arch='base'), 'ViT_B_16_Weights.IMAGENET1K_V1', 17.564),
        (dict(arch='base', patch_size=32), 'ViT_B_32_Weights.IMAGENET1K_V1', 4.409),
        (dict(arch='large'), 'ViT_L_16_Weights.IMAGENET1K_V1', 61.555),
        (dict(arch='large', patch_size=32), 'ViT_L_32_Weights.IMAGENET1K_V1', 15.378),
        (dict(arch='huge', patch_size=14), 'ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1', 167.295),
    ],
)
def test_multiply_adds_of_torchvision(arguments, weights, published):
    """In the metadata of its weights; the classifier of 1000 classes is counted there."""
    models = pytest.importorskip('torchvision.models')
    model = on_meta(**arguments)
    counted = count(model, 224, 224)
    assert round((counted.total_macs + model.out_channels[0] * 1000) / 1e9, 3) == published
    assert operator.attrgetter(weights)(models).meta['_ops'] == published
    assert counted.uncounted == ()


def with_norms(model, side):
    """Multiply-adds, and 5 per number in a layer norm, as mmengine and fvcore count."""
    formula = {nn.LayerNorm: lambda _norm, args, _out: 5 * args[0].numel()}
    with results_of_calls(model, formula) as calls:
        counted = count(model, side, side)
    # the norm of the output is called for the patches only, originally for the class token as well
    (normed,) = calls.pop('norm')
    last = normed + 5 * model.num_prefix * model.out_channels[0]
    return counted.total_macs + sum(map(sum, calls.values())) + last


def test_attention_of_vitdet_by_hand():
    """A map of 6x8: windows of 3x3 fill it up to 6x9; relative positions of global blocks."""
    model = MODELS.build(VITDET).to('meta').eval()
    dim, tokens, padded = 16, 48, 54
    mlp = 2 * dim * TINY['hidden_dim'] * tokens
    for counter, in_window, in_global in [
        # 2 heads of 8 channels; 6 and 14 appended ones, filled up to a multiple of 8
        (
            count_complexity,
            (4 * tokens + 3, padded * (9 * 2 * (16 + 8) + 6 * dim)),
            (4 * tokens, tokens * (tokens * 2 * (24 + 8) + 14 * dim)),
        ),
        (
            count_as_published,
            (4 * padded, padded * (2 * 9 + 6) * dim),
            (4 * tokens, tokens * (2 * tokens + 14) * dim),
        ),
    ]:
        counted = count(model, 45, 61, counter=counter)
        for stage, (linear, attention) in enumerate([in_window, in_global] * 2, 1):
            want = dict(linear=linear * dim**2 + mlp, attention=attention)
            assert counted.macs[f'stage {stage}'] == want


def test_original_of_other_families_is_exact():
    model = on_meta(arch='tiny')
    counts = [count(model, 90, 70, counter=c) for c in (count_complexity, count_as_published)]
    assert counts[0].macs == counts[1].macs


def test_original_of_batches():
    model = MODELS.build(VITDET).to('meta').eval()
    one, three = (count(model, 45, 61, batch=b, counter=count_as_published) for b in (1, 3))
    assert three.total_macs == 3 * one.total_macs
