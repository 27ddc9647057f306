import sys
from pathlib import Path

import pytest
from tiny import TINY

# as when the scripts are run, which puts their own folder on the path
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools' / 'analysis'))

CONFIG = f"""
model = dict(
    backbone=dict(type='TCFormer', arch={TINY}),
    neck=dict(type='MTA', in_channels={TINY['embed_dims']}, out_channels=8, num_heads=2),
)
"""


@pytest.fixture
def tiny_config(tmp_path):
    """A TCFormer with MTA, small enough for any test, that needs no host."""
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG)
    return str(path)
