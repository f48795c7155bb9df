#!/usr/bin/env python3
"""Bring the translations up to date with the English texts.

usage: scripts/translate.py [PAGE ...]

    PAGE    a page to translate from now on, such as lessons/01_tiles: it gets a catalogue

Hints of the checkers: `unetkit/locales/LANGUAGE.json` gets an entry for every sentence that a checker can say, with "" where there is no
translation yet, and loses those that no checker says any more.

Pages of the site: each catalogue `docs/locales/LANGUAGE/LC_MESSAGES/PAGE.po` gets the messages of its page, as Sphinx finds them. A message
whose English has changed keeps its old translation, marked as fuzzy: the site shows it in English until somebody has looked at it.

It needs the extra [docs], and no network. `tests/test_translations.py` says what is missing.
"""

import argparse
import ast
import json
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'scripts'))
from languages import LOCALES, NAMES, catalogues, digests, gather, sphinx  # noqa: E402

PACKAGE = ROOT / 'unetkit'
HINTS = PACKAGE / 'locales'


# Hints -------------------------------------------------------------------------------------------------------------------------------------

TABLES = '_KINDS _FAMILIES _ERRORS _PARAMETERS _CALL _RETURNS _SLIPS _TYPES _AXES'.split()  # of unetkit.check
SEEDS = 60  # random cases of an exercise are drawn with so many seeds, to see all that their names can say


def constants(node):
    "The texts that an expression can be: a constant, or a choice between two."
    if isinstance(node, ast.IfExp):
        return constants(node.body) + constants(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def said_in(source):
    "The texts that a module hands to `say`."
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    calls = [call for call in calls if getattr(call.func, 'id', '') == 'say']
    return [
        text
        for call in sorted(calls, key=lambda c: (c.lineno, c.col_offset))
        for text in constants(call.args[0])
    ]


def texts_in(table):
    "The sentences of a table of hints; in a dict they are the values."
    if isinstance(table, str):
        return [table]
    parts = table.values() if isinstance(table, dict) else table if isinstance(table, (tuple, list)) else ()
    return [text for part in parts for text in texts_in(part)]


def case_names(exercise):
    "What the cases of an exercise are called."
    names = {}
    for seed in range(SEEDS):
        before = len(names)
        names |= dict.fromkeys(why for why, _ in exercise.cases(np.random.default_rng(seed)))
        if seed == 1 and len(names) == before:  # the names do not depend on the seed
            break
    return list(names)


def messages():
    "Module -> the sentences that its checker can say, each in the first module that has it."
    found, seen = {}, set()
    files = [PACKAGE / 'check.py', *sorted(PACKAGE.glob('checkers/[a-z]*.py'))]
    for path in files:
        name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        module = import_module(f'unetkit.{name}')
        texts = said_in(path.read_text(encoding='utf-8'))
        if name == 'check':
            texts += ['a tensor', *(text for table in TABLES for text in texts_in(getattr(module, table)))]
        else:
            for exercise in module.check.exercises.values():
                texts += [mistake.hint for mistake in exercise.mistakes] + case_names(exercise)
        found[name] = [text for text in dict.fromkeys(texts) if text not in seen]
        seen.update(found[name])
    return found


def read_hints(language):
    "Module -> English -> translation, as the package holds them."
    path = HINTS / f'{language}.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


def refresh_hints(language):
    "Write the catalogue of a language anew, with the translations that there are; print what is new or gone."
    old = {text: said for part in read_hints(language).values() for text, said in part.items()}
    new = {module: {text: old.pop(text, '') for text in texts} for module, texts in messages().items()}
    text = json.dumps({module: part for module, part in new.items() if part}, indent=1, ensure_ascii=False)
    HINTS.mkdir(exist_ok=True)
    (HINTS / f'{language}.json').write_text(text + '\n', encoding='utf-8')
    for module, part in new.items():
        for text, said in part.items():
            if said == '':
                print(f'{language}, {module}: to translate: {text}')
    for text, said in old.items():
        print(f'{language}: gone: {text} ({said})')


# Pages -------------------------------------------------------------------------------------------------------------------------------------

HEADER = re.compile(
    r'^"(?:Project|Report|POT|PO|Last|Language-Team|Generated).*\n', re.M
)  # dates and names, which git knows
ALIKE = re.compile(r'^(msgid ("[^A-Za-z"]+"\n))msgstr ""\n', re.M)  # a number is the same in every language
MADE_FROM = re.compile(r'^# English text: (\w*)$', re.M)  # a line at the top of a catalogue


def made_from(path):
    "The digest of the English text that a catalogue was made from."
    found = MADE_FROM.search(path.read_text(encoding='utf-8'))
    return found[1] if found else None


def stale(language):
    "Pages whose English text is not that of their catalogue any more. Reads the notebooks, and needs no Sphinx."
    found = catalogues(language)
    with tempfile.TemporaryDirectory() as place:
        gather(Path(place) / 'source', list(found))
        now = digests(Path(place) / 'source', list(found))
    return [page for page, path in found.items() if made_from(path) != now[page]]


def refresh_pages(language, new=()):
    "Extract the messages of the translated pages, and bring the catalogues up to date."
    from sphinx_intl.basic import update

    pages = [*catalogues(language), *new]
    with tempfile.TemporaryDirectory() as place:
        source, templates = Path(place) / 'source', Path(place) / 'pot'
        gather(source, pages)
        sphinx('gettext', source, templates, Path(place), 'en')
        update(str(LOCALES), str(templates), (language,), line_width=0, ignore_obsolete=True, jobs=1)
        now = digests(source, pages)
    for page, path in catalogues(language).items():
        text = path.read_text(encoding='utf-8')
        line = f'# English text: {now[page]}'
        if not MADE_FROM.search(text):  # what Sphinx writes at the top says nothing of this project
            text = f'# {NAMES[language]}: {page}\n#\n{line}\n' + text[text.index('msgid ""') :]
        head, start, messages = text.partition('\n\n')
        text = (
            HEADER.sub('', MADE_FROM.sub(line, head) + '\n') + start[1:] + ALIKE.sub(r'\1msgstr \2', messages)
        )
        path.write_text(text, encoding='utf-8')


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument('pages', nargs='*', metavar='PAGE')
    args = options.parse_args()
    for language in NAMES:
        refresh_hints(language)
        refresh_pages(language, args.pages)


if __name__ == '__main__':
    main()
