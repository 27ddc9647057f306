"""Set up MMToken and a pinned stack in one virtual environment; `make` calls it first.

The sections of the stack's requirements file are installed in order, then this checkout in
editable mode. Packages without a suitable wheel on the index are compiled once and kept in a
per-user cache. A run skips everything already installed, so an interrupted set-up continues where
it stopped. Standard library only.
"""
