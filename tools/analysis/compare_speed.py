"""Time two or more models side by side: A B A B ..., forward and training step.

python tools/analysis/compare_speed.py CONFIG_A CONFIG_B --shape H W [--train] [--batch N] ...
python tools/analysis/compare_speed.py CONFIG --shape H W --variant NAME KEY=VALUE ...

A variant is the first config with other options. With --check-parity all models get the weights of
the first and nothing is timed unless their outputs agree.
"""

import argparse
import platform
import re
from functools import partial
from pathlib import Path
from typing import Any

import _models
import mmengine
import torch
from _models import UsageError
from mmtoken.analysis import timing
from mmtoken.analysis.timing import Summary, Workload
from torch import nn
from tqdm import tqdm

KINDS = {'forward': 'forward, eval', 'train': 'training step: forward + backward'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _models.make_parser('Compare latency and memory of models')
    add, count = parser.add_argument, _models.at_least(1)
    add('configs', nargs='+', metavar='config', help='config files; the first is the reference')
    text = 'NAME KEY=VALUE ...: the first config with these options; may be repeated'
    add('--variant', nargs='+', action='append', default=[], metavar='NAME', help=text)
    _models.add_measuring_options(parser)
    add('--batch', type=count, default=1, help='images per call (1)')
    add('--rounds', type=count, default=10, help='timed calls of each model (10)')
    add('--warmup', type=_models.at_least(0), default=2, help='calls of each model before that (2)')
    add('--train', action='store_true', help='time forward + backward as well; no optimizer')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--device', default='cpu', help='cpu or cuda (cpu)')
    add('--check-parity', type=float, metavar='ATOL', help='outputs must agree to this')
    return parser.parse_args(argv)


def build_models(args: argparse.Namespace) -> dict[str, nn.Module]:
    """Name to model, in the order of the command line."""
    wanted = [(path, Path(path).stem, {}) for path in args.configs]
    for name, *texts in args.variant:
        if not texts or not all('=' in text for text in texts):
            raise UsageError(f'--variant must be NAME KEY=VALUE ..., got {texts} after NAME')
        options = _models.make_parser('').parse_args(['--cfg-options', *texts]).cfg_options
        wanted.append((args.configs[0], name, options))
    if len(wanted) < 2:
        raise UsageError(f'this needs two or more models, got {args.configs}; add a --variant')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UsageError(f'--device {args.device} needs a GPU, got none; use --device cpu')
    models: dict[str, nn.Module] = {}
    for path, name, options in wanted:
        if name in models:
            raise UsageError(f'each model needs its own name, got {name!r} twice; rename one')
        cfg = _models.read_config(path, {**args.cfg_options, **options})
        torch.manual_seed(0)
        models[name] = _models.build_part(cfg, args.part).to(args.device)
    return models


def check_parity(models: dict[str, nn.Module], work: Workload, atol: float) -> dict[str, float]:
    """Give all models the weights of the first; return how far their outputs are from its own."""
    (first, reference), *others = models.items()
    expected = work.forward(reference)
    found = {}
    for name, model in others:
        try:
            model.load_state_dict(reference.state_dict())
        except RuntimeError as error:
            raise UsageError(
                f'--check-parity needs models that share weights, but {name!r} does not take those '
                f'of {first!r}: {str(error).splitlines()[-1].strip()}'
            ) from error
        found[name] = timing.largest_difference(work.forward(model), expected)
        if not found[name] <= atol:
            raise UsageError(
                f'no speed-up without parity: outputs of {name!r} must be within {atol:g} of '
                f'{first!r}, got {found[name]:g}'
            )
    return found


def measure(models: dict[str, nn.Module], work: Workload, args: argparse.Namespace) -> dict:
    """Time all models, then look at the memory of each."""
    device = work.images.device
    results = {}
    for kind in KINDS if args.train else ['forward']:
        calls = {name: partial(getattr(work, kind), model) for name, model in models.items()}
        with tqdm(total=args.warmup + args.rounds, desc=kind, unit='round') as bar:
            times = timing.time_interleaved(
                calls, args.rounds, args.warmup, device, lambda _, bar=bar: bar.update()
            )
        results[kind] = {}
        for name, model in models.items():
            model.zero_grad(set_to_none=True)
            peak = timing.peak_memory(calls[name], device)
            results[kind][name] = dict(times_ms=times[name].times, peak_bytes=peak)
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
        shape=f'{args.shape[0]} x {args.shape[1]}',
        batch=args.batch,
        part=args.part,
        rounds=f'{args.rounds} interleaved, after {args.warmup} warm-ups',
        memory="peak of PyTorch's allocator during one call, weights excluded",
    )


def format_results(by_name: dict[str, dict[str, Any]]) -> str:
    """A table of one kind of call; ratios are to the first model."""
    width = max(map(len, by_name))
    lines = [f'{"":{width}}  median ms        quartiles ms   ratio  peak MiB   ratio']
    first, *_ = by_name.values()
    for name, found in by_name.items():
        times, peak = Summary(found['times_ms']), found['peak_bytes']
        ratios = times.ratio(Summary(first['times_ms'])), peak / max(first['peak_bytes'], 1)
        quartiles = '{:.2f} - {:.2f}'.format(*times.quartiles)
        lines.append(
            f'{name:{width}}  {times.median:9.2f}  {quartiles:>18}  {ratios[0]:6.3f}  '
            f'{peak / 2**20:8.1f}  {ratios[1]:6.3f}'
        )
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    """Build, compare, time, print."""
    args = parse_args(argv)
    models = build_models(args)
    torch.manual_seed(0)
    channels = _models.image_channels(next(iter(models.values())))
    images = torch.randn(args.batch, channels, *args.shape).to(args.device)
    work = Workload(images, getattr(torch, args.dtype))
    parity, shown = None, 'Outputs were not compared (--check-parity ATOL does).'
    if args.check_parity is not None:
        parity = check_parity(models, work, args.check_parity)
        shown = ', '.join(f'{name} {value:.2g}' for name, value in parity.items())
        shown = f'Largest difference from the first with its weights: {shown}'
    about = header(args)
    print('\n'.join(f'{key + ":":9}{value}' for key, value in about.items()))
    results = measure(models, work, args)
    for kind, by_name in results.items():
        print(f'\n{KINDS[kind]}\n{format_results(by_name)}')
    print(f'\n{shown}')
    if args.json:
        mmengine.dump({**about, 'parity': parity, **results}, args.json, 'json', indent=2)


if __name__ == '__main__':
    _models.run(main)
