"""Tasks that need no download: questions about the standard library, from its own docstrings, and small sums.

Given: this machine's Python. Hands on: Tasks of the same shapes as public datasets: chat (SmolTalk), multiple
choice (MMLU, ARC), word problems (GSM8K), preferences and prompts by verifiable correctness, tiny programs (HumanEval).
Never: makes an answer that was not checked, or imports the modules it asks about (it reads their source).
"""

import ast
import functools
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.data.corpus import shuffled_by_name
from trainer.tasks.example import Example, Preference, Task, ask
from trainer.tasks.formats import LETTERS, choice, is_correct

ENTRIES_MAX = 800
SENTENCE_MAX = 70
VAL_SHARE = 10  # One in ten is held out.
NAMES = ("Tom", "Ann", "Sam", "Eva", "Ben", "Mia")
THINGS = ("apples", "coins", "books", "cards", "pens")


class Entry(NamedTuple):
    module: str
    name: str
    sentence: str
    """The first of its docstring."""


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Public functions and classes of the library's top-level modules that say in one short sentence what they do."""
    found: list[Entry] = []
    for file in shuffled_by_name([path.name for path in _library().glob("[a-z]*.py")]):
        found += _entries_of(_library() / file)
        if len(found) >= ENTRIES_MAX:
            break
    return tuple(found[:ENTRIES_MAX])


@functools.cache
def words_of(module: str) -> frozenset[str]:
    """Every word of its source."""
    return frozenset(re.findall(r"\w+", (_library() / f"{module}.py").read_text(encoding="utf-8")))


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _entries_of(file: Path) -> Iterator[Entry]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Old modules have escapes that newer compilers warn about.
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            sentence = (ast.get_docstring(node) or "").split("\n\n")[0].split(". ")[0].replace("\n", " ").strip()
            if 10 <= len(sentence) <= SENTENCE_MAX and sentence.isascii():
                yield Entry(file.stem, node.name, sentence.rstrip("."))


def chat() -> Task[Example]:
    """What does it do? The answer is its docstring's."""
    return _task("docstrings", [ask(f"What does {e.module}.{e.name} do?", f"{e.sentence}.") for e in entries()])


def modules(choices: int = 4) -> Task[Example]:
    """Which module is it from? One of four; the other three do not even mention the name."""
    rng = random.Random(1)
    words = {name: words_of(name) for name in sorted({entry.module for entry in entries()})}
    examples = []
    for entry in entries():
        others = [name for name in words if entry.name not in words[name]]
        offered = [entry.module, *rng.sample(others, choices - 1)]
        rng.shuffle(offered)
        answer = LETTERS[offered.index(entry.module)]
        examples.append(choice(f"Which module has {entry.name}?", offered, LETTERS[:choices], answer))
    return _task("modules", examples)


@functools.cache
def sums() -> Task[Example]:
    """Word problems with small numbers; every answer passes the check that the model's answers will have to."""
    problems = [_sum(a, b, more, who, what) for a in range(1, 6) for b in range(1, 6) for more in (True, False)
                for who in NAMES for what in THINGS if more or a >= b]  # fmt: skip
    if not all(is_correct(problem, problem.reply) for problem in problems):
        raise AssertionError("a sum was wrong")
    random.Random(2).shuffle(problems)
    return _task("sums", problems)


def _sum(a: int, b: int, more: bool, who: str, what: str) -> Example:
    number = a + b if more else a - b
    sign, verb = ("+", "gets") if more else ("-", "loses")
    question = f"{who} has {a} {what} and {verb} {b}. How many {what} now?"
    return ask(question, f"{a}{sign}{b}={number} #### {number}", answer=str(number))


def preferences() -> Task[Preference]:
    """A right reply and a wrong one to each sum, of the same form: only the number tells them apart."""
    task, rng = sums(), random.Random(3)
    train, val = ([_preference(example, rng) for example in half] for half in (task.train, task.val))
    return Task("sums (preferences)", train, val)


def _preference(example: Example, rng: random.Random) -> Preference:
    wrong = int(example.answer) + rng.choice([-3, -2, -1, 1, 2, 3])
    rejected = f"{example.reply.split('=')[0]}={wrong} #### {wrong}"
    if is_correct(example, rejected):
        raise AssertionError("the worse reply was right")
    return Preference(example.prompt, example.reply, rejected)


def programs() -> Task[Example]:
    """Two-line functions in HumanEval's form, with tests."""
    made = []
    for name, sign in (("add", "+"), ("subtract", "-"), ("multiply", "*")):
        prompt = f'def {name}(a, b):\n    """{name.capitalize()} two numbers."""\n'
        tests = f"assert all({name}(a, b) == a {sign} b for a in range(5) for b in range(5))"
        made.append(ask(prompt, f"    return a {sign} b\n", tests=tests))
    return Task("programs", made, made)


def _task(name: str, examples: list[Example]) -> Task[Example]:
    """Every tenth example validates; the same ones on every machine with the same Python."""
    val = examples[::VAL_SHARE]
    return Task(name, [e for i, e in enumerate(examples) if i % VAL_SHARE], val)
