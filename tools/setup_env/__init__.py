"""Set up everything MMToken needs in one virtual environment; `make` runs this before its targets.

python3.11 tools/setup_env [--venv DIR]

Installs the sections of requirements.txt in order. Packages that no index has compiled for this
stack are compiled here, and their wheels are kept in a user cache, so that the next checkout takes
minutes. Finished work is never repeated: a stamp in the environment answers at once while nothing
changed, every step looks first at what is installed, and an interrupted compilation goes on with
the files it lacks. Nothing that somebody else made is deleted.

Standard library only, and no syntax newer than Python 3.7: a wrong Python gets the answer of
``refusals.check_python`` instead of a traceback.
"""
