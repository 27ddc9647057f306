"""The smallest plain ViTs: with a class token and absolute positions, rotary ones, and windows."""

TINY = dict(embed_dims=16, depth=4, num_heads=2, hidden_dim=24)
DINOV2 = dict(
    type='PlainViT',
    arch=TINY,
    patch_size=14,
    img_size=70,
    num_registers=2,
    layer_scale=0.5,
    out_indices=(0, 1, 2, 3),
    out_norm='all',
)
DINOV3 = dict(
    type='PlainViT',
    arch=TINY,
    patch_size=8,
    img_size=None,
    rope='dinov3',
    mlp='swiglu',
    out_indices=(0, 1, 2, 3),
)
VITDET = dict(
    type='PlainViT',
    arch=TINY,
    patch_size=8,
    img_size=56,
    pos_antialias=False,
    class_token=False,
    window_block_indexes=(0, 2),
    window_size=3,
    rel_pos_size=64,
    out_indices=(0, 1, 2, 3),
    out_norm='none',
)
BACKBONES = [DINOV2, DINOV3, VITDET]
# as the tools that put it into configs of the hosts are given it
SWAP = dict(type='PlainViT', arch=TINY)
READERS = [(dict(type='SimpleFPN', in_channels=16, out_channels=8), VITDET)]
# values that the fuzz runner draws from
OPTIONS = dict(
    PlainViT=dict(
        pos_antialias=[True, False],
        pos_offset=[0.0, 0.1],
        rope=['eva02'],
        pre_norm=[True, False],
        layer_scale=[None, 1.0],
        mlp=['gelu', 'quickgelu', 'swiglu'],
        mlp_norm=[True, False],
        attn_norm=[True, False],
        window_size=[1, 2, 4],
        out_norm=['all', 'last', 'none'],
    )
)
