"""Which pixels share a token at each stage, drawn over pictures.

python tools/analysis/token_maps.py CONFIG CHECKPOINT IMAGE... --out-dir DIR [--bbox X Y W H]

Writes, per picture, one PNG per stage and a sheet of all of them. Size, crop, and normalisation are
those of the config's test pipeline; only the backbone is built, so no host needs to be installed.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from _models import UsageError, add_config_options, build_part, check_side, read_config, run
from _pictures import choose_view, normalise, read_image
from mmengine.config import Config
from mmtoken.analysis.drawing import add_title, contact_sheet
from mmtoken.analysis.token_maps import draw_score_maps, draw_token_maps
from mmtoken.common.checkpoints import load_state_dict_strict, read_state_dict
from torch import nn

DRAWN_SIDE = 640  # pictures are enlarged by whole numbers to about this many pixels


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw which pixels share a token at each stage')
    add = parser.add_argument
    add('config', help='config file of a model with a backbone of this suite')
    add('checkpoint', help='weights of the model or of its backbone; left out: --random-weights')
    add('images', nargs='*', type=Path, metavar='image', help='picture files')
    add('--out-dir', type=Path, required=True, metavar='DIR', help='folder for the PNG files')
    add('--random-weights', action='store_true', help='draw an untrained model; no CHECKPOINT')
    add('--bbox', type=float, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='look at this box only')
    add('--shape', type=int, nargs=2, metavar=('H', 'W'), help='input size (that of the config)')
    add('--scores', action='store_true', help='draw the importance scores as well')
    add('--overwrite', action='store_true', help='write into a folder that has files')
    add('--device', default='cpu', help='(cpu)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.random_weights:
        args.images.insert(0, Path(args.checkpoint))
        args.checkpoint = None
    return args


def check_paths(args: argparse.Namespace) -> None:
    """Raise unless there is something to draw and a place to write it to."""
    if not args.images:
        raise UsageError(
            'token_maps needs CONFIG CHECKPOINT IMAGE..., got no image; name one, or pass '
            '--random-weights and no checkpoint'
        )
    if args.out_dir.exists() and not args.out_dir.is_dir():
        raise UsageError(f'--out-dir must be a folder, got the file {str(args.out_dir)!r}')
    if args.out_dir.is_dir() and any(args.out_dir.iterdir()) and not args.overwrite:
        raise UsageError(
            f'--out-dir must be new or empty, got {str(args.out_dir)!r} with files in it; choose '
            'another one or pass --overwrite'
        )


def load_backbone(cfg: Config, checkpoint: str | None, device: str) -> nn.Module:
    """Build the backbone and load its weights strictly, from its own file or a whole model's."""
    backbone = build_part(cfg, 'backbone').backbone
    if checkpoint is None:
        print('warning: random weights; regions follow colours and edges only', file=sys.stderr)
    else:
        try:
            state = read_state_dict(checkpoint)
            if any(key.startswith('backbone.') for key in state):
                state = read_state_dict(checkpoint, prefix='backbone.')
            load_state_dict_strict(backbone, state, source=checkpoint)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from error
    return backbone.eval().to(device)


def draw(
    cfg: Config, backbone: nn.Module, image: np.ndarray, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Name to picture: ``stage1`` ..., ``sheet``, and ``score2`` ... with ``--scores``."""
    shape = None if args.shape is None else tuple(args.shape)
    bbox = None if args.bbox is None else tuple(args.bbox)
    view = choose_view(cfg, image.shape[:2], shape, bbox)
    inputs = normalise(cfg, [view.cut(image)]).to(args.device)
    picture = view.cut(image, scale=max(1, round(DRAWN_SIDE / max(view.hw))))
    try:
        stages = draw_token_maps(backbone, inputs, [picture])[0]
        scores = draw_score_maps(backbone, inputs, [picture])[0] if args.scores else {}
    except ValueError as error:
        raise UsageError(str(error)) from error
    source = add_title(picture, f'input: {view.hw[0]} x {view.hw[1]} pixels')
    rows, columns = [source, *stages.values()], None
    if scores:  # each below its stage
        rows += [None, *(scores.get(number) for number in stages)]
        columns = 1 + len(stages)
    drawn = {f'stage{number}': stage for number, stage in stages.items()}
    drawn.update({f'score{number}': score for number, score in scores.items()})
    drawn['sheet'] = contact_sheet(rows, columns)
    return drawn


def unique_stems(paths: list[Path]) -> list[str]:
    """File names without their ends, numbered where they would clash."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f'{stem}-{stems[: i + 1].count(stem)}'
        for i, stem in enumerate(stems)
    ]


def main(argv: list[str] | None = None) -> None:
    """Draw all pictures; nothing is written before all arguments are known to be good."""
    args = parse_args(argv)
    check_paths(args)
    if args.shape is not None:
        check_side(args.shape)
    cfg = read_config(args.config, args.cfg_options)
    images = [read_image(path) for path in args.images]
    if not cfg.model.get('data_preprocessor'):
        print('note: no data_preprocessor in the config; ImageNet mean and std', file=sys.stderr)
    backbone = load_backbone(cfg, args.checkpoint, args.device)
    for stem, image in zip(unique_stems(args.images), images):
        drawn = draw(cfg, backbone, image, args)
        args.out_dir.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            file = args.out_dir / f'{stem}_{name}.png'
            ok, data = cv2.imencode('.png', picture[..., ::-1])
            assert ok
            file.write_bytes(data.tobytes())
        print(args.out_dir / f'{stem}_sheet.png')


if __name__ == '__main__':
    run(main)
