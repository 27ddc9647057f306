import sys
from pathlib import Path

import pytest
from stvit.smallest import SWIN
from stvit.smallest import TINY as STVIT
from tcformer.smallest import TINY

# as when the scripts are run, which puts their own folder on the path
sys.path.insert(0, str(Path(__file__).parents[3] / 'tools' / 'analysis'))

CONFIG = f"""
model = dict(
    backbone=dict(type='TCFormer', arch={TINY}),
    neck=dict(type='MTA', in_channels={TINY['embed_dims']}, out_channels=8, num_heads=2),
)
"""
PACA = dict(
    depths=(1, 2, 1, 1), embed_dims=(16, 24, 32, 40), num_heads=(1, 2, 2, 2), mlp_ratios=(2,) * 4
)


@pytest.fixture
def paca_config(tmp_path):
    """A PaCa-ViT whose last stage has no clusters, in the frame of a detector's config."""
    path = tmp_path / 'paca.py'
    path.write_text(f"""
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='PaCaViT', arch={PACA}, num_clusters=(4, 9, 6, 0)),
)
resize = dict(type='Resize', scale=(100, 50), keep_ratio=True)
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), resize]))
""")
    return str(path)


def _stvit_config(path, backbone):
    path.write_text(f"""
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone={backbone},
)
""")
    return str(path)


@pytest.fixture
def stvit_config(tmp_path):
    """An STViT-R of two units, in the frame of a detector's config."""
    arch = dict(STVIT, depths=(1, 1, 12, 1))
    return _stvit_config(tmp_path / 'stvit.py', dict(type='STViTR', arch=arch))


@pytest.fixture
def stvit_swin_config(tmp_path):
    """An STViT without recovery."""
    return _stvit_config(tmp_path / 'stvit_swin.py', dict(type='STViTSwin', arch=SWIN))


@pytest.fixture
def tiny_config(tmp_path):
    """A TCFormer with MTA, small enough for any test, that needs no host."""
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG)
    return str(path)
