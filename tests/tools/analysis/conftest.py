import sys
from pathlib import Path

import pytest

# as when the scripts are run, which puts their own folder on the path
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools' / 'analysis'))

TINY = """
model = dict(
    backbone=dict(
        type='TCFormer',
        arch=dict(
            depths=(1, 1, 1, 1),
            embed_dims=(8, 16, 16, 16),
            num_heads=(1, 2, 2, 2),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(8, 4, 2, 1),
        ),
    ),
    neck=dict(type='MTA', in_channels=(8, 16, 16, 16), out_channels=8, num_heads=2),
)
"""


@pytest.fixture
def tiny_config(tmp_path):
    """A TCFormer with MTA, small enough for any test, that needs no host."""
    path = tmp_path / 'tiny.py'
    path.write_text(TINY)
    return str(path)
