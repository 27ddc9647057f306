import itertools

import numpy as np
import pytest
import torch
from mmtoken import TCFormer
from mmtoken.analysis.maps import record_backbone
from mmtoken.tcformer.maps import StageTokens, TokenMerge
from tcformer.smallest import TINY


@pytest.fixture
def recorder():
    torch.manual_seed(0)
    return record_backbone(TCFormer(TINY), torch.randn(2, 3, 61, 45))


def pictures(recorder, kind):
    found = [
        p for record in recorder.records for p in record.pictures(1) if isinstance(record, kind)
    ]
    return {picture.name: picture for picture in found}


def test_regions_are_the_cells_of_each_token(recorder):
    regions = pictures(recorder, StageTokens)
    assert list(regions) == ['stage1', 'stage2', 'stage3', 'stage4']
    cells = [region.labels.numpy() for region in regions.values()]
    assert all(labels.shape == (16, 12) for labels in cells)
    assert (cells[0].ravel() == np.arange(16 * 12)).all()
    assert [len(np.unique(labels)) for labels in cells] == [192, 48, 12, 3]
    # cells that share a token go on sharing it
    for fine, coarse in itertools.pairwise(cells):
        pairs = np.stack([fine, coarse], -1).reshape(-1, 2)
        assert len(np.unique(pairs, axis=0)) == len(np.unique(fine))
    assert regions['stage3'].title == 'stage 3: 12 tokens, 4 x 3 map'


def test_scores_are_those_of_the_tokens_before_merging(recorder):
    heats = pictures(recorder, TokenMerge)
    assert list(heats) == ['stage2_scores', 'stage3_scores', 'stage4_scores']
    merge = recorder.find(TokenMerge, 2)
    assert torch.equal(heats['stage2_scores'].values[0], merge.score[1, :, 0].view(16, 12))
    assert len(heats['stage4_scores'].values.unique()) <= 12


def test_merges_lead_from_stage_to_stage(recorder):
    for stage in (2, 3, 4):
        before, merge = (
            recorder.find(StageTokens, stage - 1).tokens,
            recorder.find(TokenMerge, stage),
        )
        after = recorder.find(StageTokens, stage).tokens
        assert torch.equal(merge.assign_idx.gather(1, before.assign_idx), after.assign_idx)
        # a centre belongs to its own cluster
        clusters = torch.arange(merge.center_idx.shape[1]).expand(2, -1)
        assert torch.equal(merge.assign_idx.gather(1, merge.center_idx), clusters)
