"""Set up MMToken and its pinned stack in one virtual environment; `make` calls it first.

python3.11 tools/setup_env [--venv DIR]

Installs the sections of requirements.txt in order, then this checkout in editable mode. Packages
without a suitable wheel on the index are compiled once and kept in a per-user wheel cache.
A run skips everything already installed, so an interrupted set-up continues where it stopped.
Standard library only.
"""
