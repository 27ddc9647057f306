"""Equality with timm and torchvision, in float64, for random weights in their own key names."""

import copy
from dataclasses import replace

import pytest
import torch
from mmtoken import MaxViT
from mmtoken.common.strict_load import load_state_dict_strict
from mmtoken.maxvit.maxvit import ARCHS

DIMS, DEPTHS, STEM, HEAD = (8, 16, 16, 24), (1, 2, 1, 1), (8, 16), 8
RELEASES = {
    'maxvit_tiny_tf': 'tiny',
    'maxvit_tiny_rw': 'tiny_rw',
    'maxvit_rmlp_tiny_rw': 'tiny_rmlp',
    'maxvit_rmlp_small_rw': 'small_rmlp',
}


def narrow(arch):
    return dict(ARCHS[arch], embed_dims=DIMS, depths=DEPTHS, stem_dims=STEM, head_dim=HEAD)


def of_timm(name, size, randomize, is_narrow=True):
    """A model of timm's with random weights; buffers that it does not save keep their values."""
    maxxvit = pytest.importorskip('timm.models.maxxvit')
    cfg = maxxvit.model_cfgs[name]
    if is_narrow:
        attention = replace(cfg.transformer_cfg, dim_head=HEAD)
        widths = dict(embed_dim=DIMS, depths=DEPTHS, stem_width=STEM)
        cfg = replace(cfg, transformer_cfg=attention, **widths)
    theirs = maxxvit.MaxxVit(cfg, img_size=size, num_classes=5).double().eval()
    theirs.load_state_dict(randomize(copy.deepcopy(theirs)).state_dict())
    return theirs


def check(theirs, ours, image):
    load_state_dict_strict(ours, theirs.state_dict())
    want = theirs.forward_intermediates(image, intermediates_only=True)[1:]
    got = ours(image)
    assert len(got) == len(want) == 4
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize('name', RELEASES)
@torch.no_grad()
def test_timm_at_224(name, randomize):
    ours = MaxViT(narrow(RELEASES[name])).double().eval()
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    check(of_timm(name, 224, randomize), ours, image)


@torch.no_grad()
def test_timm_at_448x672(randomize):
    ours = MaxViT(narrow('tiny')).double().eval()
    image = torch.randn(1, 3, 448, 672, dtype=torch.float64)
    check(of_timm('maxvit_tiny_tf', 224, randomize), ours, image)


@pytest.mark.parametrize(
    'size, arguments',
    [
        ((96, 160), dict(partition=(3, 5))),  # of a model for this size
        ((128, 128), {}),  # groups of 4x4, which are adopted
    ],
)
@torch.no_grad()
def test_timm_for_other_image_sizes(size, arguments, randomize):
    ours = MaxViT(narrow('tiny'), **arguments).double().eval()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    check(of_timm('maxvit_tiny_tf', size, randomize), ours, image)


@pytest.mark.slow
@torch.no_grad()
def test_timm_tiny_as_released(randomize):
    theirs = of_timm('maxvit_tiny_tf', 224, randomize, is_narrow=False)
    ours = MaxViT('tiny').double().eval()
    for hw in ((224, 224), (448, 672)):
        check(theirs, ours, torch.randn(1, 3, *hw, dtype=torch.float64))


@torch.no_grad()
def test_torchvision(randomize):
    maxvit = pytest.importorskip('torchvision.models.maxvit')
    theirs = maxvit.MaxVit((224, 224), 16, 7, list(DIMS), list(DEPTHS), HEAD, 0.0, num_classes=5)
    randomize(theirs).double().eval()
    ours = MaxViT(dict(narrow('tiny_torchvision'), stem_dims=(16, 16))).double().eval()
    report = load_state_dict_strict(ours, theirs.state_dict())
    assert len(report.converted) == len(ours.state_dict()) - len(report.loaded) > 200
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    x = theirs.stem(image)
    for stage, got in zip(theirs.blocks, ours(image)):
        x = stage(x)
        torch.testing.assert_close(got, x, atol=1e-12, rtol=0)
