"""The smallest STViTs: with recovery, on Swin and on DeiT."""

TINY = dict(embed_dims=8, depths=(2, 1, 6, 2), num_heads=(1, 2, 2, 4))
SWIN = dict(embed_dims=8, depths=(2, 1, 6, 2), num_heads=(1, 2, 2, 4), num_local=2)
DEIT = dict(embed_dims=8, num_heads=2, depths=(2, 4))

# sides of a map: part of a window, a whole one, padding on both sides, on one, on none, long
SIZES = [(1, 3), (7, 7), (4, 9), (8, 14), (9, 10), (14, 14), (3, 45)]
