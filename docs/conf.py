"""How Sphinx makes the site. `scripts/build_site.py` gathers the pages (lessons, API, commands) and calls Sphinx with this folder as configuration.

What Sphinx does not know by itself stands here: the docments of the library become tables of parameters, links to other projects come from a
list of ours instead of a download, and every page gets the lines that a shared link shows.
"""
import ast
import configparser
import html
import inspect
import os
import re
import sys
import textwrap
import zlib
from pathlib import Path

from docutils import nodes
from fastcore.docments import docments

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / 'scripts')]
from languages import FOLDERS, NAMES, catalogues  # noqa: E402
GENERATED = Path(os.environ['UNETKIT_SITE'])  # where scripts/build_site.py puts what it made: npm packages, frames, demo
parser = configparser.ConfigParser(delimiters=['='])
parser.read(HERE.parent / 'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']

project, author, version = settings['lib_name'], settings['author'], settings['version']
release, copyright = version, settings['copyright']
html_title = f'{project} {version}'
site = f"{settings['doc_host']}{settings['doc_baseurl']}/"
description = settings['description'] + '.'

# English is the whole site. For another language, and for its messages, scripts/languages.py calls Sphinx with the pages that are translated.
few = 'UNETKIT_SITE_LANGUAGE' in os.environ
language = os.environ.get('UNETKIT_SITE_LANGUAGE', 'en')
html_baseurl = site if language == 'en' else f'{site}{FOLDERS[language]}/'
locale_dirs = [str(GENERATED / 'locales')]
gettext_compact = gettext_location = False
translated_about = GENERATED / 'about.json'
PAGES = {code: set(catalogues(code)) for code in FOLDERS}

extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx_copybutton']
extensions += ['translated'] if few else ['sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'sphinx.ext.intersphinx']
templates_path = ['_templates']
exclude_patterns = ['_static', '_build']
smartquotes = False
suppress_warnings = ['mystnb.unknown_mime_type']
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = 'hide'
add_module_names = False

# Lessons keep the outputs they were committed with.
nb_execution_mode = 'off'
nb_merge_streams = True
nb_render_markdown_format = 'myst'
nb_mime_priority_overrides = [('gettext', 'image/png', 1)]  # a picture has words: its description
myst_enable_extensions = ['dollarmath', 'colon_fence', 'attrs_inline', 'attrs_block']
myst_heading_anchors = 4

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True

html_theme = 'sphinx_book_theme'
html_static_path = ['_static', *([str(GENERATED / 'static')] if (GENERATED / 'static').is_dir() and not few else [])]
html_extra_path = [] if few else ['extra']
html_css_files, html_js_files = ['unetkit.css'], [('unetkit.js', {'defer': 'defer'})]
html_favicon = html_logo = '_static/mark.svg'
html_copy_source = html_show_sourcelink = False
html_use_index = html_domain_indices = False
html_context = {'default_mode': 'auto'}
mathjax_path = 'mathjax/tex-svg.js'
repository = settings['git_url']
html_theme_options = {
    'repository_url': repository,
    'use_repository_button': True,
    'use_issues_button': True,
    'use_download_button': False,
    'navbar_persistent': [],
    'article_header_end': ['language.html', 'article-header-buttons.html'],
    'logo': {'text': project, 'alt_text': f'{project}, to the first page'},
    'home_page_in_toc': False,
    'show_navbar_depth': 1,
    'show_toc_level': 2,
    'pygments_light_style': 'a11y-high-contrast-light',
    'pygments_dark_style': 'a11y-high-contrast-dark',
}


# Links to other projects. An inventory is a download at every build; this list names what the pages link to, and a link checker visits it in the workflow `docs`.
def inventories():
    "Write one inventory for each project of inventories.txt; return what intersphinx needs."
    found, folder = {}, GENERATED / 'inventories'
    folder.mkdir(parents=True, exist_ok=True)
    for block in re.findall(r'^\[(\S+) (\S+)\]\n((?:(?!\[).*\n?)*)', (HERE / 'inventories.txt').read_text(encoding='utf-8'), re.M):
        name, url, entries = block
        rows = [line.split() for line in entries.splitlines() if line.strip() and not line.startswith('#')]
        body = ''.join(f'{item} {kind} 1 {address.replace("$", item)} -\n' for kind, item, address in rows)
        head = f'# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# The remainder of this file is compressed using zlib.\n'
        path = folder / f'{name}.inv'
        path.write_bytes(head.encode() + zlib.compress(body.encode()))
        found[name] = (url, str(path))
    return found


intersphinx_mapping = inventories()
intersphinx_disabled_reftypes = ['std:doc']


# Docments: the comments behind the parameters of a function are its documentation.
def code(text):
    "Markdown's `code` as reStructuredText, and nothing else that is markup there."
    parts = re.split(r'(`+[^`]+`+)', text)
    escaped = [f'``{part.strip("`")}``' if part.startswith('`') else re.sub(r'([*|\\_])', r'\\\1', part) for part in parts]
    return re.sub(r'(?<=[\w)])``(?=\w)', r'``\\ ', ''.join(escaped))


def type_text(annotation):
    "An annotation as it stands in the code."
    if annotation in (inspect.Parameter.empty, None):
        return ''
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r'\b(?:typing|types|collections|contextlib|pathlib|numpy|torch|matplotlib|unetkit)(?:\.[a-z_]\w*)*\.(?=[A-Za-z])', '', text)
    return re.sub(r'ForwardRef\(\'([^\']+)\'.*?\)', r'\1', text)


def table(head, rows):
    "Lines of a list table; its cells may wrap on a phone."
    yield from ('', '.. list-table::', '   :header-rows: 1', '   :widths: auto', '   :class: docments', '')
    for row in [head, *rows]:
        for i, cell in enumerate(row):
            yield f'   {"* -" if i == 0 else "  -"} {cell}'
    yield ''


def parameter(name, info):
    "Name and type of a parameter, its default, and what it means."
    kind, default = type_text(info.anno), info.default
    first = f'``{name}``' + (f' : {code(kind)}' if kind else '')
    if default is not inspect.Parameter.empty and default is not ...:
        shown = getattr(default, '__name__', None) if callable(default) else repr(default)
        if shown and 'MISSING' not in shown and len(shown) <= 60:
            first += f' = ``{shown}``'
    return first, code((info.docment or '').strip())


def comments(obj):
    "The comments behind parameters and the result of a function or class, also where an annotation takes several lines."
    lines = textwrap.dedent(inspect.getsource(obj)).splitlines()
    (node,) = ast.parse('\n'.join(lines)).body
    if isinstance(node, ast.ClassDef):
        node = next((one for one in node.body if getattr(one, 'name', '') == '__init__'), None)
    if not isinstance(node, ast.FunctionDef):
        return {}
    ends = {one.arg: one.end_lineno for one in ast.walk(node.args) if isinstance(one, ast.arg)}
    ends['return'] = node.body[0].lineno - 1
    return {name: lines[end - 1].partition('  # ')[2] for name, end in ends.items()}


def add_docments(app, what, name, obj, options, lines):
    "The docstring, the table of parameters, what comes back."
    lines[:] = [code(line) for line in lines]
    if what not in ('function', 'method', 'class'):
        return
    try:
        found, behind = docments(obj, full=True, eval_str=False), comments(obj)
    except (TypeError, ValueError, OSError, AttributeError):
        return
    for name, info in found.items():
        info.docment = info.docment or behind.get(name, '')
    result = found.pop('return', None)
    rows = [parameter(key, info) for key, info in found.items() if info.docment]
    if rows:
        lines.extend(table(('parameter', 'meaning'), rows))
    if result is not None and result.docment and what != 'class':
        kind = type_text(result.anno)
        lines.extend(['', f'**Returns**{f" {code(kind)}" if kind else ""}: {code(result.docment)}', ''])


def shared_link(app, pagename, templatename, context, doctree):
    "What a page says about itself where a link to it is shown."
    from sphinx.locale import _  # the tests read this file without Sphinx

    title, promise = re.sub(r'<[^>]+>', '', context.get('title') or project), None
    if doctree is not None and (quote := doctree.next_node(nodes.block_quote)):
        promise = html.escape(quote.astext().replace('\n', ' '))
    said, picture = _(description), _('An aerial image and the map that a U-Net made of it')
    path = '' if pagename == 'index' else f'{pagename}.html'
    address = html_baseurl + path
    tags = {'og:title': title, 'og:type': 'website', 'og:url': address, 'og:site_name': project, 'og:description': promise or said,
            'og:image': f'{site}_static/card.png', 'og:image:alt': picture}
    lines = [f'<meta property="{key}" content="{value}" />' for key, value in tags.items()]
    lines += [f'<meta name="description" content="{promise or said}" />', '<meta name="twitter:card" content="summary_large_image" />']
    lines += [f'<link rel="alternate" hreflang="{tag}" href="{site}{folder}{path}" />' for tag, folder, _ in versions(pagename)]
    context['metatags'] = context.get('metatags', '') + '\n'.join(lines)


def versions(pagename):
    "Tag, folder and name of the languages that a page exists in, if these are several."
    found = [('en', '', 'English')]
    found += [(code.replace('_', '-'), f'{FOLDERS[code]}/', NAMES[code]) for code, pages in PAGES.items() if pagename in pages]
    return found if len(found) > 1 else []


def other_languages(app, pagename, templatename, context, doctree):
    "The links of the language switch."
    up = '../' * (pagename.count('/') + few)
    context['other_languages'] = [
        {'tag': tag, 'name': name, 'address': f'{up}{folder}{pagename}.html'}
        for tag, folder, name in versions(pagename) if tag != language.replace('_', '-')
    ]


def setup(app):
    if not few:
        app.connect('autodoc-process-docstring', add_docments)
    app.connect('html-page-context', shared_link)
    app.connect('html-page-context', other_languages)
