"""The smallest MaxViTs: the authors' form, and that with an MLP for relative positions."""

TINY = dict(
    embed_dims=(8, 8, 16, 16),
    depths=(1, 1, 2, 1),
    stem_dims=(4, 8),
    head_dim=4,
    form='tf',
    layer_scale=None,
)
RMLP = dict(TINY, form='rmlp', layer_scale=0.5)
BACKBONES = [dict(type='MaxViT', arch=TINY), dict(type='MaxViT', arch=RMLP, window_size=3)]
# as the tools that put it into configs of the hosts are given it
SWAP = BACKBONES[0]

READERS = [(dict(type='MaxViTPreLogits', embed_dims=TINY['embed_dims'][-1]), BACKBONES[0])]
# sides of a map: less than a group, a whole one, padding on both sides, on one, on none, long
SIZES = [(1, 3), (7, 7), (4, 9), (8, 14), (9, 10), (7, 14), (3, 45)]
# values that the fuzz runner draws from
OPTIONS = dict(
    MaxViT=dict(
        arch=[TINY, dict(TINY, form='torchvision'), dict(TINY, form='rw'), RMLP],
        partition=['pad', 'proportional', (2, 5)],
        window_size=[None, 2, 12],
        out_norm=[True, False],
    )
)
