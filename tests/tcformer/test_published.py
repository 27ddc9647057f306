"""Parameters and multiply-adds of TCFormer: as counted, and as published."""

import functools

import pytest
import torch
from mmtoken import MTA, TCFormer, record_tokens
from mmtoken.analysis.counting import count_complexity, count_parameters
from mmtoken.analysis.published import count_as_published
from mmtoken.tcformer.bags import Bags
from tcformer.smallest import TINY
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

DIMS = (64, 128, 320, 512)


class Published(nn.Module):
    """TCFormer with the classification head, or with MTA and the 1x1 head for joints."""

    def __init__(self, backbone, joints):
        super().__init__()
        self.backbone = backbone
        self.neck = MTA(DIMS, out_levels=(0,)) if joints else None
        self.head = nn.Conv2d(256, joints, 1) if joints else nn.Linear(512, 1000)

    def forward(self, images):
        features = self.backbone(images)
        if self.neck is None:
            return self.head(features[-1].x.mean(1))
        return self.head(self.neck(features)[0])


@functools.cache
def backbone(arch, local_parts=None):
    with torch.device('meta'):  # initial weights take longer than counting
        model = TCFormer(arch, local_parts=local_parts)
    return model.to_empty(device='cpu').eval()


PARAMETERS = {'light': 13_718_659, 'base': 25_081_731, 'large': 62_305_923}


@pytest.mark.parametrize('arch', PARAMETERS)
def test_published_parameters(arch):
    assert sum(p.numel() for p in backbone(arch).parameters()) == PARAMETERS[arch]


@pytest.mark.parametrize('reduction, number', [('avg_pool', 2_666_240), ('conv', 8_173_568)])
def test_published_parameters_of_the_neck(reduction, number):
    neck = MTA(DIMS, 256, num_heads=4, mlp_ratio=4, reduction=reduction)
    assert sum(p.numel() for p in neck.parameters()) == number


@pytest.mark.parametrize(
    'arch, joints, millions',
    [
        ('light', 0, 14.23),
        ('base', 0, 25.59),
        ('large', 0, 62.82),
        ('base', 133, 27.78),
        ('large', 133, 65.01),
        ('base', 17, 27.75),
        ('light', 17, 16.39),
    ],
)
def test_published_parameters_with_head(arch, joints, millions):
    params = count_parameters(Published(backbone(arch), joints))
    total = sum(sum(kinds.values()) for kinds in params.values())
    assert round(total / 1e6, 2) == millions


slow = pytest.mark.slow
WHOLE, PARTS = None, (4, 2, 1)


@pytest.mark.parametrize(
    'arch, shape, joints, parts, published',
    [
        pytest.param('light', (224, 224), 0, WHOLE, 3.84, marks=slow),
        pytest.param('base', (224, 224), 0, WHOLE, 5.83, marks=slow),
        ('light', (256, 192), 133, WHOLE, 6.77),
        pytest.param('base', (256, 192), 133, WHOLE, 8.71, marks=slow),
        pytest.param('base', (256, 192), 17, WHOLE, 8.62, marks=slow),
        pytest.param('base', (256, 256), 98, WHOLE, 12.32, marks=slow),
        pytest.param('base', (384, 288), 133, WHOLE, 24.28, marks=slow),
        pytest.param('large', (224, 224), 0, WHOLE, 12.15, marks=slow),
        pytest.param('large', (256, 192), 133, WHOLE, 14.90, marks=slow),
        pytest.param('large', (384, 288), 133, WHOLE, 38.65, marks=slow),
        pytest.param('light', (224, 224), 0, PARTS, 2.50, marks=slow),
        pytest.param('base', (224, 224), 0, PARTS, 4.49, marks=slow),
        pytest.param('large', (224, 224), 0, PARTS, 10.81, marks=slow),
        pytest.param('base', (256, 192), 133, PARTS, 7.43, marks=slow),
        pytest.param('large', (384, 288), 133, PARTS, 32.15, marks=slow),
    ],
)
def test_published_multiply_adds(arch, shape, joints, parts, published):
    model = Published(backbone(arch, parts), joints).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        counted = count_as_published(model, lambda: model(torch.zeros(1, 3, *shape)))
    assert round(counted.total_macs / 1e9, 2) == published


@slow
def test_stage_columns_of_the_specification():
    """Linear, convolution and attention of the blocks at 256x192, and clustering; in G.

    Stage 4 is left out: there the specification overlooks that the first block projects the keys
    of four times as many tokens (0.55 instead of its 0.46).
    """
    model = backbone('base')
    with FakeTensorMode(allow_non_fake_inputs=True):
        counted = count_complexity(model, lambda: model(torch.zeros(1, 3, 256, 192)))
    blocks = {f'stage {i}': 0 for i in (1, 2, 3, 4)}
    for operation in counted.operations:
        name = operation.path[-1]
        if name.startswith('block') and operation.kind in ('linear', 'conv', 'attention'):
            blocks[f'stage {name[5]}'] += operation.macs
    assert [round(n / 1e9, 2) for n in blocks.values()] == [0.82, 1.03, 1.41, 0.55]
    clustering = [counted.macs[row].get('clustering', 0) / 1e9 for row in blocks]
    assert [round(n, 2) for n in clustering] == [0, 1.21, 0.19, 0.02]


@pytest.mark.parametrize('weights', [None, torch.ones(5)])
def test_sums_of_bags_are_transforms(weights):
    class Sums(nn.Module):
        def forward(self, x):
            return Bags(torch.tensor([0, 2, 2, 1, 0]), torch.tensor([0, 3])).sum(x, weights)

    model = nn.Sequential(Sums())
    counted = count_complexity(model, lambda: model(torch.zeros(3, 4)))
    assert counted.macs == {'0': {'transforms': 5 * 4}}


def test_counts_are_the_same_recorded_fake_and_on_the_cpu():
    model = nn.Sequential(TCFormer(TINY), MTA(TINY['embed_dims'], 8, num_heads=2)).eval()
    counts = []
    for mode in ('cpu', 'fake', 'recorded'):
        with (
            FakeTensorMode(allow_non_fake_inputs=True)
            if mode == 'fake'
            else record_tokens(model, attention=mode == 'recorded')
        ):
            counts.append(count_complexity(model, lambda: model(torch.zeros(1, 3, 70, 53))).macs)
    assert counts[0] == counts[1] == counts[2]
