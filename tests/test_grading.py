"""A teacher's table: right answers of all lessons pass, stubs are no attempts, wrong answers get their hint, and no accident in a notebook stops the next."""

import csv
import json
import os
import re
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ROOT, check_line, disk, shell, start_process, succeeds

from unetkit import grading
from unetkit.grading import LESSONS, OUTCOMES, grade_notebook, lessons_in, needed, read_cells, statements

NOTEBOOKS = ROOT / 'nbs'
FEW = ['01_tiles', '04_patches', 'library/receptive']  # their checkers need no torch
some_lessons = pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in LESSONS]
)
START = '# How far a network sees, by arithmetic', 'from unetkit.checkers.receptive import check'
RIGHT = '''def view_of(layers):
    view = step = 1
    for kernel, stride, dilation in layers:
        view += (kernel - 1) * dilation * step
        step *= stride
    return view

'''
linux = pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits the memory of a process')
posix = pytest.mark.skipif(os.name != 'posix', reason='signals of POSIX')


def submit(path, *texts):
    "Write a notebook: a text that begins like a heading is prose, every other one code."
    kinds = ['markdown' if text.startswith('# ') else 'code' for text in texts]
    cells = [{'cell_type': kind, 'source': text, 'metadata': {}} for kind, text in zip(kinds, texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = {'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}
    path.write_text(json.dumps(notebook), encoding='utf-8')
    return path


def graded(path, *texts, **limits):
    "The only row of a notebook with these cells."
    (grade,) = grade_notebook(submit(path / 'submitted.ipynb', *texts), **limits)
    assert grade.outcome in OUTCOMES
    return grade


def rows_of(path):
    with open(path, encoding='utf-8-sig', newline='') as file:
        return list(csv.DictReader(file))


def solution(name):
    "The notebook with the solutions of a lesson; those of the bug museum are in one."
    number = re.sub(r'^(\d\d)[a-z]', r'\1', Path(name).name)
    (path,) = (NOTEBOOKS / 'solutions').glob(
        f'{number[:3]}*.ipynb' if number[0].isdigit() else f'{number}.ipynb'
    )
    return path


def filled(name, answers):
    "A lesson's notebook whose exercises have these answers in place of their stubs."
    notebook = json.loads((NOTEBOOKS / f'{name}.ipynb').read_text(encoding='utf-8'))
    left = dict(LESSONS[name].exercises)
    for cell in notebook['cells']:
        text = ''.join(cell['source'])
        for exercise in list(left):
            if left[exercise] in text:
                text = text.replace(left.pop(exercise), answers[exercise])
        cell['source'] = text
    assert left == {}
    return notebook


# What is right, what is untouched, what is wrong


@some_lessons
def test_solutions_get_full_marks(name, tmp_path):
    "In the lesson's own notebook, whose other cells may need a GPU, a slider or an hour."
    parts, _ = statements(read_cells(solution(name)))
    answers = {
        exercise: '\n'.join(one.text.strip('\n') for one in needed(parts, [exercise]))
        for exercise in LESSONS[name].exercises
    }
    path = tmp_path / 'solved.ipynb'
    path.write_text(json.dumps(filled(name, answers)), encoding='utf-8')
    grades = grade_notebook(path)
    assert {grade.lesson for grade in grades} == {LESSONS[name].label}
    assert {grade.exercise: grade.outcome for grade in grades} == dict.fromkeys(answers, 'passed'), grades


@pytest.mark.parametrize('name', LESSONS)
def test_stubs_are_not_attempted(name):
    "Nothing is run for them."
    grades = grade_notebook(NOTEBOOKS / f'{name}.ipynb')
    assert [(g.lesson, g.exercise) for g in grades] == [
        (LESSONS[name].label, e) for e in LESSONS[name].exercises
    ]
    assert {(g.outcome, g.message, g.seconds) for g in grades} == {
        ('not attempted', 'the stub is unchanged', 0)
    }


@some_lessons
def test_wrong_answers_get_their_hint(name, tmp_path):
    "The first mistake that the checker of each exercise knows, handed in as an answer."
    check = import_module(f'unetkit.checkers.{LESSONS[name].checker}').check
    line = "import unetkit.checkers.{0} as mistakes\n{1} = mistakes.check.exercises['{1}'].mistakes[0].answer"
    answers = {exercise: line.format(LESSONS[name].checker, exercise) for exercise in LESSONS[name].exercises}
    path = tmp_path / 'wrong.ipynb'
    path.write_text(json.dumps(filled(name, answers)), encoding='utf-8')
    hints = {exercise: check.exercises[exercise].mistakes[0].hint for exercise in answers}
    for grade in grade_notebook(path):
        assert grade.outcome == 'failed' and grade.detail.startswith('case '), grade
        assert grade.message == hints[grade.exercise]


def test_list_of_exercises_is_that_of_the_lessons():
    lessons = {path.stem for path in NOTEBOOKS.glob('[0-9]*.ipynb')}
    assert lessons == {name for name in LESSONS if name[0].isdigit()}
    for name, lesson in LESSONS.items():
        assert [one.name for one in lessons_in(read_cells(NOTEBOOKS / f'{name}.ipynb'))] == [name]
        assert (
            lesson.exercises.keys()
            <= import_module(f'unetkit.checkers.{lesson.checker}').check.exercises.keys()
        )


def test_same_cases_every_time(tmp_path):
    "Random cases are drawn with one seed for all students."
    wrong = RIGHT.replace('* dilation * step', '* dilation') + 'check(view_of)'
    first, second = (graded(tmp_path, *START, wrong) for _ in range(2))
    assert (first.message, first.detail) == (second.message, second.detail) and first.outcome == 'failed'


def test_hints_are_in_the_language_of_the_teacher(tmp_path, monkeypatch):
    "Not in that which a student has chosen in the notebook."
    wrong = 'from unetkit.check import language\nlanguage("pt_BR")', RIGHT.replace('step *= stride', 'pass')
    english = graded(tmp_path, *START, *wrong)
    monkeypatch.setenv('UNETKIT_LANGUAGE', 'pt_BR')
    portuguese = graded(tmp_path, *START, *wrong)
    assert english.outcome == portuguese.outcome == 'failed' and english.message.startswith(
        'Behind a pooling'
    )
    assert portuguese.message not in ('', english.message) and '6 instead of 8' not in portuguese.detail
    assert graded(tmp_path, *START, RIGHT).message.endswith(' 16 casos')


# What a notebook may look like

ALSO_RIGHT = {
    'no check': [RIGHT],
    'check has another meaning': [RIGHT, 'check = print', 'check(view_of)'],
    'the stub below': [RIGHT + 'assert check(view_of, seed=3)', 'def view_of(layers):\n    ...'],
    'the stub above': ['def view_of(layers):\n    ...\n\ncheck(view_of)', RIGHT],
    'the name used again': [RIGHT + 'check(view_of)', 'view_of = 3'],
    'two attempts': ['def view_of(layers):\n    return 1', RIGHT],
    'other cells fail': ['1 / 0', 'x = = 1', 'while True: pass', 'import nowhere', RIGHT + 'view_of([1])'],
    'magics': ['%matplotlib inline\n!pip install x\n%time import math', RIGHT.replace('1\n', 'math.prod([])\n', 1)],
    'a decorator': ['from functools import cache', '@cache\ndef one(x): return x', RIGHT.replace('= 1', '= one(1)')],
    'a filled dict': ['first = {}', "first['view'] = 1", RIGHT.replace('= 1', "= first['view']")],
    'a star': ['from math import *', RIGHT.replace('= 1', '= prod([])')],
    'a helper below': [RIGHT.replace('= 1', '= one()'), 'def one(): return 1'],
    'a class': ['class One:\n    value = 1', RIGHT.replace('= 1', '= One.value')],
    'display': ['display(1)\nget_ipython().run_line_magic("x", "")', 'one = 1\ndisplay(one)', RIGHT.replace('= 1', '= one')],
    'a lambda': ['from itertools import *', RIGHT.replace('view_of', 'f'), 'view_of = lambda layers: f(layers)'],
    'much printed': ['for _ in range(10**5): print("x" * 99)', RIGHT.replace('    view', '    print("x" * 10**6)\n    view', 1)],
}  # fmt: skip


@pytest.mark.parametrize('how', ALSO_RIGHT)
def test_right_answers_pass(how, tmp_path):
    grade = graded(tmp_path, *START, *ALSO_RIGHT[how])
    assert (grade.outcome, grade.message) == ('passed', 'passes all 16 cases'), grade


WRONG = {
    'a typing mistake': ([RIGHT.replace('(layers):', '(layers)')], 'error', 'in line 1', 'code cell 2 is no Python'),
    'a name that is missing': ([RIGHT.replace('= 1', '= one')], 'failed', 'A name is used', "'one'"),
    'a builtin that is hidden': (['sum = 3', RIGHT.replace('= 1', '= sum([1])')], 'failed', '', 'TypeError'),
    'a cell above that fails': (['one = 1 / 0', RIGHT.replace('= 1', '= one')], 'failed', '', 'code cell 2: Zero'),
    'a value': (['view_of = 5'], 'failed', 'check wants the function itself', ''),
    'a decorator that fails': (['@nothing\n' + RIGHT], 'error', 'view_of has no value', "'nothing'"),
    'another name': ([RIGHT.replace('view_of', 'viewof')], 'not attempted', 'there is no function view_of', ''),
    'deleted': (['x = 1'], 'not attempted', 'there is no function view_of', ''),
    'unfinished': (['def view_of(layers):\n    view = 1\n    ...'], 'failed', 'Nothing is returned yet', 'case 1'),
}  # fmt: skip


@pytest.mark.parametrize('how', WRONG)
def test_what_is_wrong_is_said(how, tmp_path):
    texts, outcome, message, detail = WRONG[how]
    grade = graded(tmp_path, *START, *texts)
    assert grade.outcome == outcome and message in grade.message and detail in grade.detail, grade


def test_an_error_in_one_exercise_does_not_hide_the_next(tmp_path):
    "Lesson 04 has two; here the first ends the process, and the second is right."
    parts, _ = statements(read_cells(solution('04_patches')))
    second = '\n'.join(one.text.strip('\n') for one in needed(parts, ['mixed_batch']))
    path = submit(
        tmp_path / 'a.ipynb', 'from unetkit.checkers.patches import check\nimport os', 'def owner_of(*args): os._exit(0)', second
    )  # fmt: skip
    assert [(g.exercise, g.outcome) for g in grade_notebook(path)] == [
        ('owner_of', 'error'),
        ('mixed_batch', 'passed'),
    ]


def test_two_lessons_in_one_notebook(tmp_path):
    texts = [
        'from unetkit.checkers.receptive import check',
        RIGHT,
        'from unetkit.checkers.tiles import check',
    ]
    grades = grade_notebook(submit(tmp_path / 'a.ipynb', *texts))
    assert [(g.lesson[:2], g.outcome) for g in grades] == [('01', 'not attempted'), ('Ho', 'passed')]


# Accidents

ACCIDENTS = {  # body of the function, seconds that it gets, outcome and message
    'a loop': ('while True: pass', 60, 'timed out', 'A loop does not end'),
    'a loop that catches everything': ('while True:\n        try: x = 1\n        except BaseException: pass', 60, 'timed out', ''),
    'sleep': ('import time; time.sleep(1000)', 4, 'timed out', ''),
    'one long computation': ('return 7 ** 10 ** 9', 4, 'timed out', 'not done after 4 seconds'),
    'exit': ('import sys; sys.exit()', 60, 'failed', 'The function leaves Python'),
    'input': ('return int(input())', 60, 'failed', 'A function gets what it needs as arguments'),
    'a hard exit': ('import os; os._exit(7)', 60, 'error', 'Python ended with exit code 7'),
    'a deep recursion': ('return view_of(layers)', 60, 'failed', 'calls itself without ever reaching an end'),
}  # fmt: skip


@pytest.mark.parametrize('what', ACCIDENTS)
def test_accidents(what, tmp_path):
    body, seconds, outcome, message = ACCIDENTS[what]
    grade = graded(tmp_path, *START, f'def view_of(layers):\n    {body}', seconds=seconds)
    assert grade.outcome == outcome and message in grade.message, grade


def test_a_cell_that_never_ends(tmp_path):
    grade = graded(tmp_path, *START, 'while True:\n    one = 1', RIGHT.replace('= 1', '= one'), seconds=4)
    assert (grade.outcome, grade.message) == ('timed out', 'not done after 4 seconds')
    assert grade.detail == 'code cell 2 was running'


@linux
@pytest.mark.parametrize(
    'body', ['return len(bytearray(10**11))', 'x = []\n    while True: x.append(bytes(10**6))', 'import numpy\n    numpy.ones(10**10)']
)  # fmt: skip
def test_memory(body, tmp_path):
    "A gigabyte is allowed; the machine may have less than what is asked for."
    grade = graded(tmp_path, *START, f'def view_of(layers):\n    {body}', memory=1)
    assert grade.outcome == 'failed' and 'MemoryError' in grade.detail, grade
    assert grade.message == 'The function asks for more memory than there is.'


@linux
def test_memory_of_a_cell(tmp_path):
    grade = graded(tmp_path, *START, 'big = bytearray(10**11)', RIGHT.replace('= 1', '= len(big)'), memory=1)
    assert grade.outcome == 'failed' and 'code cell 2: MemoryError' in grade.detail


@posix
def test_a_crash(tmp_path):
    grade = graded(
        tmp_path,
        *START,
        'def view_of(layers):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)',
    )
    assert (grade.outcome, grade.detail) == ('error', 'the checker was running')
    assert grade.message.startswith(f'Python ended with signal {int(signal.SIGSEGV)}')
    grade = graded(tmp_path, *START, 'def view_of(layers):\n    import os\n    os.kill(os.getpid(), 9)')
    assert grade.message == 'the system ended Python, probably for lack of memory'


@posix
def test_what_an_answer_starts_ends_with_it(tmp_path):
    note = tmp_path / 'process'
    body = f"""import subprocess
    started = subprocess.Popen(['sleep', '1000'])
    open({str(note)!r}, 'w').write(str(started.pid))"""
    assert graded(tmp_path, *START, f'def view_of(layers):\n    {body}').outcome == 'failed'
    process, end = int(note.read_text()), time.monotonic() + 10
    while time.monotonic() < end and is_alive(process):
        time.sleep(0.05)
    assert not is_alive(process)


@posix
def test_an_answer_may_end_what_it_is_a_copy_of(tmp_path):
    body = 'import os\n    os.kill(os.getppid(), 9)'
    grade = graded(tmp_path, *START, f'def view_of(layers):\n    {body}')
    assert (grade.outcome, grade.detail) == ('error', 'the checker was running')
    assert graded(tmp_path, *START, RIGHT).outcome == 'passed'


@posix
def test_nothing_outlives_the_command(folder, tmp_path):
    "Killed, it leaves neither the answer that runs nor the process that this is a copy of."
    note = tmp_path / 'processes'
    body = f"""import os, time
    open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')
    time.sleep(1000)"""
    submit(folder / 'a.ipynb', *START, f'def view_of(layers):\n    {body}')
    command, end = start_process('grade', folder, '--out', tmp_path / 'grades.csv'), time.monotonic() + 60
    while not (note.exists() and note.read_text().count(' ')) and time.monotonic() < end:
        time.sleep(0.05)
    command.kill()
    command.communicate(timeout=60)
    while any(map(is_alive, map(int, note.read_text().split()))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, map(int, note.read_text().split())))


@pytest.mark.parametrize('fork', [True, False])
def test_with_and_without_copies(fork, tmp_path, monkeypatch):
    "Windows starts Python for each answer: the rows are the same."
    if fork and not hasattr(os, 'fork'):
        pytest.skip('this system cannot fork')
    monkeypatch.setattr(grading, '_CAN_FORK', fork)
    wrong = 'def view_of(layers):\n    return 1'
    bodies = [RIGHT, wrong, 'def view_of(layers):\n    import os; os._exit(7)']
    outcomes = [graded(tmp_path, *START, body) for body in bodies]
    assert [grade.outcome for grade in outcomes] == ['passed', 'failed', 'error']
    assert outcomes[2].message == 'Python ended with exit code 7'
    late = graded(tmp_path, *START, 'while True:\n    one = 1', RIGHT.replace('= 1', '= one'), seconds=3)
    assert (late.outcome, late.detail) == ('timed out', 'code cell 2 was running')


def is_alive(process):
    "Does a process run? One that has ended may still wait for somebody to read its exit code."
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f'/proc/{process}/stat')
    return not (state.exists() and ') Z ' in state.read_text())


def test_files_go_into_a_folder_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / 'place'
    body = f"""open('left behind', 'w').write('x')
    import os, tempfile
    open({str(place)!r}, 'w').write(os.getcwd() + '\\n' + tempfile.gettempdir())"""
    graded(tmp_path, *START, f'def view_of(layers):\n    {body}')
    here, temporary = place.read_text().splitlines()
    assert here == os.path.realpath(temporary) and not Path(here).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['place', 'submitted.ipynb']


# Files that are no submissions

STRANGE = {
    'empty': (b'', 'it is empty'),
    'cut short': (b'{"cells": [{"cell_type": "co', 'it is not JSON'),
    'no text': (b'\x89PNG\r\n\xff\xfe', 'it is not JSON'),
    'deep': (b'[' * 100_000, 'it is not JSON'),
    'a number': (b'3', 'it has no list of cells'),
    'cells of another kind': (b'{"cells": {"a": 1}}', 'it has no list of cells'),
    'odd cells': (b'{"cells": [1, null, {"cell_type": "code"}, {"source": 3}, {"source": [1, 2]}]}', 'unknown lesson'),
    'another course': (b'{"cells": [{"cell_type": "code", "source": "print(1)"}]}', 'unknown lesson'),
    'null bytes': (b'{"cells": [{"cell_type": "code", "source": "x = \\u0000 1"}]}', 'unknown lesson'),
    'a checker of a later version': (
        b'{"cells": [{"cell_type": "code", "source": "from unetkit.checkers.later import check"}]}',
        'it imports unetkit.checkers.later',
    ),
}  # fmt: skip


@pytest.mark.parametrize('what', STRANGE)
def test_strange_files_are_rows(what, tmp_path):
    data, message = STRANGE[what]
    path = tmp_path / 'a.ipynb'
    path.write_bytes(data)
    (grade,) = grade_notebook(path)
    assert (grade.lesson, grade.exercise, grade.outcome) == ('', '', 'error')
    assert message in grade.message and grade.message.isprintable()


def test_a_code_cell_that_no_parser_takes(tmp_path):
    "Nested a hundred thousand deep: other cells are graded."
    assert graded(tmp_path, *START, '(' * 100_000, 'x = \0', RIGHT).outcome == 'passed'


# The command


@pytest.fixture
def folder(tmp_path):
    "A class's folder, as a learning platform exports it."
    top = tmp_path / 'handed in'
    submit(top / 'silva_view.ipynb', *START, RIGHT + 'check(view_of)')
    submit(
        top / 'João Ávila/lesson.ipynb', *START, RIGHT.replace('step *= stride', 'pass') + 'check(view_of)'
    )
    submit(top / '@cmd/=1+1.ipynb', *START, LESSONS['library/receptive'].exercises['view_of'])
    submit(top / '@cmd/.ipynb_checkpoints/=1+1.ipynb', *START, RIGHT)
    submit(top / '__MACOSX/._silva.ipynb', *START)
    (top / 'costa').mkdir()
    (top / 'costa/report.pdf').write_bytes(b'%PDF')
    (top / 'lima.ipynb').write_bytes(b'')
    return top


def test_command(folder, tmp_path):
    before = disk(folder)
    code, out, err = shell('grade', folder, '--out', tmp_path / 'grades.csv')
    assert (code, err) == (0, '') and disk(folder) == before
    rows = {row['submission']: row for row in rows_of(tmp_path / 'grades.csv')}
    outcomes = {name: (row['student'], row['lesson'], row['outcome']) for name, row in rows.items()}
    assert outcomes == {
        "'@cmd/=1+1.ipynb": ("'@cmd", 'How far a network sees, by arithmetic', 'not attempted'),
        'João Ávila/lesson.ipynb': ('João Ávila', 'How far a network sees, by arithmetic', 'failed'),
        'costa': ('costa', '', 'error'),
        'lima.ipynb': ('lima', '', 'error'),
        'silva_view.ipynb': ('silva_view', 'How far a network sees, by arithmetic', 'passed'),
    }
    assert rows['João Ávila/lesson.ipynb']['message'].startswith(
        'Behind a pooling, neighbours lie two pixels'
    )
    assert float(rows['silva_view.ipynb']['seconds']) > 0
    assert 'How far a network sees, by arithmetic, view_of: 1 passed, 1 failed, 1 not attempted' in out
    assert out.endswith('5 rows of 5 submissions\n')
    for row in rows.values():
        assert all(cell[:1] not in tuple('=+-@\t\r') and cell.isprintable() for cell in row.values())


def test_summary_names_what_wrong_answers_share(tmp_path):
    for name in 'abc':
        submit(tmp_path / f'{name}.ipynb', *START, RIGHT.replace('step *= stride', 'pass'))
    said = succeeds('grade', tmp_path, '--out', tmp_path / 'grades.csv')
    assert '  3 answers: Behind a pooling, neighbours lie two pixels' in said


def test_a_table_is_not_replaced_unasked(folder, tmp_path):
    "A teacher edits it."
    table = tmp_path / 'grades.csv'
    succeeds('grade', folder, '--out', table)
    first = table.read_bytes()
    code, out, err = shell('grade', folder, '--out', table)
    assert (code, out) == (2, '') and table.read_bytes() == first
    check_line(err, 'grades.csv is there already, perhaps with changes of yours', '--overwrite')
    succeeds('grade', folder, '--out', table, '--overwrite')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['nowhere'], 'nowhere is no folder'),
        (['handed in/silva_view.ipynb'], 'is no folder: give the folder'),
        (['handed in/costa'], 'holds no notebooks'),
        (['handed in', '--out', 'grades.xlsx'], "must be one of .csv, got '.xlsx'"),
        (['handed in', '--out', ''], 'must be one of .csv'),
        (['handed in', '--out', 'handed in/link.csv'], 'is an input and would be lost'),
        (['handed in', '--seconds', '0'], 'seconds must be a number above 0'),
        (['handed in', '--seconds', 'nan'], 'seconds must be a number above 0, got nan'),
        (['handed in', '--memory', '-1'], 'memory must be a number above 0'),
        ([], 'arguments are required: folder'),
    ],
)
def test_bad_input(words, said, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / 'link.csv').symlink_to(folder / 'silva_view.ipynb')
    before = disk(tmp_path)
    code, out, err = shell('grade', *words)
    assert (code, out) == (2, '') and disk(tmp_path) == before
    check_line(err, said)


def test_files_beside_the_notebooks_are_named(tmp_path):
    submit(tmp_path / 'a.ipynb', *START)
    (tmp_path / 'bela.py').write_text('x = 1')
    code, _, err = shell('grade', tmp_path, '--out', tmp_path / 'grades.csv')
    assert code == 0 and err == 'note: not graded, because they are no notebooks: bela.py\n'


@posix
def test_interrupted(folder, tmp_path):
    "Ctrl-C leaves no table, no folder and no process."
    submit(folder / 'a.ipynb', *START, 'def view_of(layers):\n    import time\n    while True: time.sleep(1)')
    places = tmp_path / 'places'
    places.mkdir()
    command = start_process('grade', folder, '--out', tmp_path / 'grades.csv', TMPDIR=str(places))
    end = time.monotonic() + 60
    while not list(places.glob('*/said.json')) and time.monotonic() < end:
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    check_line(err, 'grade: interrupted; nothing half-written is left')
    assert list(places.iterdir()) == [] and [p.name for p in tmp_path.iterdir() if p.is_file()] == []
