"""Translations are complete and fit what they translate: the hints of the checkers, and the pages of the site.

`python scripts/translate.py` brings the catalogues up to date; what is then empty, or marked as fuzzy, waits for somebody who writes the language."""

import ast
import inspect
import re
import runpy
import string
import warnings
from importlib import import_module

import pytest
from helpers import ROOT

from scripts import languages, translate
from unetkit import check
from unetkit.check import compare

REFRESH = 'run python scripts/translate.py, then translate what it names'
each_language = pytest.mark.parametrize('language', translate.NAMES)


@pytest.fixture
def portuguese():
    before = dict(check._CHOSEN)
    check.language('pt_BR')
    yield
    check._CHOSEN.update(before)


# Hints


@pytest.fixture(scope='module')
def messages():
    return translate.messages()


@each_language
def test_hints_are_those_of_the_checkers(language, messages):
    "The catalogue has an entry for every sentence that a checker can say, and no other."
    held = [(module, text) for module, part in translate.read_hints(language).items() for text in part]
    said = [(module, text) for module, texts in messages.items() for text in texts]
    assert sorted(set(said) - set(held)) == [], f'not in unetkit/locales/{language}.json: {REFRESH}'
    assert sorted(set(held) - set(said)) == [], f'said by no checker: {REFRESH}'


@each_language
def test_hints_are_translated(language):
    "None is empty. A `null` in place of a translation puts it off: the hint appears in English until somebody writes it."
    said = {text: said for part in translate.read_hints(language).values() for text, said in part.items()}
    waiting = [text for text, translation in said.items() if translation is None]
    if waiting:
        warnings.warn(f'{language}: {len(waiting)} hints wait for a translation: {waiting}')
    assert [text for text, translation in said.items() if translation == ''] == [], (
        f'without a translation in unetkit/locales/{language}.json (null puts one off)'
    )


def fields(text):
    "What stands in braces, with its form."
    return sorted(
        (name, form, conversion) for _, name, form, conversion in string.Formatter().parse(text) if name
    )


def code(text):
    return sorted(set(re.findall(r'`[^`]+`', text)))


def test_fields_and_code():
    assert fields('{a:g} of {b!r}') == [('a', 'g', None), ('b', '', 'r')]
    assert code('`a` or `b`, and `a`') == ['`a`', '`b`']


@each_language
def test_hints_keep_values_and_code(language):
    "A translation has the same fields, and the same words in backticks."
    wrong = [
        (text, translation)
        for part in translate.read_hints(language).values()
        for text, translation in part.items()
        if translation and (fields(text), code(text)) != (fields(translation), code(translation))
    ]
    assert wrong == []


EXERCISES = {
    name: exercise
    for path in sorted((ROOT / 'unetkit' / 'checkers').glob('[a-z]*.py'))
    for name, exercise in import_module(f'unetkit.checkers.{path.stem}').check.exercises.items()
}


def sentences(source):
    "Texts that the functions of a module return without `say`."
    found = []
    for node in ast.walk(ast.parse(source)):
        values = [node.value] if isinstance(node, ast.Return) else []
        while values:
            value = values.pop()
            if isinstance(value, ast.IfExp):
                values += [value.body, value.orelse]
            elif isinstance(value, ast.BoolOp):
                values += value.values
            elif isinstance(value, ast.JoinedStr):
                found.append(ast.unparse(value))
            elif isinstance(value, ast.Constant) and ' ' in str(value.value):
                found.append(value.value)
    return found


def test_sentences():
    source = 'def f(x):\n    if x:\n        return None if x > 1 else f"{x} is small"\n    return say("no {x}", x=x) or "too bad"'
    assert sorted(sentences(source)) == ["f'{x} is small'", 'too bad']


def test_judges_say_what_they_say():
    "A sentence of a judge goes through `say`, with fields in place of an f-string, or it could not be translated."
    judges = {exercise.judge for exercise in EXERCISES.values()} - {compare}
    found = {judge.__qualname__: sentences(inspect.getsource(judge)) for judge in judges}
    assert {name: texts for name, texts in found.items() if texts} == {}


# The language of an answer


@pytest.mark.parametrize('name', EXERCISES)
def test_answer_in_portuguese(name, portuguese):
    "The verdict on a wrong answer, and that on a right one."
    exercise = EXERCISES[name]
    checker, known = check.Checker([exercise]), check._catalogue('pt_BR')
    if exercise.mistakes[0].hint not in known:
        pytest.skip('its translation is put off')
    wrong = checker.verdict(exercise.mistakes[0].answer, name, seed=0)
    assert not wrong and wrong.text.startswith(f'Ainda não: {name}, caso {wrong.case} de ')
    assert wrong.hint in known.values() and wrong.hint not in known
    words = re.findall(r'^  (\S.{8}) ', wrong.text, re.M)
    assert {word.strip() for word in words} <= {
        known[w] for w in ('input', 'expected', 'given', 'differs', 'printed', 'likely', 'again')
    }
    assert checker.verdict(exercise.expected, name, seed=0).text.startswith(
        f'Certo: {name} passa em todos os '
    )


def test_environment(monkeypatch):
    "The variable chooses where nobody has called `language`; a name that is none gets one warning and English."
    monkeypatch.setitem(check._CHOSEN, 'language', None)
    monkeypatch.delenv('UNETKIT_LANGUAGE', raising=False)
    assert check.language() == 'en'
    for name in ('pt_BR', 'pt-br', 'pt'):
        monkeypatch.setenv('UNETKIT_LANGUAGE', name)
        assert (check.language(), check.say('element')) == ('pt_BR', 'elemento')
    monkeypatch.setenv('UNETKIT_LANGUAGE', 'tlh')
    with pytest.warns(UserWarning, match="UNETKIT_LANGUAGE should be one of en, pt_BR, got 'tlh'"):
        assert check.language() == 'en'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert check.say('{given} instead of {expected}', given=1, expected=2) == '1 instead of 2'
    assert check.language('en') == 'en'
    monkeypatch.setenv('UNETKIT_LANGUAGE', 'pt_BR')
    assert check.language() == 'en'


def test_a_translation_that_does_not_fit(monkeypatch, portuguese):
    "Other fields than the English text has: the hint appears in English."
    monkeypatch.setattr(
        check, '_catalogue', lambda language: {'{n} keys': '{m} chaves', '{n} rows': '{n linhas'}
    )
    assert (check.say('{n} keys', n=2), check.say('{n} rows', n=3)) == ('2 keys', '3 rows')


# Pages of the site

LEAST = 0.9  # a page on the site is translated to this part; the rest is shown in English until somebody writes it


def messages_of(path):
    "Messages of a catalogue, without its head."
    pofile = pytest.importorskip('babel.messages.pofile', reason='babel comes with jupyterlab in [dev]')
    with path.open('rb') as file:
        return [message for message in pofile.read_po(file) if message.id]


PAGES = [(language, page) for language in translate.NAMES for page in translate.catalogues(language)]
each_page = pytest.mark.parametrize('language, name', PAGES, ids=map('-'.join, PAGES))


def waiting(path):
    "Messages without a translation, or with one that was made for another text."
    return [message.id for message in messages_of(path) if message.fuzzy or not message.string]


def test_waiting(tmp_path):
    path = tmp_path / 'a.po'
    path.write_text(
        'msgid "one"\nmsgstr "um"\n\n#, fuzzy\nmsgid "two"\nmsgstr "dois"\n\nmsgid "three"\nmsgstr ""\n',
        encoding='utf-8',
    )
    assert waiting(path) == ['two', 'three']


@each_language
def test_catalogues_follow_the_english_pages(language):
    "Sphinx is not needed for this: a catalogue holds a digest of the text that it was made from."
    assert translate.stale(language) == [], 'the English text has changed: run python scripts/translate.py'


@each_page
def test_page_is_translated(language, name):
    path = translate.catalogues(language)[name]
    left = waiting(path)
    if left:
        warnings.warn(f'{path.relative_to(ROOT)}: {len(left)} messages wait for a translation: {left}')
    assert len(left) <= (1 - LEAST) * len(messages_of(path)), (
        'translate them, or delete the catalogue: without it the page is not on the site'
    )


def kept(text):
    "What a translation keeps of a message: addresses of links, code, and places for numbers."
    return [
        re.findall(form, text) for form in (r'\]\(([^)]*)\)', r'`[^`]+`|<code>.*?</code>', r'\{\{\w+\}\}')
    ]


def test_kept():
    text = 'See [lesson 03](03_metrics.ipynb#f1), `uk.scene` and <code>range</code>: {{ACCURACY}}.'
    assert kept(text) == [['03_metrics.ipynb#f1'], ['`uk.scene`', '<code>range</code>'], ['{{ACCURACY}}']]


@each_page
def test_page_keeps_links_and_code(language, name):
    "A translation may say more than the English text, such as which pages are in which language, but leaves nothing out."
    faults = []
    for message in messages_of(translate.catalogues(language)[name]):
        if message.fuzzy or not message.string:
            continue
        english, said = kept(message.id), kept(message.string)
        for here, there in zip(english, said):
            faults += [(message.id, part) for part in set(here) if here.count(part) > there.count(part)]
        faults += [(message.id, link) for link in set(said[0]) - set(english[0])]
    assert faults == []


def test_links_of_a_translated_page():
    "A link to a page that is not translated leads to the English one and says so; a file that both sites have is the English one's."
    here, there = (
        {'lessons/a.html', 'index.html', '_static/own.js'},
        {'lessons/b.html', 'index.html', 'api/c.html'},
    )
    page, base = languages.Path('lessons/a.html'), 'https://site/'

    def linked(html):
        return languages.linked(html, page, here, there, base)

    for same in (
        '<a href="#x">',
        '<a href="a.html#x">',
        '<a href="../index.html">',
        '<a href="https://b.html">',
        '<a href="d.html">',
    ):
        assert linked(same) == same
    assert (
        linked('<a class="x" href="b.html#y">') == '<a class="x" href="../../lessons/b.html#y" hreflang="en">'
    )
    assert linked('<a href="../api/c.html">') == '<a href="../../api/c.html" hreflang="en">'
    assert linked('<a class="reference external" href="https://site/index.html">') == (
        '<a class="reference internal" href="../../index.html" hreflang="en">'
    )
    assert linked('<script src="../_static/own.js?v=1">') == '<script src="../_static/own.js?v=1">'
    assert linked('<img src="../_images/x.png">') == '<img src="../../_images/x.png">'


def test_messages_in_html():
    "Each text between tags is a message of its own, and so are the words of a picture or a control; code stays inside its text."
    pytest.importorskip('sphinx', reason='sphinx is in the extra [docs]')
    pieces = runpy.run_path(str(ROOT / 'docs' / 'translated.py'))['pieces']
    html = '<details><summary>Hint</summary>Use <code>range</code>.</details><img src="a.png" alt="A map"><p class="x"> </p>'
    assert ''.join(part for part, _ in pieces(html)) == html
    assert [message for _, message in pieces(html) if message] == ['Hint', 'Use <code>range</code>.', 'A map']
