#!/usr/bin/env python3
"""Build the documentation site from the notebooks, the library and its commands.

usage: scripts/build_site.py [--out FOLDER] [--work FOLDER]

    --out    where the site goes (default: _site)
    --work   where the pages are gathered, and what is slow to make is kept between builds (default: _docs)

`scripts/languages.py` adds the pages that are translated. Lessons keep the outputs that were committed with them. Where a lesson has sliders, the page shows pictures made here beforehand, from the
same panel (`scripts/frames.py`); the demo's model and scene are made by `scripts/demo.py`. Sphinx does the rest, with docs/conf.py, and every warning is an
error. It needs the extras [dev] and [docs], and npm for what the site serves itself.
"""

import argparse
import functools
import html
import importlib
import inspect
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import languages

ROOT = Path(__file__).resolve().parent.parent
DOCS, NOTEBOOKS = ROOT / 'docs', ROOT / 'nbs'
parser = ConfigParser(delimiters=['='])
parser.read(ROOT / 'settings.ini', encoding='utf-8')
SETTINGS = parser['DEFAULT']
BLOB = f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}"
COLAB = f"https://colab.research.google.com/github/{SETTINGS['user']}/{SETTINGS['repo']}/blob/{SETTINGS['branch']}/nbs"
PARTS = {
    'course': 'The course',
    'works': 'How it is built',
    'look up': 'To look up',
}  # `part` in a notebook's metadata -> heading
PUBLISHED = {part: [] for part in PARTS}
for path in sorted([*NOTEBOOKS.glob('*.ipynb'), *NOTEBOOKS.glob('library/*.ipynb')]):
    if path.stem == 'index':
        continue
    about = json.loads(path.read_text(encoding='utf-8'))['metadata'].get('unetkit', {})
    if about.get('part') not in PARTS:
        sys.exit(
            f'{path.name}: its metadata must name a part ("unetkit": {{"part": one of {", ".join(PARTS)}}}), got {about.get("part")!r}'
        )
    PUBLISHED[about['part']].append(path.relative_to(NOTEBOOKS).with_suffix('').as_posix())
FENCE = re.compile(r'^(```|~~~).*?^\1\s*$', re.M | re.S)
INLINE = re.compile(r'(\[[^\]]*\]\([^)]*\))|`([A-Za-z_][\w.]*)(\(\))?`')


def run(*command, **more):
    "Run a command; end with what it printed if it fails."
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    if done.returncode:
        sys.exit(f'{done.stdout}\n{" ".join(map(str, command))} ended with {done.returncode}')
    return done.stdout


def packages(work):
    "The npm packages that docs/package.json names."
    if not shutil.which('npm'):
        sys.exit(
            'scripts/build_site.py needs npm, for what the site serves itself: install Node.js 20 or newer'
        )
    folder = work / 'npm'
    folder.mkdir(exist_ok=True)
    wanted = (DOCS / 'package.json').read_text(encoding='utf-8')
    stamp = folder / 'installed.json'
    if not (stamp.exists() and stamp.read_text(encoding='utf-8') == wanted):
        (folder / 'package.json').write_text(wanted, encoding='utf-8')
        run(
            'npm',
            'install',
            '--no-package-lock',
            '--ignore-scripts',
            '--no-audit',
            '--no-fund',
            '--silent',
            cwd=folder,
        )
        stamp.write_text(wanted, encoding='utf-8')
    return folder / 'node_modules'


# Lessons -------------------------------------------------------------------------------------------------------------------------------


def symbols():
    "Names that lessons mention -> where the library documents them; a name that two modules share is left out."
    from unetkit._modidx import d

    found = {}
    for module, names in d['syms'].items():
        if module.startswith('unetkit.checkers') or module == 'unetkit.cli':
            continue
        for full in names:
            short = full.removeprefix(f'{module}.')
            if not any(part.startswith('_') for part in short.split('.')) and short not in ('main', 'check'):
                found.setdefault(short, set()).add(full)
    return {short: next(iter(full)) for short, full in found.items() if len(full) == 1}


OTHERS = {
    'np.': 'numpy.',
    'F.': 'torch.nn.functional.',
    'plt.': 'matplotlib.pyplot.',
    'scipy.': 'scipy.',
    'torch.': 'torch.',
}


def outside():
    "Names of other projects that docs/inventories.txt lists."
    lines = (DOCS / 'inventories.txt').read_text(encoding='utf-8').splitlines()
    return {line.split()[1] for line in lines if line.startswith('py:')}


def link_names(text, known, others):
    "Inline code that names something of the library, or of a project that we know, becomes a link to its documentation."
    last = {full.rpartition('.')[2]: full for full in others if full.count('.') > 1}

    def link(match):
        if match.group(1):
            return match.group(0)
        name, call = match.group(2), match.group(3) or ''
        if name in known:
            return f'{{py:obj}}`{name}{call} <{known[name]}>`'
        full = next(
            (long + name.removeprefix(short) for short, long in OTHERS.items() if name.startswith(short)),
            last.get(name, ''),
        )
        return f'{{py:obj}}`{name}{call} <{full}>`' if full in others else match.group(0)

    return INLINE.sub(link, text)


def outside_fences(text, change):
    "Apply a change to what is not in a fenced block."
    done, at = [], 0
    for fence in FENCE.finditer(text):
        done += [change(text[at : fence.start()]), fence.group(0)]
        at = fence.end()
    return ''.join([*done, change(text[at:])])


def relink(text, here, published):
    "Links to notebooks that the site does not publish go to the repository; those to files of the root as well."

    def link(match):
        target, anchor = match.group(2), match.group(3) or ''
        if re.match(r'[a-z][a-z+.-]*:', target) or not target:
            return match.group(0)
        path = posixpath.normpath(posixpath.join(here, target))
        if path.startswith('nbs/') and path[4:] in published or path.startswith('nbs/images/'):
            return match.group(0)
        return f'{match.group(1)}{BLOB}/{path}{anchor})'

    return re.sub(r'(\]\()([^)#\s]*)(#[^)\s]*)?\)', link, text)


def opening(name, source):
    "The first cell of a lesson: title, promise, and where it can be run."
    lines = [line for line in source.split('\n') if 'colab-badge' not in line]
    at = max(i for i, line in enumerate(lines) if line.startswith(('# ', '> ')))
    if name in PUBLISHED['look up'] or name == 'index':
        return '\n'.join(lines)
    buttons = (
        f'<p class="lesson-links"><a class="button" href="{COLAB}/{name}.ipynb">Run it in Colab</a> '
        f'<a href="{BLOB}/nbs/{name}.ipynb">the notebook</a></p>'
    )
    return '\n'.join([*lines[: at + 1], '', buttons, *lines[at + 1 :]])


def directives(source):
    "The nbdev directives of a code cell, and the code without them."
    found = dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source, re.M))
    return found, re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')


def code_cell(cell, frames):
    "A code cell as the site shows it, or None."
    found, source = directives(''.join(cell['source']))
    if not source or 'hide' in found or 'default_exp' in found:
        return None
    tags = (
        {'remove-input'} if found.get('echo') == 'false' else {'hide-input'} if 'export' in found else set()
    )
    shown = next((line for line in source.split('\n') if not line.startswith(('@', '#'))), '').rstrip(':')
    if cell['metadata'].get('jupyter', {}).get('outputs_hidden'):
        tags, shown = tags | {'hide-output'}, 'Show what the cell prints or draws'
    cell['metadata'] = {
        'tags': sorted(tags),
        'mystnb': {'code_prompt_show': shown, 'code_prompt_hide': shown},
    }
    if alt := found.get('fig-alt'):
        cell['metadata']['mystnb']['image'] = {'alt': alt}
    cell['source'] = source
    if cell['id'] in frames:
        cell['outputs'] = [
            {'output_type': 'display_data', 'metadata': {}, 'data': {'text/html': frames[cell['id']]}}
        ]
    for output in cell['outputs']:
        if output.get('output_type') in ('display_data', 'execute_result') and 'text/html' in output['data']:
            output['data'].pop('text/plain', None)
    return cell


def lesson(path, target, change, frames):
    "Write a notebook as the site shows it; `change` is applied to its prose, with the folder of the notebook."
    name = path.relative_to(NOTEBOOKS).with_suffix('').as_posix()
    folder = name.rpartition('/')[0]
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = []
    if path.stem == 'index':
        notebook['cells'] = overview(notebook['cells'])
    for i, cell in enumerate(notebook['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            cell = code_cell(cell, frames)
        elif source.startswith('#|'):
            cell = None
        else:
            source = opening(name, source) if i == 0 else source
            cell['source'] = outside_fences(source, lambda text: change(text, f'nbs/{folder}'.rstrip('/')))
        if cell:
            cells.append(cell)
    notebook['cells'] = cells
    target.write_text(json.dumps(notebook), encoding='utf-8')


def overview(cells):
    "The page of all lessons: the table of the course, without its badges, since every lesson has its button."
    at = next(i for i, cell in enumerate(cells) if ''.join(cell['source']).startswith('## The course'))
    heading, table = cells[at : at + 2]
    (output,) = table['outputs']
    rows = re.sub(r'(?m)^(\|.*)\|[^|\n]*\|$', r'\1|', ''.join(output['data']['text/markdown']))
    output['data'] = {'text/markdown': rows}
    return [
        dict(heading, source='# All lessons' + ''.join(heading['source']).removeprefix('## The course')),
        table,
    ]


def frames_of(work):
    "Panel cells -> the HTML of their pictures made beforehand."
    out = work / 'static' / 'frames'
    run(sys.executable, ROOT / 'scripts' / 'frames.py', '--out', out)
    return json.loads((out / 'cells.json').read_text(encoding='utf-8'))


def lessons(source, work):
    folder = source / 'lessons'
    folder.mkdir()
    (folder / 'library').mkdir()
    names = ['index', *(name for part in PUBLISHED.values() for name in part)]
    published = {f'{name}.ipynb' for name in names}
    known, others, frames = symbols(), outside(), frames_of(work)

    def change(text, home):
        return link_names(relink(text, home, published), known, others)

    for name in names:
        lesson(NOTEBOOKS / f'{name}.ipynb', folder / f'{name}.ipynb', change, frames.get(name, {}))
    shutil.copytree(NOTEBOOKS / 'images', folder / 'images')


# Library and commands ------------------------------------------------------------------------------------------------------------------


def first_line(thing):
    return (inspect.getdoc(thing) or '').split('\n')[0]


def promise(name):
    "Title and promise of a lesson."
    text = ''.join(
        json.loads((NOTEBOOKS / f'{name}.ipynb').read_text(encoding='utf-8'))['cells'][0]['source']
    )
    title, said = re.search(r'^# (.+)$', text, re.M), re.search(r'^> (.+)$', text, re.M)
    return title.group(1), said.group(1) if said else ''


def modules():
    "Modules of the library -> the notebooks that they are exported from, lessons first."
    found = {}
    for name in PUBLISHED['course'] + PUBLISHED['works']:
        exported = re.search(
            r'"#\| default_exp (\w+)"', (NOTEBOOKS / f'{name}.ipynb').read_text(encoding='utf-8')
        )
        if exported:
            found[exported[1]] = name
    return found


def borrowed(module):
    "The option that leaves out what a module only hands on: it is documented where it is made."
    found = importlib.import_module(f'unetkit.{module}')
    names = [
        n for n in found.__all__ if getattr(getattr(found, n), '__module__', found.__name__) != found.__name__
    ]
    return f'   :exclude-members: {", ".join(names)}\n' if names else ''


def api(source):
    folder = source / 'api'
    folder.mkdir()
    rows, names = [], []
    for module, name in modules().items():
        title, said = promise(name)
        names.append(module)
        rows.append(f'| [`unetkit.{module}`]({module}.md) | {said} |')
        (folder / f'{module}.md').write_text(
            f'# unetkit.{module}\n\nSource: [{title}](../lessons/{name}.ipynb).\n\n'
            f'```{{eval-rst}}\n.. automodule:: unetkit.{module}\n   :members:\n   :show-inheritance:\n{borrowed(module)}```\n',
            encoding='utf-8',
        )
    (folder / 'index.md').write_text(
        '# Library\n\nEvery module is exported from the notebook that its page names; the tables come from the comments behind the parameters there.\n\n'
        '| module | |\n| --- | --- |\n'
        + '\n'.join(rows)
        + '\n\n```{toctree}\n:hidden:\n'
        + '\n'.join(names)
        + '\n```\n',
        encoding='utf-8',
    )


def option_row(action):
    "A row of the table of options: how it is written, and what it means."
    name = ', '.join(action.option_strings) or action.dest
    values = action.metavar or '|'.join(map(str, action.choices or ())) or action.dest.upper()
    written = name if action.nargs == 0 or not action.option_strings else f'{name} {values}'
    return f'* - `{written}`\n  - {html.escape((action.help or "").replace("%%", "%"), quote=False)}'


def commands(source):
    from unetkit.cli import COMMANDS, _parser

    folder = source / 'commands'
    folder.mkdir()
    for name, command in COMMANDS.items():
        parser = _parser(command)
        parser.formatter_class = functools.partial(argparse.HelpFormatter, width=88)
        usage = (
            parser.format_usage().removeprefix('usage: ').replace('\n' + ' ' * len('usage: '), '\n').strip()
        )
        (folder / f'{name}.md').write_text(
            f'# unetkit {name}\n\n{first_line(command)}\n\n```text\n{usage}\n```\n\n```{{list-table}}\n:header-rows: 1\n:class: docments\n\n* - option\n  - meaning\n'
            + '\n'.join(map(option_row, parser._actions))
            + '\n```\n\nBad input ends in one clear line and exit code 2. How the command is made: [the notebook on the command line](../lessons/library/cli.ipynb).\n',
            encoding='utf-8',
        )
    listed = '\n'.join(
        f'* - [`unetkit {name}`]({name}.md)\n  - {first_line(command)}' for name, command in COMMANDS.items()
    )
    (folder / 'index.md').write_text(
        f'# Commands\n\n`unetkit` has one command for each job. The pages show what `unetkit COMMAND --help` prints.\n\n'
        f'```{{list-table}}\n:header-rows: 1\n:class: docments\n\n* - command\n  - what it does\n{listed}\n```\n\n'
        '```{toctree}\n:hidden:\n' + '\n'.join(COMMANDS) + '\n```\n',
        encoding='utf-8',
    )


def root_page(source, name, target):
    "A file of the root as a page."
    text = (ROOT / name).read_text(encoding='utf-8')
    (source / target).write_text(
        outside_fences(text, lambda part: relink(part, '.', set())), encoding='utf-8'
    )


def contents(source):
    "The table of contents, at the end of the first page."
    pages = {
        part: [f'{title_of(name)} <lessons/{name}>' for name in names] for part, names in PUBLISHED.items()
    }
    pages['course'].insert(0, 'All lessons <lessons/index>')
    pages['works'] += ['api/index', 'contributing', 'changelog']
    pages['look up'] += ['commands/index', 'demo']
    with open(source / 'index.md', 'a', encoding='utf-8') as file:
        for part, entries in pages.items():
            listed = '\n'.join(entries)
            file.write(f'\n```{{toctree}}\n:hidden:\n:caption: {PARTS[part]}\n\n{listed}\n```\n')


def title_of(name):
    "Number and title of a lesson, title of another notebook."
    number = re.match(r'(\d+\w?)_', name)
    return f'{number[1]} {promise(name)[0]}' if number else promise(name)[0]


def numbers():
    "What stands in double braces on the first page: what the recorded model reached, and how it was trained."
    from unetkit.records import demo_model
    from unetkit.labels import ISPRS
    from unetkit.networks import count_parameters

    recorded = json.loads(
        (ROOT / 'unetkit' / 'recorded' / 'demo' / 'scores.json').read_text(encoding='utf-8')
    )
    model, classes = demo_model(), recorded['per_class']
    legend = ''.join(
        f'<li><i style="background:rgb{tuple(colour)}"></i>{name}</li>'
        for name, colour in zip(ISPRS.names, ISPRS.colours)
        if classes.get(name, {}).get('support')
    )
    return {
        'LEGEND': f'<ul class="legend">{legend}</ul>',
        'ACCURACY': f'{recorded["accuracy"]:.1%}',
        'CAR': f'{classes["car"]["f1"]:.0%}',
        'LESSONS': str(len(PUBLISHED['course'])),
        'PARAMETERS': f'{count_parameters(model.model):,}',
        'SCENES': str(len(recorded['train'])),
        'EPOCHS': str(len(model.history)),
    }


def first_page(source, said):
    "The first page with its numbers; its Python blocks are run, so that they hold."
    text = re.sub(
        r'\{\{(\w+)\}\}', lambda match: said[match.group(1)], (DOCS / 'index.md').read_text(encoding='utf-8')
    )
    for block in re.findall(r'^```python\n(.*?)^```', text, re.M | re.S):
        run(sys.executable, '-c', block, cwd=source, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    (source / 'index.md').write_text(text, encoding='utf-8')


def pictures(work):
    "A scene and its map for the first page, and both in one for the picture that a shared link shows."
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image
    from unetkit.jobs import built_in
    from unetkit.labels import ISPRS, labels_to_colours
    from unetkit.records import demo_model

    _, (test,) = built_in()
    label_map, car = demo_model().predict(test), ISPRS.names.index('car')
    colours = labels_to_colours(label_map, ISPRS)

    def worth(crop):
        "Something of every class that is mapped right, and few cars that are none."
        right, wrong = (
            test.labels[crop][label_map[crop] == test.labels[crop]],
            (label_map[crop] == car) & (test.labels[crop] != car),
        )
        return np.log1p(np.bincount(right, minlength=5)[:5]).sum() - wrong.sum() / 500

    crop = max(
        (
            (slice(r, r + 480), slice(c, c + 960))
            for r in range(0, test.size[0] - 479, 16)
            for c in range(0, test.size[1] - 959, 16)
        ),
        key=worth,
    )
    folder = work / 'static' / 'reveal'
    folder.mkdir(exist_ok=True)
    Image.fromarray(test.image[crop]).save(folder / 'image.jpg', quality=88)
    Image.fromarray(colours[crop]).quantize(16).save(folder / 'map.png', optimize=True)
    figure = Figure(figsize=(12, 6.3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(test.image[crop], aspect='auto')
    axes.imshow(colours[crop][:, :480], extent=(0, 480, 480, 0), aspect='auto')
    axes.set(xlim=(0, 960), ylim=(480, 0))
    axes.axis('off')
    axes.axvline(480, color='white', linewidth=3)
    axes.text(
        480,
        240,
        'unetkit',
        color='white',
        size=72,
        weight='bold',
        ha='center',
        va='center',
        bbox={'facecolor': '#1b2733', 'edgecolor': 'none', 'boxstyle': 'round,pad=.25'},
    )
    figure.savefig(work / 'static' / 'card.png')


def sitemap(out):
    "sitemap.xml and robots.txt, for search engines."
    base = f"{SETTINGS['doc_host']}{SETTINGS['doc_baseurl']}/"
    pages = sorted(
        p.relative_to(out).as_posix()
        for p in out.rglob('*.html')
        if not {'_static', '_modules'} & set(p.parts)
        and p.name not in ('404.html', 'search.html', 'genindex.html')
    )
    urls = ''.join(f'<url><loc>{base}{"" if page == "index.html" else page}</loc></url>\n' for page in pages)
    (out / 'sitemap.xml').write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
        encoding='utf-8',
    )
    (out / 'robots.txt').write_text(
        f'User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n', encoding='utf-8'
    )


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument('--out', type=Path, default=ROOT / '_site')
    options.add_argument('--work', type=Path, default=ROOT / '_docs')
    args = options.parse_args()
    out, work, start = args.out.resolve(), args.work.resolve(), time.monotonic()
    source, static = work / 'source', work / 'static'
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    static.mkdir(exist_ok=True)

    def done(what):
        print(f'{time.monotonic() - start:6.0f} s  {what}', flush=True)

    if out.exists() and any(out.iterdir()) and not (out / 'objects.inv').exists():
        sys.exit(f'{out} holds something that is no site: name another folder with --out, or empty it')
    modules = packages(work)
    (static / 'mathjax').mkdir(exist_ok=True)
    shutil.copy(modules / 'mathjax' / 'es5' / 'tex-svg.js', static / 'mathjax')
    done('npm packages')
    run(sys.executable, ROOT / 'scripts' / 'demo.py', '--node-modules', modules, static / 'demo')
    pictures(work)
    done('demo')
    lessons(source, work)
    done('lessons')
    api(source)
    commands(source)
    for name, target in {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md'}.items():
        root_page(source, name, target)
    shutil.copy(DOCS / 'demo.md', source)
    said = numbers()
    first_page(source, said)
    contents(source)
    done('pages')
    fresh = work / 'html'
    shutil.rmtree(fresh, ignore_errors=True)
    print(
        run(
            sys.executable,
            '-m',
            'sphinx',
            '-W',
            '--keep-going',
            '-q',
            '-j',
            '2',
            '-b',
            'html',
            '-c',
            DOCS,
            '-d',
            work / 'doctrees',
            source,
            fresh,
            env={**os.environ, 'UNETKIT_SITE': str(work), 'OMP_NUM_THREADS': '1'},
        ),
        end='',
    )
    done('English pages')
    for language in languages.FOLDERS:
        languages.build(language, work, fresh, said)
        done(f'pages in {language}')
    sitemap(fresh)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(fresh, out)
    done(
        f'{out.name}: {len(list(out.rglob("*.html")))} pages, {sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6:.0f} MB'
    )


if __name__ == '__main__':
    main()
