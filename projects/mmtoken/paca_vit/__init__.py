"""PaCa-ViT (CVPR 2023): attention from patches to learned clusters."""

import logging
from importlib.util import find_spec

from .backbone import PaCaViT

__all__ = ['PaCaViT']

# AssertionError: a host that finds another one of the wrong version
try:
    from .mmseg_head import PaCaHead
except (ImportError, AssertionError) as error:
    reason = 'is not installed' if find_spec('mmseg') is None else f'cannot be imported: {error}'
    logging.getLogger(__name__).debug('PaCaHead is left out: mmseg %s', reason)
else:
    __all__ += ['PaCaHead']
