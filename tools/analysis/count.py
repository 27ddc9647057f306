"""Parameters and multiply-adds of a model, per stage and per kind of operation.

python tools/analysis/count.py CONFIG --shape H W [--part backbone] [--json FILE] ...

Fused attention, clustering and token transforms are counted, which the hosts' tool does not see.
One multiply with one add counts 1. Nothing is computed: shapes alone run through the model,
unless they depend on values (region proposals), where it runs on the CPU instead. A RoI head then
counts for the proposals that random weights leave, usually as many as its test_cfg allows.
"""

import argparse
import sys
from collections import Counter
from functools import partial
from typing import Any

import _models
import torch
from _models import UsageError, usage_errors
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _models.make_parser('Count parameters and multiply-adds of a model')
    parser.add_argument('config', help='config file of any host')
    _models.add_measuring_options(parser)
    parser.add_argument('--convention', choices=CONVENTIONS, default='exact', help='(exact)')
    devices = ['auto', 'fake', 'cpu', 'cuda']
    parser.add_argument('--device', choices=devices, default='auto', help='(auto)')
    return parser.parse_args(argv)


def count(
    model: nn.Module, shape: tuple[int, int], convention: str = 'exact', device: str = 'auto'
) -> Complexity:
    """Count one image of ``shape`` (H, W).

    ``'fake'`` runs shapes only; ``'auto'`` falls back from it to the CPU.
    """
    counter = count_complexity if convention == 'exact' else count_as_published

    def feed(where: str) -> Any:
        return model(torch.zeros(1, _models.image_channels(model), *shape, device=where))

    with usage_errors():
        if device in ('auto', 'fake'):
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    return counter(model, partial(feed, 'cpu'))
            except (RuntimeError, NotImplementedError, TypeError) as error:
                kind = type(error).__name__
                if device == 'fake':
                    raise UsageError(
                        f'this model needs values, not shapes alone ({kind}); use --device cpu'
                    ) from error
                print(f'shapes depend on values: running on the CPU ({kind})', file=sys.stderr)
                device = 'cpu'
        return counter(model.to(device), partial(feed, device))


def format_report(numbers: dict[str, Any], found: Complexity) -> str:
    """Header, table and notes."""
    layers: Counter[str] = Counter()
    for kinds in found.params.values():
        layers.update(kinds)
    by_kind = ', '.join(f'{kind} {number:,}' for kind, number in layers.items())
    text = (
        '{config}, part: {part}, one image of {shape[0]} x {shape[1]}\n'
        'convention {convention}: {unit}\ntorch {torch}, commit {commit}\n\n'
    ).format(**numbers)
    text += (
        f'{format_table(found)}\n\n{found.total_params:,} parameters: {by_kind}\n'
        f'{found.total_macs:,} multiply-adds ({found.total_macs / 1e9:.2f} G)'
    )
    if found.uncounted:
        unseen = ', '.join(found.uncounted)
        text += f'\nNOT counted, because PyTorch does not see what they compute: {unseen}'
    return text


def main(argv: list[str] | None = None) -> None:
    """Count, print, and write what was asked for."""
    args = parse_args(argv)
    model = _models.build_part(_models.read_config(args.config, args.cfg_options), args.part).eval()
    found = count(model, tuple(args.shape), args.convention, args.device)
    papers = published_modules(model) if args.convention == 'original' else []
    numbers = dict(
        config=args.config,
        part=args.part,
        shape=args.shape,
        convention=args.convention,
        unit='. '.join([CONVENTIONS[args.convention], *(paper.RULES for paper in papers)]),
        **_models.environment(),
        macs=found.macs,
        params=found.params,
        total_macs=found.total_macs,
        total_params=found.total_params,
        uncounted=found.uncounted,
    )
    print(format_report(numbers, found))
    _models.write_json(args.json, numbers)


if __name__ == '__main__':
    _models.run(main)
