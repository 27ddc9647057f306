"""The smallest STViTs with all of their stages: with recovery, on Swin and on DeiT."""

TINY = dict(embed_dims=8, depths=(2, 1, 6, 2), num_heads=(1, 2, 2, 4))
SWIN = dict(TINY, num_local=2)
DEIT = dict(embed_dims=8, num_heads=2, depths=(2, 4))
BACKBONES = [
    dict(type='STViTR', arch=TINY),
    dict(type='STViTSwin', arch=SWIN, out_indices=(0, 1, 2, 3)),
    dict(type='STViTDeiT', arch=DEIT, out_indices=(0, 1)),
]

# sides of a map: part of a window, a whole one, padding on both sides, on one, on none, long
SIZES = [(1, 3), (7, 7), (4, 9), (8, 14), (9, 10), (7, 14), (3, 45)]
