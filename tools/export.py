"""Export a model to ONNX or to a torch.export archive, and compare the file with the model.

python tools/export.py CONFIG CHECKPOINT --shape H W -o FILE.onnx [--dynamic batch|size] ...

Pose estimators, segmentors, classifiers and one-stage detectors are exported whole, up to the raw
outputs of the head. Two-stage detectors are exported as feature extractors, with --part neck. The
file takes float images (B, C, H, W) in BGR order with values from 0 to 255, unless --normalization
outside is given. CHECKPOINT may be "none" for random weights.

The file is then run on two images that it was not traced with. If it differs from the model by more
than 1e-4, it keeps the name FILE.unverified.onnx and the exit status is 1.
"""

import argparse
import importlib.util
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from _checks import read_checkpoint
from _cli import UsageError, make_parser, warn
from _exported_models import PARTS, _models, build, describe, find_outputs, name_outputs
from mmtoken.analysis.timing import Summary, measure_time
from mmtoken.common.strict_load import load_state_dict_strict
from torch import Tensor, nn
from torch.nn import functional as F

EXTRA = ('onnx', 'onnxscript', 'onnxruntime')
OPSET = 18
TOLERANCE = 1e-4
AXES = {'none': {}, 'batch': {0: 'batch'}, 'size': {0: 'batch', 2: 'height', 3: 'width'}}
# operations that runtimes on devices do not have, or that make sizes depend on values
UNPORTABLE = ('Loop', 'Scan', 'If', 'NonZero', 'Unique', 'Sequence', 'SplitToSequence', 'Optional')
Runner = Callable[[Tensor], list[Tensor]]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; raise unless the file can be written."""
    parser = make_parser('Export a model and compare the file with it')
    add = parser.add_argument
    add('config', help='config file of any host')
    add('checkpoint', help='weights of the model, or "none" for random ones')
    number = _models.at_least(1)
    add('--shape', type=number, nargs=2, required=True, metavar=('H', 'W'), help='in pixels')
    add('-o', '--out', type=Path, required=True, metavar='FILE', help='FILE.onnx or FILE.pt2')
    add('--format', choices=['onnx', 'pt2'], help='(that of FILE)')
    add('--part', choices=PARTS, default='model', help='(model)')
    add('--dynamic', choices=AXES, default='none', help='free batch; free batch and size (none)')
    text = 'where mean, std and channel order are applied (inside)'
    add('--normalization', choices=['inside', 'outside'], default='inside', help=text)
    add('--labels', action='store_true', help='segmentors: the class of each pixel, not logits')
    add('--rounds', type=number, default=10, help='timed calls (%(default)s)')
    add('--overwrite', action='store_true', help='replace FILE')
    args = parser.parse_args(argv)
    args.format = args.format or args.out.suffix[1:]
    if args.format not in ('onnx', 'pt2') or args.out.suffix != f'.{args.format}':
        raise UsageError(f'-o must be a FILE.onnx or FILE.pt2 of --format, got {args.out}')
    if args.out.exists() and not args.overwrite:
        raise UsageError(f'-o must be a new file, got {args.out}; pass --overwrite')
    if not args.out.parent.is_dir():
        raise UsageError(f'-o must be in an existing folder, got {args.out}')
    return args


def check_packages(kind: str) -> None:
    """Raise unless the exporter of a format is installed."""
    if kind != 'onnx':
        return
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f'export to ONNX needs {", ".join(EXTRA)}, got an environment without '
            f'{", ".join(missing)}; run: pip install {" ".join(EXTRA)}'
        )
    if 'dynamic_shapes' not in inspect.signature(torch.onnx.export).parameters:
        raise UsageError(f'export to ONNX needs torch >= 2.9, got {torch.__version__}; export pt2')


def load_weights(model: nn.Module, checkpoint: dict, source: str, whole: bool) -> None:
    """Load weights strictly; a part of a model takes its own."""
    state = checkpoint.get('state_dict', checkpoint)
    if not whole:
        parts = tuple(f'{name}.' for name, _ in model.named_children())
        state = {key: value for key, value in state.items() if key.startswith(parts)}
    load_state_dict_strict(model, state, source=source)


def draw_image(seed: int, batch: int, hw: tuple[int, int], channels: int, raw: bool) -> Tensor:
    """Random smooth images with some noise: flat noise is unlike any photograph."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, 5, 7, generator=random)
    image = F.interpolate(coarse, hw, mode='bicubic')
    image = image + 0.1 * torch.randn(image.shape, generator=random)
    return (image * 60 + 120).clamp(0, 255).round() if raw else image


def write_onnx(
    model: nn.Module, example: Tensor, path: Path, axes: dict, names: list[str], about: dict
) -> Counter:
    """Write an ONNX file; return its operators."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=['image'],
        output_names=names,
        dynamic_shapes=(axes,) if axes else None,
        verbose=False,
        optimize=False,
    )
    # optimizer.optimize() would also look for patterns, which takes minutes and is left to the
    # runtime; and it would fold large constants, some of which it resizes wrongly
    optimizer.inline(program.model)
    common.ShapeInferencePass()(program.model)  # with types, no CastLike remains
    optimizer.fold_constants(program.model, input_size_limit=64)
    for simplify in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.ClearMetadataAndDocStringPass(),  # stack traces
    ):
        simplify(program.model)
    program.model.metadata_props.update(about, opset=str(OPSET))
    program.save(path, external_data=False)
    return Counter(node.op_type for node in program.model.graph.all_nodes())


def write_pt2(
    model: nn.Module, example: Tensor, path: Path, axes: dict, names: list[str], about: dict
) -> Counter:
    """Write an archive of torch.export; return its operators."""
    shapes = ({axis: torch.export.Dim.DYNAMIC for axis in axes},) if axes else None
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    about = {**about, 'outputs': json.dumps(names)}
    torch.export.save(program, path, extra_files={'metadata.json': json.dumps(about)})
    calls = (node for node in program.graph.nodes if node.op == 'call_function')
    return Counter(str(node.target).removeprefix('aten.').split('.')[0] for node in calls)


@contextmanager
def free_sizes(dynamic: str) -> Iterator[None]:
    """Name what a model fixes if an export, or a run at another size, fails with free sizes."""
    try:
        yield
    except Exception as error:
        if dynamic == 'none':
            raise
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line.strip(' -') for line in str(cause).strip().splitlines()]
        reason = next(
            (line.partition('. If')[0] for line in lines if 'specialized' in line), lines[0]
        )
        raise UsageError(
            f'--dynamic {dynamic} needs a model that does not fix it, got "{reason}"; write one '
            'file per size with --dynamic batch, or leave it out'
        ) from error


WRITERS = {'.onnx': write_onnx, '.pt2': write_pt2}


def load(path: Path) -> Runner:
    """A function that runs a file."""
    if path.suffix == '.pt2':
        module = torch.export.load(path).module()
        return lambda image: list(module(image))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda image: list(map(torch.from_numpy, session.run(None, {'image': image.numpy()})))


def differences(got: list[Tensor], want: list[Tensor]) -> list[float]:
    """Largest absolute difference of each output; of labels, the share that differs."""
    shapes = [[tuple(one.shape) for one in outputs] for outputs in (got, want)]
    if shapes[0] != shapes[1]:
        raise ValueError(f'outputs of shape {shapes[0]} instead of {shapes[1]}')
    return [
        (a - b).abs().max().item() if b.is_floating_point() else (a != b).double().mean().item()
        for a, b in zip(got, want)
    ]


def time_in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, Summary]:
    """Time calls in turns, after two rounds of warm-up."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            times[name].append(measure_time(call, torch.device('cpu')))
    return {name: Summary(*map(tuple, zip(*found[2:]))) for name, found in times.items()}


def verify(args: argparse.Namespace, run: Runner, model: nn.Module, draw: Callable) -> list[float]:
    """The larger difference of each output on two images that the file was not traced with."""
    height, width = args.shape
    other = (height + height // 3, width + width // 3) if args.dynamic == 'size' else args.shape
    first, second = draw(1, 1 if args.dynamic == 'none' else 3, args.shape), draw(2, 1, other)
    pairs = zip(*(differences(run(image), list(model(image))) for image in (first, second)))
    # max() ignores a nan that is not the first
    return [max(pair, key=lambda value: (value != value, value)) for pair in pairs]


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Build, export, verify, time, print."""
    args = parse_args(argv)
    check_packages(args.format)
    cfg = _models.read_config(args.config, args.cfg_options)
    model, checkpoint = build(cfg, args).eval(), {}
    if args.checkpoint == 'none':
        warn('random weights')
    else:
        checkpoint = read_checkpoint(args.checkpoint)
        load_weights(model.model, checkpoint, args.checkpoint, model.whole)
    channels, raw = _models.image_channels(model.model), args.normalization == 'inside'
    draw = partial(draw_image, channels=channels, raw=raw)
    # a batch of one would be taken for a constant
    example = draw(0, 1 if args.dynamic == 'none' else 2, args.shape)
    names = name_outputs(cfg, args, find_outputs(model, example))
    path = args.out.with_suffix(f'.unverified.{args.format}')
    about = describe(cfg, args, checkpoint)
    facts = (AXES[args.dynamic], names, about)
    with free_sizes(args.dynamic):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            operators = WRITERS[path.suffix](model, example, path, *facts)
        run, image = load(path), draw(3, 1, args.shape)
        found = verify(args, run, model, draw)
    calls = {'eager': lambda: model(image), 'file': lambda: run(image)}
    times = time_in_turns(calls, args.rounds)
    report(args, path, dict(zip(names, found)), times, operators)
    if not max(found) <= TOLERANCE:  # nan neither
        raise UsageError(
            f'a file must differ from the model by at most {TOLERANCE:g}, got {max(found):.2g}; '
            f'{path} was kept under this name'
        )
    path.replace(args.out)
    print(f'verified: {args.out}')


def report(
    args: argparse.Namespace, path: Path, found: dict[str, float], times: dict, operators: Counter
) -> None:
    """Print what was measured, and a row for the table in docs/export.md."""
    eager, file = times['eager'], times['file']
    threads = torch.get_num_threads()
    print(f'{args.format}, {path.stat().st_size / 2**20:.1f} MiB, dynamic: {args.dynamic}')
    for name, value in found.items():
        print(f'{name}: max |difference| {value:.2g}')
    print(
        f'latency of one image: eager {eager.median:.1f} ms, file {file.median:.1f} ms (median of '
        f'{args.rounds} in turns, {threads} threads)'
    )
    print('operators: ' + ', '.join(f'{name} {n}' for name, n in sorted(operators.items())))
    if odd := [name for name in sorted(operators) if name.startswith(UNPORTABLE)]:
        warn(f'not every runtime has {", ".join(odd)}')
    cells = (Path(args.config).stem, args.part, '{} x {}'.format(*args.shape), args.format)
    cells += (args.dynamic, f'{max(found.values()):.1g}', f'{eager.median:.1f}')
    cells += (f'{file.median:.1f}', f'{file.ratio(eager):.2f}')
    print(f'| {" | ".join(cells)} |')


if __name__ == '__main__':
    _models.run(main)
