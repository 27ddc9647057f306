"""Set up everything MMToken needs in one virtual environment; `make` runs this before its targets.

python3.11 tools/setup_env.py [--venv DIR]

Installs the sections of requirements.txt in order. Packages that no index has compiled for this
stack are compiled here, and their wheels are kept in a user cache, so that the next checkout takes
minutes. Finished work is never repeated: a stamp in the environment answers at once while nothing
changed, every step looks first at what is installed, and an interrupted compilation goes on with
the files it lacks. Nothing that somebody else made is deleted.

Standard library only, and no syntax newer than Python 3.7: a wrong Python gets this file's answer.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 12)
HOSTS = ('mmpose', 'mmdet', 'mmseg', 'mmcv.ops', 'mmtoken')
# the folder of each is written by the other family's distribution as well
OFFICIAL_FAMILY = ('mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation')
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python')

# [source] packages: the module that fails to import unless the package was compiled for this stack
COMPILED = {'onedl-mmcv': 'mmcv.ops', 'xtcocotools': 'xtcocotools.mask'}
DURATION = {
    'onedl-mmcv': '6 to 48 minutes on 2 cores the first time on a machine',
    'xtcocotools': 'a few seconds',
}

LOG, STAMP = 'mmtoken-setup.log', 'mmtoken-setup.stamp'  # in the environment

GB = 10**9
TORCH_SPACE = 6 * GB  # torch with its CUDA libraries, installed
DOWNLOAD_SPACE = 3 * GB  # the same, packed
BUILD_SPACE = 1 * GB  # objects and wheels of the [source] packages


# --- what is wanted -------------------------------------------------------------------------------


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


def stamp_key(root: Path, venv: Path) -> str:
    """Hash all that decides what the finished environment holds."""
    digest = hashlib.sha256(str(root).encode())  # the editable install points there
    for path in (
        root / 'requirements.txt',
        root / 'pyproject.toml',
        root / 'tools' / 'setup_env.py',
        venv / 'pyvenv.cfg',  # names the Python version
    ):
        digest.update(path.read_bytes() + b'\0')
    return digest.hexdigest()


def is_finished(root: Path, venv: Path) -> bool:
    """Whether an earlier run finished this very environment."""
    try:
        stamp = (venv / STAMP).read_text().strip()
        return stamp == stamp_key(root, venv) and os.access(str(python_of(venv)), os.X_OK)
    except OSError:  # a file is missing
        return False


def python_of(venv: Path) -> Path:
    """The interpreter of an environment."""
    return venv / 'bin' / 'python'


# --- refusals: each says the rule, what was found and what to do ----------------------------------


def check_python(version: tuple[int, ...], where: str) -> None:
    """Refuse a Python that the pinned stack does not exist for."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise SystemExit(
            'set-up: MMToken needs Python {}.{} to {}.{}, but {} is Python {}.{}; install one '
            '(Debian: apt-get install python3.11 python3.11-venv python3.11-dev) and name it: '
            'make PYTHON=python3.11 VENV=.venv311'.format(
                *OLDEST + NEWEST + (where,) + tuple(version[:2])
            )
        )


def check_venv_path(venv: Path) -> None:
    """Refuse a path that holds something else than a virtual environment."""
    if not os.path.lexists(str(venv)):
        return
    # an interrupted first run leaves its log, if nothing else
    ours = any((venv / name).exists() for name in ('pyvenv.cfg', LOG))
    if not venv.is_dir() or (any(venv.iterdir()) and not ours):
        raise SystemExit(
            f'set-up: {venv} exists and is not a virtual environment (no pyvenv.cfg); it is left '
            'alone. Choose another place (make VENV=DIR) or move it away'
        )
    python = python_of(venv)
    if python.is_symlink() and not python.exists():
        raise SystemExit(
            f'set-up: {venv} belongs to a Python that is gone ({python} points to '
            f'{os.readlink(str(python))}); move it away or choose another place (make VENV=DIR)'
        )


def check_same_python(venv: Path, chosen: tuple[int, ...]) -> None:
    """Refuse to ignore a PYTHON= that differs from the one the environment was made with."""
    config = venv / 'pyvenv.cfg'
    made = re.search(
        r'(?m)^version\w* *= *(\d+)\.(\d+)', config.read_text() if config.exists() else ''
    )
    if made and tuple(map(int, made.groups())) != chosen:
        raise SystemExit(
            'set-up: PYTHON= is Python {}.{}, but {} was made with Python {}.{}; choose another '
            'place for it (make VENV=DIR)'.format(*chosen + (venv,) + made.groups())
        )


def check_interpreter(facts: dict) -> None:
    """Refuse a Python without venv or ensurepip: it makes no environment."""
    if not facts['ensurepip']:
        name = 'python{}.{}'.format(*facts['version'][:2])
        raise SystemExit(
            f'set-up: a virtual environment needs venv and ensurepip, which {facts["executable"]} '
            f'lacks; install them (Debian: apt-get install {name}-venv)'
        )


def check_build_tools(facts: dict, packages: list[str], which=shutil.which) -> None:
    """Refuse to start what cannot be compiled."""
    if not packages:
        return
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if not which(compiler):
        raise SystemExit(
            f'set-up: {" and ".join(packages)} must be compiled, and there is no C++ compiler '
            f'({compiler} is not on PATH); install one (Debian: apt-get install build-essential)'
        )
    header = Path(facts['include']) / 'Python.h'
    if not header.exists():
        name = 'python{}.{}'.format(*facts['version'][:2])
        raise SystemExit(
            f'set-up: {" and ".join(packages)} must be compiled, and the headers of Python are '
            f'missing ({header}); install them (Debian: apt-get install {name}-dev)'
        )


def check_disk(needs: list[tuple[str, Path, int]], device_of=None, free_on=None) -> None:
    """Refuse when a file system lacks the room for everything that will be written to it."""
    device_of = device_of or (lambda path: os.stat(str(path)).st_dev)
    free_on = free_on or (lambda path: shutil.disk_usage(str(path)).free)
    devices: dict[int, list[tuple[str, Path, int]]] = {}
    for what, path, size in needs:
        while not path.exists():
            path = path.parent
        devices.setdefault(device_of(path), []).append((what, path, size))
    for entries in devices.values():
        total = sum(size for _, _, size in entries)
        free = free_on(entries[0][1])
        if free < total:
            parts = ', '.join(f'{size / GB:.1f} for {what}' for what, _, size in entries)
            raise SystemExit(
                f'set-up: {total / GB:.1f} GB must be free on the file system of {entries[0][1]} '
                f'({parts}), but {free / GB:.1f} GB are; free some, or move a part to a larger '
                'disk with VENV=, MMTOKEN_WHEEL_CACHE= or TMPDIR='
            )


def check_family(installed: dict[str, str], venv: Path) -> None:
    """Refuse an environment with the official family, whose files ours would overwrite."""
    official = [f'{name} {installed[name]}' for name in OFFICIAL_FAMILY if name in installed]
    if official:
        raise SystemExit(
            f'set-up: {venv} has {", ".join(official)}, which the pinned onedl packages would '
            'overwrite file by file; choose another place (make VENV=DIR), or keep that stack and '
            'add MMToken to it with: pip install --no-deps -e .'
        )


def import_remedy(output: str) -> str:
    """What to do about a failed import, as far as its message tells."""
    if 'libGL.so' in output or 'libgthread' in output or 'libglib' in output:
        return 'OpenCV lacks a system library (Debian: apt-get install libgl1 libglib2.0-0)'
    if 'torchvision::nms' in output:
        return (
            'torch is a CPU-only build and torchvision is not; see where the pip configuration '
            'finds torch (pip config list), then choose a fresh place (make VENV=DIR)'
        )
    module = re.search(r"No module named '([\w.]+)'", output)
    if module and module.group(1).startswith('mmtoken'):
        return f'{module.group(1)} is not below projects/: is this checkout complete?'
    return 'run `make setup` again; if that does not help, choose a fresh place (make VENV=DIR)'


# --- the wheel cache ------------------------------------------------------------------------------


def cache_root(environ=os.environ) -> Path:
    """Where wheels built here are kept, outside of any checkout."""
    if environ.get('MMTOKEN_WHEEL_CACHE'):
        return Path(environ['MMTOKEN_WHEEL_CACHE']).expanduser().resolve()
    base = environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmtoken' / 'wheels'


def cache_key(package: str, pins: dict[str, str], facts: dict, cuda: bool = False) -> str:
    """Name everything that a compiled wheel depends on."""
    key = f'{package}-{pins[package]}-torch{pins["torch"]}-{facts["tag"]}-{facts["machine"]}'
    if package == 'xtcocotools':
        key += '-numpy' + '.'.join(pins['numpy'].split('.')[:2])
    return key + '-cuda' if cuda else key


def cached_wheel(folder: Path) -> Path | None:
    """The wheel in a cache folder, if it is there."""
    wheel = next(iter(sorted(folder.glob('*.whl'))), None)
    if wheel and not zipfile.is_zipfile(str(wheel)):
        raise SystemExit(f'set-up: {wheel} is damaged; remove it: rm -r {folder}')
    return wheel


def publish(built: Path, folder: Path) -> Path:
    """Move a folder with a finished wheel into the cache in one step: none is ever half there."""
    if not cached_wheel(built):
        raise SystemExit(f'set-up: the build left no wheel in {built}; remove that and run again')
    if not cached_wheel(folder):
        os.replace(str(built), str(folder))
    return cached_wheel(folder)


@contextlib.contextmanager
def locked(path: Path):
    """Hold a lock that processes started meanwhile share, so that an orphaned build keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), 'a') as handle:
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'      another set-up is at work here; waiting for it ({path})', flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- running commands -----------------------------------------------------------------------------


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


class Shell:
    """Runs commands with their output in a log and a sign of life on the terminal.

    On a terminal the sign is one line that changes; elsewhere it is a line a minute, so that a CI
    log shows the job alive.
    """

    def __init__(self, log: Path, environ: dict[str, str]) -> None:
        self.log = log
        self.environ = environ
        self.tty = sys.stdout.isatty()

    def run(self, command: list, **extra: str) -> str:
        """Run to the end and return the output; stop the set-up with its tail if it fails."""
        progress, lines = Progress(), []

        def read(stream) -> None:
            with open(str(self.log), 'a') as log:
                print('$', *command, file=log, flush=True)
                for line in stream:
                    log.write(line)
                    log.flush()
                    lines.append(line)
                    progress.feed(line)

        start = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={**self.environ, **extra},
            start_new_session=True,  # so that the whole family can be stopped
            close_fds=False,  # the child shares our lock
        )
        reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1 if self.tty else 60)
                    break
                self._show(progress.line(time.monotonic() - start))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            if self.tty:
                print('\r\033[K', end='', flush=True)
        reader.join()
        if process.returncode:
            self._fail(command, process.returncode, lines)
        return ''.join(lines)

    def _show(self, text: str) -> None:
        print(
            f'\r\033[K      {text}' if self.tty else f'      {text}',
            flush=True,
            end='' if self.tty else '\n',
        )

    def _fail(self, command: list, code: int, lines: list[str]) -> None:
        tail = ''.join('      | ' + line for line in lines[-15:])
        raise SystemExit(
            f'{tail}\nset-up: the command ended with exit code {code}:\n'
            f'  {" ".join(map(str, command))}\nAll it said is in {self.log}. '
            'When the cause is mended, run the same make again: it goes on from here.'
        )


def ask(python: Path, program: str) -> dict:
    """Run a program that prints one JSON value under another Python."""
    output = subprocess.run(
        [str(python), '-c', program], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(output.stdout)


FACTS = """
import json, platform, sys, sysconfig
from importlib.util import find_spec
print(json.dumps(dict(
    executable=sys.executable, version=sys.version_info[:3], machine=platform.machine(),
    tag='cp%d%d' % sys.version_info[:2], include=sysconfig.get_path('include'),
    ensurepip=bool(find_spec('venv') and find_spec('ensurepip')))))
"""

INSTALLED = """
import json, re
from importlib.metadata import distributions
print(json.dumps({re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version
                  for d in distributions() if d.metadata['Name']}))
"""


# --- the steps ------------------------------------------------------------------------------------


class Setup:
    """The steps, each of which first looks whether it is needed."""

    def __init__(self, venv: Path) -> None:
        self.venv = venv
        self.python = python_of(venv)
        self.sections = read_sections((ROOT / 'requirements.txt').read_text())
        self.pins = {name: v for pins in self.sections.values() for name, v in pins.items()}
        self.cuda = os.environ.get('FORCE_CUDA') == '1'
        self.cache = cache_root()
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
        (self.venv / STAMP).write_text(stamp_key(ROOT, self.venv) + '\n')

    def say(self, text: str) -> None:
        """Announce the step."""
        print(f'{self.prefix} {text}', flush=True)

    def pip(self, *arguments: object, **environ: str) -> None:
        """Run the environment's pip with the machine's ordinary configuration."""
        self.shell.run([self.python, '-m', 'pip', *arguments], **environ)

    def folder_of(self, package: str) -> Path:
        """The cache folder of a compiled package."""
        cuda = self.cuda and package == 'onedl-mmcv'
        return self.cache / cache_key(package, self.pins, self.facts, cuda)

    def check_machine(self) -> None:
        """Refuse now what would fail in an hour."""
        self.say('looking at Python {}.{}.{}, compiler and disk'.format(*self.facts['version']))
        check_interpreter(self.facts)
        check_family(self.installed, self.venv)
        to_build = [
            name
            for name in self.sections['source']
            if not cached_wheel(self.folder_of(name)) and name not in self.installed
        ]
        check_build_tools(self.facts, to_build)
        needs = []
        if 'torch' not in self.installed:
            needs += [('torch', self.venv, TORCH_SPACE)]
            needs += [('its download', Path(tempfile.gettempdir()), DOWNLOAD_SPACE)]
        if to_build:
            needs += [('compiling', self.cache, BUILD_SPACE)]
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
        self.pip('install', '-c', ROOT / 'requirements.txt', *wanted)

    def install_compiled(self, package: str) -> None:
        """Install a package that must fit the torch and numpy at hand, compiling it if needed."""
        name = f'{package} {self.pins[package]}'
        if not missing_pins({package: self.pins[package]}, self.installed) and self.imports(
            COMPILED[package]
        ):
            self.say(f'{name}, compiled, is there')
            return
        folder = self.folder_of(package)
        wheel = cached_wheel(folder)
        if wheel:
            self.say(f'installing {name} from {folder} (seconds)')
        else:
            self.say(f'compiling {name} ({DURATION[package]}; kept in {self.cache})')
            wheel = self.build(package, folder)
        self.pip('install', '--no-deps', '--force-reinstall', wheel)
        if not self.imports(COMPILED[package]):
            raise SystemExit(
                f'set-up: {COMPILED[package]} does not import from {wheel}; see {self.shell.log}. '
                f'If the wheel is at fault, build it anew: rm -r {folder}, then the same make'
            )

    def build(self, package: str, folder: Path) -> Path:
        """Compile in a work folder that outlives an interruption, then publish in one step."""
        check_build_tools(self.facts, [package])
        work = folder.with_name(folder.name + '.build')
        with locked(folder.with_name(folder.name + '.lock')):
            if cached_wheel(folder):
                return cached_wheel(folder)
            wheels = work / 'wheel'
            self.pip(
                'wheel',
                '-v',
                '--no-deps',
                '--no-build-isolation',
                '-w',
                wheels,
                self.source(package, work),
                **self.build_environ(package),
            )
            wheel = publish(wheels, folder)
            shutil.rmtree(str(work))
        return wheel

    def source(self, package: str, work: Path) -> Path:
        """Fetch and unpack the source once: building in one place lets ninja reuse its objects."""
        source = work / 'source'
        if not source.exists():
            requirement = f'{package}=={self.pins[package]}'
            self.pip(
                'download',
                '--no-deps',
                '--no-build-isolation',
                '--no-binary',
                package,
                '-d',
                work / 'sdist',
                requirement,
            )
            with tempfile.TemporaryDirectory(dir=str(work)) as unpacked:
                shutil.unpack_archive(str(next((work / 'sdist').iterdir())), unpacked)
                os.replace(str(next(Path(unpacked).iterdir())), str(source))
        return source

    def build_environ(self, package: str) -> dict[str, str]:
        """What mmcv's build reads; setuptools takes CFLAGS in place of Python's own flags."""
        if package != 'onedl-mmcv':
            return {}
        environ = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(parallel_jobs())}
        if not self.cuda:
            environ['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU would ask for nvcc
        environ['CFLAGS'] = environ['CXXFLAGS'] = '-O2 -g0 -DNDEBUG -fwrapv'
        return {key: os.environ.get(key) or value for key, value in environ.items()}

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
        self.say(f'installing mmtoken from {ROOT}, editable (seconds)')
        self.pip('install', '--no-deps', '--no-build-isolation', '-e', ROOT)

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


def parallel_jobs() -> int:
    """How many compilers run at once: one a core, and 2 GB of memory for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return max(1, min(cores or 1, memory // (2 * GB)))


def main() -> None:
    """Read the command line, set up, say where."""
    check_python(sys.version_info, sys.executable)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='default: .venv')
    parser.add_argument(
        '--python-chosen',
        action='store_true',
        help='refuse an existing environment of another Python version than the running one',
    )
    args = parser.parse_args()
    venv = Path(os.path.abspath(str(args.venv)))
    if args.python_chosen:
        check_same_python(venv, tuple(sys.version_info[:2]))
    if is_finished(ROOT, venv):
        print(f'set-up: {venv} is ready')
        return
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: stop the children, say how to go on
        signal.signal(number, signal.default_int_handler)
    start = time.monotonic()
    name = hashlib.sha256(str(venv).encode()).hexdigest()[:16]
    try:
        with locked(cache_root() / f'venv-{name}.lock'):
            Setup(venv).run()
    except KeyboardInterrupt:
        raise SystemExit('\nset-up: interrupted; the same make goes on from here') from None
    except OSError as error:
        raise SystemExit(f'set-up: {error}; the same make goes on when that is mended') from error
    minutes = (time.monotonic() - start) / 60
    print(
        f'set-up: {venv} is ready after {minutes:.1f} min; to work in it: '
        f'source {venv}/bin/activate'
    )


if __name__ == '__main__':
    main()
