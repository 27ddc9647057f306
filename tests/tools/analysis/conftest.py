import sys
from pathlib import Path

import pytest
from mmengine.registry import MODELS
from mmtoken.common.checks import check_image
from mmtoken.common.memory import recompute
from torch import nn

# as when the scripts are run, which puts their own folder on the path
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools' / 'analysis'))

DIM, CLUSTERS = 8, 5


@MODELS.register_module()
class ToyBackbone(nn.Module):
    """Patches of 8x8 pixels, scores for clusters, and a wide maps that need not be kept."""

    counts_as = {'assign': 'clustering'}

    def __init__(self, in_channels=3, with_cp=False, shift=0.0):
        super().__init__()
        self.in_channels, self.with_cp, self.shift = in_channels, with_cp, shift
        self.stem = nn.Conv2d(in_channels, DIM, 8, 8)
        self.assign = nn.Linear(DIM, CLUSTERS)

    def forward(self, image):
        check_image(image, self.in_channels, 29, 'toy')
        x = self.stem(image)
        for _ in range(4):
            x = recompute(self._wide, x) if self.with_cp else self._wide(x)
        return (self.assign(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + self.shift,)

    @staticmethod
    def _wide(x):
        return x.repeat(1, 50, 1, 1).sin().exp().unflatten(1, (50, DIM)).mean(1)


@MODELS.register_module()
class ToyNeck(nn.Module):
    """A 1x1 convolution."""

    def __init__(self, out_channels=7):
        super().__init__()
        self.conv = nn.Conv2d(CLUSTERS, out_channels, 1, bias=False)

    def forward(self, maps):
        return (self.conv(maps[0]),)


@pytest.fixture
def toy_config(tmp_path):
    """A backbone and a neck that need no host."""
    path = tmp_path / 'toy.py'
    path.write_text("model = dict(backbone=dict(type='ToyBackbone'), neck=dict(type='ToyNeck'))")
    return str(path)
