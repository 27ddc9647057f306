"""What must happen before a config is parsed, because inside one it would be too late.

A config's bases are read before its ``custom_imports``. The command-line tools and the tests
therefore call :func:`prepare_hosts` first; importing ``mmtoken`` alone changes nothing.
"""

from importlib import metadata
from importlib.util import find_spec

import torch
from mmengine.config import utils as config_utils

from .common.weights import SAFE_GLOBALS


def prepare_hosts() -> None:
    """Do everything in this file; calling it again changes nothing."""
    make_host_configs_loadable()
    make_checkpoints_loadable()


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


def make_checkpoints_loadable() -> None:
    """Let torch's safe unpickler read what a runner puts beside the weights.

    A runner stores its message hub (history buffers) and the meta-information of the data set
    (numpy arrays). The official mmengine cannot resume from its own checkpoints with torch 2.6 or
    newer; the maintained fork falls back to the unsafe unpickler, with a page of warnings.
    """
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
