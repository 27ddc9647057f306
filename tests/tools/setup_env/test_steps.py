"""The set-up runs in order, uses cached wheels and runs only once."""

import shutil
from pathlib import Path

import pytest
from setup_env import steps, wheels
from setup_env.environment import STAMP, is_finished, missing_pins, read_sections

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / 'requirements.txt').read_text()
FACTS = {'tag': 'cp311', 'machine': 'x86_64', 'include': '/nowhere', 'installed': {}}


def test_shipped_requirements_are_pinned_in_order():
    sections = read_sections(TEXT)
    assert list(sections) == ['base', 'source', 'no-deps', 'dev']
    assert set(sections['source']) == set(wheels.COMPILED)
    lines = [line for line in TEXT.splitlines() if line and line[0] != '#']
    assert [line.split()[0] for line in lines] == [
        f'{name}=={version}' for pins in sections.values() for name, version in pins.items()
    ]


def test_missing_pins_ignore_local_versions():
    pins = {'torch': '2.12.1', 'numpy': '2.2.6', 'six': '1.0'}
    installed = {'torch': '2.12.1+cu130', 'numpy': '2.2.5'}
    assert missing_pins(pins, installed) == ['numpy==2.2.6', 'six==1.0']


def test_cache_paths_are_stable(monkeypatch, tmp_path):
    pins = {'torch': '2.12.1', 'numpy': '2.2.6', 'onedl-mmcv': '2.3.6', 'xtcocotools': '1.14.3'}
    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path))
    mmcv = tmp_path / 'onedl-mmcv-2.3.6-torch2.12.1-cp311-x86_64'
    assert wheels.cache_folder('onedl-mmcv', pins, FACTS, cuda=False) == mmcv
    assert wheels.cache_folder('onedl-mmcv', pins, FACTS, cuda=True).name == f'{mmcv.name}-cuda'
    xtcocotools = wheels.cache_folder('xtcocotools', pins, FACTS, cuda=True)
    assert xtcocotools.name == 'xtcocotools-1.14.3-torch2.12.1-cp311-x86_64-numpy2.2'
    monkeypatch.delenv('MMTOKEN_WHEEL_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    assert wheels.cache_root() == (Path.home() / '.cache' / 'mmtoken' / 'wheels').resolve()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with an empty wheel cache, on a machine where everything can be compiled."""
    (tmp_path / 'requirements.txt').write_text(TEXT)
    (tmp_path / 'pyproject.toml').touch()
    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(steps, 'query', lambda python: FACTS)
    monkeypatch.setattr(steps, 'check_build_tools', lambda include, packages: None)
    monkeypatch.setattr(steps, 'check_disk', lambda needs: None)
    return tmp_path


@pytest.fixture
def set_up(checkout, monkeypatch):
    """Function that runs all steps with fake commands and returns those; can fail at one."""

    def fake_run(command, log, environ):
        line = ' '.join(map(str, command))
        commands.append(line)
        if interrupt and interrupt in line:
            raise KeyboardInterrupt
        if '-m venv' in line:
            (log.parent / 'bin').mkdir(exist_ok=True)
            (log.parent / 'pyvenv.cfg').touch()
            shutil.copy('/bin/true', log.parent / 'bin' / 'python')
        elif 'pip download' in line:
            sdist = command[command.index('-d') + 1]
            (checkout / 'package-1').mkdir(exist_ok=True)
            options = dict(root_dir=checkout, base_dir='package-1')
            shutil.make_archive(str(sdist / 'package-1'), 'gztar', **options)
        elif 'pip wheel' in line:
            folder = command[command.index('-w') + 1]
            folder.mkdir()
            (folder / 'built.whl').touch()

    def run(interrupt_at=None):
        nonlocal interrupt
        interrupt = interrupt_at
        commands.clear()
        steps.Setup(checkout, checkout / 'venv').run()
        return list(commands)

    commands, interrupt = [], None
    monkeypatch.setattr(steps, 'run', fake_run)
    return run


def positions(commands, *words):
    return [next(i for i, line in enumerate(commands) if word in line) for word in words]


def test_packages_are_installed_in_order(set_up):
    commands = set_up()
    order = positions(
        commands,
        '-m venv',
        'torch==2.',
        'pip download --no-deps --no-build-isolation --no-binary onedl-mmcv',
        'import mmcv.ops',
        '--no-binary xtcocotools',
        'import xtcocotools.mask',
        'mmpose==',
        'pip install --no-deps --no-build-isolation -e',
        'import mmpose, mmdet, mmseg, mmcv.ops, mmtoken',
    )
    assert order == sorted(order)


def test_cached_wheels_are_not_compiled_again(set_up):
    set_up()
    commands = set_up()
    assert not [line for line in commands if 'pip wheel' in line or 'pip download' in line]
    assert sum('built.whl' in line for line in commands) == 2


def test_interrupted_build_continues_with_its_source(set_up, checkout):
    with pytest.raises(KeyboardInterrupt):
        set_up('pip wheel')
    assert not list(checkout.glob('cache/*/built.whl'))
    commands = set_up()
    assert not [line for line in commands if 'pip download' in line and 'onedl-mmcv' in line]
    assert len(list(checkout.glob('cache/*/built.whl'))) == 2


def test_stamp_covers_every_input(set_up, checkout):
    venv = checkout / 'venv'
    assert not is_finished(checkout, venv)
    for name in ('requirements.txt', 'pyproject.toml', 'venv/pyvenv.cfg'):
        set_up()
        assert is_finished(checkout, venv)
        with open(checkout / name, 'a') as file:
            file.write('# changed')
        assert not is_finished(checkout, venv)
    set_up()
    (venv / 'bin' / 'python').unlink()
    assert not is_finished(checkout, venv)


def test_interrupted_setup_leaves_no_stamp(set_up, checkout):
    with pytest.raises(KeyboardInterrupt):
        set_up('import mmpose')
    assert not (checkout / 'venv' / STAMP).exists()
