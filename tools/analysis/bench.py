"""Run the comparisons of a list and print their ratios next to the targets.

python tools/analysis/bench.py configs/benchmarks.yml [--only WORD] [--rounds N] [--json FILE]

An entry has a title, the arguments of compare_speed.py, and the largest ratio to the first row that
each call of a row may take: of CPU time, or of memory where the name of the call ends in memory.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

import _models
import compare_speed
import mmengine
from _models import UsageError
from _speed_report import summary

CALLS = ('forward', 'train', 'forward memory', 'train memory')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Run a list of comparisons')
    add = parser.add_argument
    add('list', type=Path, help='YAML file of entries with title, run and targets')
    add('--only', default='', metavar='WORD', help='entries with this in their title')
    add('--rounds', type=_models.at_least(1), default=7, help='timed calls of each model (7)')
    add('--json', type=Path, metavar='FILE', help='write all numbers as well')
    return parser.parse_args(argv)


def ratios(found: dict[str, Any], targets: dict[str, dict[str, float]]) -> list[tuple]:
    """Row, call, ratio to the first row, and target, for every target of an entry."""
    lines = []
    for row, calls in targets.items():
        for call, target in calls.items():
            kind, _, is_memory = call.partition(' ')
            first, *_ = found[kind].values()
            if is_memory:
                ratio = found[kind][row]['peak_bytes'] / first['peak_bytes']
            else:
                ratio = summary(found[kind][row]).ratio(summary(first), 'cpu')
            lines.append((row, call, ratio, target))
    return lines


def main(argv: list[str] | None = None) -> None:
    """Run the entries, then print the table."""
    args = parse_args(argv)
    entries = [entry for entry in mmengine.load(args.list) if args.only in entry['title']]
    if not entries:
        raise UsageError(f'--only must be part of a title in {args.list}, got {args.only!r}')
    table, numbers = [], {}
    for entry in entries:
        unknown = {call for calls in entry['targets'].values() for call in calls} - {*CALLS}
        if unknown:
            raise UsageError(f'targets must be of {CALLS}, got {sorted(unknown)}')
        print(f'\n== {entry["title"]}')
        options = [*shlex.split(entry['run']), '--rounds', str(args.rounds)]
        (numbers[entry['title']],) = compare_speed.main(options)
        table += [
            (entry['title'], *line) for line in ratios(numbers[entry['title']], entry['targets'])
        ]
    print('\n| what | row | call | ratio to the first row | target | met |')
    print('| --- | --- | --- | --- | --- | --- |')
    for title, row, call, ratio, target in table:
        met = 'yes' if ratio <= target else 'no'
        print(f'| {title} | {row} | {call} | {ratio:.2f} | {target} | {met} |')
    if args.json:
        mmengine.dump(numbers, args.json, 'json', indent=2)


if __name__ == '__main__':
    _models.run(main)
