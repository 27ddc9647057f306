"""What attention heads compare: modes of W_q^T W_k, from the weights of any backbone.

python tools/analysis/query_key.py analyze CONFIG [CHECKPOINT] --out-dir DIR
python tools/analysis/query_key.py compare DIR DIR... --out-dir DIR [--labels A B...]
python tools/analysis/query_key.py modes CONFIG CHECKPOINT IMAGE... --layer L --out-dir DIR
python tools/analysis/query_key.py prefer CONFIG CHECKPOINT --out-dir DIR [--split val]
python tools/analysis/query_key.py retrieve CONFIG CHECKPOINT PLACE... --layer L --head H --mode M
python tools/analysis/query_key.py vit CONFIG [CHECKPOINT] --out-dir DIR [--images IMAGE...]

analyze writes a table, query_key.json, query_key.csv and three figures: the cosine of query and key
over depth, the spectrum of every head, and the histogram of cosines. compare draws the curves of
several analyses over each other, e.g. of an untrained and a trained model. modes draws a sheet per
image: where the tokens are that a mode asks from (red) and those that it finds (cyan). prefer reads
the masks of a data set and says where the attention of a token in an object goes: the same object,
another one of its class, another class, or background. retrieve draws the images, of files and
folders, that a mode answers to most. vit draws the figures of the ViT paper: attention distances of
heads, the similarity of position embeddings, principal components of the patch embedding.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import torch
from _models import Options, UsageError, at_least, build_part, check_output, read_config, run
from _pictures import View, check_input, without_padding
from _scenes import Scenes
from draw_tokens import load_weights, unique_stems
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.attention import AttentionReader
from mmtoken.query_key.figures import draw_curves, draw_histogram, draw_offsets, draw_spectra
from mmtoken.query_key.maps import count_prefix, draw_modes, find_mode_maps
from mmtoken.query_key.on_image import add_image
from mmtoken.query_key.prefer import Preference, draw_preferences, table
from mmtoken.query_key.report import Report, analyse, find_layer, read_report
from mmtoken.query_key.retrieve import Found, ModeScore, best, find_images
from mmtoken.query_key.tokens import observe
from mmtoken.query_key.vit_figures import (
    draw_distances,
    draw_filters,
    draw_positions,
    find_filters,
    find_positions,
    mean_distance,
)
from torch import nn
from tqdm import tqdm


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; raise unless there is a place for the results."""
    parser = argparse.ArgumentParser(description='Query-key interaction of attention heads')
    commands = parser.add_subparsers(dest='command', required=True)

    def command(name: str, function: Callable, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(function=function)
        one.add_argument('--out-dir', type=Path, required=True, metavar='DIR', help='for results')
        one.add_argument('--overwrite', action='store_true', help='into a folder that has files')
        return one

    one = command('analyze', analyze, 'numbers and figures of a backbone, from its weights')
    _add_model(one, '?')
    text = 'adds the norm in front of each layer and the share of the key bias'
    one.add_argument('--image', type=Path, help=text)
    one = command('compare', compare, 'curves of several analyses over each other')
    one.add_argument('reports', nargs='+', type=Path, metavar='report', help='folder of analyze')
    one.add_argument('--labels', nargs='+', help='names of the curves (those of the folders)')
    one = command('modes', modes, 'queries in red and keys in cyan over images')
    _add_model(one, None)
    one.add_argument('images', nargs='*', type=Path, metavar='image', help='picture files')
    one.add_argument('--random-weights', action='store_true', help='no CHECKPOINT')
    one.add_argument('--layer', required=True, help='number or name, see the table of analyze')
    one.add_argument('--head', type=int, help='(all)')
    one.add_argument('--mode', type=int, nargs='+', help='modes of --head (those that matter most)')
    one.add_argument('--top', type=at_least(1), default=7, help='number of modes without --mode')
    one = command('prefer', prefer, 'where attention goes: object, class or background')
    _add_model(one, '?')
    one.add_argument('--layers', nargs='+', metavar='L', help='numbers or names (all)')
    one.add_argument('--split', choices=['train', 'val', 'test'], default='val', help='(val)')
    one.add_argument('--images', type=at_least(1), metavar='N', help='evenly spread ones only')
    one = command('retrieve', retrieve, 'images that a mode answers to most')
    _add_model(one, None)
    text = 'picture files, or folders with any number of them'
    one.add_argument('images', nargs='*', type=Path, metavar='place', help=text)
    one.add_argument('--random-weights', action='store_true', help='no CHECKPOINT')
    for name in ('layer', 'head', 'mode'):
        kind = str if name == 'layer' else int
        one.add_argument(f'--{name}', type=kind, required=True, help='see modes and analyze')
    one.add_argument('--top', type=at_least(1), default=8, help='number of images (8)')
    one = command('vit', vit, 'attention distance, position embeddings, filters (ViT paper)')
    _add_model(one, '?')
    one.add_argument('--images', nargs='+', type=Path, default=[], help='for attention distances')
    args = parser.parse_args(argv)
    if args.command in ('modes', 'retrieve'):
        if args.random_weights:
            args.images.insert(0, Path(args.checkpoint))
            args.checkpoint = None
        if not args.images:
            raise UsageError(f'{args.command} needs pictures, got no image; name one')
    check_output('--out-dir', args.out_dir, folder=True)
    if args.out_dir.exists() and any(args.out_dir.iterdir()) and not args.overwrite:
        raise UsageError(f'--out-dir must be new or empty, got {args.out_dir}; pass --overwrite')
    return args


def _add_model(parser: argparse.ArgumentParser, checkpoints: str | None) -> None:
    add = parser.add_argument
    add('config', help='config file of a model with a backbone')
    add('checkpoint', nargs=checkpoints, help='weights of the model or of its backbone')
    text = 'override config fields, e.g. model.backbone.arch=small'
    add('--cfg-options', nargs='+', action=Options, default={}, metavar='KEY=VALUE', help=text)


def build_backbone(args: argparse.Namespace) -> nn.Module:
    """Build the backbone of the config; without a checkpoint, its weights are random."""
    backbone = build_part(read_config(args.config, args.cfg_options), 'backbone').backbone
    backbone.eval()
    if args.checkpoint is None:
        print('warning: no CHECKPOINT, random weights', file=sys.stderr)
    else:
        load_weights(backbone, args.checkpoint)
    return backbone


def analyze(args: argparse.Namespace) -> None:
    """Write table, numbers and figures."""
    backbone = build_backbone(args)
    report = analyse(backbone)
    if args.image:
        inputs, _ = View(read_config(args.config, args.cfg_options))(args.image)
        check_input(backbone, inputs)
        report = add_image(report, backbone, find_layers(backbone)[0], lambda: backbone(inputs))
    print(report.table())
    if not report.layers:
        raise UsageError('a backbone must have attention layers that can be analysed, got none')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    report.write(args.out_dir)
    label = args.checkpoint or 'random weights'
    draw_curves({Path(label).name: report.layers}).savefig(args.out_dir / 'curve.png', dpi=150)
    draw_spectra(report.layers).savefig(args.out_dir / 'spectra.png', dpi=110)
    draw_histogram(report.layers).savefig(args.out_dir / 'histogram.png', dpi=150)
    if any(one.cos_avg_at for one in report.layers):
        draw_offsets(report.layers).savefig(args.out_dir / 'offsets.png', dpi=150)


def compare(args: argparse.Namespace) -> None:
    """Draw the curves of several analyses."""
    labels = args.labels or [str(path) for path in args.reports]
    if len(labels) != len(args.reports) or len(set(labels)) != len(labels):
        raise UsageError(
            f'--labels must be different names, one per report, got {labels} for '
            f'{len(args.reports)} reports'
        )
    reports: dict[str, Report] = dict(zip(labels, map(read_report, args.reports)))
    empty = [label for label, report in reports.items() if not report.layers]
    if empty:
        raise UsageError(f'reports must have layers, got none in {empty}')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    figure = draw_curves({label: report.layers for label, report in reports.items()})
    figure.savefig(args.out_dir / 'compare.png', dpi=150)


def modes(args: argparse.Namespace) -> None:
    """Draw a sheet per image."""
    backbone = build_backbone(args)
    layer = find_layer(find_layers(backbone)[0], args.layer)
    view = View(read_config(args.config, args.cfg_options))
    seen = [view(path) for path in args.images]  # all, before anything is written
    check_input(backbone, seen[0][0])
    for stem, (inputs, picture) in zip(unique_stems(args.images), seen):
        found = observe(backbone, [layer], lambda inputs=inputs: backbone(inputs))
        if layer.name not in found:
            raise UsageError(f'--layer must be used in a forward pass, got {layer.name}')
        size = tuple(inputs.shape[2:])
        options = (size, count_prefix(backbone), args.head, args.mode, args.top)
        drawn = find_mode_maps(layer, found[layer.name], *options)
        title = f'{layer.name}: queries red, keys cyan, both white; share of the attended product'
        sheet = draw_modes(picture, drawn, size, title, without_padding(inputs[0]))
        args.out_dir.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.out_dir / f'{stem}_modes.png'), sheet[..., ::-1])
        print(args.out_dir / f'{stem}_modes.png')


def prefer(args: argparse.Namespace) -> None:
    """Write a table, numbers and a figure."""
    cfg = read_config(args.config, args.cfg_options)
    backbone = build_backbone(args)
    layers, _ = find_layers(backbone)
    layers = [find_layer(layers, one) for one in args.layers] if args.layers else layers
    scenes, read = Scenes(cfg, args.split, args.images), AttentionReader(backbone, layers)
    found = {layer.name: Preference(layer.name) for layer in layers}
    for number, (inputs, scene) in enumerate(tqdm(scenes, disable=None)):
        if not number:
            check_input(backbone, inputs)
        for name, attention in read(inputs).items():
            found[name].add(attention, scene)
    for name, one in found.items():
        if not one.objects:
            reason = read.refused.get(name, 'no object covers half a cell')
            print(f'warning: {name} is left out: {reason}', file=sys.stderr)
    summaries = [one.summary() for one in found.values() if one.objects]
    if not summaries:
        raise UsageError(
            f'the data set must have objects as large as tokens, got none in {args.split}'
        )
    print(table(summaries))
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / 'prefer.json').write_text(json.dumps(summaries, indent=1))
    draw_preferences(summaries).savefig(args.out_dir / 'prefer.png', dpi=150)


def retrieve(args: argparse.Namespace) -> None:
    """Print the images, and draw a sheet of them."""
    backbone = build_backbone(args)
    layer = find_layer(find_layers(backbone)[0], args.layer)
    score = ModeScore(backbone, layer, args.head, args.mode)
    view = View(read_config(args.config, args.cfg_options))

    def scored() -> Iterator[Found]:
        checked = False
        for path in tqdm(find_images(args.images), disable=None, unit=' images'):
            try:
                inputs, _ = view(path)
            except UsageError as error:  # one of many
                print(f'warning: {error}', file=sys.stderr)
                continue
            if not checked:
                check_input(backbone, inputs)
                checked = True
            yield Found(score(inputs), path)

    found = best(scored(), args.top)
    if not found:
        raise UsageError('retrieve needs pictures that can be read, got none')
    panels = []
    for one in found:
        print(f'{one.score:.4g}\t{one.path}')
        inputs, picture = view(one.path)
        size = tuple(inputs.shape[2:])
        seen = observe(backbone, [layer], lambda inputs=inputs: backbone(inputs))[layer.name]
        drawn = find_mode_maps(layer, seen, size, score.prefix, args.head, [args.mode])
        title = f'{one.score:.3g}  {one.path.name}'
        panels.append(draw_modes(picture, drawn, size, title, without_padding(inputs[0])))
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for number, panel in enumerate(panels):
        cv2.imwrite(str(args.out_dir / f'{number:02}.png'), panel[..., ::-1])
    rows = [dict(score=one.score, path=str(one.path)) for one in found]
    (args.out_dir / 'retrieve.json').write_text(json.dumps(rows, indent=1))


def vit(args: argparse.Namespace) -> None:
    """Draw the figures that the model has something for."""
    backbone = build_backbone(args)
    figures, missing = {}, []
    for name, find, draw in (
        ('filters', find_filters, draw_filters),
        ('positions', find_positions, draw_positions),
    ):
        found = find(backbone)
        if found is None:
            missing.append(name)
        else:
            figures[name] = draw(found)
    if args.images:
        view = View(read_config(args.config, args.cfg_options))
        read, total = AttentionReader(backbone, find_layers(backbone)[0]), {}
        for path in tqdm(args.images, disable=None):
            inputs, _ = view(path)
            if not total:
                check_input(backbone, inputs)
            for name, one in read(inputs).items():
                total.setdefault(name, []).append(mean_distance(one, tuple(inputs.shape[2:])))
        distances = {name: torch.stack(one).mean(0) for name, one in total.items()}
        for name, heads in distances.items():
            print(f'{name}: mean attention distance {heads.mean():.1f} pixels')
        if distances:
            figures['distances'] = draw_distances(distances)
        for name, reason in read.refused.items():
            print(f'warning: {name} is left out: {reason}', file=sys.stderr)
    if missing:
        print(f'note: the backbone has no {" and no ".join(missing)} to draw', file=sys.stderr)
    if not figures:
        raise UsageError('the backbone must have something to draw, got none; pass --images')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(args.out_dir / f'{name}.png', dpi=150)


def main(argv: list[str] | None = None) -> None:
    """Run one command."""
    args = parse_args(argv)
    args.function(args)


if __name__ == '__main__':
    run(main)
