"""PaCa-ViT-Tiny in mmseg's EncoderDecoder; the head is the config's.

Weights of 100 clusters become 200 here: the final clustering layers are re-initialised.
"""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(type='PaCaViT', arch='tiny', num_clusters=(200, 200, 200, 0), drop_path_rate=0.1),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
