"""Which release a file is, by the key lists of the authors' models."""

import pytest
import torch
from golden import cases
from mmtoken import STViTR

RELEASES = {
    'stvitr_swin_tiny_cls': 'STViT-R (classification)',
    'stvitr_swin_tiny_det_128x160': 'STViT-R (detection)',
}


@pytest.mark.parametrize('case', RELEASES)
def test_release(case):
    with torch.device('meta'):
        state = {key: torch.empty(shape) for key, shape, _ in cases.keys(cases.CASES[case])}
    inside = {k.removeprefix('backbone.'): v for k, v in state.items() if k[:9] == 'backbone.'}
    assert STViTR.recognise(inside or state) == RELEASES[case]
