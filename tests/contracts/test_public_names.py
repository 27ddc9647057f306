"""What users write into configs and import: registered classes and the names of ``__all__``."""

import importlib
import inspect
import re
from pathlib import Path

import mmtoken
import pytest
from rooms import REGISTERED, ROOMS, ROOTS, SMALLEST

PROJECT = Path(__file__).parents[2] / 'README.md'
READMES = (Path(mmtoken.__file__).parent, PROJECT.parent / 'configs')


@pytest.mark.parametrize('module', [mmtoken.__name__, *(f'mmtoken.{room}' for room in ROOMS)])
def test_public_names_exist_and_are_documented(module):
    module = importlib.import_module(module)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert inspect.getdoc(getattr(module, name)), name


@pytest.mark.parametrize('one', REGISTERED, ids=lambda one: one.name)
def test_registered_once_under_its_bare_name(one):
    if one.host:
        pytest.importorskip(one.host)
    cls = ROOTS[one.registry].module_dict[one.name]
    assert cls.__name__ == one.name and f'{cls.__module__}.'.startswith(f'mmtoken.{one.room}.')
    names = [(key, name) for key, root in ROOTS.items() for name in root.module_dict]
    assert [key for key, name in names if name == one.name] == [one.registry]
    # a host would take its own before it looks into the root
    children = [child for root in ROOTS.values() for child in root.children.values()]
    assert not any(one.name in child.module_dict for child in children)


@pytest.mark.parametrize('one', REGISTERED, ids=lambda one: one.name)
def test_registered_classes_can_be_imported_and_looked_up(one):
    """From the room, or without a host from the package; and its READMEs name it.

    A room of one file has the README of the project.
    """
    if one.host:
        pytest.importorskip(one.host)
    room = importlib.import_module(f'mmtoken.{one.room}')
    assert one.name in mmtoken.__all__ or (one.host and one.name in room.__all__)
    is_file = not hasattr(room, '__path__')
    texts = [PROJECT] if is_file else [folder / one.room / 'README.md' for folder in READMES]
    found = [re.findall(r'\w+', path.read_text()) for path in texts if path.is_file()]
    assert any(one.name in words for words in found)


@pytest.mark.parametrize('one', REGISTERED, ids=lambda one: one.name)
def test_no_argument_is_swallowed(one):
    """A misspelt key of a config is an error."""
    if one.host:
        pytest.importorskip(one.host)
    arguments = inspect.signature(ROOTS[one.registry].module_dict[one.name]).parameters.values()
    assert not any(argument.kind is argument.VAR_KEYWORD for argument in arguments)
    if one.registry == 'MODELS':
        assert 'init_cfg' in {argument.name for argument in arguments}


def test_every_room_with_a_backbone_has_smallest_ones():
    listed = {one['type'] for module in SMALLEST.values() for one in module.BACKBONES}
    rooms = {one.room for one in REGISTERED if one.name in listed}
    assert rooms == set(SMALLEST) & set(ROOMS)
