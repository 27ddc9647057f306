import numpy as np
import pytest
import torch
from mmtoken import PaCaViT, STViTDeiT, STViTR, STViTSwin
from mmtoken.analysis.drawing import MARK, draw_heat
from mmtoken.analysis.records import record_backbone
from mmtoken.common.recorder import record_tokens
from mmtoken.stvit.maps import (
    SemanticUnit,
    choose_tokens,
    draw_semantic_maps,
    draw_semantic_tokens,
    draw_token_sheet,
    overview_title,
    semantic_units,
    sheet_title,
    strongest_tokens,
    token_part,
)
from mmtoken.stvit.plan import Geometry
from mmtoken.tcformer.maps import draw_token_maps
from stvit_tiny import DEIT, SWIN, TINY
from torch import nn

ARCH = dict(TINY, depths=(1, 1, 12, 1))  # two units
HW = (141, 77)  # stage 3 has a map of 9x5, windows on 14x7


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return STViTR(ARCH, layer_scale=1.0)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, *HW, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (2 * HW[0], 2 * HW[1], 3), dtype=np.uint8) for _ in range(2)]


def made_up(gathered, recovered=None, semantic_hw=None):
    gathered = np.array(gathered)
    geometry = Geometry(gathered.shape[1:])
    hw = semantic_hw or (1, len(gathered))
    # the published windows where they fit
    padded_hw = geometry.padded_hw if geometry.semantic_hw == hw else geometry.hw
    return SemanticUnit(3, 0, hw, padded_hw, 'refine', gathered, recovered)


def is_colour(picture, colour):
    return (picture == np.array(colour)).all(-1)


# -- what was recorded


def test_units_are_those_of_the_sample_in_raster_order(backbone, inputs):
    recorder = record_backbone(backbone, inputs)
    records = recorder.stages[3]['units']
    for step in ('generate', 'refine'):
        units = semantic_units(recorder, 1, step)
        assert [(unit.stage, unit.number, unit.step) for unit in units] == [
            *((3, 0, step), (3, 1, step))
        ]
        for unit, record in zip(units, records):
            assert unit.semantic_hw == (6, 3)
            assert unit.gathered.shape == unit.recovered.shape == (18, 9, 5)
            assert (unit.gathered.reshape(18, 45) == record[step][1].numpy()).all()
            assert (record['recover'][1].numpy() == unit.recovered.reshape(18, 45).T).all()
            assert np.allclose(unit.recovered.sum(0), 1, atol=1e-5)
    (second,) = semantic_units(recorder, unit=1)
    assert second.number == 1 and (second.gathered == semantic_units(recorder)[1].gathered).all()


def test_attention_is_kept_in_the_units_alone(backbone, inputs):
    """The rest of it, of every block, would fill the memory."""
    recorder = record_backbone(backbone, inputs)
    assert recorder.attention == {} and 'recover' in recorder.stages[3]['units'][0]
    assert len(recorder.forwards) == 1
    others = dict(embed_dims=(16,) * 4, depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratios=(1,) * 4)
    assert record_backbone(PaCaViT(others), inputs).attention == {}


@pytest.mark.parametrize(
    'model, semantic_hw, patches',
    [(STViTSwin(SWIN), (6, 3), (9, 5)), (STViTDeiT(DEIT), (3, 2), (9, 5))],
)
def test_without_recovery(model, semantic_hw, patches, inputs, images):
    (unit,) = semantic_units(record_backbone(model, inputs))
    assert unit.semantic_hw == semantic_hw and unit.recovered is None
    assert unit.gathered.shape == (semantic_hw[0] * semantic_hw[1], *patches)
    for draw in (draw_semantic_maps, draw_semantic_tokens):
        assert [list(drawn) for drawn in draw(model, inputs, images)] == [[0], [0]]


def test_refusals(backbone, inputs, images):
    recorder = record_backbone(backbone, inputs)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=rf'unit must be a number in \[0, 1\], got {wrong}; '):
            semantic_units(recorder, unit=wrong)
    with pytest.raises(ValueError, match=r"step must be one of \['generate', 'refine'\], got 'rec"):
        semantic_units(recorder, step='recover')
    with record_tokens(backbone, attention=False) as bare:
        backbone(inputs)
    with pytest.raises(ValueError, match=r"units without 'refine'; record with attention=True"):
        semantic_units(bare)
    paca = PaCaViT(
        dict(embed_dims=(16,) * 4, depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratios=(1,) * 4)
    )
    with pytest.raises(ValueError, match='got none in any stage; use STViTR, STViTSwin or STViTD'):
        draw_semantic_maps(paca, inputs, images)
    with pytest.raises(ValueError, match="token sets, got one that records 'units'; use the maps"):
        draw_token_maps(backbone, inputs, images)
    with pytest.raises(
        ValueError, match='clusters or semantic tokens, got STViTR without any; use'
    ):
        draw_semantic_maps(STViTR(ARCH, out_indices=(0, 1)), inputs, images)
    for draw in (draw_semantic_maps, draw_semantic_tokens):
        with pytest.raises(ValueError, match='got 1 images for 2 samples'):
            draw(backbone, inputs, images[:1])


# -- what is computed of it


def test_strongest_tokens():
    recovered = np.zeros((3, 2, 2))
    recovered[0, 0] = 0.5
    recovered[1] = 0.25
    recovered[2, 1, 1] = 1.0
    assert strongest_tokens(made_up(recovered[::-1], recovered)).tolist() == [[0, 0], [1, 2]]
    assert strongest_tokens(made_up(recovered)).tolist() == [[0, 0], [1, 2]]
    assert strongest_tokens(made_up(np.ones((3, 1, 2)))).tolist() == [[0, 0]]


@pytest.mark.parametrize('hw', [(14, 14), (9, 5), (3, 22)])
def test_part_of_a_token_is_what_was_pooled(hw):
    """A patch that stands out reaches the tokens in whose parts it lies, and no others."""
    from mmtoken.stvit.steps import pool_windows

    geometry = Geometry(hw)
    count = geometry.semantic_hw[0] * geometry.semantic_hw[1]
    unit = made_up(np.zeros((count, *hw)), semantic_hw=geometry.semantic_hw)
    for patch in range(hw[0] * hw[1]):
        row, col = divmod(patch, hw[1])
        x = torch.zeros(1, *hw, 1)
        x[0, row, col] = 1.0
        pooled = pool_windows(x, geometry).flatten().tolist()
        for token, value in enumerate(pooled):
            top, left, bottom, right = token_part(unit, token)
            assert (top <= row < bottom and left <= col < right) == (value == 1.0)


def test_part_of_a_token_of_other_windows():
    unit = made_up(np.zeros((16, 14, 14)), semantic_hw=(4, 4))
    assert [token_part(unit, token) for token in (0, 6, 15)] == [
        *((0, 0, 4, 4), (3, 7, 7, 11), (10, 10, 14, 14))
    ]


def test_chosen_tokens():
    unit = made_up(np.zeros((81, 21, 21)), semantic_hw=(9, 9))
    assert choose_tokens(unit, None) == [9 * row + col for row in (2, 6) for col in (1, 4, 7)]
    # of 16x16 patches in windows on 21x21, the last two rows and columns of tokens have none
    padded = made_up(np.zeros((81, 16, 16)), semantic_hw=(9, 9))
    assert choose_tokens(padded, None) == [9 * row + col for row in (1, 5) for col in (1, 3, 5)]
    assert choose_tokens(made_up(np.zeros((2, 7, 7)), semantic_hw=(1, 2)), None) == [0, 1]
    assert choose_tokens(unit, [7, 2, 7]) == [2, 7]
    for wrong, shown in (([81], r'\[81\]'), ([1, -1], r'\[-1\]'), ([], 'none')):
        with pytest.raises(ValueError, match=rf'in \[0, 80\], got {shown}; there are 9 rows of 9'):
            choose_tokens(unit, wrong)


def test_titles():
    recovered = np.zeros((3, 2, 2))
    recovered[2], recovered[0, 0, 0] = 0.5, 0.6
    unit = made_up(np.ones((3, 2, 2)), recovered)
    assert overview_title(unit) == 'stage 3, unit 0: 2 of 3 tokens, mostly 2'
    assert sheet_title(unit) == (
        'stage 3, unit 0: 1 x 3 tokens of 2 x 2 patches; left second step, right recovery'
    )
    without = SemanticUnit(2, 1, (1, 3), (2, 2), 'generate', unit.gathered, None)
    assert sheet_title(without) == 'stage 2, unit 1: 1 x 3 tokens of 2 x 2 patches; first step'


# -- pictures

GREY = np.full((64, 112, 3), 120, np.uint8)  # 4x7 patches


def hot_and_grey():
    hot = draw_heat(GREY[:1, :1], np.ones((1, 1)), low=0.0, high=1.0)[0, 0]
    return hot, np.full(3, 120)


def test_heat_maps_stand_side_by_side_and_leave_out_what_is_not_seen():
    gathered, recovered = np.zeros((9, 4, 7)), np.zeros((9, 4, 7))
    gathered[4, 1, :3], recovered[4, 2, 5:] = (0.1, 0.2, 0.3), (0.3, 0.4)
    unit = made_up(gathered, recovered, (3, 3))
    sheet = draw_token_sheet(GREY, unit, (64, 112), [4])
    hot, grey = hot_and_grey()
    top = sheet.shape[0] - 8 - 2 - 64
    left, right = (sheet[top : top + 64, x : x + 112] for x in (10, 10 + 112 + 2))
    # token 4 was pooled from rows 2 to 4 and columns 2 to 4
    for picture, row, seen, hottest in ((left, 1, (0, 1, 2), 2), (right, 2, (5, 6), 6)):
        patches = picture[8::16, 8::16]
        assert (patches[row, hottest] == hot).all()
        for y in range(4):
            for x in range(7):
                is_grey = (patches[y, x] == grey).all()
                assert is_grey == (y != row or x not in seen)
        box = np.argwhere(is_colour(picture, MARK))
        assert box.min(0).tolist() == [32, 32] and box.max(0).tolist() == [63, 79]


def test_a_token_that_nobody_sees_is_grey():
    unit = made_up(np.ones((9, 4, 7)) / 28, np.zeros((9, 4, 7)), (3, 3))
    sheet = draw_token_sheet(GREY, unit, (64, 112), [0])
    assert is_colour(sheet[-74:-10, -122:-10], (120, 120, 120))[48:].all()


def test_few_tokens_are_larger_and_none_is_larger_than_the_image():
    image = np.full((800, 1400, 3), 120, np.uint8)
    unit = made_up(np.ones((9, 4, 7)) / 28, np.ones((9, 4, 7)) / 9, (3, 3))
    widths = [draw_token_sheet(image, unit, (64, 112), range(n)).shape[1] for n in (1, 9)]
    assert widths[0] == 2 * (960 + 2) + 2 + 16
    small = draw_token_sheet(GREY, unit, (64, 112), [0])
    assert small.shape[1] == 2 * (112 + 2) + 2 + 16


def test_overview_shows_who_is_strongest_and_marks_tokens(backbone, inputs, images):
    recorder = record_backbone(backbone, inputs)
    drawn = draw_semantic_maps(recorder, inputs, images, tokens=[4], titles=False)[0][0]
    assert drawn.shape == images[0].shape
    box = np.argwhere(is_colour(drawn, MARK))
    # rows and columns 2 to 4 of patches, twice as large; the number stands above
    line = round(2 * HW[0] / 250)
    assert box.max(0).tolist() == [2 * 5 * 16 - 1, 2 * HW[1] - 1]
    assert is_colour(drawn[64 : 64 + line, 64:], MARK).all()
    assert is_colour(drawn[:64], MARK).any()
    unmarked = draw_semantic_maps(recorder, inputs, images, tokens=[0], titles=False)[0][0]
    assert (drawn[200:] == unmarked[200:]).all()


@pytest.mark.parametrize('draw', [draw_semantic_maps, draw_semantic_tokens])
def test_draws_models_and_records_alike_with_titles_or_without(draw, backbone, inputs, images):
    whole = nn.Module()
    whole.backbone = backbone
    whole.train()
    drawn = draw(whole, inputs, images)
    assert backbone.training and [list(units) for units in drawn] == [[0, 1]] * 2
    with record_tokens(backbone.eval()) as recorder, torch.no_grad():
        backbone(inputs)
    bare = draw(recorder, inputs, images, titles=False)
    for titled, plain in zip(drawn, bare):
        for unit in (0, 1):
            height = plain[unit].shape[0]
            assert (titled[unit][-height:] == plain[unit]).all()
            assert titled[unit].shape[0] > height
    assert list(draw(backbone, inputs, images, unit=1)[0]) == [1]


def test_step_of_gathering(backbone, inputs, images):
    recorder = record_backbone(backbone, inputs)
    first, second = (
        draw_semantic_tokens(recorder, inputs, images, titles=False, step=step)[0][1]
        for step in ('generate', 'refine')
    )
    # in each pair, only what is gathered differs
    differs = np.argwhere((first != second).any(-1))[:, 1]
    pair = 2 * (154 + 2) + 2 + 8
    assert len(differs) and ((differs - 8) % pair < 2 + 154).all()
