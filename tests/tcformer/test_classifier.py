"""Released classifiers give the authors' logits in mmpretrain."""

import pytest
import torch
from classifiers import check
from golden import cases as golden

CASES = [name for name in golden.names('tcformer') if '_cls_' in name]


@pytest.mark.parametrize('name', CASES)
def test_logits(name):
    arch = name.split('_')[1]
    config = f'tcformer/tcformer-{arch}_8xb128_in1k'
    check(name, config, (torch.float64, 3e-6), (torch.float32, 2e-5))
