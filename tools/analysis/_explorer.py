"""The explorer's page: drawables as compact data, and the templates that they are put into."""

import base64
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib import colormaps
from mmtoken.common.records import Heats, Regions
from mmtoken.query_key.maps import CLIPPED, Mode
from PIL import Image
from torch import Tensor

TEMPLATES = Path(__file__).parent / 'explorer'
LEVELS = 254  # of a heat map; 255 is unknown
MOST_NUMBERS = 2**19  # of a sheet of heat maps; of larger ones, squares of cells are averaged


def pack(values: np.ndarray) -> str:
    """Deflated and in base64."""
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def pack_regions(picture: Regions) -> dict[str, Any]:
    """Labels from 0 on."""
    labels = picture.labels.unique(return_inverse=True)[1]
    return dict(
        kind='regions',
        label='regions',
        title=picture.title,
        **_grid(labels, picture.stride),
        data=pack(labels.numpy().astype('<u4')),
    )


def pack_heats(
    picture: Heats, label: str, names: Sequence[str] | None = None, clipped: bool = False
) -> dict[str, Any]:
    """Maps of 255 levels, each between its smallest and largest value, or between percentiles."""
    values, step = _average(picture.values.float().cpu())
    flat = values.flatten(1).numpy()
    limits = CLIPPED if clipped else (0, 100)
    with np.errstate(all='ignore'):
        known = [row[~np.isnan(row)] for row in flat]
        low, high = np.array([np.percentile(k, limits) if len(k) else (0, 0) for k in known]).T
    span = np.maximum(high - low, 1e-30)[:, None]
    levels = np.nan_to_num((flat - low[:, None]) / span).clip(0, 1) * LEVELS
    levels = np.where(np.isnan(flat), LEVELS + 1, levels.round()).astype(np.uint8)
    boxes = None if picture.boxes is None else (picture.boxes / step).tolist()
    return dict(
        kind='heats',
        label=label,
        title=picture.title,
        **_grid(values[0], picture.stride * step),
        low=[float(f'{v:.6g}') for v in low],
        high=[float(f'{v:.6g}') for v in high],
        labels=list(names or [f'map {k}' for k in range(len(values))]),
        boxes=boxes,
        data=pack(levels),
    )


def pack_modes(modes: Sequence[Mode], title: str, stride_of: Any) -> dict[str, Any]:
    """Queries and keys of modes; ``stride_of`` gives the side of a cell of a map."""
    names = [
        f'head {one.head}, mode {one.number} (cos {one.cos:.2f}, {100 * one.share:.0f} %)'
        for one in modes
    ]
    sheets = {}
    for part in ('queries', 'keys'):
        values = torch.from_numpy(np.stack([getattr(one, part) for one in modes]))
        heats = Heats(part, title, values, stride_of(values[0]))
        sheets[part] = pack_heats(heats, part, names, clipped=True)
    return dict(kind='modes', label='modes', title=title, labels=names, **sheets)


def pack_image(picture: np.ndarray) -> str:
    """As an address that holds the picture."""
    file = BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=88)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def render(images: list[dict[str, Any]], **about: Any) -> str:
    """The page; ``about`` has ``title``, ``about``, ``layers`` and ``skipped``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = (colormaps['inferno'](np.arange(LEVELS + 1) / LEVELS)[:, :3] * 255).round()
    palette = base64.b64encode(colours.astype(np.uint8).tobytes()).decode()
    extent = [abs(v) for one in about['layers'] for v in (*one.cos_avg, one.random_band)]
    data = dict(images=images, palette=palette)
    page = environment.get_template('page.html.j2')
    return page.render(data=data, limit=min(1.0, 1.15 * max(extent, default=1.0)), **about)


def _grid(cells: Tensor, stride: int) -> dict[str, int]:
    return dict(h=cells.shape[0], w=cells.shape[1], stride=stride)


def _average(values: Tensor) -> tuple[Tensor, int]:
    """Average squares of cells until there are at most ``MOST_NUMBERS``; return their side."""
    step, (h, w) = 1, values.shape[1:]
    while len(values) * -(-h // step) * -(-w // step) > MOST_NUMBERS and step < min(h, w):
        step += 1
    padding = (0, -w % step, 0, -h % step)
    padded = torch.nn.functional.pad(values, padding, value=torch.nan)
    return padded.unflatten(2, (-1, step)).unflatten(1, (-1, step)).nanmean((2, 4)), step
