"""Move every slider and menu of the lessons by keyboard, in JupyterLab in a headless browser.

An exception inside a callback passes every test that only runs a notebook. So the notebooks that have panels (their metadata names the cells) are opened, all of
their cells are run, and every control is moved until the picture and the numbers have both changed. Each kind of fault is planted first, and must be found.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / 'nbs'


def panels():
    "Notebooks with sliders, by the metadata that a notebook carries -> how many panels it has."
    found = {}
    for path in sorted(NOTEBOOKS.rglob('*.ipynb')):
        about = json.loads(path.read_text(encoding='utf-8'))['metadata'].get('unetkit', {})
        if about.get('panels'):
            found[path.relative_to(NOTEBOOKS).with_suffix('').as_posix()] = len(about['panels'])
    return found


RUN_SECONDS, MOVE_SECONDS, PRESSES = (
    400,
    120,
    8,
)  # Patience with a notebook, with a move, and moves that change no number
BROKEN = re.compile(
    r'Traceback \(most recent call last\)|Error displaying widget|Error creating widget|model not found|should not happen'
)
HARMLESS = re.compile(r'Failed to load resource|favicon|the server responded with a status of')


# The page of planted faults: what each of them is, what must be said about it ('' for the sound one), and its cell.
FAULTS = [
    ('a sound panel', '', 'good = Panel(show, dict(n=slider()))\ngood'),
    (
        'a callback that raises',
        'ZeroDivisionError',
        'raises = slider()\nraises.observe(lambda change: 1 / 0, "value")\nPanel(show, dict(n=raises))',
    ),
    ('a view that raises', 'ZeroDivisionError', 'Panel(lambda n: show(3 // (n - 4)), dict(n=slider()))'),
    ('a dead slider', 'picture did not change', 'Panel(lambda n: show(1), dict(n=slider()))'),
    ('a picture without numbers', 'numbers did not change', 'Panel(lambda n: show(n, 1), dict(n=slider()))'),
    ('numbers without a picture', 'picture did not change', 'Panel(lambda n: show(1, n), dict(n=slider()))'),
    (
        'a sentence instead of a view',
        'refused',
        'def refuse(n):\n    if n > 3: raise ValueError("n is too large")\n    return show(n)\nPanel(refuse, dict(n=slider()))',
    ),
    ('a slider that is switched off', 'cannot be moved', 'Panel(show, dict(n=slider(disabled=True)))'),
    ('a slider outside of a panel', 'belong to no panel', 'slider()'),
    ('a traceback in an output', 'an output says', 'print("Traceback (most recent call last):")'),
]
SETUP = '''from matplotlib.figure import Figure
import ipywidgets as widgets
from unetkit.widgets import Panel, View
def slider(**more): return widgets.IntSlider(value=3, min=1, max=9, description='n', continuous_update=False, **more)
def show(n, written=None):
    figure = Figure(figsize=(1, 1))
    figure.text(.2, .4, str(n))
    return View(figure, {}, [['what', ''], ['value', str(n if written is None else written)]], 'a number')
'''


@dataclass
class Watch:
    "What a page said while it was open."

    errors: list = field(
        default_factory=list
    )  # Exceptions of the kernel, uncaught ones of the page, errors on its console
    done: int = 0  # Messages of widgets that the kernel has answered

    def message(self, payload):
        "Read one message from a kernel."
        header, parent, content = read_message(payload)
        if header.get('msg_type') == 'error':
            self.errors.append(f'{content.get("ename")}: {content.get("evalue")}')
        elif (
            header.get('msg_type') == 'status'
            and content.get('execution_state') == 'idle'
            and parent.get('msg_type') == 'comm_msg'
        ):
            self.done += 1

    def console(self, message):
        "Read one line of the console."
        if message.type == 'error' and not HARMLESS.search(message.text + str(message.location)):
            self.errors.append(f'console: {message.text[:300]}')


def read_message(payload):
    "Header, parent header and content of a message, in Jupyter's binary form or as JSON; empty where there is none."
    try:
        if isinstance(payload, str):
            parts = json.loads(payload)
            return parts['header'], parts['parent_header'], parts['content']
        count = int.from_bytes(payload[:8], 'little')
        at = [int.from_bytes(payload[8 * i : 8 * i + 8], 'little') for i in range(1, count + 1)]
        header, parent, _, content = (json.loads(payload[a:b]) for a, b in zip(at[1:5], at[2:6]))
        return header, parent, content
    except (ValueError, KeyError, TypeError):
        return {}, {}, {}


def write_notebook(path, sources):
    "A notebook of code cells."
    cells = [
        dict(cell_type='code', execution_count=None, id=f'c{i}', metadata={}, outputs=[], source=source)
        for i, source in enumerate(sources)
    ]
    kernel = dict(display_name='python3', language='python', name='python3')
    path.write_text(
        json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5))
    )


class Lab:
    "A JupyterLab of its own: folder, settings, token and port."

    def __init__(self, folder, notebooks):
        self.root, self.token = folder / 'notebooks', secrets.token_hex(16)
        self.root.mkdir()
        for name in notebooks:
            (self.root / name).parent.mkdir(exist_ok=True)
            shutil.copy(NOTEBOOKS / f'{name}.ipynb', self.root / f'{name}.ipynb')
        write_notebook(self.root / 'faults.ipynb', [SETUP, *(source for *_, source in FAULTS)])
        self.log = (folder / 'lab.log').open('w+')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            self.command(),
            env=self.environment(folder),
            cwd=self.root,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def command(self):
        "The server, without what needs the network or a person."
        return [
            sys.executable,
            '-m',
            'jupyterlab',
            '--no-browser',
            '--allow-root',
            '--ip=127.0.0.1',
            f'--port={self.port}',
            '--ServerApp.port_retries=0',
            f'--IdentityProvider.token={self.token}',
            f'--ServerApp.root_dir={self.root}',
            '--LabApp.extension_manager=readonly',
        ]

    def environment(self, folder):
        "Fresh homes, so that nobody's settings take part."
        homes = {
            'HOME': 'home',
            'JUPYTER_CONFIG_DIR': 'config',
            'JUPYTER_DATA_DIR': 'data',
            'JUPYTER_RUNTIME_DIR': 'runtime',
            'IPYTHONDIR': 'ipython',
        }
        for name in homes.values():
            (folder / name).mkdir(mode=0o700)
        (folder / 'config/labconfig').mkdir()
        (folder / 'config/labconfig/default_setting_overrides.json').write_text(
            json.dumps(
                {
                    '@jupyterlab/notebook-extension:tracker': {'windowingMode': 'none'},
                    '@jupyterlab/apputils-extension:notification': {
                        'fetchNews': 'false',
                        'checkForUpdates': False,
                    },
                }
            )
        )
        cache = os.environ.get(
            'XDG_CACHE_HOME', str(Path.home() / '.cache')
        )  # matplotlib's list of fonts takes long to make
        kept = {
            k: v
            for k, v in os.environ.items()
            if k not in ('MPLBACKEND', 'JUPYTER_PATH', 'JUPYTER_CONFIG_PATH')
        }
        return {
            **kept,
            **{k: str(folder / v) for k, v in homes.items()},
            'XDG_CACHE_HOME': cache,
            'OMP_NUM_THREADS': '1',
        }

    def ask(self, path, method='GET'):
        "The server's answer."
        request = urllib.request.Request(
            f'http://127.0.0.1:{self.port}/{path}',
            method=method,
            headers={'Authorization': f'token {self.token}'},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def wait(self, seconds=90):
        "Until the server answers."
        end = time.monotonic() + seconds
        while True:
            try:
                return self.ask('api/status')
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.log.seek(0)
                    sys.exit('JupyterLab did not start:\n' + self.log.read()[-3000:])
                time.sleep(0.2)

    def end_kernel(self, name):
        "Stop the kernel of a notebook, which frees its memory."
        for session in json.loads(self.ask('api/sessions')):
            if session['path'] == f'{name}.ipynb':
                self.ask(f'api/sessions/{session["id"]}', 'DELETE')

    def stop(self):
        "End the server and everything that it started."
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def open_notebook(browser, lab, name):
    "Open a notebook and run all of its cells; returns the page and its watch at once."
    page, watch = browser.new_page(viewport=dict(width=1280, height=1000)), Watch()
    page.set_default_timeout(60_000)
    page.on('websocket', lambda ws: ws.on('framereceived', watch.message))
    page.on('console', watch.console)
    page.on('pageerror', lambda error: watch.errors.append(f'page: {error}'))
    workspace = re.sub(r'\W', '', name)
    page.goto(
        f'http://127.0.0.1:{lab.port}/lab/workspaces/{workspace}/tree/{name}.ipynb?token={lab.token}&reset'
    )
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    page.wait_for_selector('text=/\\| Idle/', timeout=120_000)
    page.keyboard.press('Control+b')  # the list of files takes room
    page.locator('.lm-MenuBar-itemLabel', has_text=re.compile('^Run$')).click()
    page.locator('.lm-Menu-itemLabel', has_text=re.compile('^Run All Cells$')).click()
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*')) || document.querySelector('.unetkit-panel')"
    )
    return page, watch


def wait_for_cells(page):
    "Until no cell is waiting, twice in a row."
    end, quiet = time.monotonic() + RUN_SECONDS, 0
    while quiet < 2:
        if time.monotonic() > end:
            raise TimeoutError(f'cells still wait after {RUN_SECONDS} s')
        page.wait_for_timeout(500)
        waiting = page.evaluate(
            "[...document.querySelectorAll('.jp-InputPrompt')].filter(p => p.textContent.includes('*')).length"
        )
        quiet = 0 if waiting or not page.locator('text=/\\| Idle/').count() else quiet + 1


STATE = '''panel => {
    const text = selector => [...panel.querySelectorAll(selector)].map(e => e.textContent);
    return {picture: [...panel.querySelectorAll('img.unetkit-picture')].map(e => e.src).join(), numbers: text('.unetkit-numbers td').join('|'),
            sign: panel.querySelector('.unetkit-sign')?.dataset.state, said: text('.unetkit-sign').join()}}'''
CONTROL = '''e => {
    const box = e.closest('.widget-inline-hbox, .widget-inline-vbox'), label = box?.querySelector('.widget-label');
    if (e.tagName === 'SELECT') return {label: label?.textContent || '', value: e.value, last: e.selectedIndex === e.options.length - 1, off: e.disabled, menu: true};
    const target = e.closest('[disabled]') || e.getAttribute('aria-disabled') === 'true';
    const near = (a, b) => Math.abs(Number(e.getAttribute(a)) - Number(e.getAttribute(b))) < 1e-9;
    return {label: label?.textContent || '', value: box?.querySelector('.widget-readout')?.textContent || e.getAttribute('aria-valuenow'),
            last: near('aria-valuenow', 'aria-valuemax'), off: Boolean(target), menu: false}}'''


def wait_for_answer(page, watch, before):
    "Until the kernel has answered a message of a widget, and the page shows it."
    end = time.monotonic() + MOVE_SECONDS
    while watch.done <= before:
        if time.monotonic() > end:
            raise TimeoutError(f'no answer within {MOVE_SECONDS} s')
        page.wait_for_timeout(30)
    page.wait_for_timeout(150)


def press(page, control, at):
    "One step by keyboard; returns whether the control has moved. JupyterLab keeps ArrowDown for itself, so a menu is opened first."
    steps = (
        (('Space', 'ArrowUp', 'Enter') if at['last'] else ('Space', 'ArrowDown', 'Enter'))
        if at['menu']
        else (('ArrowLeft',) if at['last'] else ('ArrowRight',))
    )
    value = control.evaluate(CONTROL)['value']
    control.focus()
    for key in steps:
        page.keyboard.press(key)
        if at['menu']:
            page.wait_for_timeout(150)
    for _ in range(20):
        if control.evaluate(CONTROL)['value'] != value:
            return True
        page.wait_for_timeout(50)
    return False


def move(page, watch, panel, control):
    "Move one control by keyboard; returns what it did, and the faults."
    at, before, errors, now = control.evaluate(CONTROL), panel.evaluate(STATE), len(watch.errors), None
    label = at['label'] or 'a control without a name'
    if at['off']:
        return label, [f'{label}: cannot be moved, it is switched off']
    for _ in range(PRESSES):
        done, start = watch.done, time.monotonic()
        if not press(page, control, at):
            break
        try:
            wait_for_answer(page, watch, done)
        except TimeoutError as error:
            return label, [f'{label}: {error}']
        now = panel.evaluate(STATE)
        if (
            len(watch.errors) > errors
            or now['sign'] != 'ready'
            or (now['picture'] != before['picture'] and now['numbers'] != before['numbers'])
        ):
            break
    if now is None:
        return label, [f'{label}: does not answer to the keyboard']
    faults = [f'{label}: {error}' for error in watch.errors[errors:]] + ([] if at['label'] else [label])
    if now['sign'] != 'ready':
        faults.append(f'{label}: {now["sign"]}: {now["said"]}')
    elif not faults:
        faults = [
            f'{label}: the {what} did not change'
            for what in ('picture', 'numbers')
            if now[what] == before[what] or not now[what]
        ]
    return (
        f'{label} {at["value"]} -> {control.evaluate(CONTROL)["value"]} ({time.monotonic() - start:.1f} s)',
        faults,
    )


def name_of(panel):
    "The function that made a panel, from the last line of its cell."
    lines = panel.evaluate(
        "p => [...p.closest('.jp-Cell').querySelectorAll('.jp-InputArea-editor .cm-line')].map(l => l.textContent)"
    )
    found = re.match(r'(\w+)\(', lines[-1] if lines else '')
    return found[1] if found else '?'


def check_panels(page, watch):
    "Every panel of a page: its name, what was moved, and the faults."
    for panel in page.locator('.unetkit-panel').all():
        moved = [
            move(page, watch, panel, control) for control in panel.locator('[role=slider], select').all()
        ]
        yield (
            name_of(panel),
            [did for did, _ in moved],
            [fault for _, faults in moved for fault in faults],
            panel,
        )


def strangers(page):
    "Faults of the page as a whole: controls that no panel has, and broken outputs."
    count = lambda within: (
        page.locator(f'{within} [role=slider]').count() + page.locator(f'{within} select').count()
    )
    outside = count('.jp-OutputArea') - count('.unetkit-panel')
    faults = [f'{outside} controls belong to no panel'] if outside else []
    for output in page.locator('.jp-OutputArea-output').all():
        found = BROKEN.search(output.text_content() or '')
        if found:
            faults.append(f'an output says: {found[0]}')
    return faults


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab of its own."
    server = Lab(tmp_path_factory.mktemp('lab'), list(panels()))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_planted_faults_are_found(lab, browser):
    page, watch = open_notebook(browser, lab, 'faults')
    wait_for_cells(page)
    found = list(check_panels(page, watch))
    assert len(found) == len(FAULTS) - 2, (
        f'{len(found)} of {len(FAULTS) - 2} panels are on the page: {watch.errors}'
    )
    said = [*(faults for _, _, faults, _ in found), strangers(page), strangers(page)]
    for (what, must, _), faults in zip(FAULTS, said, strict=True):
        assert any(must in fault for fault in faults) if must else not faults, f'{what}: {faults}'
    page.close()
    lab.end_kernel('faults')


@pytest.mark.parametrize('name', panels())
def test_sliders(name, lab, browser):
    page, watch = open_notebook(browser, lab, name)
    wait_for_cells(page)
    faults, found = list(watch.errors), 0
    for made_by, moved, wrong, _ in check_panels(page, watch):
        found += 1
        faults += [f'{made_by}: {fault}' for fault in wrong] + (
            [] if moved else [f'{made_by} has no control']
        )
    faults += strangers(page)
    faults += [error for error in watch.errors if not any(error in fault for fault in faults)]
    page.close()
    lab.end_kernel(name)
    assert not faults
    assert found == panels()[name], f'{found} panels, the metadata of {name} names {panels()[name]}'
