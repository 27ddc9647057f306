"""Released classifiers give the authors' logits in mmpretrain."""

import pytest
import torch
from classifiers import check
from golden import cases as golden
from paca_vit.test_golden import RELEASED

CASES = [name for name in golden.names('pacavit') if name.endswith('_cls')]


@pytest.mark.parametrize('name', golden.slow_if(CASES, fast=('tiny_p2cconv_100_0_cls',)))
def test_logits(name):
    """The configs are those of the main models; the others differ from one in an argument."""
    arguments = dict(RELEASED[name.removeprefix('pacavit_').removesuffix('_cls')])
    arch = arguments.pop('arch').replace('_', '-')
    check(name, f'paca_vit/paca-vit-{arch}_8xb128_in1k', (torch.float32, 1e-5), **arguments)
