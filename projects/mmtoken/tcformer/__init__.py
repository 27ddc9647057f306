"""TCFormer (CVPR 2022) and its MTA neck."""

from .backbone import TCFormer
from .mta_neck import MTA

__all__ = ['MTA', 'TCFormer']
