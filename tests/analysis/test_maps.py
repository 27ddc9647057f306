"""Neutral pictures are drawn over images, whatever recorded them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mmtoken.analysis.drawing import draw_heat
from mmtoken.analysis.maps import choose_maps, draw_maps, record_backbone
from mmtoken.common.recorder import record
from mmtoken.common.records import Heats, Record, Regions
from torch import Tensor, nn


@dataclass(frozen=True)
class Cells(Record):
    x: Tensor

    def pictures(self, sample: int) -> list[Regions | Heats]:
        cells = self.x[sample, 0]
        return [
            Regions('stage1', 'left and right', (cells > 0).long(), 4),
            Heats('stage1_heats', 'two maps', torch.stack((cells, -cells)), 4),
        ]


class Pool(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(image, 4, ceil_mode=True)
        record(Cells(1, x))
        return x


@pytest.fixture
def inputs():
    inputs = torch.full((2, 3, 10, 12), -1.0)
    inputs[:, :, :, 4:] = 1
    inputs[1] *= 2
    return inputs


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 * 16, 24 * 16, 3), dtype=np.uint8) for _ in range(2)]


def test_everything_is_drawn_for_each_image(inputs, images):
    drawn = draw_maps(Pool(), inputs, images)
    assert [list(maps) for maps in drawn] == [['stage1', 'stage1_heats']] * 2
    region = drawn[0]['stage1'][-320:]
    assert region.shape == images[0].shape
    # a line between the first and the other columns of cells, 4 of 12 pixels
    white = (region.astype(int) - images[0]).sum(-1)
    assert white[:, 126:130].mean() > white[:, :120].mean() + 50


def test_a_map_does_not_depend_on_the_batch(inputs, images):
    both = draw_maps(Pool(), inputs, images)
    alone = draw_maps(Pool(), inputs[1:], images[1:])
    assert all((both[1][name] == picture).all() for name, picture in alone[0].items())


def test_heats_run_from_their_smallest_to_their_largest_value(inputs, images):
    sheet = draw_maps(Pool(), inputs, images, 'stage1_heats', [0])[0]['stage1_heats']
    heat = np.repeat(np.where(np.arange(24 * 16) < 128, -1.0, 1.0)[None], 320, 0)
    assert (sheet[-328:-8, 8:-8] == draw_heat(images[0], heat)).all()


def test_whole_models_are_taken_and_keep_their_mode(inputs, images):
    whole = nn.Module()
    whole.backbone = Pool()
    whole.train()
    a = draw_maps(whole, inputs, images)
    assert whole.backbone.training and not whole.backbone._forward_hooks
    b = draw_maps(record_backbone(whole.backbone.eval(), inputs), inputs, images)
    assert (a[0]['stage1'] == b[0]['stage1']).all() and not whole.backbone.training


def test_maps_are_chosen():
    assert choose_maps(3, None) == [0, 1, 2]
    assert choose_maps(300, None)[:3] == [1, 4, 7] and len(choose_maps(300, None)) == 100
    assert choose_maps(5, [4, 0, 9]) == [0, 4]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(only='x*'), r"only must match one of \['stage1', 'stage1_heats'\], got 'x\*'"),
        (dict(maps=[2]), r'maps must be in \[0, 2\), got \[2\]'),
        (dict(maps=[]), r'maps must be in \[0, 2\), got none'),
    ],
)
def test_wrong_choices(inputs, images, options, message):
    with pytest.raises(ValueError, match=message):
        draw_maps(Pool(), inputs, images, **options)


def test_wrong_images(inputs, images):
    with pytest.raises(ValueError, match='one per sample, got 1 for 2 samples'):
        draw_maps(Pool(), inputs, images[:1])
    turned = [image.transpose(1, 0, 2) for image in images]
    with pytest.raises(ValueError, match='proportions of the input, 10x12, got 384x320'):
        draw_maps(Pool(), inputs, turned)


def test_a_model_that_records_nothing(inputs):
    with pytest.raises(ValueError, match='got a Conv2d that recorded nothing'):
        record_backbone(nn.Conv2d(3, 8, 3), inputs)
