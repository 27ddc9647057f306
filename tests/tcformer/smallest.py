"""The smallest TCFormer with four stages: the contracts find it here, other tests build on it."""

TINY = dict(
    depths=(1, 1, 1, 1),
    embed_dims=(8, 16, 24, 32),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(2, 2, 2, 2),
    sr_ratios=(8, 4, 2, 1),
)
BACKBONES = [dict(type='TCFormer', arch=dict(TINY, depths=(1, 2, 1, 1)), out_type='maps')]
