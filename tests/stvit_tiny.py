"""The smallest STViT-R with four stages."""

TINY = dict(embed_dims=8, depths=(2, 1, 6, 2), num_heads=(1, 2, 2, 4))
