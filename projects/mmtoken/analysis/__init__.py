"""Counting, timing and drawing; not needed for training."""
