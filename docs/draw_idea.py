"""Draw how each paper forms its tokens: python docs/draw_idea.py (writes docs/idea.png).

The figure is schematic. No model runs: the picture, the regions and the heat maps are computed
from a few shapes, so that the output is the same on every machine.
"""

from itertools import product
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, MUTED, PANEL, FRAME, ACCENT = '#1f2328', '#57606a', '#f6f8fa', '#afb8c1', '#cf222e'
SKY, GROUND, SHIRT, TROUSERS, SKIN, HAIR = range(6)
COLOURS = np.array(
    [[158, 205, 235], [172, 190, 130], [222, 120, 70], [70, 90, 150], [240, 200, 165], [95, 65, 50]]
)
SIZE = 1.5  # side of a drawing, in inches
LEFTS = (2.95, 5.35, 7.75)  # left edges of the three drawings of a row


def label_cells(cells: int) -> np.ndarray:
    """Label the cells of a square grid with the object each of them shows: a waving person."""
    centres = (np.arange(cells) + 0.5) / cells
    y, x = np.meshgrid(centres, centres, indexing='ij')
    labels = np.where(y > 0.62 + 0.06 * np.sin(5 * x), GROUND, SKY)
    labels[(abs(abs(x - 0.5) - 0.07) < 0.055) & (y > 0.6) & (y < 0.94)] = TROUSERS
    labels[(abs(x - 0.5) < 0.14) & (y > 0.36) & (y < 0.66)] = SHIRT
    labels[(abs(x - 0.32) < 0.05) & (y > 0.38) & (y < 0.62)] = SKIN
    labels[(abs(y + 1.2 * (x - 0.62) - 0.42) < 0.07) & (x > 0.6) & (x < 0.86)] = SKIN
    labels[np.hypot(x - 0.5, y - 0.22) < 0.14] = SKIN
    labels[(np.hypot(x - 0.5, y - 0.18) < 0.14) & (y < 0.16)] = HAIR
    return labels


def cluster_cells(labels: np.ndarray, tokens: int) -> np.ndarray:
    """Group cells by farthest-point clustering, with three times finer regions on the person."""
    y, x = np.indices(labels.shape) / len(labels)
    features = np.dstack([y, x, COLOURS[labels] / 255]).reshape(-1, 5)
    weights = np.where(np.isin(labels, (SKY, GROUND)), 1.0, 3.0).ravel()
    centres, nearest = [0], np.linalg.norm(features - features[0], axis=1)
    while len(centres) < tokens:
        centres.append(int((nearest * weights).argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[centres[-1]], axis=1))
    distances = np.linalg.norm(features[:, None] - features[centres], axis=-1)
    return distances.argmin(1).reshape(labels.shape)


def draw_picture(ax, picture, left, bottom, size=SIZE, every=1, line=0.3, **options):
    """Draw a picture, and a grid line after ``every`` cells."""
    ax.imshow(picture, extent=(left, left + size, bottom, bottom + size), zorder=2, **options)
    for offset in np.arange(0, len(picture) + 1, every) * size / len(picture):
        ax.plot([left + offset] * 2, [bottom, bottom + size], color='white', lw=line, zorder=3)
        ax.plot([left, left + size], [bottom + offset] * 2, color='white', lw=line, zorder=3)


def draw_borders(picture: np.ndarray, regions: np.ndarray, zoom: int = 8) -> np.ndarray:
    """Enlarge a picture and draw white borders between its regions."""
    picture, regions = (array.repeat(zoom, 0).repeat(zoom, 1) for array in (picture, regions))
    picture[1:][regions[1:] != regions[:-1]] = 255
    picture[:, 1:][regions[:, 1:] != regions[:, :-1]] = 255
    return picture


def draw_row(ax, bottom, name, idea, captions, steps):
    """Draw the panel of a paper: its name and idea, captions and arrows of three drawings."""
    box = FancyBboxPatch((0.1, bottom - 0.4), 9.4, 2.12, boxstyle='round,pad=0,rounding_size=0.12')
    ax.add_patch(box).set(facecolor=PANEL, edgecolor=FRAME, lw=1, zorder=1)
    ax.text(0.32, bottom + 1.36, name, size=14, weight='bold', color=INK, va='center')
    ax.text(0.32, bottom + 1.1, idea, size=9.5, color=INK, va='top', linespacing=1.45)
    for left, caption in zip(LEFTS, captions):
        ax.text(left + SIZE / 2, bottom - 0.25, caption, size=9.5, color=INK, ha='center')
    for left, step in zip(LEFTS, steps):
        tail, y = left + SIZE + 0.1, bottom + SIZE / 2
        arrow = dict(arrowstyle='-|>', color=MUTED, lw=1.6, shrinkA=0, shrinkB=0)
        ax.annotate('', (tail + 0.7, y), (tail, y), arrowprops=arrow)
        ax.text(tail + 0.33, y + 0.09, step, size=8.5, color=MUTED, ha='center', va='bottom')


def draw_tcformer(ax, bottom):
    """Draw a grid of tokens, clusters of any shape, and the map they are written back to."""
    idea = 'Tokens are clusters of\nany shape: small on\ndetails, large on the\nbackground.'
    captions = ('one token per grid cell', 'one token per cluster', 'feature map for any head')
    draw_row(ax, bottom, 'TCFormer', idea, captions, ('cluster\nand merge', 'tokens\nto map'))
    labels = label_cells(28)
    light = np.random.default_rng(0).integers(-18, 19, (28, 28, 1))
    light += np.linspace(-24, 24, 28).astype(int)[:, None, None]
    picture = np.clip(COLOURS[labels] + light, 0, 255)
    pooled, regions = picture.copy(), cluster_cells(labels, 48)
    for token in range(regions.max() + 1):
        pooled[regions == token] = picture[regions == token].mean(0)
    draw_picture(ax, picture, LEFTS[0], bottom)
    draw_picture(ax, draw_borders(pooled, regions), LEFTS[1], bottom, every=28 * 8)
    draw_picture(ax, pooled, LEFTS[2], bottom)


def draw_paca(ax, bottom):
    """Draw patches, the weights of four clusters over them, and patch-to-cluster attention."""
    idea = 'Keys and values are M\nlearned clusters, each a\ndistribution over the\nN patches.'
    captions = ('N patches: queries', 'M clusters: keys, values', 'N x M attention, not N x N')
    draw_row(ax, bottom, 'PaCa-ViT', idea, captions, ('learn to\ncluster', 'attend'))
    labels = label_cells(14)
    draw_picture(ax, COLOURS[labels], LEFTS[0], bottom, line=0.6)
    patches = labels[(1, 1, 3, 6, 9, 8, 12), (2, 6, 6, 7, 6, 2, 11)]
    for index, members in enumerate(((SKY,), (SKIN, HAIR), (SHIRT, TROUSERS), (GROUND,))):
        weights = np.pad(np.isin(labels, members).astype(float), 1, mode='edge')
        weights = sum(weights[i : i + 14, j : j + 14] for i, j in product(range(3), repeat=2))
        column, row, large, small = index % 2, 1 - index // 2, SIZE / 2 - 0.04, 0.32
        corner = LEFTS[1] + column * (large + 0.08), bottom + row * (large + 0.08)
        draw_picture(ax, weights, *corner, large, every=14, cmap='magma')
        corner = LEFTS[2] + SIZE - 0.45, bottom + SIZE - small - 0.393 * index
        draw_picture(ax, weights, *corner, small, every=14, cmap='magma')
        for number, label in enumerate(patches):
            y, strong = bottom + SIZE - 0.1 - 0.217 * number, label in members
            line = [LEFTS[2] + 0.3, corner[0]], [y, corner[1] + small / 2]
            ax.plot(*line, color=ACCENT if strong else FRAME, lw=2 if strong else 0.8, zorder=2)
            patch = Rectangle((LEFTS[2] + 0.12, y - 0.09), 0.18, 0.18, fc=COLOURS[label] / 255)
            ax.add_patch(patch).set_zorder(3)


def draw_stvit(ax, bottom):
    """Draw windows of patches, their semantic tokens, and the recovered patches."""
    idea = 'Each 7x7 window becomes\n3x3 semantic tokens; the\npatches are recovered.'
    captions = ('7x7 patches per window', '3x3 tokens per window', '7x7 patches recovered')
    draw_row(ax, bottom, 'STViT-R', idea, captions, ('generate', 'recover'))
    for left, cells in zip(LEFTS, (14, 6, 14)):
        fine = COLOURS[label_cells(84)].astype(float)
        picture = fine.reshape(cells, 84 // cells, cells, 84 // cells, 3).mean((1, 3)).astype(int)
        draw_picture(ax, picture, left, bottom, line=0.6)
        for x, y in product((left, left + SIZE / 2), (bottom, bottom + SIZE / 2)):
            window = Rectangle((x, y), SIZE / 2, SIZE / 2, fill=False, ec=INK, lw=1.4, zorder=5)
            ax.add_patch(window)


def main() -> None:
    """Write docs/idea.png."""
    figure = plt.figure(figsize=(9.6, 6.85))
    ax = figure.add_axes((0, 0, 1, 1))
    for bottom, draw in ((4.98, draw_tcformer), (2.72, draw_paca), (0.46, draw_stvit)):
        draw(ax, bottom)
    ax.set(xlim=(0, 9.6), ylim=(-0.05, 6.8), aspect='equal')
    ax.axis('off')
    options = dict(dpi=170, transparent=True, metadata={'Software': None})
    figure.savefig(Path(__file__).with_name('idea.png'), **options)


if __name__ == '__main__':
    main()
