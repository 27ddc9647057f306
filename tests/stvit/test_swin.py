"""Window blocks and patch merging against their twins in loops, and against mmdet's Swin."""

import pytest
import torch
from mmtoken.stvit import reference
from mmtoken.stvit.stage import SwinStage
from mmtoken.stvit.swin import ConvStem, PatchMerging, SwinBlock, plan_windows
from parity import CPU, check_equal, rand


@pytest.mark.parametrize('hw', [(1, 2), (7, 7), (9, 15), (14, 8)])
@pytest.mark.parametrize('shift', [0, 3])
def test_swin_block(randomize, hw, shift):
    block = randomize(SwinBlock(8, 2)).double()
    x = rand(2, hw[0] * hw[1], 8)
    cut = plan_windows(hw, 7, shift, *CPU)
    got, want = block(x, *cut), reference.swin_block(block, x, hw, shift)
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
    got = stage(x, (9, 15), lambda block, *args: block(*args))
    torch.testing.assert_close(got, theirs(x, (9, 15))[0], atol=1e-10, rtol=0)


def test_stem_pads_to_multiples_of_four(randomize):
    stem = randomize(ConvStem(3, 8)).eval()
    image = torch.randn(1, 3, 13, 18)
    padded = torch.nn.functional.pad(image, (0, 2, 0, 3))
    (a, hw), (b, _) = stem(image), stem(padded)
    assert hw == (4, 5)
    torch.testing.assert_close(a, b, atol=0, rtol=0)
