"""The steps of the set-up, each of which first looks whether it is needed."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setup_env.environment import FACTS, INSTALLED, LOG, ask, python_of
from setup_env.refusals import (
    GB,
    check_build_tools,
    check_disk,
    check_family,
    check_interpreter,
    check_python,
    check_venv_path,
    import_remedy,
)
from setup_env.requirements import missing_pins, read_sections
from setup_env.shell import Shell
from setup_env.stamp import STAMP, stamp_key
from setup_env.wheels import COMPILED, DURATION, WheelCache

HOSTS = ('mmpose', 'mmdet', 'mmseg', 'mmcv.ops', 'mmtoken')
TORCH_SPACE = 6 * GB  # torch with its CUDA libraries, installed
DOWNLOAD_SPACE = 3 * GB  # the same, packed
BUILD_SPACE = 1 * GB  # objects and wheels of the [source] packages


class Setup:
    """All that is left to do for one environment.

    Args:
        root: The checkout.
        venv: The virtual environment; made if it is not there.
    """

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv
        self.python = python_of(venv)
        self.requirements = root / 'requirements.txt'
        self.sections = read_sections(self.requirements.read_text())
        self.pins = {name: v for pins in self.sections.values() for name, v in pins.items()}
        check_venv_path(venv)
        exists = self.python.exists()
        self.facts = ask(self.python if exists else Path(sys.executable), FACTS)
        where = str(venv) if exists else self.facts['executable']
        check_python(self.facts['version'], where)
        self.installed = ask(self.python, INSTALLED) if exists else {}
        environ = {k: v for k, v in os.environ.items() if k != 'MAKEFLAGS'}  # ninja obeys it
        environ['PATH'] = str(self.python.parent) + os.pathsep + environ.get('PATH', '')
        environ['PIP_DISABLE_PIP_VERSION_CHECK'] = environ['PIP_NO_INPUT'] = '1'
        self.shell = Shell(venv / LOG, environ)
        self.wheels = WheelCache(self.pins, self.facts, self.pip)

    def run(self) -> None:
        """Do what is left to do."""
        steps = (
            self.check_machine,
            self.make_venv,
            self.install_base,
            *(lambda name=name: self.install_compiled(name) for name in self.sections['source']),
            self.install_hosts,
            self.install_mmtoken,
            self.check_imports,
        )
        for number, step in enumerate(steps, 1):
            self.prefix = f'[{number}/{len(steps)}]'
            step()
        (self.venv / STAMP).write_text(stamp_key(self.root, self.venv) + '\n')

    def say(self, text: str) -> None:
        """Announce the step."""
        print(f'{self.prefix} {text}', flush=True)

    def pip(self, *arguments: object, **environ: str) -> None:
        """Run the environment's pip with the machine's ordinary configuration."""
        self.shell.run([self.python, '-m', 'pip', *arguments], **environ)

    def check_machine(self) -> None:
        """Refuse now what would fail in an hour."""
        self.say('looking at Python {}.{}.{}, compiler and disk'.format(*self.facts['version']))
        check_interpreter(self.facts)
        check_family(self.installed, self.venv)
        to_build = [
            name
            for name in self.sections['source']
            if not self.wheels.find(name) and name not in self.installed
        ]
        check_build_tools(self.facts, to_build)
        needs = []
        if 'torch' not in self.installed:
            needs += [('torch', self.venv, TORCH_SPACE)]
            needs += [('its download', Path(tempfile.gettempdir()), DOWNLOAD_SPACE)]
        if to_build:
            needs += [('compiling', self.wheels.root, BUILD_SPACE)]
        check_disk(needs)

    def make_venv(self) -> None:
        """Make the environment, or complete one whose making was interrupted."""
        if 'pip' in self.installed:
            self.say(f'{self.venv} exists: going on with it')
            return
        self.say(f'making {self.venv} (seconds)')
        self.venv.mkdir(parents=True, exist_ok=True)
        self.shell.log.touch()  # marks the folder as ours, should this be interrupted
        self.shell.run([sys.executable, '-m', 'venv', self.venv])

    def install_base(self) -> None:
        """Torch, the libraries that the hosts import, and the tools of `make check`."""
        wanted = missing_pins({**self.sections['base'], **self.sections['dev']}, self.installed)
        if not wanted:
            self.say('torch and all libraries are there')
            return
        takes = ' (5 GB, 1 to 5 minutes)' if 'torch' not in self.installed else ''
        self.say(f'installing {len(wanted)} packages, among them {wanted[0]}{takes}')
        self.pip('install', '-c', self.requirements, *wanted)

    def install_compiled(self, package: str) -> None:
        """Install a package that must fit the torch and numpy at hand, compiling it if needed."""
        name = f'{package} {self.pins[package]}'
        if not missing_pins({package: self.pins[package]}, self.installed) and self.imports(
            COMPILED[package]
        ):
            self.say(f'{name}, compiled, is there')
            return
        folder, wheel = self.wheels.folder_of(package), self.wheels.find(package)
        if wheel:
            self.say(f'installing {name} from {folder} (seconds)')
        else:
            self.say(f'compiling {name} ({DURATION[package]}; kept in {self.wheels.root})')
            wheel = self.wheels.build(package)
        self.pip('install', '--no-deps', '--force-reinstall', wheel)
        if not self.imports(COMPILED[package]):
            raise SystemExit(
                f'set-up: {COMPILED[package]} does not import from {wheel}; see {self.shell.log}. '
                f'If the wheel is at fault, build it anew: rm -r {folder}, then the same make'
            )

    def install_hosts(self) -> None:
        """The hosts whose declared requirements are wrong for this stack."""
        wanted = missing_pins(self.sections['no-deps'], self.installed)
        if not wanted:
            self.say('mmdet, mmseg and mmpose are there')
            return
        self.say(f'installing {", ".join(wanted)} (seconds)')
        self.pip('install', '--no-deps', '--no-build-isolation', *wanted)

    def install_mmtoken(self) -> None:
        """Install this checkout in editable mode."""
        self.say(f'installing mmtoken from {self.root}, editable (seconds)')
        self.pip('install', '--no-deps', '--no-build-isolation', '-e', self.root)

    def imports(self, *modules: str) -> bool:
        """Whether modules import in the environment; what they say goes to the log."""
        with open(str(self.shell.log), 'a') as log:
            command = [str(self.python), '-c', 'import ' + ', '.join(modules)]
            return not subprocess.call(command, stdout=log, stderr=log, cwd=str(self.venv))

    def check_imports(self) -> None:
        """Prove the result in a fresh interpreter."""
        self.say(f'importing {", ".join(HOSTS)} (seconds)')
        if not self.imports(*HOSTS):
            with open(str(self.shell.log), errors='replace') as log:
                output = ''.join('      | ' + line for line in collections.deque(log, 15))
            raise SystemExit(
                f'{output}\nset-up: an import failed in {self.venv}: {import_remedy(output)}. '
                f'The log is {self.shell.log}'
            )
