#!/usr/bin/env python3
"""Bring the translations up to date with the English texts.

usage: scripts/translate.py

Hints of the checkers: `unetkit/locales/LANGUAGE.json` gets an entry for every sentence that a checker can say, with "" where there is no
translation yet, and loses those that no checker says any more. Needs the package only; no network.
"""

import ast
import json
from importlib import import_module
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'unetkit'
HINTS = PACKAGE / 'locales'
LANGUAGES = {'pt_BR': 'Português'}  # language -> its name for itself


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
            texts += [text for table in TABLES for text in texts_in(getattr(module, table))]
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


def main():
    for language in LANGUAGES:
        refresh_hints(language)


if __name__ == '__main__':
    main()
