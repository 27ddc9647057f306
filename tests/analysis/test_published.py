"""Counting as published finds every paper of a model by itself."""

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.analysis.counting import count_complexity
from mmtoken.analysis.published import count_as_published
from rooms import BACKBONES
from torch import nn


def test_every_paper_of_a_mixed_model_takes_part():
    parts, image = [], torch.zeros(1, 3, 70, 90)
    dearer, papers = set(), set()
    total = {count_complexity: 0, count_as_published: 0}
    for backbone in BACKBONES:
        part = MODELS.build(backbone).eval()
        exact = count_complexity(part, lambda p=part: p(image)).total_macs
        try:
            published = count_as_published(part, lambda p=part: p(image)).total_macs
        except ValueError:  # without published figures
            continue
        parts.append(part)
        total[count_complexity] += exact
        total[count_as_published] += published
        papers.add(type(part).__module__)
        dearer |= {type(part).__module__} if published > exact else set()
    mixed = nn.ModuleList(parts)
    for counter, macs in total.items():
        assert counter(mixed, lambda: [part(image) for part in parts]).total_macs == macs
    # several papers' authors compute more than is needed
    assert len(papers) > 1 and len(dearer) > 1


def test_models_of_no_paper_are_refused():
    with pytest.raises(ValueError, match="got a Linear without; .* 'exact'"):
        count_as_published(nn.Linear(2, 2), lambda: None)
