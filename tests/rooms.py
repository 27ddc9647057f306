"""Find the papers, so that no test outside a paper's folder has a list of them.

A paper's room is a package (or one file) of ``mmtoken`` that registers classes, and
``tests/<room>/smallest.py`` lists its smallest backbones.
"""

import ast
import importlib
from pathlib import Path
from typing import NamedTuple

import mmengine.registry
import mmtoken

PACKAGE = Path(mmtoken.__file__).parent
# registries of mmengine by the name under which they are imported
ROOTS = {
    name: registry
    for name, registry in vars(mmengine.registry).items()
    if isinstance(registry, mmengine.registry.Registry)
}
HOSTS = ('mmcv', 'mmdet', 'mmseg', 'mmpose', 'mmpretrain')


class Registered(NamedTuple):
    """A class that a room registers, as its source says."""

    room: str
    registry: str
    name: str
    # the host that its module imports, by the name of the file; None: it needs no host
    host: str | None


def _registry_of(node: ast.AST) -> str | None:
    """``MODELS`` for a class under ``@MODELS.register_module()``."""
    for decorator in getattr(node, 'decorator_list', ()):
        found = getattr(decorator, 'func', None)
        if isinstance(found, ast.Attribute) and found.attr == 'register_module':
            return found.value.id
    return None


def registered() -> list[Registered]:
    """Everything that the package registers, read off its source, so that no import is needed."""
    found = []
    for path in sorted(PACKAGE.rglob('*.py')):
        host = path.name.split('_')[0]
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            registry = _registry_of(node)
            if registry and path.parent.name != 'common':  # which belongs to no paper
                room = path.relative_to(PACKAGE).with_suffix('').parts[0]
                needed = host if host in HOSTS else None
                found.append(Registered(room, registry, node.name, needed))
    return found


REGISTERED = registered()
ROOMS = sorted({one.room for one in REGISTERED})
SMALLEST = {
    path.parent.name: importlib.import_module(f'{path.parent.name}.smallest')
    for path in sorted(Path(__file__).parent.glob('*/smallest.py'))
}
# the constructor arguments of every smallest backbone, with its type
BACKBONES = [backbone for module in SMALLEST.values() for backbone in module.BACKBONES]

# necks and heads: their constructor arguments, and the backbone whose output they read
READERS = [reader for module in SMALLEST.values() for reader in getattr(module, 'READERS', [])]


def smallest_id(backbone: dict) -> str:
    """The type of a smallest backbone; numbered where a room has several of it."""
    alike = [one for one in BACKBONES if one['type'] == backbone['type']]
    number = f'-{alike.index(backbone) + 1}' if len(alike) > 1 else ''
    return backbone['type'] + number
