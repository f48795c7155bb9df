"What all tests share: one thread for small networks, figures without a screen, English hints, and the command line as a function."

import os

os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # small networks are fastest with one; set before torch is imported
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.pop('UNETKIT_LANGUAGE', None)

LONGEST = ('test_readme', 'test_tuning')  # files that take more than a minute and a half


def pytest_collection_modifyitems(items):
    "The longest files first, so that no worker is left alone with one at the end."
    items.sort(key=lambda item: item.path.stem not in LONGEST)
