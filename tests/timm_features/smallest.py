"""The smallest timm model with stages; every family is in ``test_timm_features.py``."""

TINY = dict(depths=(1, 1, 2, 1), dims=(4, 8, 8, 12))
BACKBONES = [dict(type='TimmFeatures', model='convnext_atto', model_args=TINY)]
IS_DRAWN = False  # they record nothing
