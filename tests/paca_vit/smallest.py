"""The smallest PaCa-ViTs with four stages, without and with a teacher."""

TINY = dict(
    depths=(2, 1, 2, 1),
    embed_dims=(8, 12, 16, 24),
    num_heads=(1, 2, 2, 3),
    mlp_ratios=(2, 2, 2, 2),
)
TEACHER = dict(TINY, teacher_depths=(1, 2, 1, 1))
CLUSTERS = (5, 4, 3, 0)
BACKBONES = [
    dict(type='PaCaViT', arch=TINY, num_clusters=CLUSTERS),
    dict(type='PaCaViT', arch=TEACHER, num_clusters=(5, 4, 3, 2)),
]
# as the tools that put it into configs of the hosts are given it
SWAP = BACKBONES[0]
HEAD = dict(type='PaCaHead', channels=6, num_classes=4, norm_cfg=dict(type='BN'))
READERS = [(dict(HEAD, in_channels=TINY['embed_dims']), BACKBONES[0])]
# values that the fuzz runner draws from
OPTIONS = dict(
    PaCaViT=dict(
        share=['stage', 'block', 2],
        clustering=[None, 'conv', 'mlp', 'linear', 'teacher'],
        num_clusters=[(1, 2, 3, 4), (200, 5, 5, 5), (0, 0, 0, 0)],
    )
)
