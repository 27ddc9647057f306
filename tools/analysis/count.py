"""Parameters and multiply-adds of a model, per stage and per kind of operation.

python tools/analysis/count.py CONFIG --shape H W [--part backbone] [--json FILE] ...

Fused attention, clustering and token transforms are counted, which the hosts' tool does not see.
One multiply with one add counts 1. Nothing is computed: shapes alone run through the model. Where
they depend on values (region proposals), the model runs on the CPU, and a RoI head counts for the
proposals that random weights leave, usually as many as its test_cfg allows.
"""

import argparse
import sys
from collections import Counter
from typing import Any

import _models
import mmengine
import torch
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
    add = parser.add_argument
    add('config', help='config file of any host')
    _models.add_measuring_options(parser)
    add('--convention', choices=CONVENTIONS, default='exact', help='(exact)')
    return parser.parse_args(argv)


def count(model: nn.Module, shape: tuple[int, int], convention: str = 'exact') -> Complexity:
    """Count one image of ``shape`` (H, W): from shapes alone or, where that fails, on the CPU.

    Raises a ``ValueError`` for images that the model refuses and conventions that do not apply.
    """
    counter = count_complexity if convention == 'exact' else count_as_published

    def feed() -> Any:
        return model(torch.zeros(1, _models.image_channels(model), *shape))

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return counter(model, feed)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        kind = type(error).__name__
        print(f'shapes depend on values: running on the CPU ({kind})', file=sys.stderr)
    return counter(model, feed)


def format_report(about: dict[str, Any], found: Complexity) -> str:
    """Header, table and notes."""
    layers = sum(map(Counter, found.params.values()), Counter())
    by_kind = ', '.join(f'{kind} {number:,}' for kind, number in layers.items())
    text = (
        '{config}, part: {part}, one image of {shape[0]} x {shape[1]}\n'
        'convention {convention}: {unit}\ntorch {torch}, commit {commit}\n\n'
    ).format(**about)
    text += (
        f'{format_table(found)}\n\n{found.total_params:,} parameters: {by_kind}\n'
        f'{found.total_macs:,} multiply-adds ({found.total_macs / 1e9:.2f} G)'
    )
    if found.uncounted:
        text += '\nNOT counted, PyTorch does not see inside: ' + ', '.join(found.uncounted)
    return text


def main(argv: list[str] | None = None) -> None:
    """Count, print, and write what was asked for."""
    args = parse_args(argv)
    _models.check_output('--json', args.json)
    model = _models.build_part(_models.read_config(args.config, args.cfg_options), args.part).eval()
    found = count(model, tuple(args.shape), args.convention)
    papers = published_modules(model) if args.convention == 'original' else []
    rules = '. '.join([CONVENTIONS[args.convention], *(paper.RULES for paper in papers)])
    about = dict(config=args.config, part=args.part, shape=args.shape, convention=args.convention)
    about.update(unit=rules, **_models.environment())
    print(format_report(about, found))
    names = ('macs', 'params', 'total_macs', 'total_params', 'uncounted')
    if args.json:
        numbers = about | {name: getattr(found, name) for name in names}
        mmengine.dump(numbers, args.json, 'json', indent=2)


if __name__ == '__main__':
    _models.run(main)
