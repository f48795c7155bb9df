#!/usr/bin/env python3
"""Make the pictures that stand on the site where a lesson has sliders.

usage: scripts/frames.py --out FOLDER

Runs the lessons that have panels, up to the last panel, and asks each panel for its picture and numbers at the settings below: the same
function that answers a moved slider in the notebook. Writes FOLDER/NOTEBOOK/CELL-*.png and FOLDER/cells.json, the HTML of each cell. What was
made from the same lesson and library is kept.
"""

import argparse
import ast
import hashlib
import html
import itertools
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {  # Panel -> control -> the values that are shown; a setting that the panel refuses shows its sentence
    'patch_explorer': {'patch_size': (32, 64, 128, 256), 'stride': (16, 32, 64, 128, 256)},
    'leakage_meter': {
        'patch_size': (64, 128, 256),
        'stride': (32, 64, 128),
        'split': ('random', 'blocked'),
        'guard': (0, 64, 96),
    },
    'loss_microscope': {'scheme': None, 'factor': (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0)},
    'protocol_lens': {'radius': (0, 3, 6), 'patch_size': (64, 96, 192), 'stride': (48, 64, 96)},
    'seam_viewer': {'patch_size': None},
}


def panels():
    "Notebooks with sliders -> the cells that show a panel, as their metadata names them."
    found = {}
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        about = json.loads(path.read_text(encoding='utf-8'))['metadata'].get('unetkit', {})
        if about.get('panels'):
            found[path.relative_to(ROOT / 'nbs').with_suffix('').as_posix()] = tuple(about['panels'])
    return found


PANELS = panels()
parser = ConfigParser(delimiters=['='])
parser.read(ROOT / 'settings.ini', encoding='utf-8')
COLAB = 'https://colab.research.google.com/github/{user}/{repo}/blob/{branch}/nbs'.format_map(
    parser['DEFAULT']
)


# In the kernel of a lesson -------------------------------------------------------------------------------------------------------------


def options(control, values):
    "Values of a control and how it writes them; those of a menu when none are chosen."
    if not hasattr(control, 'options'):
        return [(str(v), v) for v in values]
    pairs = [pair if isinstance(pair, tuple) else (str(pair), pair) for pair in control.options]
    return [(label, value) for label, value in pairs if values is None or value in values]


def make(panel, kind, folder, cell):
    "Write the pictures of a panel; return its controls and what each setting shows."
    steps = {name: options(control, SETTINGS[kind][name]) for name, control in panel.controls.items()}
    start = [
        next((i for i, (_, value) in enumerate(pairs) if value == panel.controls[name].value), 0)
        for name, pairs in steps.items()
    ]
    shown = {}
    for at in itertools.product(*(range(len(pairs)) for pairs in steps.values())):
        values = {name: pairs[i][1] for (name, pairs), i in zip(steps.items(), at)}
        key = ','.join(map(str, at))
        try:
            view = panel.shows(**values)
        except ValueError as error:
            shown[key] = {'refused': str(error)}
            continue
        name = f'{cell}-{"-".join(map(str, at))}.png'
        (folder / name).write_bytes(view.png())
        shown[key] = {'src': name, 'alt': view.alt, 'numbers': view.html()}
    controls = [
        {
            'name': name,
            'label': panel.controls[name].description,
            'menu': type(panel.controls[name]).__name__ == 'Dropdown',
            'values': [label for label, _ in pairs],
            'start': i,
        }
        for (name, pairs), i in zip(steps.items(), start)
    ]
    return {'controls': controls, 'shown': shown}


# Outside -------------------------------------------------------------------------------------------------------------------------------


def control_html(control):
    label, start = html.escape(control['label'] or control['name']), control['start']
    if control['menu']:
        field = ''.join(
            f'<option value="{i}"{" selected" if i == start else ""}>{html.escape(v)}</option>'
            for i, v in enumerate(control['values'])
        )
        return f'<label><span>{label}</span><select>{field}</select></label>'
    return (
        f'<label><span>{label}</span><input type="range" min="0" max="{len(control["values"]) - 1}" value="{start}" '
        f'aria-valuetext="{html.escape(control["values"][start])}"><output>{html.escape(control["values"][start])}</output></label>'
    )


def player(made, notebook):
    "The HTML of one panel: its controls, the picture of the first setting, and all others as data."
    base = f'../{"../" * notebook.count("/")}_static/frames/{notebook}/'
    first = made['shown'][','.join(str(c['start']) for c in made['controls'])]
    data = json.dumps(made).replace('</', '<\\/')
    return (
        f'<figure class="frames" data-base="{base}"><div class="frames-controls">{"".join(map(control_html, made["controls"]))}</div>'
        f'<p class="frames-refused" role="status" hidden></p><div class="frames-shown">'
        f'<img src="{base}{first["src"]}" alt="{html.escape(first["alt"])}"><div class="frames-numbers">{first["numbers"]}</div></div>'
        f'<figcaption>Pictures made beforehand, for some settings. <a href="{COLAB}/{notebook}.ipynb">Try every setting in Colab.</a></figcaption>'
        f'<script type="application/json">{data}</script></figure>'
    )


def lesson(notebook, out):
    "Panel cells of one notebook -> HTML; what is there already for this lesson and this library is used again."
    import nbformat
    from nbclient import NotebookClient

    path, folder = ROOT / 'nbs' / f'{notebook}.ipynb', out / notebook
    sources = [path, Path(__file__).resolve(), *sorted((ROOT / 'unetkit').glob('*.py'))]
    key = hashlib.sha256(
        b''.join(p.read_bytes() for p in sources if p.name not in ('_modidx.py', 'cli.py', 'deploy.py'))
    ).hexdigest()
    done = folder / 'made.json'
    if done.exists() and (kept := json.loads(done.read_text(encoding='utf-8')))['key'] == key:
        return kept['cells']
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nb = nbformat.read(path, 4)
    last = max(i for i, cell in enumerate(nb.cells) if cell.id in PANELS[notebook])
    cells = [
        nbformat.v4.new_code_cell(
            f'import json, runpy\n_frames, _made = runpy.run_path({str(Path(__file__).resolve())!r}), {{}}'
        )
    ]
    for cell in nb.cells[: last + 1]:
        if cell.cell_type == 'code' and cell.id in PANELS[notebook]:
            *before, last = ast.parse(
                cell.source
            ).body  # the last line makes the panel, lines before it may import
            call, kind = ast.unparse(last), last.value.func.id
            head = ''.join(f'{ast.unparse(line)}\n' for line in before)
            cell.source = f'{head}_made[{cell.id!r}] = _frames["make"]({call}, {kind!r}, _frames["Path"]({str(folder)!r}), {cell.id!r})'
        elif cell.cell_type != 'code' or '#| eval: false' in cell.source or '#| slow' in cell.source:
            continue
        cells.append(cell)
    cells.append(nbformat.v4.new_code_cell('print("FRAMES" + json.dumps(_made))'))
    nb.cells = cells
    NotebookClient(
        nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}
    ).execute()
    printed = ''.join(o.get('text', '') for o in nb.cells[-1].outputs)
    made = {cell: player(one, notebook) for cell, one in json.loads(printed.removeprefix('FRAMES')).items()}
    done.write_text(json.dumps({'key': key, 'cells': made}), encoding='utf-8')
    return made


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument('--out', type=Path, required=True)
    out = options.parse_args().out.resolve()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(PANELS, pool.map(lambda notebook: lesson(notebook, out), PANELS)))
    (out / 'cells.json').write_text(json.dumps(found), encoding='utf-8')
    print(f'{sum(map(len, found.values()))} panels, {sum(1 for _ in out.rglob("*.png"))} pictures')


if __name__ == '__main__':
    sys.exit(main())
