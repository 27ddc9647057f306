"""Draw region maps and heat maps over images; arrays in, arrays out.

An image is ``(H, W, 3)`` uint8, RGB. A label map is ``(H, W)`` of integers: the region of each
pixel. Everything is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image, ImageDraw, ImageFont

from ..common.checks import HW

INK = (238, 238, 240)
PAPER = (24, 25, 28)
MARK = (80, 255, 220)  # not a heat colour
NUM_HUES = 24


def check_picture(image: np.ndarray, values: np.ndarray) -> None:
    """Raise unless ``image`` is RGB uint8 and ``values`` has one entry per pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'an image must be (H, W, 3) of uint8, got {image.shape} of {image.dtype}')
    if values.shape != image.shape[:2]:
        raise ValueError(
            f'a map must have one entry per pixel, got {values.shape} for an image of '
            f'{image.shape[:2]}; enlarge it with cells_to_pixels first'
        )


def cells_to_pixels(
    cells: np.ndarray, input_hw: HW, image_hw: HW | None = None, stride: int | None = None
) -> np.ndarray:
    """Enlarge a map of grid cells: each pixel gets the value of its cell.

    Args:
        cells: ``(H0, W0)``; cells are square and start at the top left corner, the last row and
            column may extend beyond the input.
        input_hw: Size of the model's input.
        image_hw: Size of the picture to draw on, ``input_hw`` by default.
        stride: Side of a cell in pixels of the input; by default the smallest that covers it.

    Returns:
        ``(H, W)`` as ``image_hw``.
    """
    image_hw = image_hw or input_hw
    index = []
    for side, pixels, count in zip(input_hw, image_hw, cells.shape):
        cell = stride or -(-side // count)
        position = (np.arange(pixels) + 0.5) * side / pixels  # of pixel centres, in the input
        index.append((position // cell).astype(int).clip(max=count - 1))
    return cells[np.ix_(*index)]


def region_hues(labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """A hue in [0, 1) for each region, far from the hues of adjacent regions.

    Regions choose in turn, the largest first: a hue far from those of its neighbours, near the
    region's own colour and not used often so far.

    Args:
        labels: ``(H, W)`` in [0, K).
        means: ``(K, 3)`` mean colours, 0 to 255.

    Returns:
        ``(K,)``.
    """
    count = int(labels.max()) + 1
    adjacent = (labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])
    pairs = np.concatenate([np.stack(pair, -1).reshape(-1, 2) for pair in adjacent])
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    neighbors: list[set[int]] = [set() for _ in range(count)]
    for a, b in pairs.tolist():
        neighbors[a].add(b)
        neighbors[b].add(a)
    steps = np.arange(NUM_HUES)
    apart = np.abs(steps[:, None] - steps)
    apart = np.minimum(apart, NUM_HUES - apart)  # on the circle
    chosen = np.full(count, -1)
    taken = np.zeros(NUM_HUES)
    areas = np.bincount(labels.ravel(), minlength=count)
    own, saturation, _ = np.moveaxis(rgb_to_hsv(means / 255), -1, 0)
    own = (own * NUM_HUES).round().astype(int) % NUM_HUES
    for region in np.argsort(-areas, kind='stable'):
        around = [chosen[n] for n in neighbors[region] if chosen[n] >= 0]
        distance = apart[:, around].min(1) if around else np.full(NUM_HUES, NUM_HUES)
        value = (
            np.minimum(distance, NUM_HUES // 5)  # beyond a fifth of the circle, far is far
            - 1.5 * saturation[region] * apart[own[region]] / apart.max()
            - taken / (taken.max() + 1)
        )
        chosen[region] = value.argmax()
        taken[chosen[region]] += 1
    return chosen / NUM_HUES


def region_means(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean colour ``(K, 3)`` of each region, 0 to 255."""
    flat = labels.ravel()
    areas = np.bincount(flat).clip(min=1)
    return np.stack(
        [np.bincount(flat, image[..., c].ravel().astype(float)) / areas for c in range(3)], -1
    )


def region_borders(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Mask ``(H, W)`` of the pixels along region borders; lines are ``2 * width`` pixels wide."""
    mask = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    for shift in range(width):
        stop_w, stop_h = labels.shape[1] - 1 - shift, labels.shape[0] - 1 - shift
        mask[:, 1 + shift :] |= across[:, :stop_w]
        mask[:, :stop_w] |= across[:, shift:]
        mask[1 + shift :] |= down[:stop_h]
        mask[:stop_h] |= down[shift:]
    return mask


def draw_regions(
    image: np.ndarray,
    labels: np.ndarray,
    tint: float = 0.5,
    detail: float = 0.25,
    lines: float | None = None,
) -> np.ndarray:
    """Show which pixels belong together: one colour per region, thin borders between regions.

    A region is filled with the mean colour of its pixels, tinted by a hue that differs from those
    of its neighbours. Tint and borders fade for regions of a few pixels, where they would hide
    the picture.

    Args:
        image: ``(H, W, 3)`` uint8.
        labels: ``(H, W)`` integers, the region of each pixel.
        tint: Share of the hue in the fill of large regions, in [0, 1].
        detail: Share of the image that shines through, in [0, 1].
        lines: Opacity of the borders, in [0, 1]; by default that of regions in one piece.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    check_picture(image, labels)
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    count = int(labels.max()) + 1
    side = (labels.size / count) ** 0.5
    strength = float(np.clip((side - 2) / 22, 0.0, 1.0))

    means = region_means(image, labels)  # K 3
    brightness = means.max(-1) / 255
    value = 0.45 + 0.55 * brightness  # dark regions stay darker than light ones
    hsv = np.stack([region_hues(labels, means), np.full(count, 0.85), value], -1)
    # a large region needs little tint: the hues of its neighbours distinguish it
    area = np.bincount(labels.ravel())[:, None] / labels.size
    share = tint * strength * (1 - 0.8 * area)
    fills = (1 - share) * means + share * 255 * hsv_to_rgb(hsv)
    drawn = (1 - detail) * fills[labels] + detail * image

    border = region_borders(labels)
    opacity = 0.12 + 0.5 * strength if lines is None else lines
    drawn[border] = (1 - opacity) * drawn[border] + opacity * 255
    return drawn.round().clip(0, 255).astype(np.uint8)


def draw_heat(
    image: np.ndarray,
    heat: np.ndarray,
    low: float | None = None,
    high: float | None = None,
    opacity: float = 0.65,
) -> np.ndarray:
    """Lay a heat map over the grey image: dark violet is low, yellow is high.

    Args:
        image: ``(H, W, 3)`` uint8.
        heat: ``(H, W)`` numbers.
        low: Value of the coldest colour, the minimum by default.
        high: Value of the hottest colour, the maximum by default.
        opacity: Opacity of the heat, in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8.
    """
    check_picture(image, heat)
    low = float(heat.min()) if low is None else low
    high = float(heat.max()) if high is None else high
    level = np.zeros(heat.shape) if high <= low else ((heat - low) / (high - low)).clip(0, 1)
    colours = colormaps['inferno'](level)[..., :3] * 255
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    return ((1 - opacity) * grey + opacity * colours).round().astype(np.uint8)


def draw_box(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Outline a rectangle.

    Args:
        image: ``(H, W, 3)`` uint8.
        box: Top, left, bottom and right in pixels, clipped to the image.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    height, width = image.shape[:2]
    line = max(1, round(max(height, width) / 250))
    top, left, bottom, right = (
        int(np.clip(round(edge), 0, side))
        for edge, side in zip(box, (height, width, height, width))
    )
    if top >= bottom or left >= right:
        return image
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    # a dark line inside a light one, visible on any background
    for colour, inset in ((PAPER, line), (MARK, 0)):
        corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            draw.rectangle(corners, outline=colour, width=line)
    return np.asarray(drawn)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image so that its longer side has at most ``side`` pixels."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
    return ImageFont.truetype(str(path), size)


def add_title(image: np.ndarray, title: str) -> np.ndarray:
    """Put a strip with one line of text above an image; the text shrinks to fit."""
    width = image.shape[1]
    size = int(np.clip(width / 22, 9, 20))
    while size > 6 and _font(size).getlength(title) > width - size:
        size -= 1
    strip = Image.new('RGB', (width, round(2.0 * np.clip(width / 22, 9, 20))), PAPER)
    anchor = (size // 2, strip.height // 2)
    ImageDraw.Draw(strip).text(anchor, title, fill=INK, font=_font(size), anchor='lm')
    return np.concatenate([np.asarray(strip), image])


def contact_sheet(
    images: Sequence[np.ndarray], columns: int | None = None, gap: int = 8
) -> np.ndarray:
    """Arrange images of one size on a sheet, row by row.

    Args:
        images: ``(H, W, 3)`` uint8 each.
        columns: Images per row; by default as near to 16:9 as their number allows.
        gap: Pixels between images.

    Returns:
        The sheet, uint8.
    """
    sizes = {image.shape[:2] for image in images}
    if len(sizes) != 1:
        raise ValueError(f'the images of a sheet must have one size, got {sorted(sizes)}')
    height, width = sizes.pop()
    if columns is None:
        columns = min(
            range(1, len(images) + 1), key=lambda n: _badness(len(images), n, height, width)
        )
    rows = -(-len(images) // columns)
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    sheet[:] = PAPER
    for i, image in enumerate(images):
        top, left = (gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = image
    return sheet


def _badness(count: int, columns: int, height: int, width: int) -> float:
    """Distance of a sheet from 16:9 and from having no empty place."""
    rows = -(-count // columns)
    shape = abs(math.log(columns * width / (rows * height) * 9 / 16))
    return shape + (rows * columns - count) / columns
