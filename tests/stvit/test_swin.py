"""Swin: parts against their twins in loops and mmdet's Swin; what the two pyramids share."""

import pytest
import torch
from mmtoken import STViTR, STViTSwin
from mmtoken.stvit import reference
from mmtoken.stvit.plan import plan_windows
from mmtoken.stvit.stage import SwinStage
from mmtoken.stvit.swin import ConvStem, PatchMerging, SwinBlock, stage_dims
from parity import CPU, check_equal, rand
from stvit import smallest

MODELS = [(STViTR, smallest.TINY), (STViTSwin, smallest.SWIN)]


@pytest.mark.parametrize('hw', [(1, 2), (7, 7), (9, 15), (14, 8)])
@pytest.mark.parametrize('shift', [0, 3])
def test_swin_block(randomize, hw, shift):
    block = randomize(SwinBlock(8, 2)).double()
    x = rand(2, hw[0] * hw[1], 8)
    windows = plan_windows(hw, 7, shift, *CPU)
    got, want = block(x, windows), reference.swin_block(block, x, hw, shift)
    check_equal(got, want, dict(block.named_parameters(), x=x))


@pytest.mark.parametrize('hw', [(1, 1), (4, 6), (5, 3)])
def test_patch_merging(randomize, hw):
    module, x = randomize(PatchMerging(8)).double(), rand(2, hw[0] * hw[1], 8)
    (got, size), (want, expected) = module(x, hw), reference.patch_merging(module, x, hw)
    assert size == expected
    check_equal(got, want, dict(module.named_parameters(), x=x))


def test_stage_equals_that_of_mmdet(randomize):
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    stage = randomize(SwinStage(8, 2, [0.0, 0.0, 0.0], merges=False)).double().eval()
    theirs = swin.SwinBlockSequence(8, 2, 32, 3, 7).double().eval()
    names = {'attn.': 'attn.w_msa.', 'mlp.fc1.': 'ffn.layers.0.0.', 'mlp.fc2.': 'ffn.layers.1.'}
    state = {}
    for key, value in stage.state_dict().items():
        for ours, host in names.items():
            key = key.replace(ours, host)
        state[key] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 9 * 15, 8, dtype=torch.float64)
    got = stage(x, (9, 15))[0]
    torch.testing.assert_close(got, theirs(x, (9, 15))[0], atol=1e-10, rtol=0)


def test_stem_pads_to_multiples_of_four(randomize):
    stem = randomize(ConvStem(3, 8)).eval()
    image = torch.randn(1, 3, 13, 18)
    padded = torch.nn.functional.pad(image, (0, 2, 0, 3))
    (a, hw), (b, _) = stem(image), stem(padded)
    assert hw == (4, 5)
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_stem_has_the_right_gradients_for_one_image(randomize):
    """Batch norm of PyTorch mistakes the layout of some gradients of a batch of one."""
    stem, image = randomize(ConvStem(3, 4)).double().eval(), torch.randn(1, 3, 12, 16).double()
    weight = torch.randn(1, 12, 4).double()
    one, two = (
        torch.autograd.grad((stem(batch)[0] * weight).sum(), list(stem.parameters()))
        for batch in (image, image.repeat(2, 1, 1, 1))
    )
    for got, want in zip(one, two):
        torch.testing.assert_close(2 * got, want)


def test_widths_double():
    assert stage_dims(96) == (96, 192, 384, 768)


@pytest.mark.parametrize(('model', 'arch'), MODELS)
@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 3)])
def test_every_parameter_belongs_to_one_stage_that_is_built(model, arch, out_indices):
    model = model(arch, out_indices=out_indices)
    last = out_indices[-1]
    assert len(model.layers) == len(model.depths) == last + 1
    assert model.layers[last].downsample is None
    assert len(model.stage_modules) == last + 2  # the stem, too
    for key, _ in model.named_parameters():
        owners = [
            stage
            for stage, names in enumerate(model.stage_modules)
            if any(f'{key}.'.startswith(f'{name}.') for name in names)
        ]
        assert len(owners) == 1, key


@pytest.mark.parametrize(('model', 'arch'), MODELS)
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(embed_dims=7), 'one even number.* got 7'),
        (dict(depths=(2, 2, 6)), 'depths.*4'),
        (dict(num_heads=(1, 2)), 'num_heads.*4'),
        (dict(num_heads=(3, 3, 3, 3)), 'num_heads.*3'),
    ],
)
def test_sizes_that_do_not_fit(model, arch, change, message):
    with pytest.raises(ValueError, match=message):
        model({**arch, **change})
