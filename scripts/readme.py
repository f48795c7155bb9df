#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb and the list of exercises from the lessons, or check that both are current.

usage: scripts/readme.py [--check]

Prose is copied, code becomes fenced blocks (cells with `#| hide` are left out, of cells with `#| echo: false` only
the results are shown, directives stripped), texts that code printed become plain fenced blocks, without the lines
that training prints after each epoch. Pictures that code drew are not copied: the notebook links to files in
nbs/images. Relative links and pictures are made relative to the root.

unetkit/recorded/lessons/exercises.json says for each notebook with an exercise what it is called, how long it takes,
what comes first, which checker it imports, and how each function that it checks looks before a student has touched it. `unetkit grade` reads it: the
notebooks themselves are not in the package. Needs the standard library only.
"""

import argparse
import ast
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / 'nbs' / 'index.ipynb'
README = ROOT / 'README.md'
EXERCISES = ROOT / 'unetkit' / 'recorded' / 'lessons' / 'exercises.json'
HEAD = '<!-- Written by scripts/readme.py from nbs/index.ipynb: edit the notebook, not this file. -->'
FENCE = re.compile(r'^```.*?^```$', re.M | re.S)
LINK = re.compile(r'(\]\(|(?:src|href)=")([^)"\s]+)')
EPOCH = re.compile(r'^epoch +\d+/\d+ .*\n', re.M)
ELSEWHERE = re.compile(r'^([a-z][a-z0-9+.-]*:|#|/)', re.I)


def from_root(match):
    "A link of the notebook, relative to the root of the project."
    start, target = match.groups()
    return start + (target if ELSEWHERE.match(target) else posixpath.normpath(f'nbs/{target}'))


def prose(source):
    "A markdown cell with its links made relative to the root; fenced code stays as it is."
    fences = FENCE.findall(source)
    texts = [LINK.sub(from_root, text) for text in FENCE.split(source)]
    return ''.join(text + fence for text, fence in zip(texts, [*fences, '']))


def fenced(text, language=''):
    return f'```{language}\n{text.rstrip()}\n```'


def printed(cell):
    "The texts that a code cell printed or returned; a markdown result as markdown, nothing for a picture."
    lines = [''.join(output['text']) for output in cell.get('outputs', []) if output.get('name') == 'stdout']
    if lines:
        yield fenced(EPOCH.sub('', ''.join(lines)))
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        if 'text/markdown' in data:
            yield prose(''.join(data['text/markdown']))
        elif output['output_type'] == 'execute_result' and 'text/plain' in data and 'image/png' not in data:
            yield fenced(''.join(data['text/plain']))


def blocks(cell):
    "The blocks of one cell, as markdown."
    source = ''.join(cell['source']).strip()
    if re.search(r'^#\|\s*hide\b', source, re.M) or not source:
        return
    if cell['cell_type'] == 'markdown':
        yield prose(source)
    if cell['cell_type'] == 'code':
        code = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
        if code and not re.search(r'^#\|\s*echo:\s*false', source, re.M):
            yield fenced(code, 'python')
        yield from printed(cell)


def readme():
    "The text of README.md."
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    return '\n\n'.join([HEAD, *(block.strip() for cell in cells for block in blocks(cell))]) + '\n'


CHECKER = re.compile(r'^from unetkit\.checkers\.(\w+) import check$', re.M)


def stubs(source):
    "The functions and classes of a cell that it checks as well: name and text."
    if 'check(' not in source:
        return {}
    body = ast.parse(source).body
    calls = [node.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    checked = [call.args[:1] for call in calls if getattr(call.func, 'id', '') == 'check']
    names = {name.id for args in checked for name in args if isinstance(name, ast.Name)}
    kinds = ast.FunctionDef, ast.ClassDef
    parts = [node for node in body if isinstance(node, kinds) and node.name in names]
    return {node.name: ast.get_source_segment(source, node) for node in parts}


def before(opening):
    "The numbers of the lessons that come first, as the first cell of a lesson names them."
    named = re.findall(r'\b[Ll]essons?\s+([^.;]*?)\s+comes?\s+first\b', re.sub(r'\]\([^)]*\)', ']', opening))
    spans = re.findall(r'\b(\d\d)(?:\]?(?: to |–)\[?(\d\d))?\b', ' '.join(named))
    numbers = {number for first, last in spans for number in range(int(first), int(last or first) + 1)}
    return [f'{number:02}' for number in sorted(numbers)]


def exercises():
    "The text of the list of exercises."
    found = {}
    for path in sorted([*NOTEBOOK.parent.glob('*.ipynb'), *NOTEBOOK.parent.glob('library/*.ipynb')]):
        notebook = json.loads(path.read_text(encoding='utf-8'))
        code = [''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code']
        checkers = [name for source in code for name in CHECKER.findall(source)]
        if checkers:
            title = re.search(r'^# (.+)$', ''.join(notebook['cells'][0]['source']), re.M)[1]
            functions = {}
            for source in code:
                if not source.startswith('#| hide'):  # what is hidden installs, and its magics are no Python
                    functions |= stubs(source)
            name = path.relative_to(NOTEBOOK.parent).with_suffix('').as_posix()
            found[name] = {
                'title': title,
                'minutes': notebook['metadata']['unetkit'].get('minutes', 0),
                'before': before(''.join(notebook['cells'][0]['source'])),
                'checker': checkers[0],
                'exercises': functions,
            }
    return json.dumps(found, indent=1, ensure_ascii=False) + '\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--check', action='store_true', help='write nothing; exit with 1 when a file is not current'
    )
    check = parser.parse_args().check
    if not NOTEBOOK.exists():
        sys.exit(f'{NOTEBOOK.relative_to(ROOT)} does not exist: README.md is written from it')
    for path, text in ((README, readme()), (EXERCISES, exercises())):
        current = path.exists() and path.read_text(encoding='utf-8') == text
        if check and not current:
            sys.exit(
                f'{path.name} is not what the notebooks say: run scripts/readme.py and commit the result'
            )
        if not check and not current:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding='utf-8')
        print(f'{path.name} is current' if current else f'{path.name} written')


if __name__ == '__main__':
    main()
