"""Figures of reports: similarity over depth, spectra of all heads, histogram of cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .report import LayerReport

STRENGTH, COSINE, BAND = '#1f5fbf', '#d1352b', '#d9d9de'
COLOURS = ('#1f5fbf', '#d1352b', '#2b8a3e', '#8a4fbf', '#c77700', '#008b8b', '#6b6b6b', '#c2417c')
MOST_ROWS = 48  # layers that have a name each on an axis


def draw_curves(reports: Mapping[str, Sequence[LayerReport]]) -> Figure:
    """``cos_avg`` over normalised depth, one line per model; points are heads.

    The grey band holds 95 % of the cosines of random vectors, of the width of each layer of the
    first model.
    """
    figure = Figure((8, 4.5), layout='constrained')
    axes = figure.subplots()
    first = next(iter(reports.values()))
    for depth, one in zip(_depths(first), first):
        half = 0.5 / max(len(first) - 1, 1)
        axes.fill_between(
            [depth - half, depth + half], -one.random_band, one.random_band, color=BAND, lw=0
        )
    for (label, layers), colour in zip(reports.items(), COLOURS * len(reports)):
        depths = _depths(layers)
        axes.plot(depths, [one.mean for one in layers], '-', color=colour, label=label, lw=1.8)
        heads = [(x, y) for x, one in zip(depths, layers) for y in one.cos_avg]
        axes.scatter(*zip(*heads), s=7, color=colour, alpha=0.45, lw=0)
    for before, after in zip(range(len(first)), range(1, len(first))):
        if first[before].dim != first[after].dim:
            axes.axvline((_depths(first)[before] + _depths(first)[after]) / 2, color='0.6', lw=0.7)
    axes.axhline(0, color='0.4', lw=0.7)
    axes.set(
        xlabel='normalised depth of the attention layer',
        ylabel='cosine of query and key, weighted',
        xlim=(-0.04, 1.04),
    )
    axes.plot([], [], color=BAND, lw=8, label='95 % of random cosines')
    axes.legend(frameon=False, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_spectra(layers: Sequence[LayerReport]) -> Figure:
    """All heads: strengths of the modes, relative to the largest, and cosines with their band."""
    heads = max(len(one.cos_avg) for one in layers)
    figure = Figure((1.6 + 0.95 * max(heads, 4), 1.6 + 0.62 * len(layers)), layout='constrained')
    axes = figure.subplots()
    strengths, cosines = [], []
    for row, one in enumerate(layers):
        for head, (s, cos) in enumerate(zip(one.strengths, one.cos)):
            left, x = head + 0.05, np.linspace(head + 0.05, head + 0.95, len(s))
            band = 0.45 * min(one.random_band, 1)
            axes.fill_between([left, head + 0.95], -row - band, -row + band, color=BAND, lw=0)
            strengths.append(np.stack((x, -row + 0.45 * np.array(s) / max(s[0], 1e-30)), 1))
            cosines.append(np.stack((x, -row + 0.45 * np.array(cos)), 1))
    axes.add_collection(LineCollection(cosines, colors=COSINE, lw=0.8))
    axes.add_collection(LineCollection(strengths, colors=STRENGTH, lw=1.4))
    axes.set(xlim=(0, heads), ylim=(-len(layers) + 0.5, 0.5), xlabel='head')
    axes.set_xticks(np.arange(heads) + 0.5, range(heads))
    axes.set_yticks(-np.arange(len(layers)), [one.name for one in layers], fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.plot([], [], color=STRENGTH, label='strength relative to the strongest mode')
    axes.plot([], [], color=COSINE, label='cosine, -1 to 1')
    axes.plot([], [], color=BAND, lw=8, label='95 % of random cosines')
    figure.legend(
        frameon=False, loc='outside upper center', ncols=3 if heads > 5 else 1, fontsize=8
    )
    return figure


def draw_histogram(layers: Sequence[LayerReport]) -> Figure:
    """Share of the modes of each layer by their cosine."""
    bins = np.linspace(-1, 1, 42)
    counts = [np.histogram(np.ravel(one.cos), bins)[0] / np.size(one.cos) for one in layers]
    figure = Figure((7, 1.4 + 0.22 * min(len(layers), MOST_ROWS)), layout='constrained')
    axes = figure.subplots()
    extent = (-1, 1, len(layers) - 0.5, -0.5)
    image = axes.imshow(counts, aspect='auto', extent=extent, cmap='viridis', interpolation='none')
    if len(layers) <= MOST_ROWS:
        axes.set_yticks(range(len(layers)), [one.name for one in layers], fontsize=7)
    axes.set(xlabel='cosine of query and key of a mode')
    figure.colorbar(image, label='share of modes')
    return figure


def draw_offsets(layers: Sequence[LayerReport]) -> Figure:
    """Rotary positions: ``cos_avg`` by offset between query and key, one line per layer.

    Layers without offsets are left out; dark lines are early layers.
    """
    layers = [one for one in layers if one.cos_avg_at]
    figure = Figure((9, 4), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ('rows', 'columns')):
        for depth, one in zip(_depths(layers), layers):
            curve = {0.0: one.mean}
            curve |= {float(k): sum(v) / len(v) for k, v in one.cos_avg_at[name].items()}
            axes.plot(*zip(*curve.items()), 'o-', ms=3, color=colormaps['viridis'](0.9 * depth))
        band = layers[0].random_band
        axes.axhspan(-band, band, color=BAND, lw=0, zorder=0)
        axes.set(xlabel=f'offset of the key along {name}')
    panels[0].set(ylabel='cosine of query and key, weighted')
    return figure


def _depths(layers: Sequence[LayerReport]) -> list[float]:
    return [i / max(len(layers) - 1, 1) for i in range(len(layers))]
