"""Draw over pictures what a backbone records: which cells share a token, scores, attention.

python tools/analysis/draw_tokens.py CONFIG CHECKPOINT IMAGE... --out-dir DIR [--only 'stage2*']

Writes one PNG per picture and record, and a sheet of all region maps. A region map shows which
grid cells share a token, or which cluster or token is the strongest at each cell. A sheet of heat
maps shows each cluster or token, from its own smallest to its own largest value, which its title
gives. Pictures show what the model sees: the config's test pipeline gives size, crop and padding.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from _models import UsageError, build_part, make_parser, read_config, run
from _pictures import View
from mmengine.config import Config
from mmtoken.analysis.drawing import add_title, contact_sheet
from mmtoken.analysis.maps import draw_maps, record_backbone
from mmtoken.common.strict_load import load_state_dict_strict
from mmtoken.common.weights import read_state_dict
from torch import Tensor, nn
from tqdm import tqdm


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; raise unless there is something to draw and a place for it."""
    parser = make_parser('Draw what a backbone records over pictures')
    add = parser.add_argument
    add('config', help='config file of a model with a backbone of this suite')
    add('checkpoint', help='weights of the model or of its backbone; left out: --random-weights')
    add('images', nargs='*', type=Path, metavar='image', help='picture files')
    add('--out-dir', type=Path, required=True, metavar='DIR', help='folder for the PNG files')
    add('--random-weights', action='store_true', help='draw an untrained model; no CHECKPOINT')
    add('--bbox', type=float, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='person, for top-down')
    add('--only', default='*', metavar='PATTERN', help="names to draw, e.g. 'stage2*' (all)")
    text = 'heat maps of these clusters or tokens only, counted from 0 (at most 100, evenly spread)'
    add('--maps', type=int, nargs='+', metavar='N', help=text)
    add('--overwrite', action='store_true', help='write into a folder that has files')
    args = parser.parse_args(argv)
    if args.random_weights:
        args.images.insert(0, Path(args.checkpoint))
    if not args.images:
        raise UsageError('pictures must be given, got no image; name one, or pass --random-weights')
    if args.out_dir.exists() and not args.out_dir.is_dir():
        raise UsageError(f'--out-dir must be a folder, got the file {str(args.out_dir)!r}')
    if args.out_dir.exists() and any(args.out_dir.iterdir()) and not args.overwrite:
        raise UsageError(f'--out-dir must be new or empty, got {args.out_dir}; pass --overwrite')
    return args


def load_weights(backbone: nn.Module, checkpoint: str) -> None:
    """Load weights strictly, from a file of the backbone or of a whole model."""
    state = read_state_dict(checkpoint)
    if any(key.startswith('backbone.') for key in state):
        state = read_state_dict(checkpoint, prefix='backbone.')
    load_state_dict_strict(backbone, state, source=checkpoint)


def draw(
    backbone: nn.Module, inputs: Tensor, picture: np.ndarray, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Name to picture, ``'sheet'`` with the input and all region maps included."""
    recorder = record_backbone(backbone, inputs)
    drawn = draw_maps(recorder, inputs, [picture], args.only, args.maps)[0]
    source = add_title(picture, f'input: {inputs.shape[2]} x {inputs.shape[3]} pixels')
    regions = [one for one in drawn.values() if one.shape == source.shape]
    return {**drawn, 'sheet': contact_sheet([source, *regions])}


def read_backbone(args: argparse.Namespace) -> tuple[Config, nn.Module]:
    """The config, and its backbone in eval mode with the weights of the command line."""
    cfg = read_config(args.config, args.cfg_options)
    backbone = build_part(cfg, 'backbone').backbone.eval()
    if args.random_weights:
        print('warning: random weights; regions follow colours and edges only', file=sys.stderr)
    else:
        load_weights(backbone, args.checkpoint)
    return cfg, backbone


def unique_stems(paths: list[Path]) -> list[str]:
    """File names without their ends, numbered where they would clash."""
    stems = [path.stem for path in paths]
    numbered = [f'{stem}-{stems[:i].count(stem) + 1}' for i, stem in enumerate(stems)]
    return [new if stems.count(stem) > 1 else stem for stem, new in zip(stems, numbered)]


def main(argv: list[str] | None = None) -> None:
    """Draw all pictures."""
    args = parse_args(argv)
    cfg, backbone = read_backbone(args)
    view = View(cfg)
    seen = [view(path, args.bbox) for path in args.images]  # all, before anything is written
    for stem, (inputs, picture) in zip(unique_stems(args.images), tqdm(seen, disable=None)):
        drawn = draw(backbone, inputs, picture, args)
        args.out_dir.mkdir(parents=True, exist_ok=True)
        for name, one in drawn.items():
            cv2.imwrite(str(args.out_dir / f'{stem}_{name}.png'), one[..., ::-1])
        tqdm.write(str(args.out_dir / f'{stem}_sheet.png'))


if __name__ == '__main__':
    run(main)
