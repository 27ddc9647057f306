"""Counting as published finds every paper of a model by itself."""

import paca_vit.smallest
import pytest
import stvit.smallest
import torch
from mmtoken import PaCaViT, STViTR
from mmtoken.analysis.counting import count_complexity
from mmtoken.analysis.published import count_as_published
from torch import nn


def test_every_paper_of_a_mixed_model_takes_part():
    depths = dict(paca_vit.smallest.TINY, teacher_depths=(1, 1, 1, 1))
    parts = dict(a=STViTR(stvit.smallest.TINY).eval(), b=PaCaViT(depths).eval())
    mixed, image = nn.ModuleDict(parts), torch.zeros(1, 3, 70, 90)
    counts = {}
    for counter in (count_complexity, count_as_published):
        alone = [counter(part, lambda p=part: p(image)).total_macs for part in parts.values()]
        both = counter(mixed, lambda: [part(image) for part in parts.values()]).total_macs
        assert both == sum(alone)
        counts[counter] = alone
    # each of them costs more as its authors compute it
    assert all(a < b for a, b in zip(counts[count_complexity], counts[count_as_published]))


def test_models_of_no_paper_are_refused():
    with pytest.raises(ValueError, match="with a part of .*, got a Linear .* 'exact'"):
        count_as_published(nn.Linear(2, 2), lambda: None)
