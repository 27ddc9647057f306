"""What must happen before a config is parsed, because inside one it would be too late.

A config's bases are read before its ``custom_imports``. The command-line tools and the tests
therefore call this file first; importing ``mmtoken`` alone changes nothing in mmengine.
"""

from importlib import metadata
from importlib.util import find_spec

from mmengine.config import utils as config_utils


def make_host_configs_loadable() -> list[str]:
    """Let ``_base_ = 'mmseg::...'`` find mmseg under whatever name it was installed.

    mmengine looks for the distribution ``mmsegmentation`` and gives up when mmseg came from
    another one (the maintained fork is called ``onedl-mmsegmentation``). A look-up by import name
    works for all of them.

    Returns:
        The hosts that are now looked up by import name; empty where nothing had to change.
    """
    changed = []
    for module, distribution in config_utils.MODULE2PACKAGE.items():
        if module == distribution or find_spec(module) is None:
            continue
        try:
            metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            config_utils.MODULE2PACKAGE[module] = module
            changed.append(module)
    return changed
