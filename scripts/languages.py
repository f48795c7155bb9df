"""The site in another language: which pages it has, what is translated on them, and how they are built beside the English ones.

A page is translated where it has a catalogue, `docs/locales/LANGUAGE/LC_MESSAGES/PAGE.po`; `scripts/translate.py` makes it and brings it up to
date. Sphinx builds these pages from the same notebooks, and leaves out their code and outputs. Every other link leads to the English page.
"""

import filecmp
import hashlib
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
LOCALES = DOCS / 'locales'
OWN = {
    'sphinx',
    'around',
}  # catalogues of the words around a page: those that Sphinx asks for, and those that nobody asks for
NAMES = {'pt_BR': 'Português'}  # language -> its name for itself
FOLDERS = {'pt_BR': 'pt'}  # language -> its folder on the site
ENGLISH = {
    'The whole site': 'index',
    'A map in the browser': 'demo',
    'Library': 'api/index',
    'Commands': 'commands/index',
}  # what the side of a translated page offers in English


def catalogues(language):
    "Page -> the file of its translation, the first page first."
    folder = LOCALES / language / 'LC_MESSAGES'
    found = {p.relative_to(folder).with_suffix('').as_posix(): p for p in folder.rglob('*.po')}
    order = sorted(found, key=lambda page: (page.count('/'), not page.endswith('index'), page))
    return {page: found[page] for page in order if page not in OWN}


# Pages as they are translated -----------------------------------------------------------------------------------------------------------------


def contents(pages):
    "The table of contents of a site of a few pages: these, and where the English one goes on."
    import build_site

    here = [
        f'{"All lessons" if page == "lessons/index" else build_site.title_of(page.removeprefix("lessons/"))} <{page}>'
        for page in pages
        if page != 'index'
    ]
    base = f"{build_site.SETTINGS['doc_host']}{build_site.SETTINGS['doc_baseurl']}"
    there = [f'{title} <{base}/{page}.html>' for title, page in ENGLISH.items()]
    tables = {'In this language': here, 'In English': there}
    return ''.join(
        '\n```{toctree}\n:hidden:\n:caption: ' + caption + '\n\n' + '\n'.join(entries) + '\n```\n'
        for caption, entries in tables.items()
    )


def gather(source, pages):
    "Write some pages as the site shows them; links and numbers that the build puts in are still those of the source."
    import build_site

    (source / 'lessons').mkdir(parents=True)
    for page in pages:
        if page == 'index':
            text = (DOCS / 'index.md').read_text(encoding='utf-8')
            (source / 'index.md').write_text(text + contents(pages), encoding='utf-8')
        else:
            name = page.removeprefix('lessons/')
            target = source / 'lessons' / f'{name}.ipynb'
            build_site.lesson(build_site.NOTEBOOKS / f'{name}.ipynb', target, lambda text, folder: text, {})
    if (build_site.NOTEBOOKS / 'images').is_dir():
        shutil.copytree(build_site.NOTEBOOKS / 'images', source / 'lessons' / 'images')


def words(path):
    "What is translated of a gathered page: its prose, the descriptions of its pictures, and results that are prose."
    if path.suffix == '.md':
        return [path.read_text(encoding='utf-8')]
    found = []
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'markdown':
            found.append(''.join(cell['source']))
        else:
            found.append(cell['metadata'].get('mystnb', {}).get('image', {}).get('alt', ''))
            for output in cell['outputs']:
                found.append(''.join(output.get('data', {}).get('text/markdown', '')))
    return found


def digests(source, pages):
    "Page -> a short name for its English text, by which a catalogue says what it was made from."
    found = {}
    for page in pages:
        path = source / (f'{page}.md' if page == 'index' else f'{page}.ipynb')
        found[page] = hashlib.sha256('\n'.join(words(path)).encode()).hexdigest()[:12]
    return found


# The build ------------------------------------------------------------------------------------------------------------------------------------


def sphinx(builder, source, out, work, language, *options):
    "Run Sphinx on gathered pages; end with what it said if that was anything."
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', builder, '-c', DOCS]
    command += ['-d', work / f'doctrees-{builder}-{language}', *options, source, out]
    environment = os.environ | {'UNETKIT_SITE': str(work), 'UNETKIT_SITE_LANGUAGE': language}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f'{done.stdout}\nsphinx -b {builder} ended with {done.returncode} ({language})')


def build(language, work, out, numbers):
    "Add the translated pages to a finished English site."
    import build_site

    pages = list(catalogues(language))
    source, fresh = work / f'source-{language}', work / f'html-{language}'
    for folder in (source, fresh, work / 'locales' / language):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        LOCALES / language, work / 'locales' / language
    )  # Sphinx writes compiled files beside them
    gather(source, pages)
    names = {name: full.rpartition('.')[0] + '|' + full for name, full in build_site.symbols().items()}
    published = [name for part in build_site.PUBLISHED.values() for name in part]
    about = {'names': names, 'published': published, 'source': build_site.BLOB}
    (work / 'about.json').write_text(json.dumps(about), encoding='utf-8')
    sphinx('html', source, fresh, work, language)
    join(language, fresh, out, numbers)


LINK = re.compile(r'(<a\b[^>]*?\bhref=")([^"]*)("[^>]*>)')
FILE = re.compile(r'(\b(?:href|src)=")((?:\.\./)*)(_(?:static|images)/[^"?#]+)')


def around(text, language):
    "The HTML of a page with the words in another language that its theme has in English only."
    from babel.messages.pofile import read_po

    path = LOCALES / language / 'LC_MESSAGES' / 'around.po'
    said = {message.id: message.string for message in read_po(path.open('rb')) if message.id}
    words = '|'.join(map(re.escape, said))
    text = re.sub(
        rf'((?:aria-label|title|placeholder)=")({words})(")', lambda m: m[1] + said[m[2]] + m[3], text
    )
    return re.sub(rf'(>)({words})(</(?:span|p)>)', lambda m: m[1] + said[m[2]] + m[3], text)


def linked(text, page, here, there, base):
    """The HTML of a translated page with its links to what only the English site has.

    `page` is its path below its own folder, `here` and `there` are the files of both sites, and `base` is the address of the English one."""
    up = '../' * len(page.parts)

    def follow(match):
        "A link to a page that is not translated leads to the English one, and says so."
        address, _, place = match[2].partition('#')
        name = address.removeprefix(base)
        if address and name == address and not re.match(r'[a-z]+:|/', address):
            name = posixpath.normpath(posixpath.join(page.parent.as_posix(), address))
            name = '' if name in here else name
        if not name or name not in there:
            return match[0]
        start, end = (
            part.replace('reference external', 'reference internal') for part in match.groups()[::2]
        )
        return f'{start}{up}{name}{"#" + place if place else ""}" hreflang="en{end}'

    text = FILE.sub(lambda match: match[0] if match[3] in here else f'{match[1]}{up}{match[3]}', text)
    return LINK.sub(follow, text)


def join(language, fresh, english, numbers):
    "Move translated pages below the English ones: a file that both have is kept once."
    import build_site

    for name in ('objects.inv', '.buildinfo', '.nojekyll', '_sources', 'reports'):
        path = fresh / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for folder in ('_static', '_images'):
        for path in list((fresh / folder).rglob('*')):
            twin = english / path.relative_to(fresh)
            if path.is_file() and twin.is_file() and filecmp.cmp(path, twin, shallow=False):
                path.unlink()
    here, there = (
        {path.relative_to(site).as_posix() for path in site.rglob('*') if path.is_file()}
        for site in (fresh, english)
    )
    base = f"{build_site.SETTINGS['doc_host']}{build_site.SETTINGS['doc_baseurl']}/"
    for path in fresh.rglob('*.html'):
        text = re.sub(r'\{\{(\w+)\}\}', lambda match: numbers[match[1]], path.read_text(encoding='utf-8'))
        text = linked(around(text, language), path.relative_to(fresh), here, there, base)
        path.write_text(text, encoding='utf-8')
    target = english / FOLDERS[language]
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(fresh, target)
