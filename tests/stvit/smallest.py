"""The smallest STViTs with all of their stages: with recovery, on Swin and on DeiT."""

TINY = dict(embed_dims=8, depths=(2, 1, 6, 2), num_heads=(1, 2, 2, 4))
SWIN = dict(TINY, num_local=2)
DEIT = dict(embed_dims=8, num_heads=2, depths=(2, 4))
BACKBONES = [
    dict(type='STViTR', arch=TINY),
    dict(type='STViTSwin', arch=SWIN, out_indices=(0, 1, 2, 3)),
    dict(type='STViTDeiT', arch=DEIT, out_indices=(0, 1)),
]
# as the tools that put it into configs of the hosts are given it
SWAP = BACKBONES[0]

# sides of a map: part of a window, a whole one, padding on both sides, on one, on none, long
SIZES = [(1, 3), (7, 7), (4, 9), (8, 14), (9, 10), (7, 14), (3, 45)]
# values that the fuzz runner draws from
OPTIONS = dict(
    STViTR=dict(
        arch=[TINY, dict(TINY, depths=(1, 1, 12, 1))],
        flavour=['dense', 'classification'],
        mask=['exact', 'none', 'released'],
        use_global_center=[True, False],
        window_size=[4, 7, 8],
        semantic_window=[1, 2, 3],
        key_windows=[(14, 21, 27), (8, 9, 3), (9, 16, 8)],
    ),
    STViTSwin=dict(
        arch=[SWIN, dict(SWIN, num_local=0)],
        mask=['exact', 'none'],
        stgm_residual=[True, False],
        use_global_center=[True, False],
    ),
    STViTDeiT=dict(use_global_center=[True, False]),
)
