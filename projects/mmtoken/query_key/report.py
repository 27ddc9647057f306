"""Analyse all attention layers of a model: numbers, tables and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from .adapters import Layer, Skipped, find_layers
from .interaction import (
    ROPE_BASES,
    asymmetry,
    effective_rank,
    find_modes,
    mean_similarity,
    random_band,
    rope_angles,
    turn,
)

# of rotary positions: offsets along columns and along rows; in parts of half the image, or patches
OFFSETS = dict(dinov3=(0.125, 0.25, 0.5, 1.0), eva=(1, 2, 4, 8))


@dataclass(frozen=True)
class LayerReport:
    """Numbers of one layer; lists have one entry per head.

    Args:
        name: Of the module in the model.
        kind: Classes of the module and of its parent.
        dim: D.
        cos_avg: Cosine of query and key, averaged over modes by strength.
        effective_rank: Number of modes that matter.
        asymmetry: Share of the antisymmetric part.
        strengths: Of the modes of each head.
        cos: Cosine of query and key of each mode.
        random_band: Half width of the 95 % interval of a random cosine.
        notes: See :class:`~mmtoken.query_key.adapters.Projections`.
        cos_avg_at: ``'rows'`` and ``'columns'``, with rotary positions: offset of the key to
            ``cos_avg`` of each head.
        cos_avg_folded: ``cos_avg`` with the scale of the norm in front folded in; empty without an
            image, or without such a norm.
        key_bias_share: Share of the key bias in the variance of logits over keys; empty without an
            image, and with rotary positions.
    """

    name: str
    kind: str
    dim: int
    cos_avg: list[float]
    effective_rank: list[float]
    asymmetry: list[float]
    strengths: list[list[float]]
    cos: list[list[float]]
    random_band: float
    notes: list[str] = field(default_factory=list)
    cos_avg_at: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cos_avg_folded: list[float] = field(default_factory=list)
    key_bias_share: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """``cos_avg``, the mean over heads."""
        return sum(self.cos_avg) / len(self.cos_avg)


@dataclass(frozen=True)
class Report:
    """Numbers of a model.

    Args:
        layers: In the order of the model.
        skipped: Attention layers that cannot be analysed.
    """

    layers: list[LayerReport]
    skipped: list[Skipped]

    def table(self) -> str:
        """A line for each layer, means over heads."""
        width = max(5, *(len(one.name) for one in (*self.layers, *self.skipped)))
        has_image = any(one.key_bias_share or one.cos_avg_folded for one in self.layers)
        more = '  folded  key bias' if has_image else ''
        lines = [f'{"layer":{width}}  heads    D  cos_avg  random  rank  asymmetry{more}  notes']
        for one in self.layers:
            rank, asym = _mean(one.effective_rank, '4.1f'), _mean(one.asymmetry, '9.3f')
            if has_image:
                more = f'  {_mean(one.cos_avg_folded, "6.3f")}  {_mean(one.key_bias_share, "8.3f")}'
            lines.append(
                f'{one.name:{width}}  {len(one.cos_avg):5} {one.dim:4}  {one.mean:7.3f}  '
                f'±{one.random_band:.3f}  {rank}  {asym}{more}  {", ".join(one.notes)}'.rstrip()
            )
        lines += [f'{one.name:{width}}  skipped: {one.reason} ({one.kind})' for one in self.skipped]
        return '\n'.join(lines)

    def write(self, folder: Path) -> None:
        """Write ``query_key.json`` with everything and ``query_key.csv`` with a line per mode."""
        (folder / 'query_key.json').write_text(json.dumps(asdict(self), indent=1))
        with (folder / 'query_key.csv').open('w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(['layer', 'head', 'mode', 'strength', 'cos'])
            for one in self.layers:
                for head, modes in enumerate(zip(one.strengths, one.cos)):
                    writer.writerows([one.name, head, n, *v] for n, v in enumerate(zip(*modes)))


def _mean(values: Sequence[float], form: str) -> str:
    return f'{sum(values) / len(values):{form}}' if values else f'{"-":>{form.split(".")[0]}}'


def analyse(model: nn.Module) -> Report:
    """Analyse a model from its weights alone.

    Args:
        model: Any model with attention layers.

    Returns:
        The numbers.
    """
    layers, skipped = find_layers(model)
    return Report([describe(layer) for layer in layers], skipped)


def describe(layer: Layer) -> LayerReport:
    """Numbers of one layer."""
    wq, wk = layer.projections.wq, layer.projections.wk
    modes = find_modes(wq, wk)
    offsets = {}
    if layer.rope in ROPE_BASES:
        for axis, name in enumerate(('rows', 'columns')):
            offsets[name] = {
                str(size): mean_similarity(wq, turn(wk, layer.rope, angles)).tolist()
                for size in OFFSETS[layer.rope]
                for angles in [
                    rope_angles(layer.rope, (size * (1 - axis), size * axis), len(wq[0]))
                ]
            }
    return LayerReport(
        name=layer.name,
        kind=layer.kind,
        dim=wq.shape[-1],
        cos_avg=mean_similarity(wq, wk).tolist(),
        effective_rank=effective_rank(modes.strengths).tolist(),
        asymmetry=asymmetry(wq, wk).tolist(),
        strengths=modes.strengths.tolist(),
        cos=modes.similarity.tolist(),
        random_band=random_band(wq.shape[-1]),
        notes=list(layer.projections.notes),
        cos_avg_at=offsets,
    )


def read_report(path: Path) -> Report:
    """Read what :meth:`Report.write` wrote.

    Args:
        path: Of ``query_key.json``, or of its folder.

    Returns:
        The report.

    Raises:
        ValueError: If the file is something else.
    """
    path = path / 'query_key.json' if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
        layers = [LayerReport(**one) for one in content['layers']]
        return Report(layers, [Skipped(**one) for one in content['skipped']])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f'a report must be a query_key.json of the command analyze, got {str(path)!r} ({error})'
        ) from error


def find_layer(layers: Sequence[Layer], wanted: str) -> Layer:
    """The layer of a number, counted from 0, or of a name.

    Args:
        layers: Of :func:`~mmtoken.query_key.adapters.find_layers`.
        wanted: Number or name.

    Returns:
        The layer.

    Raises:
        ValueError: If there is no such layer.
    """
    for number, layer in enumerate(layers):
        if wanted in (str(number), layer.name):
            return layer
    names = ', '.join(f'{number}: {layer.name}' for number, layer in enumerate(layers))
    raise ValueError(f'the layer must be one of {names}; got {wanted!r}')
