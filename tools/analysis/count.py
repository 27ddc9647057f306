"""Parameters and multiply-adds of a model, per stage and per kind of operation.

python tools/analysis/count.py CONFIG --shape H W [--part backbone] [--json FILE] ...

Fused attention, clustering and token transforms are counted, which the hosts' tool does not see.
One multiply with one add counts 1. Nothing is computed: shapes alone run through the model,
unless they depend on values (region proposals), where it runs on the CPU instead. A RoI head then
counts for the proposals that random weights leave, usually as many as its test_cfg allows.
"""

import argparse
import json
import sys
from collections.abc import Callable
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
    read_config,
    run,
)
from mmtoken.analysis.counting import Complexity, count_complexity, format_table
from mmtoken.analysis.published import count_as_published, published_modules
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

CONVENTIONS = {
    'exact': 'one multiply + one add = 1; matrix products, convolutions, attention, clustering '
    '(distances N M C, scores, weighted sums), sums of token transforms; biases, norms, '
    'activations, pooling and sorting count 0',
    'original': 'the arithmetic of the published code, for every part of the model that has one',
}
COUNTERS = {'exact': count_complexity, 'original': count_as_published}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Count parameters and multiply-adds of a model')
    add = parser.add_argument
    add('config', help='config file of any host')
    add('--shape', type=int, nargs=2, required=True, metavar=('H', 'W'), help='input in pixels')
    add('--part', choices=PARTS, default='model', help='how far to go (model)')
    add('--convention', choices=sorted(CONVENTIONS), default='exact')
    add('--device', choices=['auto', 'fake', 'cpu', 'cuda'], default='auto', help='(auto)')
    add('--json', type=Path, metavar='FILE', help='write the numbers as well')
    add_config_options(parser)
    return parser.parse_args(argv)


def count(
    model: nn.Module, shape: tuple[int, int], convention: str = 'exact', device: str = 'auto'
) -> Complexity:
    """Count one image of ``shape``.

    Args:
        model: Takes images ``(1, C, H, W)``; its mode is kept.
        shape: H and W.
        convention: A key of ``CONVENTIONS``.
        device: ``'fake'`` runs shapes only; ``'auto'`` falls back from it to the CPU.

    Returns:
        The counts.
    """
    counter = COUNTERS[convention]

    def feed(where: str) -> Callable[[], Any]:
        return lambda: model(torch.zeros(1, image_channels(model), *shape, device=where))

    try:
        if device in ('auto', 'fake'):
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    return counter(model, feed('cpu'))
            except (RuntimeError, NotImplementedError, TypeError) as error:
                if device == 'fake':
                    raise UsageError(
                        f'this model needs values, not shapes alone ({type(error).__name__}); '
                        'use --device cpu'
                    ) from error
                note = 'shapes depend on values here: running on the CPU'
                print(f'{note} ({type(error).__name__})', file=sys.stderr)
        where = 'cpu' if device == 'auto' else device
        return counter(model.to(where), feed(where))
    except ValueError as error:  # an image that is too small, a convention that does not apply
        raise UsageError(str(error)) from error


def describe(convention: str, model: nn.Module) -> str:
    """The rules of a convention."""
    rules = published_modules(model) if convention == 'original' else []
    return '. '.join([CONVENTIONS[convention], *(paper.RULES for paper in rules)])


def report(args: argparse.Namespace, complexity: Complexity, rules: str) -> str:
    """Header, table and notes."""
    height, width = args.shape
    header = [
        f'{args.config}, part: {args.part}, one image of {height} x {width}',
        f'convention {args.convention}: {rules}',
        ', '.join(f'{key} {value}' for key, value in environment().items()),
    ]
    layers: dict[str, int] = {}
    for kinds in complexity.params.values():
        for kind, number in kinds.items():
            layers[kind] = layers.get(kind, 0) + number
    footer = [
        f'{complexity.total_params:,} parameters: '
        + ', '.join(f'{kind} {number:,}' for kind, number in layers.items()),
        f'{complexity.total_macs:,} multiply-adds ({complexity.total_macs / 1e9:.2f} G)',
    ]
    if complexity.uncounted:
        footer.append(
            'NOT counted, because PyTorch does not see what they compute: '
            + ', '.join(complexity.uncounted)
        )
    return '\n'.join([*header, '', format_table(complexity), '', *footer])


def as_json(args: argparse.Namespace, complexity: Complexity, rules: str) -> dict[str, Any]:
    """All numbers, unrounded."""
    return dict(
        config=args.config,
        part=args.part,
        shape=args.shape,
        convention=args.convention,
        unit=rules,
        **environment(),
        macs=complexity.macs,
        params=complexity.params,
        total_macs=complexity.total_macs,
        total_params=complexity.total_params,
        uncounted=complexity.uncounted,
    )


def main(argv: list[str] | None = None) -> None:
    """Count, print, and write what was asked for."""
    args = parse_args(argv)
    check_side(args.shape)
    cfg = read_config(args.config, args.cfg_options)
    model = build_part(cfg, args.part).eval()
    complexity = count(model, tuple(args.shape), args.convention, args.device)
    rules = describe(args.convention, model)
    print(report(args, complexity, rules))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(as_json(args, complexity, rules), indent=2) + '\n')


if __name__ == '__main__':
    run(main)
