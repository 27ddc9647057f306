"""Walk through a model's tokens in a browser: one HTML file that needs no server and no network.

python tools/analysis/explore.py CONFIG CHECKPOINT IMAGE... -o page.html [--layers 0 blocks.3.attn]

The page shows each image as the model sees it. Pointing at a pixel shows the region that shares its
token, the clusters or tokens that weigh it and their maps, what that query attends to in each
attention layer, and the query-key modes of the layer. A second tab has the curve of query_key.py.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _explorer import pack_heats, pack_image, pack_modes, pack_regions, render
from _models import UsageError, check_output, make_parser, run
from _pictures import View, check_input, without_padding
from draw_tokens import read_backbone, unique_stems
from mmtoken.analysis.maps import record_backbone
from mmtoken.common.records import Heats, Regions
from mmtoken.query_key.adapters import Layer, find_layers
from mmtoken.query_key.attention import AttentionReader, GridAttention
from mmtoken.query_key.maps import count_prefix, find_mode_maps
from mmtoken.query_key.report import Report, analyse, find_layer
from torch import Tensor, nn
from tqdm import tqdm


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; raise unless there is something to show and a place for it."""
    parser = make_parser('Walk through the tokens of a model in a browser')
    add = parser.add_argument
    add('config', help='config file of a model with a backbone')
    add('checkpoint', help='weights of the model or of its backbone; left out: --random-weights')
    add('images', nargs='*', type=Path, metavar='image', help='picture files')
    add('-o', '--out', type=Path, required=True, metavar='FILE', help='the page, FILE.html')
    add('--random-weights', action='store_true', help='show an untrained model; no CHECKPOINT')
    add('--bbox', type=float, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='person, for top-down')
    add('--layers', nargs='+', metavar='L', help='attention layers, numbers or names (all)')
    add('--overwrite', action='store_true', help='replace a page')
    args = parser.parse_args(argv)
    if args.random_weights:
        args.images.insert(0, Path(args.checkpoint))
    if not args.images:
        raise UsageError('a page needs pictures, got no image; name one, or pass --random-weights')
    check_output('--out', args.out)
    if args.out.exists() and not args.overwrite:
        raise UsageError(f'--out must be a new file, got {str(args.out)!r}; pass --overwrite')
    return args


def attention_layers(backbone: nn.Module) -> list[Layer]:
    """None if the backbone has no attention: its tokens may be shown nevertheless."""
    try:
        return find_layers(backbone)[0]
    except ValueError:
        return []


class Explored:
    """What a page shows of a backbone.

    Args:
        backbone: In eval mode.
        wanted: Numbers or names of attention layers; None for all.

    Attributes:
        skipped: What is not shown, and why.
    """

    def __init__(self, backbone: nn.Module, wanted: list[str] | None) -> None:
        found = attention_layers(backbone)
        self.layers = found if wanted is None else [find_layer(found, name) for name in wanted]
        self.backbone, self.read = backbone, AttentionReader(backbone, self.layers)
        self.skipped: dict[str, str] = {}

    def views(self, inputs: Tensor) -> list[dict[str, Any]]:
        """Everything to choose from, of one image."""
        size = tuple(inputs.shape[2:])
        found, attention = list(self._records(inputs)), self.read(inputs)
        self.skipped |= self.read.refused
        found += [_attention_view(name, one, size) for name, one in attention.items()]
        for layer in self.layers:
            try:
                found.append(self._modes(layer, size))
            except ValueError as error:
                self.skipped[layer.name] = str(error)
        return found

    def _records(self, inputs: Tensor) -> Iterator[dict[str, Any]]:
        """What the backbone records, without the attention of single cells: layers show all."""
        try:
            recorder = record_backbone(self.backbone, inputs)
        except ValueError as error:
            self.skipped['tokens'] = str(error)
            return
        for record in recorder.records:
            pictures = [one for one in record.pictures(0) if not _is_of_cells(one)]
            if pictures:
                name = pictures[0].name
                maps = [_pack(one, name) for one in pictures]
                yield dict(group='Tokens', name=name, title=pictures[0].title, maps=maps)

    def _modes(self, layer: Layer, size: tuple[int, ...]) -> dict[str, Any]:
        seen = self.read.seen.get(layer.name)
        if seen is None:
            raise ValueError('the layer does not run in a forward pass')
        modes = find_mode_maps(layer, seen, size, count_prefix(self.backbone))
        title = f'{layer.name}: the modes that contribute most to its attended products'
        maps = [pack_modes(modes, title, lambda cells: _stride(size, cells))]
        name = f'{layer.name} modes'
        return dict(group='Query-key modes', name=name, title=f'{layer.name}: modes', maps=maps)


def _attention_view(name: str, attention: GridAttention, size: tuple[int, ...]) -> dict[str, Any]:
    title = f'{name}: attention of a token in %, mean over {attention.num_heads} heads'
    labels, heats = attention.pictures(name, title, size)
    names = [f'query {k}' for k in range(len(heats.values))]
    maps = [dict(pack_heats(heats, 'attention', names), query=pack_regions(labels))]
    return dict(group='Attention', name=name, title=f'{name}: attention', maps=maps)


def _is_of_cells(picture: Regions | Heats) -> bool:
    boxes = getattr(picture, 'boxes', None)
    return boxes is not None and bool((boxes[:, 2:] - boxes[:, :2] == 1).all())


def _pack(picture: Regions | Heats, name: str) -> dict[str, Any]:
    if isinstance(picture, Regions):
        return pack_regions(picture)
    label = picture.name.removeprefix(name).strip('_') or 'maps'
    return pack_heats(picture, label)


def _stride(input_hw: tuple[int, ...], cells: Tensor) -> int:
    return max(-(-side // count) for side, count in zip(input_hw, cells.shape))


def show_image(name: str, inputs: Tensor, picture: np.ndarray, explored: Explored) -> dict:
    """An image without its padding, and its views."""
    seen, full = without_padding(inputs[0]), tuple(inputs.shape[2:])
    rows, cols = (side * s // f for side, s, f in zip(picture.shape, seen, full))
    views = explored.views(inputs)
    if not views:
        reasons = ', '.join(explored.skipped.values())
        raise UsageError(
            f'the backbone must have tokens or attention to show, got none ({reasons})'
        )
    return dict(name=name, src=pack_image(picture[:rows, :cols]), size=seen, views=views)


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    args = parse_args(argv)
    cfg, backbone = read_backbone(args)
    explored, view = Explored(backbone, args.layers), View(cfg)
    seen = [view(path, args.bbox) for path in args.images]  # all, before anything is written
    check_input(backbone, seen[0][0])
    named = zip(unique_stems(args.images), tqdm(seen, disable=None))
    images = [show_image(name, *one, explored) for name, one in named]
    report = analyse(backbone) if attention_layers(backbone) else Report([], [])
    skipped = {one.name: one.reason for one in report.skipped} | explored.skipped
    weights = 'random weights' if args.random_weights else Path(args.checkpoint).name
    page = render(
        images,
        title=f'{Path(args.config).stem}: tokens',
        about=f'{args.config}, {weights}. Heat maps have 255 levels, each map its own scale.',
        layers=report.layers,
        skipped=list(skipped.items()),
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding='utf-8')
    print(f'{args.out} ({len(page) / 2**20:.1f} MB)')


if __name__ == '__main__':
    run(main)
