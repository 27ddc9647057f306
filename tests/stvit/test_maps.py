import pytest
import torch
from mmtoken.analysis.maps import record_backbone
from mmtoken.common.recorder import record_tokens
from mmtoken.common.records import Heats, Regions
from mmtoken.stvit.maps import SemanticUnit
from mmtoken.stvit.stvit_deit import STViTDeiT
from mmtoken.stvit.stvit_r import STViTR
from mmtoken.stvit.stvit_swin import STViTSwin
from stvit.smallest import DEIT, SWIN, TINY

HW = (141, 77)  # stage 3 has a map of 9x5, windows on 14x7


@pytest.fixture
def recorder():
    model = STViTR(dict(TINY, depths=(1, 1, 12, 1)))  # two units
    return record_backbone(model, torch.randn(2, 3, *HW))


def test_units_are_recorded_in_order(recorder):
    units = recorder.records
    assert [(unit.stage, unit.number) for unit in units] == [(3, 0), (3, 1)]
    for unit in units:
        assert (unit.hw, unit.padded_hw, unit.semantic_hw) == ((9, 5), (14, 7), (6, 3))
        assert unit.generate.shape == unit.refine.shape == (2, 18, 45)
        assert unit.recover.shape == (2, 45, 18)
        torch.testing.assert_close(unit.recover.sum(-1), torch.ones(2, 45))
    assert not torch.equal(units[0].semantic_tokens, units[1].semantic_tokens)


def test_pictures_are_those_of_the_sample(recorder):
    unit = recorder.records[1]
    regions, generate, refine, recover = unit.pictures(1)
    assert isinstance(regions, Regions) and isinstance(refine, Heats)
    assert torch.equal(regions.labels.flatten(), unit.recover[1].argmax(-1))
    names = [picture.name for picture in (regions, generate, refine, recover)]
    steps = ('generate', 'refine', 'recover')
    assert names == ['stage3_unit1', *(f'stage3_unit1_{step}' for step in steps)]
    assert torch.equal(recover.values.nan_to_num().flatten(1), 100 * unit.recover[1].T)
    # patches that a token does not see have no value
    assert torch.equal(generate.values.isnan().flatten(1), unit.generate[1] == 0)
    assert regions.title == 'stage 3, unit 1: 6 x 3 tokens, the strongest at each patch'


def test_boxes_are_the_patches_that_tokens_are_pooled_from(recorder):
    boxes = recorder.records[0].boxes()
    assert boxes.shape == (18, 4)
    # 3 x 3 overlapping parts of each 7x7 window
    assert boxes[:4].tolist() == [[0, 0, 3, 3], [0, 2, 3, 5], [0, 4, 3, 7], [2, 0, 5, 3]]
    assert boxes[-1].tolist() == [11, 4, 14, 7]


@pytest.mark.parametrize('model', [STViTSwin(SWIN), STViTDeiT(DEIT)], ids=['swin', 'deit'])
def test_models_without_recovery(model):
    recorder = record_backbone(model, torch.randn(1, 3, *HW))
    (unit,) = recorder.records
    assert unit.recover is None
    regions, generate, refine = unit.pictures(0)
    assert torch.equal(regions.labels, refine.values.nan_to_num().argmax(0))
    assert generate.values.shape == refine.values.shape == (len(unit.boxes()), *unit.hw)


def test_classification_models():
    model = STViTR(TINY, flavour='classification')
    (unit,) = record_backbone(model, torch.randn(1, 3, *HW)).records
    torch.testing.assert_close(unit.recover.sum(-1), torch.ones(1, 45))
    assert (unit.generate.sum(-1) <= 1 + 1e-5).all() and (unit.refine.sum(-1) <= 1 + 1e-5).all()


def test_pictures_need_attention():
    model = STViTR(TINY)
    with record_tokens(model, attention=False) as rec:
        model(torch.randn(1, 3, 64, 64))
    assert rec.find(SemanticUnit, 3).refine is None
    with pytest.raises(ValueError, match='got a record without; use .*attention=True'):
        rec.records[0].pictures(0)
