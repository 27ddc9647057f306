import numpy as np
import pytest
import torch
from mmtoken import PaCaViT, TCFormer
from mmtoken.analysis.drawing import draw_heat, shrink
from mmtoken.analysis.records import HEAT_SIDE, grid_stride, record_backbone
from mmtoken.common.recorder import record_stage, record_tokens, start_record
from mmtoken.paca_vit.maps import (
    choose_clusters,
    cluster_title,
    draw_cluster_heats,
    draw_cluster_maps,
    draw_heat_sheet,
    peak_weights,
    stage_assignments,
    stages_left_out,
    strongest_clusters,
)
from mmtoken.tcformer.maps import draw_token_maps
from tcformer.smallest import TINY
from torch import nn

ARCH = dict(
    depths=(1, 2, 1, 1), embed_dims=(16, 24, 32, 40), num_heads=(1, 2, 2, 2), mlp_ratios=(2,) * 4
)
HW = (61, 45)  # grids 16x12, 8x6, 4x3, 2x2


class MadeUp(nn.Module):
    """Records the assignments that it is given: stage to block to ``(B, M, H, W)``."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages

    def forward(self, images):
        start_record()
        for stage, blocks in self.stages.items():
            hw = (-(-images.shape[2] // 2 ** (stage + 1)), -(-images.shape[3] // 2 ** (stage + 1)))
            values = {}
            if blocks:
                flat = {block: assign.flatten(2) for block, assign in blocks.items()}
                values = dict(assign=flat[min(flat)], assign_by_block=flat)
            record_stage(stage, hw=hw, **values)


def spread(*shape, seed=0):
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return scores.flatten(2).softmax(-1).view(shape)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, *HW, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (122, 90, 3), dtype=np.uint8) for _ in range(2)]


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return PaCaViT(ARCH, num_clusters=(5, 7, 30, 0))


# -- what was recorded


def test_assignments_are_those_of_the_sample_in_raster_order(inputs):
    assign = spread(2, 3, 8, 6)
    found = stage_assignments(record_backbone(MadeUp({1: {}, 2: {0: assign}}), inputs), sample=1)
    assert list(found) == [2]
    assert (found[2] == assign[1].numpy()).all()


def test_first_clustering_or_that_of_a_block(inputs):
    blocks = {block: spread(2, 3, 8, 6, seed=block) for block in (0, 2)}
    recorder = record_backbone(MadeUp({1: {0: spread(2, 4, 16, 12)}, 2: blocks}), inputs)
    assert (stage_assignments(recorder)[2] == blocks[0][0].numpy()).all()
    of_block = stage_assignments(recorder, block=2)
    assert list(of_block) == [2] and (of_block[2] == blocks[2][0].numpy()).all()
    assert stages_left_out(recorder) == [] and stages_left_out(recorder, block=2) == [1]
    with pytest.raises(ValueError, match=r'got 1; choose of stage 1: \[0\]; stage 2: \[0, 2\]'):
        stage_assignments(recorder, block=1)


def test_stages_without_clusters_are_left_out(backbone, inputs, images):
    recorder = record_backbone(backbone, inputs)
    assert {stage: a.shape for stage, a in stage_assignments(recorder).items()} == {
        1: (5, 16, 12),
        2: (7, 8, 6),
        3: (30, 4, 3),
    }
    assert stages_left_out(recorder) == [4]
    for draw in (draw_cluster_maps, draw_cluster_heats):
        assert [list(maps) for maps in draw(recorder, inputs, images)] == [[1, 2, 3]] * 2


def test_rows_sum_to_one_over_the_patches(backbone, inputs):
    for assign in stage_assignments(record_backbone(backbone, inputs)).values():
        assert np.allclose(assign.sum((1, 2)), 1)


# -- what is computed of it


def test_strongest_cluster_and_peak():
    assign = np.zeros((3, 2, 2))
    assign[0, 0] = 0.5
    assign[1] = 0.25
    assign[2, 1, 1] = 1.0
    assert strongest_clusters(assign).tolist() == [[0, 0], [1, 2]]
    assert peak_weights(assign).tolist() == [2.0, 1.0, 4.0]
    assert strongest_clusters(np.ones((3, 1, 2))).tolist() == [[0, 0]]


@pytest.mark.parametrize('side', [32, 61, 65, 193, 224, 427, 800, 1333])
@pytest.mark.parametrize('stride', [4, 8, 16, 32])
def test_stride_of_the_pyramid(side, stride):
    """Also where the last patch sticks out: a side of 193 has 13 patches of 16, not of 15."""
    assert grid_stride((side, 64), (-(-side // stride), -(-64 // stride))) == stride


def test_chosen_clusters():
    assigns = {1: np.zeros((3, 1, 1)), 2: np.zeros((9, 1, 1))}
    assert choose_clusters(assigns, None) == {1: [0, 1, 2], 2: list(range(9))}
    assert choose_clusters(assigns, [7, 2, 7]) == {1: [2], 2: [2, 7]}
    assert choose_clusters(assigns, [5]) == {2: [5]}
    for wrong, shown in (([9], r'\[9\]'), ([1, -1], r'\[-1\]'), ([], 'none')):
        with pytest.raises(ValueError, match=rf'in \[0, 8\], got {shown}; .* have 1: 3, 2: 9'):
            choose_clusters(assigns, wrong)


# -- pictures


def test_arg_max_map_shows_who_is_strongest(inputs):
    """The first column of patches goes to one cluster, the rest to another: two even fills."""
    assign = torch.full((1, 2, 4, 3), 1 / 12)
    assign[0, 0, :, 0], assign[0, 0, :, 1:] = 0.2, 0.025
    image = np.full((*HW, 3), 120, np.uint8)
    model = MadeUp({3: {0: assign}})
    drawn = draw_cluster_maps(model, inputs[:1], [image], titles=False)[0][3]
    # a patch covers 16 pixels, of which the line takes one
    left, right = drawn[:, :15], drawn[:, 17:]
    assert (left == left[0, 0]).all() and (left[0, 0] != right[0, 0]).any()
    assert (right == right[0, 0]).all() and (drawn[:, 15] != drawn[0, 0]).any()


def test_heat_map_peaks_where_the_cluster_looks(inputs):
    assign = np.full((2, 4, 3), 0.01)
    assign[0, 2, 1] = 0.89
    image = np.full((*HW, 3), 120, np.uint8)
    sheet = draw_heat_sheet(image, assign, HW, [0])
    hot = draw_heat(image[:1, :1], np.ones((1, 1)), low=0.0, high=1.0)[0, 0]
    found = np.argwhere((sheet == hot).all(-1))
    (top, left), (bottom, right) = found.min(0), found.max(0)
    assert (bottom - top + 1, right - left + 1) == (16, 16) and len(found) == 256
    assert (sheet.shape[0] - 8 - (HW[0] - 32), 8 + 16) == (top, left)


def test_every_heat_map_is_scaled_to_its_own_peak():
    assign = np.zeros((2, 4, 3))
    assign[:, 1] = [[0.1, 0.2, 0.3], [0.01, 0.02, 0.03]]
    image = np.full((*HW, 3), 120, np.uint8)
    a, b = (draw_heat_sheet(image, assign, HW, [number])[-HW[0] - 8 :] for number in (0, 1))
    assert (a == b).all()


def test_heat_starts_at_zero_not_at_the_least_weight():
    image = np.full((*HW, 3), 120, np.uint8)
    even = draw_heat_sheet(image, np.full((1, 4, 3), 1 / 12), HW, [0])
    hot = draw_heat(image, np.ones(HW), low=0.0, high=1.0)
    assert (even[-HW[0] - 8 : -8, 8:-8] == hot).all()
    assign = np.full((1, 4, 3), 1.0)
    assign[0, 0] = 0.5
    half = draw_heat_sheet(image, assign, HW, [0])[-HW[0] - 8 : -8, 8:-8]
    assert (half[:16] == draw_heat(image, np.full(HW, 0.5), low=0.0, high=1.0)[:16]).all()


def test_sheet_has_every_cluster_in_order_and_few_are_larger():
    image = np.full((320, 416, 3), 120, np.uint8)
    assign = np.full((100, 10, 13), 1 / 130)
    for number in range(100):
        assign[number, number // 13, number % 13] = 0.5
    many, few = (draw_heat_sheet(image, assign, (320, 416), range(n)) for n in (100, 4))
    hot = draw_heat(image[:1, :1], np.ones((1, 1)), low=0.0, high=1.0)[0, 0]
    height, width = shrink(image, 192).shape[:2]
    columns = (many.shape[1] - 8) // (width + 8)
    step = (many.shape[0] - 8) // -(-100 // columns)
    # the hot patch of each cluster is in the place that its number says
    for number in (0, 1, 13, 57, 99):
        bottom = (number // columns + 1) * step
        left = 8 + number % columns * (width + 8)
        place = many[bottom - height : bottom, left : left + width]
        y, x = np.argwhere((place == hot).all(-1)).mean(0)
        assert (int(y / height * 10), int(x / width * 13)) == divmod(number, 13)
    assert few.shape[1] == 2 * (416 + 8) + 8  # never larger than the image
    assert many.shape[1] == columns * (192 + 8) + 8
    crowd = draw_heat_sheet(image, np.full((400, 1, 1), 1.0), (32, 32), range(400))
    assert (crowd.shape[1] - 8) % (HEAT_SIDE + 8) == 0  # still readable


def test_titles():
    assert cluster_title(2, np.zeros((100, 32, 24))) == 'stage 2: 100 clusters, 32 x 24 map'
    assert cluster_title(2, np.zeros((9, 3, 4)), 1) == 'stage 2, block 1: 9 clusters, 3 x 4 map'


def test_numbers_stand_above_the_maps():
    """The sheets of two clusters with equal weights differ in the strip with the number only."""
    image = np.full((*HW, 3), 120, np.uint8)
    assign = np.full((2, 4, 3), 1 / 12)
    a, b = (draw_heat_sheet(image, assign, HW, [number]) for number in (0, 1))
    differs = np.argwhere((a != b).any(-1))
    assert len(differs) and differs[:, 0].max() < a.shape[0] - 8 - HW[0]


@pytest.mark.parametrize('draw', [draw_cluster_maps, draw_cluster_heats])
def test_draws_models_and_records_alike_with_titles_or_without(draw, backbone, inputs, images):
    whole = nn.Module()
    whole.backbone = backbone
    whole.train()
    drawn = draw(whole, inputs, images)
    assert backbone.training
    bare = draw(record_backbone(backbone, inputs), inputs, images, titles=False)
    for titled, plain in zip(drawn, bare):
        for stage in (1, 2, 3):
            height = plain[stage].shape[0]
            assert (titled[stage][-height:] == plain[stage]).all()
            assert titled[stage].shape[0] > height
    assert (draw(backbone, inputs[1:], images[1:])[0][2] == drawn[1][2]).all()
    with pytest.raises(ValueError, match='got 1 images for 2 samples'):
        draw(backbone, inputs, images[:1])


def test_blocks_differ_where_each_clusters(inputs, images):
    model = PaCaViT(ARCH, num_clusters=(5, 7, 30, 0), share='block')
    first, second = (draw_cluster_maps(model, inputs, images, False, block)[0] for block in (0, 1))
    assert list(first) == [1, 2, 3] and list(second) == [2]
    assert (first[2] != second[2]).any()


def test_chosen_clusters_are_drawn_where_they_are(backbone, inputs, images):
    drawn = draw_cluster_heats(backbone, inputs, images, clusters=[6, 20])
    assert [list(maps) for maps in drawn] == [[2, 3]] * 2
    assert drawn[0][3].shape[1] > drawn[0][2].shape[1]  # two maps, and one


def test_models_without_clusters_have_nothing_to_draw(inputs, images):
    with pytest.raises(ValueError, match='got PaCaViT without any; use .*num_clusters above 0'):
        draw_cluster_maps(PaCaViT(ARCH, num_clusters=(0,) * 4), inputs, images)
    with pytest.raises(ValueError, match='records clusters, got none in any stage'):
        draw_cluster_maps(TCFormer(TINY), inputs, images)
    with pytest.raises(ValueError, match="token sets, got one that records 'assign'; use the maps"):
        draw_token_maps(PaCaViT(ARCH), inputs, images)


def test_drawing_goes_through_the_recorder_alone(backbone, inputs, images):
    with record_tokens(backbone.eval()) as recorder, torch.no_grad():
        backbone(inputs)
    own = draw_cluster_maps(recorder, inputs, images)
    assert (own[0][1] == draw_cluster_maps(backbone, inputs, images)[0][1]).all()
