"""STViT on Swin: twin of the whole, sizes, arguments, and the published multiply-adds."""

import math

import pytest
import torch
from mmtoken import STViTSwin, record_tokens
from mmtoken.analysis.counting import count_complexity
from mmtoken.common.layers import to_tokens
from mmtoken.stvit import reference
from mmtoken.stvit.plan import Geometry
from mmtoken.stvit.stvit_swin import ARCHS
from parity import check_equal, rand
from stvit import smallest
from torch._subclasses.fake_tensor import FakeTensorMode

SWIN = smallest.SWIN


def twin(model, image):
    """The whole network from the twins of its parts; sides are multiples of 4."""
    x = model.patch_embed.proj(image)
    hw, x = tuple(x.shape[2:]), to_tokens(x)
    for stage in model.layers[:2]:
        for i, block in enumerate(stage.blocks):
            x = reference.swin_block(block, x, hw, 3 if i % 2 and min(hw) > 7 else 0)
        x, hw = reference.patch_merging(stage.downsample, x, hw)
    geometry = Geometry(hw)
    local, shifted, generate, refine, near, far = model.layers[2].blocks
    x = reference.swin_block(local, x, hw, 0)
    x = reference.swin_block(shifted, x, hw, 3 if min(hw) > 7 else 0)
    s = reference.generate(generate, x, geometry, 'exact', None)
    s = reference.refine(refine, s, x, geometry, 'exact', None, model.layers[2].semantic_token2)
    s = reference.attend_locally(near, s, geometry, 'exact')
    s = reference.attend_globally(far, s, geometry, 'exact')
    s = model.layers[2].downsample(s)
    for block in model.layers[3].blocks:
        s = reference.attend_globally(block, s, geometry, 'exact')
    return model.norm3(s).transpose(1, 2).unflatten(2, geometry.semantic_hw)


@pytest.mark.parametrize('hw', [(36, 52), pytest.param((116, 116), marks=pytest.mark.slow)])
def test_equals_its_twin(randomize, hw):
    arch = dict(SWIN, depths=(1, 1, 6, 2))
    arch['num_local'] = 2
    model = randomize(STViTSwin(arch, use_global_center=True)).double().eval()
    image = rand(1, 3, *hw)
    (got,) = model(image)
    check_equal(got, twin(model, image), dict(model.named_parameters(), image=image))


@pytest.mark.parametrize('hw', [(32, 32), (49, 230), (224, 224)])
def test_any_size(hw):
    model = STViTSwin(SWIN, out_indices=(1, 2, 3)).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *hw))
    assert [tuple(m.shape[2:]) for m in maps] == [model.out_size(i, hw) for i in range(3)]
    assert hw != (224, 224) or model.out_size(2, hw) == (6, 6)


def test_recorded_unit():
    model = STViTSwin(SWIN).eval()
    with torch.no_grad(), record_tokens(model) as rec:
        model(torch.randn(1, 3, 160, 112))
    (unit,) = rec.records
    assert unit.semantic_hw == (6, 3) and unit.refine.shape == (1, 18, 70)
    assert unit.recover is None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch=dict(SWIN, num_local=5)), r'in \[0, 4\].* got num_local=5'),
        (dict(arch=dict(SWIN, num_local=-1)), 'num_local must be a whole number >= 0, got -1'),
        (dict(stgm_residual=None), 'stgm_residual must be True or False, got None'),
        (dict(mask='released'), r"mask must be one of \['exact', 'none'\], got 'released'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        STViTSwin(**{'arch': SWIN, **arguments})


def count(model):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return count_complexity(model.eval(), lambda: model(torch.zeros(1, 3, 224, 224)))


@pytest.mark.parametrize(
    ('size', 'num_local', 'published'),
    [
        # the paper
        ('tiny', 2, 3.43),
        pytest.param('small', 10, 6.53, marks=pytest.mark.slow),
        pytest.param('base', 10, 11.51, marks=pytest.mark.slow),
        # as quoted by DIMAP
        pytest.param('tiny', 1, 3.14, marks=pytest.mark.slow),
        pytest.param('small', 8, 5.95, marks=pytest.mark.slow),
        pytest.param('base', 8, 10.48, marks=pytest.mark.slow),
    ],
)
def test_published_multiply_adds(size, num_local, published):
    """In the convention of fvcore, by which STViT-R's logs count: 5 per normed number.

    The authors project the keys of four overlapping crops, 400 of them, we each of 196 patches
    once; and the classifier has 1000 classes.
    """
    with torch.device('meta'):  # initial weights take longer than counting
        model = STViTSwin(dict(ARCHS[size], num_local=num_local))
    counted = count(model.to_empty(device='cpu'))
    stem, dim = ARCHS[size]['embed_dims'], 4 * ARCHS[size]['embed_dims']
    normed = sum(
        math.prod(op.out_size) for op in counted.operations if op.op == 'native_layer_norm'
    )
    normed += stem // 2 * 112**2 + stem * 56**2  # the batch norms
    twice = 400 - 196
    total = counted.total_macs + 5 * (normed + twice * dim) + twice * 2 * dim * dim + 2 * dim * 1000
    assert round(total / 1e9, 2) == published


def test_parameter_counts():
    """Of ours, with the classifier; the published ones are not known."""
    sizes = {'tiny': 26_660_394, 'small': 47_973_258, 'base': 85_216_440}
    for size, expected in sizes.items():
        with torch.device('meta'):
            model = STViTSwin(size)
        assert sum(p.numel() for p in model.parameters()) == expected
