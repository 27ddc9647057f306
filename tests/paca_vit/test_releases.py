"""Which release a file is, by the key lists of the authors' models."""

import pytest
import torch
from golden import cases
from mmtoken import PaCaViT

RELEASES = {
    'pacavit_tiny_p2cconv_100_0_cls': 'PaCa-ViT (classification)',
    'pacavit_small_p2cconv_100_0_pacaseg_96x128': 'PaCa-ViT',
    'pacavit_convmixer_tiny_100_cls': 'PaCa-ViT with a teacher (classification)',
}


@pytest.mark.parametrize('case', RELEASES)
def test_release(case):
    with torch.device('meta'):
        state = {key: torch.empty(shape) for key, shape, _ in cases.keys(cases.CASES[case])}
    inside = {k.removeprefix('backbone.'): v for k, v in state.items() if k[:9] == 'backbone.'}
    assert PaCaViT.recognise(inside or state) == RELEASES[case]
