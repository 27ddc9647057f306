"""Run the comparisons of a list and print their ratios next to the targets.

python tools/analysis/bench.py configs/benchmarks.yml [--only WORD] [--rounds N] [--json FILE]

An entry has a title, the arguments of compare_speed.py, at most so many ``rounds``, and for calls
of rows (``forward``, ``train``) a target, or none: a number is the most that is allowed, '>= 1.8'
the least. The CPU time is that of the first row; ``forward memory`` is the ratio of the peaks,
``forward MiB`` the peak itself, and ``forward growth`` the exponent over the number of pixels.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

import _models
import compare_speed
import mmengine
from _models import UsageError
from _speed_report import Found, exponent, summary

KINDS, MEASURES = ('forward', 'train'), ('', 'memory', 'MiB', 'growth')
CALLS = tuple(f'{kind} {measure}'.strip() for measure in MEASURES for kind in KINDS)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Run a list of comparisons')
    add = parser.add_argument
    add('list', type=Path, help='YAML file of entries with title, run and targets')
    add('--only', default='', metavar='WORD', help='entries with this in their title')
    add('--rounds', type=_models.at_least(1), default=7, help='timed calls of each model (7)')
    add('--json', type=Path, metavar='FILE', help='write all numbers as well')
    return parser.parse_args(argv)


def value(shapes: list[tuple[int, int]], results: list[Found], row: str, call: str) -> float:
    """What a target is about; of the first shape unless it is the growth."""
    kind, _, measure = call.partition(' ')
    if measure == 'growth':
        return exponent(shapes, results, kind, row)
    first, *_ = results[0][kind].values()
    found = results[0][kind][row]
    if not measure:
        return summary(found).ratio(summary(first), 'cpu')
    return found['peak_bytes'] / (2**20 if measure == 'MiB' else first['peak_bytes'])


def is_met(number: float, target: str | float) -> bool:
    """Whether a number is at most the target, or at least '>= target'."""
    text = str(target)
    return number >= float(text[2:]) if text.startswith('>=') else number <= float(text)


def check(entry: dict[str, Any]) -> None:
    """UsageError if an entry asks for something else than is measured."""
    unknown = {call for calls in entry['targets'].values() for call in calls} - {*CALLS}
    if unknown:
        raise UsageError(f'targets must be of {CALLS}, got {sorted(unknown)}')


def main(argv: list[str] | None = None) -> None:
    """Run the entries, then print the table."""
    args = parse_args(argv)
    entries = [entry for entry in mmengine.load(args.list) if args.only in entry['title']]
    if not entries:
        raise UsageError(f'--only must be part of a title in {args.list}, got {args.only!r}')
    for entry in entries:
        check(entry)
    lines, numbers = [], {}
    for entry in entries:
        title = entry['title']
        print(f'\n== {title}', flush=True)
        rounds = min(args.rounds, entry.get('rounds', args.rounds))
        words = [*shlex.split(entry['run']), '--rounds', str(rounds)]
        results = compare_speed.main(words)
        shapes = compare_speed.parse_args(words).shape
        numbers[title] = {'x'.join(map(str, s)): found for s, found in zip(shapes, results)}
        for row, calls in entry['targets'].items():
            for call, target in calls.items():
                number = value(shapes, results, row, call)
                met = '' if target is None else 'yes' if is_met(number, target) else 'no'
                shown = f'{number:.0f}' if call.endswith('MiB') else f'{number:.2f}'
                lines.append(f'| {title} | {row} | {call} | {shown} | {target or ""} | {met} |')
    print('\n| what | row | call | measured | target | met |')
    print('| --- | --- | --- | --- | --- | --- |')
    print('\n'.join(lines))
    if args.json:
        mmengine.dump(numbers, args.json, 'json', indent=2)


if __name__ == '__main__':
    _models.run(main)
