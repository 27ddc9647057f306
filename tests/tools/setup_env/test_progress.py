"""Progress is read from what a command prints."""

from setup_env.progress import Progress


def test_progress_counts_objects_and_estimates_the_rest():
    progress = Progress()
    assert progress.line(0.5) == 'working, 0:00'
    progress.feed('Collecting torch==2.12.1\n')
    assert progress.line(61) == 'collecting torch==2.12.1, 1:01'
    progress.feed('  Downloading https://host/a/torch-2.12.1-cp311.whl (532 MB)\n')
    assert progress.line(62) == 'downloading torch-2.12.1-cp311.whl, 1:02'
    progress.feed('Installing collected packages: a, b\n')
    assert progress.line(63) == 'installing the packages, 1:03'
    progress.feed('  [20/80] c++ -MMD -MF a.o.d [1/2]\n')
    assert progress.line(120) == 'compiled 20 of 80, 2:00, about 6 min left'
