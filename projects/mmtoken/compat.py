"""Adjustments that the hosts need before they read a config or a checkpoint.

A config's bases are read before its ``custom_imports``, so the command-line tools and the tests
call :func:`prepare_hosts` first. Importing ``mmtoken`` calls :func:`make_checkpoints_loadable`,
which is in time for whatever reads a checkpoint, such as the hosts' inferencers, and
:func:`name_our_configs`.
"""

from importlib import metadata
from importlib.util import find_spec

import torch
from mmengine.config import utils as config_utils
from mmengine.runner import CheckpointLoader

from .common.weights import SAFE_GLOBALS, load_from_safetensors


def prepare_hosts() -> None:
    """Apply every adjustment; safe to call twice."""
    make_host_configs_loadable()
    make_checkpoints_loadable()
    name_our_configs()


def name_our_configs() -> None:
    """Let mmengine find our configs as ``mmtoken::FOLDER/NAME.py``.

    It reads them from ``.mim`` in the package, as it reads those of the hosts.
    """
    config_utils.MODULE2PACKAGE['mmtoken'] = 'mmtoken'


def make_host_configs_loadable() -> list[str]:
    """Let ``_base_ = 'mmseg::...'`` find mmseg whatever its distribution is called.

    mmengine looks for the distribution ``mmsegmentation`` and fails if mmseg came from another
    one, such as the maintained fork ``onedl-mmsegmentation``. A look-up by import name always
    works.

    Returns:
        The hosts that are now looked up by import name.
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
    """Let ``torch.load(weights_only=True)`` read what a runner saves next to the weights.

    A runner saves its message hub (history buffers) and the meta-information of the data set
    (numpy arrays). The official mmengine cannot resume from its own checkpoints with torch 2.6 or
    newer; the maintained fork falls back to the unsafe unpickler with a page of warnings. Neither
    reads ``.safetensors`` files, which ``load_from`` takes from then on.
    """
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
    local = r'(?!\w+://).*\.safetensors$'
    CheckpointLoader.register_scheme(local, load_from_safetensors, force=True)
