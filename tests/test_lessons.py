"""Lessons keep their form: a promise, a goal and a time at the top, an exercise at the end, pictures in words, links that lead somewhere.

The notebooks are read as they are stored, and none of them is run. A fault is named with its notebook and its cell."""

import json
import os
import re
from pathlib import Path

import pytest
from helpers import ROOT

HOME = ROOT / 'nbs'
STORED = {
    path.relative_to(HOME).as_posix(): json.loads(path.read_text(encoding='utf-8'))
    for path in sorted(HOME.rglob('*.ipynb'))
    if not any(part.startswith(('.', '_')) for part in path.relative_to(HOME).parts)
}
NOTEBOOKS = {name: notebook['cells'] for name, notebook in STORED.items()}
LESSONS = {name: cells for name, cells in NOTEBOOKS.items() if re.match(r'\d\d\w*\.ipynb$', name)}
PAGES = {name: cells for name, cells in NOTEBOOKS.items() if '/' not in name}
each_lesson = pytest.mark.parametrize('name', LESSONS)
each_notebook = pytest.mark.parametrize('name', NOTEBOOKS)
each_page = pytest.mark.parametrize('name', PAGES)


def source(cell):
    return ''.join(cell['source'])


def prose(cells):
    return '\n\n'.join(source(cell) for cell in cells if cell['cell_type'] == 'markdown')


def directives(cell):
    "The comments at the top of a code cell."
    return re.findall(r'^#\|\s*(.+)$', source(cell), re.M)


def about(name):
    "What a notebook says of itself: part, minutes, panels, extra."
    return STORED[name]['metadata'].get('unetkit', {})


# How a lesson begins

FORM = {
    'a title': r'\A# \S',
    'a promise': r'^> \S',
    'a time': r'\bAbout \d+ minutes\b',
    'what comes first': r'\bcomes? first\b|\bno other lesson\b|\bno lesson\b',
    'objectives': r'^\*\*You will be able to\*\*\n+1\. .+\n2\. ',
}


def beginning(cells):
    "What is missing at the beginning."
    missing = [what for what, form in FORM.items() if not re.search(form, source(cells[0]), re.M)]
    hidden = 'hide' in directives(cells[1]) and 'google.colab' in source(cells[1])
    return missing + ([] if hidden else ['a hidden second cell that installs'])


def test_beginning():
    page = [
        {'cell_type': 'markdown', 'source': ['# A\n\n> B\n\nC. Lesson 01 comes first.\n\n**You will be able to**\n1. d;\n2. e.']},
        {'cell_type': 'code', 'source': ['1']},
    ]  # fmt: skip
    assert beginning(page) == ['a time', 'a hidden second cell that installs']


@each_lesson
def test_lesson_begins(name):
    assert beginning(LESSONS[name]) == []


@each_notebook
def test_notebook_begins(name):
    "Every other notebook has at least a title, a promise and the hidden cell, for it may be opened in Colab as well."
    assert set(beginning(NOTEBOOKS[name])) - {'a time', 'what comes first', 'objectives'} == set()


# Its size and its time


def words_and_cells(cells):
    "Words of prose, code cells to read (those that are hidden are set-up), and their lines of code."
    words = codes = lines = 0
    for cell in cells:
        text = source(cell)
        if cell['cell_type'] == 'markdown':
            words += len(re.findall(r'\w+', re.sub(r'\(http\S*\)|<[^>]*>', ' ', text)))
        elif cell['cell_type'] == 'code' and not re.search(r'^#\|\s*(hide\b|default_exp)', text, re.M):
            code = [x for x in text.splitlines() if x.strip() and not x.lstrip().startswith(('#', '%', '!'))]
            codes, lines = codes + bool(code), lines + len(code)
    return words, codes, lines


@each_lesson
def test_size(name):
    "At most 25 code cells to read and 2 000 words."
    words, codes, _ = words_and_cells(LESSONS[name])
    assert codes <= 25 and words <= 2000, f'{words} words, {codes} code cells'


@each_lesson
def test_minutes_are_true(name):
    "A reader takes a minute for 180 words and six seconds for a line of code. The title, the metadata and the table of lessons say the same."
    words, _, lines = words_and_cells(LESSONS[name])
    said = re.search(r'About (\d+) minutes', source(LESSONS[name][0]))
    assert said, 'the first cell says "About N minutes"'
    promised = int(said[1])
    assert about(name).get('minutes') == promised
    assert abs(promised - (words / 180 + lines / 10)) <= max(3, 0.15 * promised)


@each_notebook
def test_part(name):
    "The metadata say which part of the site a page belongs to."
    if '/' not in name and name != 'index.ipynb':
        assert about(name).get('part') == ('course' if name in LESSONS else 'look up')
    elif name.startswith('library/'):
        assert about(name).get('part') == 'works'


@each_lesson
def test_panels_are_cells(name):
    ids = [cell['id'] for cell in LESSONS[name]]
    assert [panel for panel in about(name).get('panels', []) if panel not in ids] == []


# The table of lessons on the first page

COLAB = 'https://colab.research.google.com'


def address(name):
    return f'{COLAB}/github/unetkit/unetkit/blob/main/nbs/{name}'


def numbers(text):
    "Lessons that a text names; a dash or a `to` between two stands for all between them."
    found = re.findall(r'\b(\d\d)(?:(?: to |–)(\d\d))?\b', text)
    return sorted(n for first, last in found for n in range(int(first), int(last or first) + 1))


def before(text):
    return numbers(' '.join(re.findall(r'\b[Ll]essons?\s+([^.;]*?)\s+comes?\s+first\b', text)))


def test_numbers():
    text = 'About 20 minutes; lessons 02, 04 to 06 and\n09 come first. Lesson 15 is longer.'
    assert before(text) == [2, 4, 5, 6, 9] == numbers('02, 04–06, 09')
    assert before('no lesson comes first') == numbers('–') == []


def rows():
    "Rows of README's table, which the index makes of the lessons' metadata: minutes and the address of the badge, by notebook."
    pattern = r'^\| \[.+?\]\(nbs/(\d\d\w*\.ipynb)\) \|.*\| (\d+) \| \[!\[.+?\]\(.+?\)\]\((.+?)\) \|$'
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    return {name: (int(minutes), link) for name, minutes, link in re.findall(pattern, text, re.M)}


def test_table_of_lessons():
    assert list(rows()) == list(LESSONS)


@each_lesson
def test_row_of_the_table(name):
    text = source(LESSONS[name][0])
    minutes = int(re.search(r'About (\d+) minutes', text)[1])
    assert rows().get(name) == (minutes, address(name)), 'run nbs/index.ipynb, then scripts/readme.py'


# The way into Colab


def badge(name):
    return f'[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address(name)})'


def has_badge(name, cells):
    return source(cells[0]).split('\n\n')[1] == badge(name) and prose(cells).count('colab-badge') == 1


def test_has_badge():
    "A page with its own badge, with that of another, and with none."

    def titled(*parts):
        return [{'cell_type': 'markdown', 'source': ['\n\n'.join(['# A', *parts, '> B'])]}]

    found = [has_badge('a.ipynb', titled(*parts)) for parts in ([badge('a.ipynb')], [badge('b.ipynb')], [])]
    assert found == [True, False, False]


@each_page
def test_page_has_its_badge(name):
    assert has_badge(name, PAGES[name])


INSTALL = re.compile(r"^    %pip install -q '?unetkit(\[\w+\])?'?(?: '[^']+')*$", re.M)


def installs_first(cells):
    "The first cell that runs asks for the package by its name, with an extra at most: what Colab has brought stays as it is."
    runs = [source(cell) for cell in cells if cell['cell_type'] == 'code']
    return len(INSTALL.findall(runs[0])) == 1 and not any('%pip' in later for later in runs[1:])


def test_installs_first():
    lines = '%pip install -q unetkit', '%pip install -qU unetkit', '%pip install -q numpy'
    cells = [[{'cell_type': 'code', 'source': [f'#| hide\nif colab:\n    {line}']}] for line in lines]
    assert [installs_first(page) for page in cells] == [True, False, False]


@each_page
def test_page_installs_first(name):
    assert installs_first(PAGES[name])
    extra = about(name).get('extra')
    assert not extra or f'unetkit[{extra}]' in source(PAGES[name][1])


# Pictures in words


def draws(cell):
    outputs = [output.get('data', {}) for output in cell.get('outputs', [])]
    return any('image/png' in data or 'image/jpeg' in data for data in outputs)


def said(cell):
    return [text for text in directives(cell) if re.match(r'fig-alt: \S+( \S+){4}', text)]


@each_notebook
def test_pictures_are_said_in_words(name):
    "The committed outputs tell which cells draw; `fig-alt` says what there is to see, in one sentence."
    silent = [cell['id'] for cell in NOTEBOOKS[name] if draws(cell) and len(said(cell)) != 1]
    unseen = [
        cell['id']
        for cell in NOTEBOOKS[name]
        if said(cell) and not draws(cell) and 'eval: false' not in source(cell)
    ]
    assert (silent, unseen) == ([], [])


def test_no_sentence_serves_two_pictures():
    texts = [text for cells in NOTEBOOKS.values() for cell in cells for text in said(cell)]
    assert len(texts) > 30
    assert sorted(text for text in set(texts) if texts.count(text) > 1) == []


@each_notebook
def test_weight(name):
    "A notebook of more than a megabyte is slow to open on a bad line."
    assert (HOME / name).stat().st_size <= 1e6


# Questions to the reader, and their answers

ASKED = re.compile(
    r'(?<!\*)\*(?!\*)[^*]+\?\*(?!\*)|\bGuess\b|\b[Bb]efore you (?:run|read on)\b|\b[Pp]redict before you look\b'
)


def collapsed(cell):
    "Is the output of a cell out of sight until the reader opens it or runs the cell? JupyterLab and Colab write both marks."
    marks = cell['metadata']
    return marks.get('collapsed') is True and marks.get('jupyter', {}).get('outputs_hidden') is True


def paragraphs(cell):
    "The paragraphs of a text; what stands in `<details>` is one of them."
    text = re.sub(
        r'<details>.*?</details>', lambda found: re.sub(r'\n+', '\n', found[0]), source(cell), flags=re.S
    )
    return [paragraph for paragraph in re.split(r'\n\s*\n', text) if paragraph.strip()]


def answered_in_sight(cells):
    """Predictions whose answer is in sight, by the ids of their cells.

    A prediction is a question in italics before a cell. What the cells up to the next text print and draw has to be collapsed (also of those that
    are not run in tests: the site shows pictures for sliders), and the answer in words to stand in `<details>`: right behind the question, or at
    the beginning of the next text (unless that begins a new section).
    """
    found, section = [], ''
    for i, cell in enumerate(cells):
        texts = paragraphs(cell) if cell['cell_type'] == 'markdown' else []
        for n, text in enumerate(texts):
            section = text if text.startswith('## ') else section
            practice = re.match(r'## (Questions|Exercise)', section)
            if i == 0 or practice or text.startswith('<details') or not ASKED.search(text):
                continue
            told = ''.join(texts[n + 1 : n + 2]).startswith('<details')
            shown = list(cells[i + 1 :])
            answer = next((k for k, one in enumerate(shown) if one['cell_type'] == 'markdown'), len(shown))
            outputs = [one for one in shown[:answer] if one.get('outputs') or 'eval: false' in source(one)]
            words = paragraphs(shown[answer])[0] if answer < len(shown) else '#'
            in_order = told or (n == len(texts) - 1 and words.startswith(('<details', '#')))
            if not (in_order and all(map(collapsed, outputs))):
                found.append(cell['id'])
    return found


def test_answered_in_sight():
    "A question with both answers out of sight; then with its output, its words, and the words of another paragraph in sight."

    def lesson(
        question='*How many?*',
        marks=True,
        words='<details><summary>Answer</summary>\n\nTwo.\n\n</details>\n\nSo we go on.',
        slider=False,
    ):
        metadata = {'collapsed': True, 'jupyter': {'outputs_hidden': True}} if marks else {}
        texts = [
            {'cell_type': 'markdown', 'id': name, 'source': [text]}
            for name, text in (('title', '# A'), ('q', question), ('a', words))
        ]
        code = {
            'cell_type': 'code',
            'id': 'code',
            'source': ['#| eval: false\n' * slider, '1 + 1'],
            'metadata': metadata,
            'outputs': [{'data': {'text/plain': '2'}}] * (not slider),
        }
        return [*texts[:2], code, texts[2]]

    assert answered_in_sight(lesson()) == answered_in_sight(lesson(words='## Next')) == []
    told = '*How many?*\n\n<details><summary>Answer</summary>\n\nTwo.\n\n</details>\n\nCount them.'
    assert answered_in_sight(lesson(told, words='So we go on.')) == []
    assert answered_in_sight(lesson(marks=False)) == ['q']
    assert answered_in_sight(lesson(told, marks=False)) == ['q']
    assert answered_in_sight(lesson(slider=True)) == []
    assert answered_in_sight(lesson(slider=True, marks=False)) == ['q']
    assert answered_in_sight(lesson(words='Two. So we go on.')) == ['q']
    assert answered_in_sight(lesson('Guess how many.', words='Two.')) == ['q']
    assert answered_in_sight(lesson('*How many?*\n\nThere are two.')) == ['q']
    assert answered_in_sight(lesson('**How many?** Count *them*.', marks=False)) == []
    assert answered_in_sight(lesson('## Exercise\n\n*How many?*', marks=False)) == []


@each_page
def test_answers_are_out_of_sight(name):
    assert answered_in_sight(PAGES[name]) == []


def test_lessons_ask():
    "Most lessons ask for predictions, so that the test above has something to look at."
    asking = [name for name, cells in LESSONS.items() if any(map(collapsed, cells))]
    assert len(asking) >= len(LESSONS) - 3


# How a lesson ends


@each_lesson
def test_exercise(name):
    "An exercise has a checker that is imported, a stub that is not run in tests, and a notebook with a solution."
    code = [source(cell) for cell in LESSONS[name] if cell['cell_type'] == 'code']
    parts = {
        'a checker': any('import check' in text for text in code),
        'a stub': any('#| eval: false' in text and 'check(' in text for text in code),
        'a solution': any(other.startswith(f'solutions/{name[:2]}') for other in NOTEBOOKS),
    }
    assert [what for what, there in parts.items() if not there] == []


@each_lesson
def test_what_you_can_do_now(name):
    assert re.search(r'^## What you can( now)? do( now)?', prose(LESSONS[name]), re.M)


def test_questions():
    "Where a lesson has questions, there are three to five."
    for name, cells in LESSONS.items():
        found = re.search(r'^## Questions\n(.*?)(?=^## |^\*\*Experiment|\Z)', prose(cells), re.M | re.S)
        if found:
            assert 3 <= len(re.findall(r'^\d+\. ', found[1], re.M)) <= 5, name


def test_checkers_and_solutions_belong_to_a_notebook():
    "To a lesson, or to a notebook of the library."
    homes = {Path(name).name for name in NOTEBOOKS if name in LESSONS or name.startswith('library/')}
    rooms = [name for name in NOTEBOOKS if name.startswith(('checkers/', 'solutions/'))]
    assert [name for name in rooms if Path(name).name not in homes] == []


# What a teacher gets


def number_of(name):
    return re.match(r'\d\d[a-z]?', name)[0]


def lecture_notes(cells):
    "Lines of the note below each heading that names a lesson."
    parts = re.split(r'^## Lesson (\w+)$', prose(cells), flags=re.M)
    return {
        number: re.findall(r'^- \*\*.+', re.split(r'^## ', note, flags=re.M)[0], re.M)
        for number, note in zip(parts[1::2], parts[2::2])
    }


def test_lecture_notes_are_found():
    page = (
        '# A\n\n## Lesson 01\n\n- **Open.** B\n- C\n\n## Lesson 18b\n\n- **Ask.** D\n\n## Else\n\n- **E.** F'
    )
    cells = [{'cell_type': 'markdown', 'source': [page]}]
    assert lecture_notes(cells) == {'01': ['- **Open.** B'], '18b': ['- **Ask.** D']}


@each_lesson
def test_lesson_has_a_lecture_note(name):
    "About ten short lines under `## Lesson NN` of the lecture notes, with a cell that says what the lesson is."
    page, number = NOTEBOOKS['lecture_notes.ipynb'], number_of(name)
    lines = lecture_notes(page).get(number, [])
    assert 8 <= len(lines) <= 12, (
        f'lecture_notes.ipynb: {len(lines)} lines under "## Lesson {number}", ten are wanted'
    )
    assert max(map(len, lines)) <= 150
    assert any(f'about("{number}")' in source(cell) for cell in page)


def test_lecture_notes_stand_in_order():
    assert list(lecture_notes(NOTEBOOKS['lecture_notes.ipynb'])) == [number_of(name) for name in LESSONS]


def shown(name):
    "What the cells of a page show as markdown."
    outputs = [output for cell in NOTEBOOKS[name] for output in cell.get('outputs', [])]
    return '\n'.join(''.join(output.get('data', {}).get('text/markdown', '')) for output in outputs)


@each_lesson
def test_pages_for_teachers_are_current(name):
    "Both were run since the lesson had its title and its minutes."
    title = re.search(r'^# (.+)$', source(LESSONS[name][0]), re.M)[1]
    note = f"**[{title}]({name})**: {about(name)['minutes']} minutes to read"
    assert note in shown('lecture_notes.ipynb'), 'run nbs/lecture_notes.ipynb'
    assert f'[{number_of(name)} {title}]({name})' in shown('teaching.ipynb'), 'run nbs/teaching.ipynb'


def test_long_syllabus_has_all_lessons():
    total = sum(about(lesson)['minutes'] for lesson in LESSONS)
    assert f'{len(LESSONS)} lessons, {total} minutes to read. No lesson is left out.' in shown(
        'teaching.ipynb'
    ), 'run nbs/teaching.ipynb and nbs/lecture_notes.ipynb, then scripts/readme.py'


# Links


def links(cells):
    return re.findall(r'\]\(([^)\s]+)\)', re.sub(r'```.*?```|`[^`\n]*`', '', prose(cells), flags=re.S))


def anchors(path):
    "Parts of a page: its headings, in small letters and with hyphens for spaces."
    cells = NOTEBOOKS.get(Path(os.path.relpath(path, HOME)).as_posix(), [])
    headings = re.findall(r'^#+ (.+)$', prose(cells), re.M)
    return {re.sub(r'[^\w-]', '', heading.strip().lower().replace(' ', '-')) for heading in headings}


def leads(name, link):
    path, _, part = link.partition('#')
    target = (HOME / name).parent / path if path else HOME / name
    return target.exists() and (not part or part in anchors(target))


def test_leads():
    assert 'receptive-field' in anchors(HOME / 'glossary.ipynb')
    assert leads('index.ipynb', 'glossary.ipynb#patch')
    assert not leads('index.ipynb', 'glossary.ipynb#pach')
    assert not leads('index.ipynb', '98_none.ipynb')


@each_notebook
def test_links_lead_somewhere(name):
    "A link is followed from the folder of its notebook; an address of another site is not tried."
    local = [link for link in links(NOTEBOOKS[name]) if not re.match(r'[a-z]+:', link)]
    assert [link for link in local if not leads(name, link)] == []


@each_lesson
def test_lesson_sends_readers_to_the_glossary(name):
    assert any(link.startswith('glossary.ipynb#') for link in links(LESSONS[name]))
