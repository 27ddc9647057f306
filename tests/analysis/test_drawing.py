import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from mmtoken.analysis.drawing import (
    MARK,
    NUM_HUES,
    add_title,
    cells_to_pixels,
    contact_sheet,
    draw_box,
    draw_heat,
    draw_regions,
    region_borders,
    region_hues,
    region_means,
)


def blocks(rows, cols, side):
    return np.kron(np.arange(rows * cols).reshape(rows, cols), np.ones((side, side), int))


def grey(height, width, level=120):
    return np.full((height, width, 3), level, np.uint8)


# -- cells and pixels


@pytest.mark.parametrize('side, stride', [(64, 4), (63, 4), (61, 4), (193, 4), (48, 16), (37, 2)])
def test_every_pixel_gets_the_cell_of_its_patch(side, stride):
    count = -(-side // stride)
    cells = np.arange(count * 2).reshape(count, 2)
    drawn = cells_to_pixels(cells, (side, 2))
    assert (drawn == cells[np.arange(side) // stride]).all()


def test_enlarged_pictures_have_enlarged_cells():
    cells = np.arange(6).reshape(2, 3)
    small = cells_to_pixels(cells, (8, 11))
    assert (cells_to_pixels(cells, (8, 11), (24, 33)) == small.repeat(3, 0).repeat(3, 1)).all()


# -- regions


def test_region_means():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = (10, 20, 30)
    means = region_means(image, np.array([[0, 0, 2, 2], [0, 0, 2, 0]]))
    assert np.allclose(means, [[2, 4, 6], [0, 0, 0], [10, 20, 30]])


@pytest.mark.parametrize('level', [0, 120, 255])
def test_neighbours_get_different_hues(level):
    labels = blocks(6, 9, 4)
    hues = region_hues(labels, np.full((54, 3), float(level)))
    grid = hues.reshape(6, 9)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        gap = np.abs(a - b)
        assert np.minimum(gap, 1 - gap).min() >= 3 / NUM_HUES


def test_free_regions_keep_their_own_hue():
    """A green field with a hole stays green."""
    labels = np.zeros((20, 20), int)
    labels[8:12, 8:12] = 1
    hues = region_hues(labels, np.array([[20.0, 200, 20], [20, 200, 20]]))
    assert abs(hues[0] - 1 / 3) < 1 / NUM_HUES and abs(hues[1] - 1 / 3) >= 3 / NUM_HUES


def test_borders_lie_on_both_sides():
    labels = np.array([[0, 0, 0, 1, 1, 1]] * 2)
    assert region_borders(labels).tolist() == [[False, False, True, True, False, False]] * 2
    assert region_borders(labels, width=2).sum() == 8
    assert not region_borders(np.zeros((3, 3), int)).any()


def test_regions_are_filled_evenly_and_told_apart():
    labels = blocks(2, 2, 40)
    drawn = draw_regions(grey(80, 80), labels)
    inner = drawn[20::40, 20::40].reshape(4, 3)
    assert len(np.unique(inner, axis=0)) == 4
    hues = rgb_to_hsv(inner / 255)[:, 0]
    gaps = np.abs(hues[[0, 0, 1, 2]] - hues[[1, 2, 3, 3]])
    assert np.minimum(gaps, 1 - gaps).min() > 0.1
    assert (drawn[2:38, 2:38] == drawn[20, 20]).all()
    assert drawn[20, 39].mean() > drawn[20, 20].mean()  # the border


def test_drawing_is_deterministic_and_leaves_its_input_alone():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels, before = blocks(4, 6, 10) * 7 + 3, image.copy()  # labels may have gaps
    assert (draw_regions(image, labels) == draw_regions(image, labels)).all()
    assert (draw_regions(image, labels) == draw_regions(image, blocks(4, 6, 10))).all()
    assert (image == before).all()


def test_regions_of_a_pixel_show_the_image():
    """Tint and lines fade, or they would hide the picture."""
    image = grey(32, 32)
    drawn = draw_regions(image, np.arange(32 * 32).reshape(32, 32))
    assert np.abs(drawn.astype(int) - image).max() <= 20


def test_one_region_and_one_pixel():
    assert draw_regions(grey(1, 1), np.zeros((1, 1), int)).shape == (1, 1, 3)
    assert (
        len(np.unique(draw_regions(grey(9, 9), np.zeros((9, 9), int)).reshape(-1, 3), axis=0)) == 1
    )


# -- heat


def test_heat_runs_from_low_to_high():
    drawn = draw_heat(grey(1, 5), np.linspace(-3, 4, 5)[None], opacity=1.0)
    assert (np.diff(drawn.astype(int).sum(-1)) > 0).all()
    clipped = draw_heat(grey(1, 5), np.linspace(-3, 4, 5)[None], low=0, high=1, opacity=1.0)
    assert (clipped[0, :2] == drawn[0, 0]).all() and (clipped[0, 3:] == drawn[0, -1]).all()


def test_flat_heat_is_no_error():
    assert (draw_heat(grey(2, 2), np.ones((2, 2))) == draw_heat(grey(2, 2), np.zeros((2, 2)))).all()


# -- titles and sheets


@pytest.mark.parametrize('width', [40, 100, 400, 1500])
def test_titles_fit(width):
    image = grey(30, width, 255)
    titled = add_title(image, 'stage 2: 768 tokens, 32 x 24 map')
    assert (titled[-30:] == image).all() and titled.shape[1] == width
    strip = titled[:-30]
    assert strip.max() > 100  # there is text, and it ends before the edge
    assert width < 200 or (strip[:, -1] == strip[0, 0]).all()


@pytest.mark.parametrize(
    'box, inside',
    [((8, 10, 20, 40), (8, 10, 20, 40)), ((-9, 30.4, 12.6, 99), (0, 30, 13, 60))],
)
def test_box_is_outlined_as_far_as_it_is_in_the_image(box, inside):
    image = grey(50, 60)
    drawn = draw_box(image, box)
    marked = (drawn == MARK).all(-1)
    top, left, bottom, right = inside
    assert np.argwhere(marked).min(0).tolist() == [top, left]
    assert np.argwhere(marked).max(0).tolist() == [bottom - 1, right - 1]
    changed = (drawn != image).any(-1)
    assert not changed[top + 2 : bottom - 2, left + 2 : right - 2].any()
    assert (image == 120).all()  # a copy was drawn on


def test_box_outside_the_image_is_not_drawn():
    for box in ((50, 0, 60, 10), (0, -9, 5, 0), (3, 3, 3, 9)):
        assert (draw_box(grey(50, 60), box) == 120).all()


def test_sheets():
    sheet = contact_sheet([grey(30, 20, level) for level in (10, 20, 30, 40, 50)], gap=2)
    assert sheet.shape == (34, 5 * 22 + 2, 3)  # portraits stand in a row
    assert contact_sheet([grey(20, 30)] * 6, gap=2).shape == (2 * 22 + 2, 3 * 32 + 2, 3)
    below = contact_sheet([grey(4, 4)] * 3, columns=2, gap=0)
    assert (
        (below[:4, :4] == 120).all()
        and (below[4:, :4] == 120).all()
        and (below[4:, 4:] != 120).all()
    )


@pytest.mark.parametrize(
    'image, labels, message',
    [
        (grey(4, 5).astype(float), np.zeros((4, 5), int), r'uint8, got \(4, 5, 3\) of float64'),
        (grey(4, 5)[..., 0], np.zeros((4, 5), int), r'\(H, W, 3\) of uint8, got \(4, 5\)'),
        (grey(4, 5), np.zeros((5, 4), int), r'got \(5, 4\) for an image of \(4, 5\); enlarge'),
    ],
)
def test_bad_input(image, labels, message):
    for draw in (draw_regions, draw_heat):
        with pytest.raises(ValueError, match=message):
            draw(image, labels)


def test_sheet_of_different_sizes():
    with pytest.raises(ValueError, match=r'must have one size, got \[\(4, 5\), \(5, 4\)\]'):
        contact_sheet([grey(4, 5), grey(5, 4)])
