"""Counting and drawing what token-clustering models do; nothing here is needed to train them."""
