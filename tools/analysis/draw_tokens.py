"""Which pixels share a token at each stage, a cluster or a semantic token, drawn over pictures.

python tools/analysis/draw_tokens.py CONFIG CHECKPOINT IMAGE... --out-dir DIR [--bbox X Y W H]

Writes, per picture, one PNG per stage and a sheet of all of them. Where a backbone has soft
clusters (PaCa-ViT), a stage shows which cluster weighs each patch most, and PICTURE_clusters2.png
has the heat map of every cluster of stage 2, each scaled to its own peak; the peak stands beside
its number, in multiples of the uniform weight 1 / N. Where it has semantic tokens (STViT),
PICTURE_unit0.png shows which of them each patch takes most from, and PICTURE_tokens0.png has pairs
of heat maps, for 6 of them or for --tokens: what a token gathers, and on the right where it is
recovered. This is attention, the mean over the heads; units and tokens count from 0, tokens row by
row. Size, crop, padding and normalisation are those of the config's test pipeline; only the
backbone is built, so no host needs to be installed.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from _models import UsageError, add_config_options, build_part, check_side, read_config, run
from _pictures import choose_view, normalise, pad_inputs, pad_picture, padded_size, read_image
from mmengine.config import Config
from mmtoken.analysis.drawing import add_title, contact_sheet
from mmtoken.analysis.records import record_backbone, recorded_kind
from mmtoken.common.checkpoints import load_state_dict_strict, read_state_dict
from mmtoken.common.recorder import TokenRecorder
from mmtoken.paca_vit.maps import draw_cluster_heats, draw_cluster_maps, stages_left_out
from mmtoken.stvit.maps import STEPS, draw_semantic_maps, draw_semantic_tokens
from mmtoken.tcformer.maps import draw_score_maps, draw_token_maps
from torch import Tensor, nn

# what backbones record, and the options that they alone have
KINDS = {
    'tokens': ('token sets and importance scores', ('scores',)),
    'assign': ('soft clusters', ('clusters', 'block')),
    'units': ('semantic tokens', ('tokens', 'unit', 'step')),
}
DRAWN_SIDE = 640  # pictures are enlarged by whole numbers to about this many pixels


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw which pixels share a token, a cluster or a semantic token'
    )
    add = parser.add_argument
    add('config', help='config file of a model with a backbone of this suite')
    add('checkpoint', help='weights of the model or of its backbone; left out: --random-weights')
    add('images', nargs='*', type=Path, metavar='image', help='picture files')
    add('--out-dir', type=Path, required=True, metavar='DIR', help='folder for the PNG files')
    add('--random-weights', action='store_true', help='draw an untrained model; no CHECKPOINT')
    add('--bbox', type=float, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='look at this box only')
    add('--shape', type=int, nargs=2, metavar=('H', 'W'), help='input size (that of the config)')
    text = 'TCFormer: draw the importance scores as well'
    add('--scores', action='store_const', const=True, help=text)
    text = 'PaCa-ViT: heat maps of these clusters alone, larger; counted from 0 (all)'
    add('--clusters', type=int, nargs='+', metavar='N', help=text)
    text = (
        'PaCa-ViT: the clustering of block J of a stage, counted from 0 (the first that clusters)'
    )
    add('--block', type=int, metavar='J', help=text)
    text = 'STViT: these semantic tokens; counted from 0, row by row (6 of them, spread evenly)'
    add('--tokens', type=int, nargs='+', metavar='N', help=text)
    add('--unit', type=int, metavar='U', help='STViT: this unit alone, counted from 0 (all)')
    text = 'STViT: what tokens gather in the first step, or in the second (refine)'
    add('--step', choices=list(STEPS), help=text)
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
            'draw_tokens needs CONFIG CHECKPOINT IMAGE..., got no image; name one, or pass '
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
    """Name to picture: ``stage1`` ... and ``sheet``.

    With ``--scores`` ``score2`` ...; of a backbone with soft clusters ``clusters1`` ...; of one
    with semantic tokens ``unit0`` ... and ``tokens0`` ... in the place of stages.
    """
    shape = None if args.shape is None else tuple(args.shape)
    bbox = None if args.bbox is None else tuple(args.bbox)
    view = choose_view(cfg, image.shape[:2], shape, bbox)
    hw = view.hw if shape else padded_size(cfg, view.hw)
    inputs = pad_inputs(cfg, normalise(cfg, [view.cut(image)]), hw).to(args.device)
    scale = max(1, round(DRAWN_SIDE / max(hw)))
    picture = pad_picture(view.cut(image, scale), (hw[0] * scale, hw[1] * scale))
    try:
        recorder = record_backbone(backbone, inputs)
        kind = recorded_kind(recorder)
        check_options(args, kind)
        parts = dict(tokens=draw_tokens, assign=draw_clusters, units=draw_units)[kind]
        drawn, others = parts(recorder, inputs, picture, args)
    except ValueError as error:
        raise UsageError(str(error)) from error
    source = add_title(picture, f'input: {hw[0]} x {hw[1]} pixels')
    rows, columns = [source, *drawn.values()], None
    if args.scores:  # each below its stage
        rows += [None, *(others.get(name.replace('stage', 'score')) for name in drawn)]
        columns = 1 + len(drawn)
    return {**drawn, **others, 'sheet': contact_sheet(rows, columns)}


def check_options(args: argparse.Namespace, kind: str) -> None:
    """Raise where an option is for another kind of backbone than the one of ``kind``."""
    for other, (what, options) in KINDS.items():
        given = [f'--{name}' for name in options if getattr(args, name) is not None]
        if given and other != kind:
            raise UsageError(
                f'{" and ".join(given)} {"need" if given[1:] else "needs"} a backbone with {what}, '
                f'got one with {KINDS[kind][0]}; leave out what does not apply'
            )


def draw_tokens(
    recorder: TokenRecorder, inputs: Tensor, picture: np.ndarray, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Region maps and score maps by name."""
    scores = draw_score_maps(recorder, inputs, [picture])[0] if args.scores else {}
    stages = draw_token_maps(recorder, inputs, [picture])[0]
    return named('stage', stages), named('score', scores)


def draw_clusters(
    recorder: TokenRecorder, inputs: Tensor, picture: np.ndarray, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arg-max maps and sheets of heat maps by name."""
    stages = draw_cluster_maps(recorder, inputs, [picture], block=args.block)[0]
    heats = draw_cluster_heats(
        recorder, inputs, [picture], block=args.block, clusters=args.clusters
    )[0]
    left_out = ', '.join(str(stage) for stage in stages_left_out(recorder, args.block))
    if left_out:
        what = 'no clusters' if args.block is None else f'no clustering in block {args.block}'
        print(f'note: {what} in stage {left_out}, which is left out', file=sys.stderr)
    return named('stage', stages), named('clusters', heats)


def draw_units(
    recorder: TokenRecorder, inputs: Tensor, picture: np.ndarray, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arg-max maps and sheets of pairs of heat maps by name."""
    options = dict(step=args.step or 'refine', unit=args.unit, tokens=args.tokens)
    units = draw_semantic_maps(recorder, inputs, [picture], **options)[0]
    tokens = draw_semantic_tokens(recorder, inputs, [picture], **options)[0]
    return named('unit', units), named('tokens', tokens)


def named(what: str, pictures: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures by number -> by name."""
    return {f'{what}{number}': picture for number, picture in pictures.items()}


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
