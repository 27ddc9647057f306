"""The steps of the set-up, run by the Python of the environment; each skips what is done."""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from setup_env import refusals, wheels
from setup_env.shell import PIP, run

STACKS = {'onedl': 'requirements.txt', 'official': 'requirements-official.txt'}
# [source] packages, with a module that imports only if compiled for this torch and numpy
COMPILED = {'onedl-mmcv': 'mmcv.ops', 'mmcv': 'mmcv.ops', 'xtcocotools': 'xtcocotools.mask'}
# distributions of which only the pinned ones may be there: they write the same import folders
RIVALS = 'mmengine mmcv mmcv-lite mmdet mmsegmentation opencv-python opencv-contrib-python '
RIVALS += 'onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation '
RIVALS += 'mmpretrain onedl-mmpretrain'
HOSTS = 'mmpose, mmdet, mmseg, mmpretrain, mmcv.ops, mmtoken'
# mmengine's formatter: its first import writes a cache, of which a second process may read half
CACHING = 'yapf.yapflib.yapf_api'
STAMP = Path(sys.prefix, 'mmtoken-setup.stamp')


def read_sections(text: str) -> dict[str, dict[str, str]]:
    """Parse a requirements file into ``{section: {package: version}}``."""
    sections = re.findall(r'(?ms)^# \[([\w-]+)\](.*?)(?=^# \[|\Z)', text)
    return {name: dict(re.findall(r'(?m)^([\w.-]+)==([\w.]+)', lines)) for name, lines in sections}


def installed(package: str) -> str:
    """Return the installed version, or '', without a local part such as ``+cu130``."""
    found = metadata.distributions(name=package)
    return next((one.version.split('+')[0] for one in found), '')


def set_up(root: Path, requirements: str) -> None:
    """Install a stack and this checkout, unless that is done and nothing has changed since."""
    texts = [(root / name).read_text() for name in (requirements, 'pyproject.toml')]
    stamp = '\n'.join([str(root), *texts])
    if STAMP.exists() and STAMP.read_text() == stamp:
        return
    os.environ['PATH'] = f'{sys.prefix}/bin{os.pathsep}{os.environ.get("PATH", "")}'  # ninja
    sections = read_sections(texts[0])
    pins = {name: pin for section in sections.values() for name, pin in section.items()}
    check_machine(pins, sections['source'])
    wheels.cache_root().mkdir(parents=True, exist_ok=True)
    with open(wheels.cache_root() / 'setup.lock', 'a') as lock:
        print(f'set-up: taking {lock.name} (waits while another set-up runs)')
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(f'set-up: installing what is missing of {len(pins)} packages (1 to 20 minutes)')
        install({**sections['base'], **sections['dev']}, '-c', root / requirements)
        install(sections['no-deps'], *wheels.OPTIONS)
        for package in sections['source']:
            install_compiled(package, pins)
        print(f'set-up: installing mmtoken from {root}, editable; importing {HOSTS}')
        run(*PIP, 'install', *wheels.OPTIONS, '-e', root)
        run(sys.executable, '-I', '-c', f'import {HOSTS}, {CACHING}')
        STAMP.write_text(stamp)


def check_machine(pins: dict[str, str], source: dict[str, str]) -> None:
    """Refuse now what would fail after an hour."""
    found = {name: installed(name) for name in RIVALS.split() if name not in pins}
    rivals = ', '.join(f'{name} {version}' for name, version in found.items() if version)
    message = f'{sys.prefix} contains {rivals}, which the pinned packages would overwrite; choose '
    message += 'another path (make VENV=DIR) or add MMToken to the existing stack: '
    refusals.refuse(rivals, message + 'pip install --no-deps -e .')
    needed = [name for name in source if not installed(name)]
    refusals.check_compiler([name for name in needed if not wheels.find_wheel(name, pins)])
    if not installed('torch'):  # with its CUDA libraries: installed, and as downloads
        refusals.check_disk(sys.prefix, 9, 'VENV')
        refusals.check_disk(tempfile.gettempdir(), 3, 'TMPDIR')


def install(pins: dict[str, str], *options: object) -> None:
    """Install the pins that are missing."""
    missing = [f'{name}=={pin}' for name, pin in pins.items() if installed(name) != pin]
    if missing:
        run(*PIP, 'install', *options, *missing)


def install_compiled(package: str, pins: dict[str, str]) -> None:
    """Install a package that must match the installed torch and numpy."""
    test = (sys.executable, '-I', '-c', f'import {COMPILED[package]}')
    if installed(package) == pins[package] and not subprocess.call(test, stderr=subprocess.DEVNULL):
        return
    wheel = wheels.find_wheel(package, pins) or wheels.build_wheel(package, pins)
    print(f'set-up: installing {wheel}')
    run(*PIP, 'install', '--no-deps', '--force-reinstall', wheel)
    run(*test)
