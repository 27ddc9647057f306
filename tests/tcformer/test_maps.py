import numpy as np
import pytest
import torch
from mmtoken import TCFormer
from mmtoken.analysis.records import record_backbone
from mmtoken.tcformer.maps import draw_score_maps, draw_token_maps, stage_labels, stage_scores
from tcformer.smallest import TINY
from torch import nn


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TCFormer(TINY)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 61, 45, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (122, 90, 3), dtype=np.uint8) for _ in range(2)]


def test_labels_are_the_owners_of_cells(backbone, inputs):
    recorder = record_backbone(backbone, inputs)
    labels = stage_labels(recorder, sample=1)
    assert {stage: cells.shape for stage, cells in labels.items()} == {
        stage: (16, 12) for stage in (1, 2, 3, 4)
    }
    assert (labels[1].ravel() == np.arange(16 * 12)).all()
    assert [len(np.unique(cells)) for cells in labels.values()] == [192, 48, 12, 3]
    # what shares a token goes on sharing it
    for stage in (2, 3, 4):
        pairs = np.stack([labels[stage - 1], labels[stage]], -1).reshape(-1, 2)
        assert len(np.unique(pairs, axis=0)) == len(np.unique(labels[stage - 1]))


def test_scores_are_those_of_the_tokens_before_merging(backbone, inputs):
    recorder = record_backbone(backbone, inputs)
    scores = stage_scores(recorder, sample=1)
    assert sorted(scores) == [2, 3, 4]
    expected = recorder.stages[2]['token_score'][1, :, 0].reshape(16, 12)
    assert (scores[2] == expected.numpy()).all()
    assert len(np.unique(scores[4])) <= 12


def test_draws_every_image_and_stage(backbone, inputs, images):
    drawn = draw_token_maps(backbone, inputs, images)
    assert [sorted(maps) for maps in drawn] == [[1, 2, 3, 4]] * 2
    assert drawn[0][2].dtype == np.uint8 and drawn[0][2].shape[0] > 122
    bare = draw_token_maps(backbone, inputs, images, titles=False)
    assert all(picture.shape == (122, 90, 3) for maps in bare for picture in maps.values())
    assert (drawn[1][4][-122:] == bare[1][4]).all()
    assert [sorted(maps) for maps in draw_score_maps(backbone, inputs, images)] == [[2, 3, 4]] * 2


def test_takes_whole_models_and_restores_their_mode(backbone, inputs, images):
    whole = nn.Module()
    whole.backbone = backbone
    whole.train()
    a = draw_token_maps(whole, inputs, images)
    assert backbone.training and not backbone._forward_hooks
    b = draw_token_maps(backbone.eval(), inputs, images)
    assert (a[0][3] == b[0][3]).all() and not backbone.training


def test_a_map_does_not_depend_on_the_batch(backbone, inputs, images):
    both = draw_token_maps(backbone, inputs, images)
    second = draw_token_maps(backbone, inputs[1:], images[1:])
    assert (both[1][2] == second[0][2]).all()


def test_other_backbones_have_nothing_to_draw(inputs, images):
    with pytest.raises(
        ValueError, match='token sets, clusters or semantic tokens, got Conv2d .*; use'
    ):
        draw_token_maps(nn.Conv2d(3, 8, 3), inputs, images)


def test_images_must_show_the_inputs(backbone, inputs, images):
    with pytest.raises(ValueError, match='got 1 images for 2 samples'):
        draw_token_maps(backbone, inputs, images[:1])
    turned = [image.transpose(1, 0, 2) for image in images]
    with pytest.raises(ValueError, match='of the input 61x45, got 90x122; crop or resize'):
        draw_score_maps(backbone, inputs, turned)
