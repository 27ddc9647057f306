"""Names that users' configs and scripts rely on. Removing one is a breaking change: say so."""

import inspect

import mmtoken
import pytest
from mmtoken import MTA, PaCaViT, TCFormer


def test_package():
    assert set(mmtoken.__all__) == {
        *('MTA', 'PaCaViT', 'RoleOptimWrapperConstructor', 'TCFormer', 'record_tokens'),
        *('STViTDeiT', 'STViTR', 'STViTSwin'),
    }
    assert all(hasattr(mmtoken, name) for name in mmtoken.__all__)


def test_arguments():
    assert list(inspect.signature(TCFormer).parameters) == [
        'arch', 'out_type', 'in_channels', 'out_indices', 'sample_ratios', 'num_neighbors',
        'local_parts', 'density_noise', 'patch_norm_eps', 'qkv_bias', 'drop_rate',
        'attn_drop_rate', 'drop_path_rate', 'frozen_stages', 'norm_eval', 'with_cp', 'init_cfg',
    ]  # fmt: skip
    assert list(inspect.signature(MTA).parameters) == [
        'in_channels', 'out_channels', 'num_heads', 'mlp_ratio', 'reduction', 'sr_ratios',
        'start_level', 'end_level', 'num_outs', 'out_levels', 'add_extra_convs',
        'relu_before_extra_convs', 'qkv_bias', 'gather_layer', 'drop_path_rate', 'norm_eps',
        'init_cfg',
    ]  # fmt: skip
    assert list(inspect.signature(PaCaViT).parameters) == [
        'arch', 'clustering', 'num_clusters', 'share', 'in_channels', 'out_indices', 'drop_rate',
        'attn_drop_rate', 'drop_path_rate', 'layer_scale', 'block_norm', 'cluster_pos_embed',
        'frozen_stages', 'norm_eval', 'with_cp', 'init_cfg',
    ]  # fmt: skip


def test_arguments_of_the_head():
    pytest.importorskip('mmseg')
    from mmtoken.paca_vit import PaCaHead

    assert list(inspect.signature(PaCaHead).parameters) == [
        'in_channels', 'channels', 'num_classes', 'in_index', 'out_channels', 'threshold',
        'dropout_ratio', 'norm_cfg', 'act_cfg', 'align_corners', 'ignore_index', 'loss_decode',
        'loss_cluster', 'sampler', 'init_cfg',
    ]  # fmt: skip
