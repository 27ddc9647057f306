"""Shared files name no paper: moving one in or out touches its own folders only."""

import re
from itertools import chain
from pathlib import Path

from rooms import REGISTERED, ROOMS, SMALLEST

ROOT = Path(__file__).resolve().parents[2]
# a room that is about the attention of any model, which other tools may show
INSTRUMENTS = {'query_key'}
# names of papers, however they are spelled, and of the classes that they register
WORDS = '|'.join(room.replace('_', '[-_]?') for room in sorted({*ROOMS, *SMALLEST} - INSTRUMENTS))
CLASSES = '|'.join(sorted(one.name for one in REGISTERED))
NAME = re.compile(rf'\b(?i:{WORDS})(?![a-z])|\b({CLASSES})\b')
# imports every paper, which registers it, and has the table of them
TABLE = Path('projects/mmtoken/__init__.py')


def is_shared(path: Path) -> bool:
    """Whether a file, relative to the root, is outside the folders of papers."""
    return path != TABLE and not {*ROOMS, *SMALLEST} & set(path.with_suffix('').parts)


SHARED = sorted(
    path
    for path in (
        found.relative_to(ROOT)
        for found in chain(
            *((ROOT / folder).rglob('*.py') for folder in ('projects', 'tools', 'tests')),
            (ROOT / 'tools').rglob('*.sh'),
            [ROOT / 'Makefile', ROOT / '.ci/run'],
        )
    )
    if is_shared(path)
)


def names_in(path: Path) -> list[str]:
    """Lines that name a paper, with their numbers."""
    lines = (ROOT / path).read_text(encoding='utf-8').splitlines()
    return [f'{path}:{i}: {line.strip()}' for i, line in enumerate(lines, 1) if NAME.search(line)]


def test_shared_files_name_no_paper():
    assert len(SHARED) > 50
    found = [line for path in SHARED for line in names_in(path)]
    assert not found, '\n'.join(found)


def test_names_are_recognised():
    for room in {*ROOMS} - INSTRUMENTS:
        assert NAME.search(f'import mmtoken.{room}.maps') and not NAME.search(f'x{room}')
        assert NAME.search(f'a {room.replace("_", "-").upper()} with')
    for one in REGISTERED:
        assert NAME.search(f"type='{one.name}'") and not NAME.search(f'x{one.name}')
