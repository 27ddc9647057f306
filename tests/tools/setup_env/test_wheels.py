"""The wheel cache: what a key names, and that no wheel is ever half there."""

import os
import zipfile
from pathlib import Path

import pytest
from setup_env import wheels


def write_wheel(folder, name='a-1-py3-none-any.whl'):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / name, 'w') as wheel:
        wheel.writestr('a.py', '')
    return folder / name


def test_the_cache_is_outside_of_the_checkout_and_can_be_moved(tmp_path):
    assert wheels.cache_root({}) == Path.home() / '.cache' / 'mmtoken' / 'wheels'
    assert wheels.cache_root({'XDG_CACHE_HOME': '/c'}) == Path('/c/mmtoken/wheels')
    environ = {'XDG_CACHE_HOME': '/c', 'MMTOKEN_WHEEL_CACHE': str(tmp_path)}
    assert wheels.cache_root(environ) == tmp_path


def test_a_key_names_all_that_the_wheel_was_compiled_against(facts, pins):
    assert wheels.cache_key('onedl-mmcv', pins, facts) == (
        'onedl-mmcv-2.3.6-torch2.12.1-cp311-x86_64'
    )
    assert wheels.cache_key('onedl-mmcv', pins, facts, cuda=True).endswith('x86_64-cuda')
    assert wheels.cache_key('xtcocotools', pins, facts) == (
        'xtcocotools-1.14.3-torch2.12.1-cp311-x86_64-numpy2.2'
    )


def test_a_wheel_is_published_whole_and_never_replaced(tmp_path):
    built = write_wheel(tmp_path / 'first')
    assert wheels.cached_wheel(tmp_path / 'key') is None
    published = wheels.publish(built.parent, tmp_path / 'key')
    assert published == tmp_path / 'key' / built.name
    assert not built.parent.exists()
    late = write_wheel(tmp_path / 'second', 'b-1-py3-none-any.whl')
    assert wheels.publish(late.parent, tmp_path / 'key') == published


def test_a_build_without_a_wheel_is_not_published(tmp_path):
    (tmp_path / 'built').mkdir()
    with pytest.raises(SystemExit, match='left no wheel in .*built'):
        wheels.publish(tmp_path / 'built', tmp_path / 'key')
    assert not (tmp_path / 'key').exists()


def test_a_damaged_wheel_is_named(tmp_path):
    wheel = write_wheel(tmp_path / 'key')
    os.truncate(wheel, 20)
    with pytest.raises(SystemExit, match=f'{wheel} is damaged; remove it: rm -r {wheel.parent}'):
        wheels.cached_wheel(wheel.parent)
