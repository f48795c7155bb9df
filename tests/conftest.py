"What all tests share: one thread for small networks, figures without a screen, English hints, and the command line as a function."

import os

os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # small networks are fastest with one; set before torch is imported
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.pop('UNETKIT_LANGUAGE', None)
