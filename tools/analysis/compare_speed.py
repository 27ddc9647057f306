"""Time models side by side: A B A B ..., forward pass and training step, and their memory.

python tools/analysis/compare_speed.py CONFIG_A CONFIG_B --shape H W [--train] [--batch N] ...
python tools/analysis/compare_speed.py CONFIG --shape H W --variant NAME KEY=VALUE ...
python tools/analysis/compare_speed.py CONFIG --shape H W --part backbone --checkout DIR --compile
python tools/analysis/compare_speed.py --shape H W --backbone NAME TYPE KEY=VALUE ... --backbone ...

A variant is the first row with other options; ``--checkout`` (a folder or a commit) and
``--compile`` add the first row with other code, and compiled. These two claim to compute the same:
they get the weights of the first, and nothing is timed unless the outputs agree. --check-parity
demands that of all rows. With several --shape, times are fitted by a power of the number of pixels.
"""

import argparse
import importlib
import platform
import re
from pathlib import Path
from typing import Any

import _models
import mmengine
import torch
from _checkouts import OtherCheckout
from _errors import UsageError, one_sentence
from _parts import build_nodes
from _speed_report import KINDS, Found, draw_times, format_growth, format_results
from count import count
from mmtoken.analysis import timing
from mmtoken.analysis.timing import MatrixProduct, TimedModel
from tqdm import tqdm

PASSES = {'forward': 1, 'train': 3}  # a backward pass computes two products for each of the forward
Rows = dict[str, TimedModel | OtherCheckout]
CLAIMED = 1e-4  # of the largest output: rows that claim to compute the same


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _models.make_parser('Compare latency and memory of models')
    add, at_least = parser.add_argument, _models.at_least
    add('configs', nargs='*', metavar='config', help='config files; the first row is the reference')
    many = dict(nargs='+', action='append', default=[])
    text = 'NAME TYPE KEY=VALUE ...: a registered backbone, without a config; may be repeated'
    add('--backbone', **many, metavar='NAME', help=text)
    text = 'NAME KEY=VALUE ...: the first row with these options; may be repeated'
    add('--variant', **many, metavar='NAME', help=text)
    text = 'the first row with the code of this commit, or the checkout in DIR; may be repeated'
    add('--checkout', action='append', default=[], metavar='DIR', help=text)
    text = 'a Python module that registers more backbones; may be repeated'
    add('--import', action='append', default=[], metavar='MODULE', dest='imports', help=text)
    add('--compile', action='store_true', help='the first row, compiled as one graph')
    _models.add_measuring_options(parser, several=True)
    add('--batch', type=at_least(1), default=1, help='images per call (1)')
    add('--train-batch', type=at_least(1), help='images per training step (as --batch)')
    add('--rounds', type=at_least(1), default=10, help='timed calls of each model (10)')
    add('--warmup', type=at_least(0), default=2, help='calls of each model before that (2)')
    add('--train', action='store_true', help='time forward + backward as well; no optimizer')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--device', default='cpu', help='cpu or cuda (cpu)')
    add('--check-parity', type=float, metavar='ATOL', help='outputs must agree to this')
    add('--plot', type=Path, metavar='FILE', help='draw time against multiply-adds, or pixels')
    return parser.parse_args(argv)


def read_options(texts: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE as ``--cfg-options`` does."""
    return _models.make_parser('').parse_args(['--cfg-options', *texts]).cfg_options


def wanted_rows(args: argparse.Namespace) -> list[tuple[str, dict[str, dict], str]]:
    """Name, nodes and default scope of each row with a model of its own."""
    rows = []

    def add(name: str, cfg: Any) -> None:
        rows.append(
            (name, _models.nodes_of(cfg, args.part), cfg.get('default_scope') or 'mmengine')
        )

    for path in args.configs:
        add(Path(path).stem, _models.read_config(path, args.cfg_options))
    for name, *texts in args.backbone:
        if not texts or '=' in texts[0] or not all('=' in text for text in texts[1:]):
            raise UsageError(f'--backbone must be NAME TYPE KEY=VALUE ..., got {texts} after NAME')
        node = dict(type=texts[0], **(read_options(texts[1:]) if texts[1:] else {}))
        rows.append((name, {'backbone': node}, texts[0].rpartition('.')[0] or 'mmengine'))
    for name, *texts in args.variant:
        if not texts or not all('=' in text for text in texts):
            raise UsageError(f'--variant must be NAME KEY=VALUE ..., got {texts} after NAME')
        if not args.configs:
            raise UsageError('--variant changes the first config, got none; use --backbone')
        add(name, _models.read_config(args.configs[0], args.cfg_options | read_options(texts)))
    return rows


def build_rows(args: argparse.Namespace) -> Rows:
    """Name to what is timed, in the order of the command line."""
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UsageError(f'--device {args.device} needs a GPU, got none; use --device cpu')
    for name in args.imports:
        importlib.import_module(name)
    wanted = wanted_rows(args)
    if len(wanted) + len(args.checkout) + args.compile < 2 or not wanted:
        given = [name for name, *_ in wanted]
        raise UsageError(f'this needs two or more models, got {given}; add a --variant, --backbone')
    options = (torch.device(args.device), getattr(torch, args.dtype))
    rows: Rows = {}

    def add(name: str, row: TimedModel | OtherCheckout) -> None:
        if name in rows:
            raise UsageError(f'each model needs its own name, got {name!r} twice; rename one')
        rows[name] = row

    def build(nodes: dict[str, dict], scope: str, compiled: bool = False) -> TimedModel:
        torch.manual_seed(0)
        with one_sentence():
            return TimedModel(build_nodes(nodes, scope), *options, compiled)

    for name, *about in wanted:
        add(name, build(*about))
    first = wanted[0][1:]
    for folder in args.checkout:
        add(Path(folder).resolve().name, OtherCheckout(folder, *first, options))
    if args.compile:
        add(f'{wanted[0][0]}, compiled', build(*first, compiled=True))
    return rows


def check_parity(rows: Rows, shape: tuple[int, ...], atol: float | None) -> dict[str, float]:
    """Give rows the weights of the first; return how far their outputs are from its own."""
    (first, reference), *others = rows.items()
    expected = reference.outputs(shape)
    largest = max((float(tensor.abs().max()) for tensor in expected), default=0.0)
    atol = CLAIMED * largest if atol is None else atol
    found = {}
    for name, row in others:
        try:
            row.load(reference.weights())
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f'parity needs models that share weights, but {name!r} does not take those '
                f'of {first!r}: {str(error).splitlines()[-1].strip()}'
            ) from error
        found[name] = timing.largest_difference(row.outputs(shape), expected)
        if not found[name] <= atol:
            raise UsageError(
                f'no speed-up without parity: outputs of {name!r} must be within {atol:g} of '
                f'{first!r}, got {found[name]:g}'
            )
    return found


def measure(
    rows: Rows, shape: tuple[int, ...], macs: dict[str, int], args: argparse.Namespace
) -> Found:
    """Time all rows and a bare matrix product, then look at the memory of each row."""
    yardstick = MatrixProduct(torch.device(args.device), getattr(torch, args.dtype))
    results = {}
    for kind in KINDS if args.train else ['forward']:
        batch = (args.train_batch if kind == 'train' else None) or args.batch
        shape = (batch, *shape[1:])
        with tqdm(total=args.warmup + args.rounds, desc=kind, unit='round') as bar:
            turns = {**rows, 'matrix product': yardstick}
            times = timing.take_turns(
                turns, kind, shape, args.rounds, args.warmup, lambda bar=bar: bar.update()
            )
        rate = yardstick.macs / times.pop('matrix product').cpu_median
        results[kind] = {}
        for name, row in rows.items():
            found = dict(times_ms=times[name].wall, cpu_ms=times[name].cpu)
            found['peak_bytes'] = row.peak(kind, shape)
            if name in macs:
                found['macs'] = batch * macs[name]
                done = PASSES[kind] * found['macs'] / times[name].cpu_median
                found['share_of_product'] = done / rate
            results[kind][name] = found
    return results


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*:\s*(.+)', info.read_text() if info.is_file() else '')
    return found[1] if found else platform.processor() or platform.machine()


def header(args: argparse.Namespace) -> dict[str, Any]:
    """All that a reader needs to repeat the run."""
    return dict(
        device=f'{args.device} ({device_name(torch.device(args.device))})',
        dtype=args.dtype + (' autocast' if args.dtype != 'float32' else ''),
        threads=torch.get_num_threads(),
        **_models.environment(),
        shape=', '.join('{} x {}'.format(*shape) for shape in args.shape),
        batch=f'{args.batch} forward, {args.train_batch or args.batch} per training step',
        part=args.part,
        rounds=f'{args.rounds} interleaved, after {args.warmup} warm-ups',
        memory="peak of PyTorch's allocator during one call, weights excluded",
        product='rate of multiply-adds (a step: 3 forward passes) of that of a matrix product',
    )


def main(argv: list[str] | None = None) -> list[Found]:
    """Build, compare, time, print; return the numbers of each shape."""
    args = parse_args(argv)
    _models.check_output('--json', args.json)
    rows = build_rows(args)
    try:
        return run(rows, args)
    finally:
        for row in rows.values():
            if isinstance(row, OtherCheckout):
                row.close()


def run(rows: Rows, args: argparse.Namespace) -> list[Found]:
    """Compare, time, print, and write what was asked for."""
    first, *others = rows
    claimed = [
        name for name in others if isinstance(rows[name], OtherCheckout) or rows[name].compiled
    ]
    claimed = claimed if args.check_parity is None else others
    channels = _models.image_channels(rows[first].model)
    shapes = [(args.batch, channels, *shape) for shape in args.shape]
    parity, shown = None, 'Outputs were not compared (--check-parity ATOL does).'
    if claimed:
        compared = {name: rows[name] for name in [first, *claimed]}
        parity = check_parity(compared, shapes[0], args.check_parity)
        shown = ', '.join(f'{name} {value:.2g}' for name, value in parity.items())
        shown = f'Largest difference from the first with its weights: {shown}'
    # a compiled model is a copy of the first
    ours = {n: row for n, row in rows.items() if isinstance(row, TimedModel)}
    macs = [
        {n: count(row.model, hw).total_macs for n, row in ours.items()}
        for hw in map(tuple, args.shape)
    ]
    about = header(args)
    print('\n'.join(f'{key + ":":9}{value}' for key, value in about.items()))
    results = []
    for shape, counted in zip(shapes, macs):
        results.append(measure(rows, shape, counted, args))
        for kind, by_name in results[-1].items():
            title = f'{KINDS[kind]}, {shape[2]} x {shape[3]}'
            print(f'\n{title}\n{format_results(by_name)}')
    if len(shapes) > 1:
        print('\n' + format_growth(args.shape, results))
    print(f'\n{shown}')
    if args.json:
        named = {'x'.join(map(str, shape)): found for shape, found in zip(args.shape, results)}
        mmengine.dump({**about, 'parity': parity, 'results': named}, args.json, 'json', indent=2)
    if args.plot:
        draw_times(args.plot, args.shape, results)
    return results


if __name__ == '__main__':
    _models.run(main)
