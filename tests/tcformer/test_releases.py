"""Which release a file is, by the key lists of the authors' models."""

import pytest
import torch
from golden import cases
from mmtoken import TCFormer

RELEASES = {
    'tcformer_light_cls_64x96': 'TCFormer (classification)',
    'tcformer_light_64x64': 'TCFormer',
    'tcformer_light_mta_pool_64x96': 'TCFormer',
}


@pytest.mark.parametrize('case', RELEASES)
def test_release(case):
    with torch.device('meta'):
        state = {key: torch.empty(shape) for key, shape, _ in cases.keys(cases.CASES[case])}
    inside = {k.removeprefix('backbone.'): v for k, v in state.items() if k[:9] == 'backbone.'}
    assert TCFormer.recognise(inside or state) == RELEASES[case]


def test_mmpose():
    keys = ('patch_embed1.projection.weight', 'ctm1.score.weight')
    assert TCFormer.recognise(dict.fromkeys(keys)) == 'TCFormer (mmpose 0.x)'
