"""What requirements.txt asks for, and what of it is missing."""

from __future__ import annotations

import re

OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python')


def read_sections(text: str) -> dict[str, dict[str, str]]:
    """Read ``{section: {package: version}}`` from requirements.txt, in its order."""
    sections: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        heading = re.match(r'# \[([\w-]+)\]', line)
        requirement = line.split('#')[0].strip()
        if heading:
            pins = sections.setdefault(heading.group(1), {})
        elif requirement:
            pin = re.match(r'([\w.-]+)==([\w.]+)$', requirement)
            if not (pin and sections):
                raise ValueError(
                    'requirements.txt takes exact pins below a "# [section]" line, got '
                    f'{requirement!r} in line {number}; write NAME==VERSION'
                )
            pins[pin.group(1)] = pin.group(2)
    return sections


def missing_pins(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    """List the pins that are not met; a local version (2.12.1+cu130) meets its public one.

    Any OpenCV counts, because a second distribution would overwrite the first one's files.
    """
    has_opencv = any(name in installed for name in OPENCV)
    return [
        f'{name}=={version}'
        for name, version in pins.items()
        if installed.get(name, '').split('+')[0] != version and not (name in OPENCV and has_opencv)
    ]
