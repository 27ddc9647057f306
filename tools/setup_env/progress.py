"""How far a command is, from what it printed."""

from __future__ import annotations

import re


class Progress:
    """One line that says how far a command is, from what it printed so far."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.doing = ''

    def feed(self, line: str) -> None:
        """Take in one line of output: ninja's ``[12/78] c++ ...`` or pip's ``Collecting ...``."""
        counter = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if counter:
            self.done, self.total = int(counter.group(1)), int(counter.group(2))
        action = re.match(r'\s*(Collecting|Downloading) (\S+)|\s*Installing collected', line)
        if action:
            name = (action.group(2) or 'the packages').split('/')[-1]
            self.doing = f'{(action.group(1) or "Installing").lower()} {name}'

    def line(self, seconds: float) -> str:
        """Say it, with the time so far and, while compiling, the time it will still take."""
        clock = f'{int(seconds) // 60}:{int(seconds) % 60:02d}'
        if not self.total:
            return f'{self.doing or "working"}, {clock}'
        left = seconds / max(self.done, 1) * (self.total - self.done) / 60
        return f'compiled {self.done} of {self.total}, {clock}, about {left:.0f} min left'
