import numpy as np
import pytest
import torch
from mmtoken.query_key.attention import GridAttention, Group
from mmtoken.query_key.prefer import (
    REGIONS,
    Preference,
    Scene,
    draw_preferences,
    preferences,
    scene_of_masks,
    scene_of_segments,
    table,
)


@pytest.fixture
def scene():
    """Objects 0 and 1 of class 3 and object 2 of class 5 in 4 x 6 pixels; padding on the right."""
    objects = torch.full((4, 8), -1)
    objects[:2, :2], objects[2:, :2], objects[:2, 2:4] = 0, 1, 2
    objects[:, 6:] = -2
    return Scene(objects, [3, 3, 5])


def attention(keys=8, rows=2, columns=4, heads=1):
    """Weights of 2 x 4 cells of 2 pixels, query by key."""
    weights = torch.rand(heads, rows * columns, keys).softmax(-1)
    cells = torch.arange(rows * columns).view(rows, columns)
    group = Group(weights, cells.flatten(), torch.arange(keys))
    return GridAttention([group], cells, cells), weights


def test_attention_by_region(scene):
    """Object 0 is cell 0, object 1 cell 4, object 2 cell 1; cells 3 and 7 are padding."""
    one, weights = attention(heads=3)
    found = list(preferences(one, scene))
    assert len(found) == 3
    shares, area = found[0]
    rows = weights[:, 0]
    want = torch.stack((rows[:, 0], rows[:, 4], rows[:, 1], rows[:, [2, 5, 6]].sum(1)), 1)
    torch.testing.assert_close(shares, want / want.sum(1, keepdim=True))
    torch.testing.assert_close(area, torch.tensor([1, 1, 1, 3]) / 6)
    shares, _ = found[2]  # the only one of its class
    assert (shares[:, 1] == 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(3))


def test_even_attention_is_the_area(scene):
    """With cells that objects cover in part."""
    cells = torch.arange(4).view(1, 4)
    even = GridAttention([Group(torch.full((1, 4, 4), 0.25), cells[0], cells[0])], cells, cells)
    wide = Scene(scene.objects[:2, [0, 0, 1, 2, 2, 2, 3, 4]], [3, 3, 5])  # object 2: 1 1/2 cells
    for shares, area in preferences(even, wide):
        torch.testing.assert_close(shares[0], area)


def test_windows_limit_the_area(scene):
    one, _ = attention()
    first = torch.arange(4)
    groups = [Group(torch.full((1, 4, 4), 0.25), cells, cells) for cells in (first, first + 4)]
    shares, area = next(preferences(GridAttention(groups, one.queries, one.keys), scene))
    torch.testing.assert_close(area, torch.tensor([1.0, 0, 1, 1]) / 3)
    torch.testing.assert_close(shares[0], area)


def test_small_objects_are_left_out(scene):
    scene.objects[0, 0], scene.objects[1, :2] = -1, -1  # a quarter of its cell is left
    assert len(list(preferences(attention()[0], scene))) == 2


def test_scenes_from_masks():
    masks = np.zeros((2, 3, 4), np.uint8)
    masks[0, :, :2], masks[1, 0, 1:] = 1, 1
    scene = scene_of_masks(masks, [7, 8])
    assert scene.objects.tolist() == [[0, 1, 1, 1], [0, 0, -1, -1], [0, 0, -1, -1]]
    # connected parts of a class; 9 is no class and 1 is ignored
    segments = np.array([[0, 0, 1, 2], [2, 9, 1, 2], [2, 0, 0, 0]])
    scene = scene_of_segments(segments, 3, [1, 255])
    assert scene.classes == [0, 0, 2, 2]
    assert scene.objects.tolist() == [[0, 0, -1, 2], [3, -1, -1, 2], [3, 1, 1, 1]]


def test_table_and_figure(scene):
    found = Preference('blocks.0.attn')
    for _ in range(2):
        found.add(attention(heads=2)[0], scene)
    summary = found.summary()
    assert summary['objects'] == 6
    np.testing.assert_allclose(np.sum(summary['attention'], 1), 1)
    np.testing.assert_allclose(sum(summary['area']), 1)
    text = table([summary])
    assert all(name in text for name in (*REGIONS, 'blocks.0.attn', 'even attention'))
    axes = draw_preferences([summary, summary]).axes[0]
    mean = np.mean(summary['attention'], 0)[0] / summary['area'][0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [mean, mean])
    assert {'0', '0.5', '1'} <= {tick.get_text() for tick in axes.get_yticklabels()}
