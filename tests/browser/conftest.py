"A browser for the pages and the sliders: Debian's Chromium or Google Chrome, headless, without what needs the network."

import shutil
from pathlib import Path

import pytest

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--disable-dev-shm-usage',
]
SITE = Path(__file__).resolve().parents[2] / '_site'


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker('browser')


@pytest.fixture(scope='session')
def browser_type_launch_args(browser_type_launch_args):
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.fail('no Chromium on the PATH: install it (Debian: apt-get install chromium) or Google Chrome')
    return {**browser_type_launch_args, 'executable_path': found, 'args': FLAGS}


@pytest.fixture(scope='session')
def site():
    "The folder of the built site."
    if not (SITE / 'index.html').exists():
        pytest.fail(f'{SITE.name} holds no site: build it with python scripts/build_site.py')
    return SITE
