"""Time two or more models side by side: A B A B ..., forward and training step.

python tools/analysis/compare_speed.py CONFIG_A CONFIG_B --shape H W [--train] [--batch N] ...
python tools/analysis/compare_speed.py CONFIG --shape H W --variant NAME KEY=VALUE ...

A variant is the first config with other options. With --check-parity all models get the weights of
the first and nothing is timed unless their outputs agree.
"""

import argparse
import copy
import json
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _models import (
    PARTS,
    UsageError,
    add_config_options,
    build_part,
    check_side,
    environment,
    image_channels,
    parse_options,
    read_config,
    run,
)
from mmtoken.analysis.timing import (
    Summary,
    Workload,
    largest_difference,
    peak_memory,
    time_interleaved,
)
from torch import nn

MEMORY = {
    'cpu': "peak bytes of PyTorch's CPU allocator during one call (profiler), weights excluded",
    'cuda': 'torch.cuda.max_memory_allocated during one call, weights excluded',
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare latency and memory of models')
    add = parser.add_argument
    add('configs', nargs='+', metavar='config', help='config files; the first is the reference')
    add(
        '--variant',
        nargs='+',
        action='append',
        default=[],
        metavar='NAME',
        help='NAME KEY=VALUE ...: the first config with these options; may be repeated',
    )
    add('--shape', type=int, nargs=2, required=True, metavar=('H', 'W'), help='input in pixels')
    add('--batch', type=int, default=1, help='images per call (1)')
    add('--rounds', type=int, default=10, help='timed calls of each model (10)')
    add('--warmup', type=int, default=2, help='calls of each model before that (2)')
    add('--part', choices=PARTS, default='model', help='how far to go (model)')
    add('--train', action='store_true', help='time forward + backward as well; no optimizer')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--device', default='cpu', help='cpu or cuda (cpu)')
    add('--threads', type=int, help='CPU threads (as PyTorch chooses)')
    add('--check-parity', type=float, metavar='ATOL', help='outputs must agree to this')
    add('--json', type=Path, metavar='FILE', help='write all times as well')
    add_config_options(parser)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise on numbers and devices that cannot be."""
    check_side(args.shape)
    for name, least in (('batch', 1), ('rounds', 1), ('warmup', 0), ('threads', 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f'--{name} must be at least {least}, got {value}')
    if len(args.configs) + len(args.variant) < 2:
        raise UsageError(
            f'compare_speed needs two or more models, got {args.configs}; name another config, or '
            'add --variant NAME KEY=VALUE'
        )
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UsageError(
            f'--device {args.device} needs a GPU that torch.cuda.is_available() sees, got none; '
            'use --device cpu'
        )


def build_models(args: argparse.Namespace) -> dict[str, nn.Module]:
    """Name to model, in the order of the command line."""
    wanted = [(path, Path(path).stem, {}) for path in args.configs]
    wanted += [(args.configs[0], name, parse_options(texts)) for name, *texts in args.variant]
    models: dict[str, nn.Module] = {}
    for path, name, options in wanted:
        if name in models:
            raise UsageError(f'each model needs its own name, got {name!r} twice; rename one')
        cfg = read_config(path, {**args.cfg_options, **options})
        torch.manual_seed(0)
        models[name] = build_part(cfg, args.part).to(args.device)
    return models


def check_parity(models: dict[str, nn.Module], work: Workload, atol: float) -> dict[str, float]:
    """Give all models the weights of the first; raise unless their outputs agree.

    Args:
        models: Name to model; the first is the reference.
        work: What they are fed with.
        atol: Largest absolute difference that still counts as agreement.

    Returns:
        Name to the largest difference from the first.
    """
    (first, reference), *others = models.items()
    weights = copy.deepcopy(reference.state_dict())
    expected = work.forward(reference)
    found = {}
    for name, model in others:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UsageError(
                f'--check-parity needs models that share weights, but {name!r} does not take those '
                f'of {first!r}: {str(error).splitlines()[-1].strip()}; compare it without the check'
            ) from error
        found[name] = largest_difference(work.forward(model), expected)
        if not found[name] <= atol:
            raise UsageError(
                f'no speed-up without parity: outputs of {name!r} must be within {atol:g} of '
                f'{first!r}, got {found[name]:g}; mend it, or compare without --check-parity'
            )
    return found


def measure(
    models: dict[str, nn.Module], work: Workload, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Kind of call (forward, train) to name to ``times`` and ``peak`` memory in bytes."""
    device = work.images.device
    total = args.warmup + args.rounds
    found = {}
    for kind in ('forward', 'train') if args.train else ('forward',):
        calls = {name: partial(getattr(work, kind), model) for name, model in models.items()}

        def progress(done: int, kind: str = kind) -> None:
            end = '\n' if done == total else ''
            print(f'\r{kind}: round {done}/{total}', end=end, file=sys.stderr, flush=True)

        times = time_interleaved(calls, args.rounds, args.warmup, device, progress)
        peaks = {}
        for name, model in models.items():
            model.zero_grad(set_to_none=True)
            peaks[name] = peak_memory(calls[name], device)
            model.zero_grad(set_to_none=True)
        found[kind] = {name: dict(times=times[name], peak=peaks[name]) for name in models}
    return found


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def header(args: argparse.Namespace) -> dict[str, Any]:
    """All that a reader needs to repeat the run."""
    device = torch.device(args.device)
    return dict(
        device=f'{args.device} ({device_name(device)})',
        dtype=args.dtype + (' autocast' if args.dtype != 'float32' else ''),
        threads=torch.get_num_threads(),
        **environment(),
        shape=f'{args.shape[0]} x {args.shape[1]}',
        batch=args.batch,
        part=args.part,
        rounds=f'{args.rounds} interleaved, after {args.warmup} warm-ups',
        memory=MEMORY[device.type],
    )


def format_results(results: dict[str, dict[str, Any]], parity: dict[str, float] | None) -> str:
    """One table per kind of call; ratios are to the first model."""
    text = []
    for kind, by_name in results.items():
        what = 'forward, eval' if kind == 'forward' else 'training step: forward + backward'
        first = next(iter(by_name.values()))
        rows = [['', 'median ms', 'quartiles ms', 'ratio', 'peak MiB', 'ratio']]
        for name, found in by_name.items():
            times: Summary = found['times']
            low, high = times.quartiles
            rows.append(
                [
                    name,
                    f'{times.median:.2f}',
                    f'{low:.2f} - {high:.2f}',
                    f'{times.ratio(first["times"]):.3f}',
                    f'{found["peak"] / 2**20:.1f}',
                    f'{found["peak"] / max(first["peak"], 1):.3f}',
                ]
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text += ['', what]
        text += [
            '  '.join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
    if parity is None:
        text += ['', 'Outputs were not compared (--check-parity ATOL does).']
    else:
        text += ['', 'Largest difference from the first with its weights: ']
        text[-1] += ', '.join(f'{name} {value:.2g}' for name, value in parity.items())
    return '\n'.join(text)


def main(argv: list[str] | None = None) -> None:
    """Build, compare, time, print."""
    args = parse_args(argv)
    check_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    models = build_models(args)
    torch.manual_seed(0)
    channels = image_channels(next(iter(models.values())))
    images = torch.randn(args.batch, channels, *args.shape).to(args.device)
    work = Workload(images, getattr(torch, args.dtype))
    try:
        parity = None
        if args.check_parity is not None:
            parity = check_parity(models, work, args.check_parity)
        about = header(args)
        print('\n'.join(f'{key + ":":9}{value}' for key, value in about.items()))
        results = measure(models, work, args)
    except ValueError as error:  # an image that is too small, outputs without numbers
        raise UsageError(str(error)) from error
    print(format_results(results, parity))
    if args.json:
        numbers = {
            kind: {
                name: dict(times_ms=found['times'].times, peak_bytes=found['peak'])
                for name, found in by_name.items()
            }
            for kind, by_name in results.items()
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**about, 'parity': parity, **numbers}, indent=2) + '\n')


if __name__ == '__main__':
    run(main)
