import pytest
import torch
from mmtoken import PaCaViT
from mmtoken.analysis.maps import record_backbone
from mmtoken.common.records import Heats, Regions
from mmtoken.paca_vit.maps import SoftClusters
from paca_vit.smallest import CLUSTERS, TINY


def record(**arguments):
    torch.manual_seed(0)
    model = PaCaViT(TINY, num_clusters=CLUSTERS, **arguments)
    return record_backbone(model, torch.randn(2, 3, 61, 45))


def test_regions_and_heats_are_those_of_the_sample():
    assign = torch.tensor([[[0.5, 0.2, 0.3]] * 2, [[0.1, 0.7, 0.2], [0.2, 0.0, 0.8]]])
    regions, heats = SoftClusters(2, 0, (1, 3), assign).pictures(1)
    assert isinstance(regions, Regions) and isinstance(heats, Heats)
    assert regions.labels.tolist() == [[1, 0, 1]]
    torch.testing.assert_close(heats.values, 3 * assign[1][:, None])
    assert regions.stride == heats.stride == 8
    assert (regions.name, heats.name) == ('stage2', 'stage2_clusters')
    assert regions.title == 'stage 2: 2 clusters, 1 x 3 map'


def test_stages_without_clusters_record_nothing():
    recorder = record()
    assert [(one.stage, one.block) for one in recorder.records] == [(1, 0), (2, 0), (3, 0)]
    first = recorder.find(SoftClusters, 1)
    assert first.hw == (16, 12) and first.assign.shape == (2, CLUSTERS[0], 16 * 12)
    torch.testing.assert_close(first.assign.sum(-1), torch.ones(2, CLUSTERS[0]))


def test_every_clustering_of_a_stage_is_recorded():
    recorder = record(share='block')
    found = [(one.stage, one.block) for one in recorder.records]
    assert found == [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    regions, heats = recorder.records[1].pictures(0)
    assert (regions.name, heats.name) == ('stage1_block1', 'stage1_block1_clusters')
    assert not torch.equal(recorder.records[0].assign, recorder.records[1].assign)


def test_a_teacher_records_its_clusters():
    torch.manual_seed(0)
    model = PaCaViT(dict(TINY, teacher_depths=(1, 1, 1, 1)), num_clusters=(5, 4, 3, 2))
    recorder = record_backbone(model, torch.randn(1, 3, 61, 45))
    assert [one.assign.shape[1] for one in recorder.records] == [5, 4, 3, 2]


def test_no_clusters_at_all():
    model = PaCaViT(TINY, num_clusters=(0, 0, 0, 0))
    with pytest.raises(ValueError, match='got a PaCaViT that recorded nothing'):
        record_backbone(model, torch.randn(1, 3, 61, 45))
