"""The smallest TCFormer with four stages: the contracts find it here, other tests build on it."""

TINY = dict(
    depths=(1, 1, 1, 1),
    embed_dims=(8, 16, 24, 32),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(2, 2, 2, 2),
    sr_ratios=(8, 4, 2, 1),
)
BACKBONES = [dict(type='TCFormer', arch=dict(TINY, depths=(1, 2, 1, 1)), out_type='maps')]
# as the tools that put it into configs of the hosts are given it
SWAP = dict(type='TCFormer', arch=TINY)
READERS = [
    (
        dict(type='MTA', in_channels=TINY['embed_dims'], out_channels=8, num_heads=2, mlp_ratio=2),
        dict(type='TCFormer', arch=TINY),
    )
]
# values that the fuzz runner draws from
OPTIONS = dict(
    TCFormer=dict(
        arch=[TINY, dict(TINY, depths=(2, 1, 1, 2), sr_ratios=(4, 4, 1, 1))],
        sample_ratios=[(0.25, 0.25, 0.25), (0.5, 0.3, 0.9), (1.0, 0.1, 1.0)],
        num_neighbors=[1, 2, 3, 5],
        local_parts=[None, (4, 2, 1), (2, 2, 1), (1, 1, 1)],
        qkv_bias=[True, False],
    )
)
