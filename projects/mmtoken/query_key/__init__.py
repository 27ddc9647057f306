"""What attention heads compare: modes of ``W_q^T W_k``, for any backbone (arXiv:2405.14880)."""

from .adapters import QK_ADAPTERS, Projections, find_layers
from .hook import QKInteractionHook
from .interaction import Modes, effective_rank, find_modes, mean_similarity, random_band
from .report import Report, analyse

__all__ = [
    'QK_ADAPTERS',
    'Modes',
    'Projections',
    'QKInteractionHook',
    'Report',
    'analyse',
    'effective_rank',
    'find_layers',
    'find_modes',
    'mean_similarity',
    'random_band',
]
