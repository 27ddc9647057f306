"""A released classifier gives timm's logits in mmpretrain."""

import pytest
import torch
from classifiers import check
from golden import cases as golden


@pytest.mark.parametrize('name', golden.slow_if(golden.names('maxvit'), fast=('224x224',)))
def test_logits(name):
    check(name, 'maxvit/maxvit-tiny_8xb128_in1k', (torch.float32, 2e-5))
