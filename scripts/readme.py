#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb, or check that it is current.

usage: scripts/readme.py [--check]

Prose is copied, code becomes fenced blocks (cells with `#| hide` are left out, of cells with `#| echo: false` only
the results are shown, directives stripped), texts that code printed become plain fenced blocks, without the lines
that training prints after each epoch. Pictures that code drew are not copied: the notebook links to files in
nbs/images. Relative links and pictures are made relative to the root. Needs the standard library only.
"""

import argparse
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / 'nbs' / 'index.ipynb'
README = ROOT / 'README.md'
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--check', action='store_true', help='write nothing; exit with 1 when README.md is not current'
    )
    check = parser.parse_args().check
    if not NOTEBOOK.exists():
        sys.exit(f'{NOTEBOOK.relative_to(ROOT)} does not exist: README.md is written from it')
    text = readme()
    current = README.exists() and README.read_text(encoding='utf-8') == text
    if check and not current:
        sys.exit('README.md is not what nbs/index.ipynb says: run scripts/readme.py and commit the result')
    if not check and not current:
        README.write_text(text, encoding='utf-8')
    print('README.md is current' if current else 'README.md written')


if __name__ == '__main__':
    main()
