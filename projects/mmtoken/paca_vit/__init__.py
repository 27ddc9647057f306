"""PaCa-ViT (CVPR 2023): attention from patches to learned clusters."""

import logging

from .backbone import PaCaViT

__all__ = ['PaCaViT']

# AssertionError: a host that finds a wrong version of another host
try:
    from .mmseg_head import PaCaHead
except (ImportError, AssertionError) as error:
    logging.getLogger(__name__).debug('PaCaHead is left out, mmseg cannot be imported: %s', error)
else:
    __all__ += ['PaCaHead']
