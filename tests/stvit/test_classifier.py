"""Released classifiers give the authors' logits in mmpretrain."""

import pytest
import torch
from classifiers import check
from golden import cases as golden
from stvit.test_golden import arguments

CASES = [name for name in golden.names('stvitr') if '_cls' in name]


@pytest.mark.parametrize('name', golden.slow_if(CASES, fast=('tiny_cls',)))
def test_logits(name):
    released = arguments(golden.CASES[name])
    config = f'stvit/stvit-r-{released.pop("arch")}_8xb128_in1k'
    check(name, config, (torch.float32, 2e-5), **released)
