import numpy as np
import pytest
import torch
from maxvit.smallest import TINY
from mmtoken import MaxViT
from mmtoken.analysis.maps import draw_maps, draw_picture, record_backbone
from mmtoken.maxvit import reference
from mmtoken.maxvit.maps import GroupAttention


@pytest.fixture
def recorder(randomize):
    model = randomize(MaxViT(TINY, window_size=3))
    return record_backbone(model, torch.randn(2, 3, 45, 75))


def find(recorder, stage, kind, block=0):
    return next(
        one for one in recorder.records if (one.stage, one.kind, one.block) == (stage, kind, block)
    )


def test_one_record_per_attention(recorder):
    found = [(one.stage, one.block, one.kind) for one in recorder.records]
    blocks = [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0)]
    assert found == [(*block, kind) for block in blocks for kind in ('block', 'grid')]


@pytest.mark.parametrize('kind', ['block', 'grid'])
@pytest.mark.parametrize('cell', [(0, 0), (5, 9), (11, 18)])
def test_group_and_attention_of_a_cell(recorder, kind, cell):
    """On a map of 12x19, whose groups of 3x3 are padded on the right."""
    one = find(recorder, 1, kind)
    assert one.hw == (12, 19) and one.stride == 4
    (members,) = [
        [other for _, other in group]
        for group in reference.groups_of(kind, one.hw, one.size)
        if cell in [other for _, other in group]
    ]
    labels = one.group_of(cell).labels
    assert labels[cell] == 2 and {tuple(c) for c in labels.nonzero().tolist()} == set(members)
    for sample in range(2):
        heats = one.attention_of(sample, cell)
        assert heats.values.shape == (2, 12, 19) and heats.boxes[0].tolist()[:2] == list(cell)
        assert torch.equal(heats.values[0].isfinite(), labels > 0)
        torch.testing.assert_close(heats.values.nansum((1, 2)), torch.full((2,), 100.0))


@torch.no_grad()
def test_attention_is_that_of_the_chosen_query(recorder):
    """Attention of the chosen cell equals a softmax by hand."""
    torch.manual_seed(0)
    model = MaxViT(TINY, window_size=3).eval()
    attn = model.stages[0]['blocks'][0].attn_grid.attn
    seen = []
    attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    one = find(record_backbone(model, torch.randn(1, 3, 45, 75)), 1, 'grid')
    cell = (5, 9)
    (group,) = [
        g for g in reference.groups_of('grid', (12, 19), (3, 3)) if cell in dict(g).values()
    ]
    place = next(p for p, c in group if c == cell)
    q = attn.qkv(seen[0][0][cell])[:4]
    logits = [
        q @ attn.qkv(seen[0][0][c])[8:12] / 2
        + reference.relative_bias(attn.rel_pos, place, p, (3, 3))[0]
        for p, c in group
    ]
    want = 100 * torch.stack(logits).softmax(0)
    values = one.attention_of(0, cell).values[0]
    torch.testing.assert_close(torch.stack([values[c] for _, c in group]), want)


def test_pictures_are_drawn(randomize):
    model, images = randomize(MaxViT(TINY)), torch.randn(1, 3, 64, 96)
    (drawn,) = draw_maps(model, images, [images[0].byte().permute(1, 2, 0).numpy()], 'stage[13]*')
    groups = {f'stage{stage}_block0_{kind}' for stage in (1, 3) for kind in ('block', 'grid')}
    heats = {f'{name}_attention' for name in groups}
    assert set(drawn) == groups | heats | {
        f'stage3_block1_{k}_attention' for k in ('block', 'grid')
    }


def test_pictures_of_a_clicked_pixel(recorder):
    """Only its cell and its group are coloured."""
    one, image = find(recorder, 1, 'grid'), np.full((45, 75, 3), 90, np.uint8)
    cell = (22 // one.stride, 38 // one.stride)
    drawn = draw_picture(one.group_of(cell), image, (45, 75))[-45:]
    labels = one.group_of(cell).labels
    hues = {tuple(drawn[4 * y + 2, 4 * x + 2]) for y, x in (labels == 1).nonzero().tolist()}
    assert len(hues) == 1 and tuple(drawn[22, 38]) not in hues and tuple(drawn[2, 2]) not in hues
    sheet = draw_picture(one.attention_of(0, cell), image, (45, 75))
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 2 * 75  # a map per head


def test_invalid_cells_and_missing_attention():
    one = GroupAttention(2, 0, 'block', (4, 5), (3, 3))
    (regions,) = one.pictures(0)
    assert regions.labels[0].tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match=r'row of a cell must be in \[0, 4\), got 4'):
        one.group_of((4, 0))
    with pytest.raises(ValueError, match='column must be a whole number >= 0, got -1'):
        one.group_of((0, -1))
    with pytest.raises(ValueError, match='needs attention weights, got a record without'):
        one.attention_of(0, (0, 0))
