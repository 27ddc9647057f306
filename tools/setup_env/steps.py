"""The steps of the set-up; each one skips what is already installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setup_env import wheels
from setup_env.environment import LOG, STAMP, missing_pins, query, read_sections, stamp_key
from setup_env.refusals import GB, check_build_tools, check_conflicts, check_disk
from setup_env.shell import run

HOSTS = ('mmpose', 'mmdet', 'mmseg', 'mmcv.ops', 'mmtoken')
OPTIONS = ('--no-deps', '--no-build-isolation')


class Setup:
    """Installs the pinned stack and MMToken into one environment.

    Args:
        root: Checkout to install in editable mode.
        venv: Virtual environment, created if missing.
    """

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv
        self.python = venv / 'bin' / 'python'
        self.sections = read_sections((root / 'requirements.txt').read_text())
        exists = self.python.exists()
        self.facts = query(self.python if exists else sys.executable)
        self.installed = self.facts['installed'] if exists else {}
        self.environ = {k: v for k, v in os.environ.items() if k != 'MAKEFLAGS'}  # ninja reads it
        self.environ['PATH'] = f'{venv}/bin{os.pathsep}{os.environ.get("PATH", "")}'

    def run(self) -> None:
        """Run all steps and stamp the environment."""
        self.check_machine()
        if 'pip' not in self.installed:
            self.say(f'creating {self.venv}')
            self.venv.mkdir(parents=True, exist_ok=True)
            self.shell(sys.executable, '-m', 'venv', self.venv)
        base = {**self.sections['base'], **self.sections['dev']}
        self.install(base, '-c', self.root / 'requirements.txt')
        for package in self.sections['source']:
            self.install_compiled(package)
        self.install(self.sections['no-deps'], *OPTIONS)
        self.say(f'installing mmtoken from {self.root}, editable')
        self.pip('install', *OPTIONS, '-e', self.root)
        self.say(f'importing {", ".join(HOSTS)}')
        self.shell(self.python, '-I', '-c', f'import {", ".join(HOSTS)}')
        (self.venv / STAMP).write_text(stamp_key(self.root, self.venv))

    def say(self, text: str) -> None:
        print(f'set-up: {text}', flush=True)

    def shell(self, *command: object, **environ: str) -> None:
        run(command, self.venv / LOG, {**self.environ, **environ})

    def pip(self, *arguments: object, **environ: str) -> None:
        self.shell(self.python, '-m', 'pip', *arguments, **environ)

    def check_machine(self) -> None:
        """Refuse now what would fail after an hour."""
        check_conflicts(self.installed, self.venv)
        packages = [
            name
            for name in self.sections['source']
            if name not in self.installed and not wheels.find_wheel(self.cache_folder(name))
        ]
        check_build_tools(self.facts['include'], packages)
        needs = [(wheels.cache_root(), 1 * GB)] if packages else []
        if 'torch' not in self.installed:  # with its CUDA libraries: installed, and as downloads
            needs += [(self.venv, 6 * GB), (Path(tempfile.gettempdir()), 3 * GB)]
        check_disk(needs)

    def cache_folder(self, package: str) -> Path:
        pins = {**self.sections['base'], **self.sections['source']}
        return wheels.cache_folder(package, pins, self.facts)

    def install(self, pins: dict[str, str], *options: object) -> None:
        """Install the pins that are missing."""
        missing = missing_pins(pins, self.installed)
        if missing:
            takes = '1 to 5 minutes' if 'torch' in pins else 'seconds'
            self.say(f'installing {len(missing)} packages: {missing[0]}, ... ({takes})')
            self.pip('install', *options, *missing)

    def install_compiled(self, package: str) -> None:
        """Install a package that must match the installed torch and numpy."""
        version = self.sections['source'][package]
        program = f'import {wheels.COMPILED[package]}'
        if not missing_pins({package: version}, self.installed) and not subprocess.call(
            [self.python, '-I', '-c', program], stderr=subprocess.DEVNULL
        ):
            return
        folder = self.cache_folder(package)
        wheel = wheels.find_wheel(folder)
        if not wheel:
            self.say(f'compiling {package} (mmcv: 6 to 48 minutes on 2 cores, once per machine)')
            wheel = wheels.build_wheel(package, version, folder, self.pip)
        self.say(f'installing {wheel}')
        self.pip('install', '--no-deps', '--force-reinstall', wheel)
        self.shell(self.python, '-I', '-c', program)
