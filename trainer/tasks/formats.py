"""The published formats of public datasets: how a row of each becomes an Example.

Given: one row, as the hub's files have it. Hands on: an Example or a Preference.
Never: guesses: a row of another shape raises KeyError or ValueError, and the reader of rows counts it.
"""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from trainer.tasks.example import Example, Message, Preference, ask
from trainer.tasks.rows import Row

T = TypeVar("T")
LETTERS = tuple("ABCDEFGHIJ")
KINDS: dict[type, str] = {
    str: "text", list: "a list", dict: "an object", type(None): "null", bool: "true or false", int: "a number",
    float: "a number",
}  # fmt: skip
"""What JSON calls them."""
FINAL = re.compile(r"####\s*(-?[0-9.,]*[0-9])")


def smoltalk(row: Row) -> Example:
    """{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}"""
    messages = _messages(row, "messages")
    if messages[-1].role != "assistant":
        messages = messages[:-1]
    if not any(message.role == "assistant" for message in messages[1:]):
        raise ValueError("no reply of the assistant to learn from")
    return Example(messages)


def mmlu(row: Row) -> Example:
    """{"question": ..., "choices": [four], "answer": 2}; some files have a letter, and a row of their own "train"."""
    row = row["train"] if isinstance(row.get("train"), dict) else row
    choices, answer = _texts(row, "choices"), row["answer"]
    letters = LETTERS[: len(choices)]
    if type(answer) is int and 0 <= answer < len(letters):
        answer = letters[answer]
    return choice(_text(row, "question"), choices, letters, answer)


def arc(row: Row) -> Example:
    """{"question": ..., "choices": {"text": [...], "label": ["A", ...]}, "answerKey": "C"}; labels may be digits."""
    choices = _field(row, "choices", dict)
    return choice(_text(row, "question"), _texts(choices, "text"), _texts(choices, "label"), _text(row, "answerKey"))


def gsm8k(row: Row) -> Example:
    """{"question": ..., "answer": "reasoning with <<3*4=12>> calculator marks\\n#### 12"}"""
    reply = _text(row, "answer")
    number = final_number(reply)
    if number is None:
        raise ValueError("the answer has no #### number")
    return ask(_text(row, "question"), re.sub(r"<<[^>]*>>", "", reply), answer=number)


def prompts(row: Row) -> Example:
    """A prompt with a verifiable answer: {"prompt": text or messages, "answer": "12"}, or GSM8K's own shape."""
    if "prompt" not in row:
        return gsm8k(row)
    answer = str(row["answer"])
    answer = final_number(answer) or _number(answer)
    return Example((*_prompt(row), Message("assistant", f"#### {answer}")), answer=answer)


def preference(row: Row) -> Preference:
    """{"prompt": ..., "chosen": ..., "rejected": ...}; the replies are texts, or whole conversations."""
    if isinstance(row["chosen"], str):
        prompt, chosen, rejected = _prompt(row), row["chosen"], _text(row, "rejected")
    else:
        (*asked, good), (*also_asked, bad) = _messages(row, "chosen"), _messages(row, "rejected")
        if not asked or asked != also_asked:
            raise ValueError("chosen and rejected do not answer the same prompt")
        if {good.role, bad.role} != {"assistant"}:
            raise ValueError("chosen and rejected do not end with a reply of the assistant")
        prompt, chosen, rejected = tuple(asked), good.content, bad.content
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    return Preference(prompt, chosen, rejected)


def humaneval(row: Row) -> Example:
    """{"prompt": "def f(...): ...", "canonical_solution": ..., "test": "def check(candidate): ...", "entry_point"}"""
    tests = f"{_text(row, 'test')}\ncheck({_text(row, 'entry_point')})"
    return ask(_text(row, "prompt"), _text(row, "canonical_solution"), tests=tests)


FORMATS: dict[str, Callable[[Row], Any]] = {
    "smoltalk": smoltalk, "mmlu": mmlu, "arc": arc, "gsm8k": gsm8k,
    "preference": preference, "prompts": prompts, "humaneval": humaneval,
}  # fmt: skip


def choice(question: str, choices: Sequence[str], letters: Sequence[str], answer: str) -> Example:
    """A multiple choice as one question; the reply is a letter. Raises ValueError for an answer not on offer, and for
    letters of more than one byte: they are compared as single tokens."""
    if not all(len(letter.encode()) == 1 for letter in letters):
        raise ValueError(f"the choices are labelled {', '.join(letters)[:40]}, not by one ASCII letter or digit each")
    if answer not in letters or not len(choices) == len(letters) == len(set(letters)) >= 2:
        raise ValueError(f"answer {answer!r} is not one of {len(choices)} choices")
    lines = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, choices, strict=True))
    return ask(f"{question}\n{lines}", answer, letters=tuple(letters), answer=answer)


def final_number(reply: str) -> str | None:
    """The number behind ####, without thousands commas; it decides whether a reply is right. None if there is none."""
    found = FINAL.search(reply)
    try:
        return _number(found[1]) if found else None
    except ValueError:
        return None


def is_correct(example: Example, reply: str) -> bool:
    """Exact match of the final number, as GSM8K is scored; of numbers, where lm-eval's strict match compares their
    spelling, so that 12.0 and 012 are 12 here."""
    return final_number(reply) == example.answer


def _number(text: str) -> str:
    """In one canonical spelling, to the last digit. Raises ValueError for anything but a finite number."""
    try:
        value = Decimal(text.replace(",", ""))
        size = abs(float(value))
    except (ArithmeticError, ValueError):
        size = math.nan
    if not math.isfinite(size) or (value and not size):
        raise ValueError(f"the answer {text[:20]!r} is no finite number")
    digits = format(value, "f")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) if value else "0"


# -- fields of a row, of the right type --------------------------------------------------------------------------------


def _field(row: Row, name: str, kind: type[T]) -> T:
    value = row[name]
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {KINDS.get(type(value), 'something else')}, not {KINDS[kind]}")
    return value


def _text(row: Row, name: str) -> str:
    return _field(row, name, str)


def _texts(row: Row, name: str) -> list[str]:
    return [_text({name: value}, name) for value in _field(row, name, list)]


def _messages(row: Row, name: str) -> tuple[Message, ...]:
    rows = [_field({name: message}, name, dict) for message in _field(row, name, list)]
    messages = tuple(Message(_text(message, "role"), _text(message, "content")) for message in rows)
    if not messages:
        raise ValueError(f"{name} is empty")
    if others := [message.role for message in messages if message.role not in ("system", "user", "assistant")]:
        raise ValueError(f"{name} has one of {others[0][:20]!r}, not of system, user or assistant")
    return messages


def _prompt(row: Row) -> tuple[Message, ...]:
    """A text, or messages of which the user has the last."""
    if isinstance(row["prompt"], str):
        return (Message("user", row["prompt"]),)
    messages = _messages(row, "prompt")
    if messages[-1].role != "user":
        raise ValueError("the prompt does not end with words of the user")
    return messages
