"""The published formats of public datasets: how a row of each becomes an Example.

Given: one row, as the hub's files have it. Hands on: an Example or a Preference.
Never: guesses: a row of another shape raises KeyError, TypeError or ValueError, and the reader of rows counts it.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from trainer.tasks.example import Example, Message, Preference, ask
from trainer.tasks.rows import Row

LETTERS = tuple("ABCDEFGHIJ")
FINAL = re.compile(r"####\s*(-?[\d.,]*\d)")


def smoltalk(row: Row) -> Example:
    """{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}"""
    messages = _messages(row["messages"])
    if messages[-1].role != "assistant":
        messages = messages[:-1]
    if not any(message.role == "assistant" for message in messages[1:]):
        raise ValueError("no reply of the assistant to learn from")
    return Example(messages)


def mmlu(row: Row) -> Example:
    """{"question": ..., "choices": [four], "answer": 2}; some files have a letter, and a row of their own "train"."""
    row = row["train"] if isinstance(row.get("train"), dict) else row
    choices, answer = _texts(row["choices"]), row["answer"]
    letter = LETTERS[answer] if type(answer) is int and answer >= 0 else _text(answer)
    return choice(_text(row["question"]), choices, LETTERS[: len(choices)], letter)


def arc(row: Row) -> Example:
    """{"question": ..., "choices": {"text": [...], "label": ["A", ...]}, "answerKey": "C"}; labels may be digits."""
    choices = row["choices"]
    return choice(_text(row["question"]), _texts(choices["text"]), _texts(choices["label"]), _text(row["answerKey"]))


def gsm8k(row: Row) -> Example:
    """{"question": ..., "answer": "reasoning with <<3*4=12>> calculator marks\\n#### 12"}"""
    reply = _text(row["answer"])
    number = final_number(reply)
    if number is None:
        raise ValueError("the answer has no #### number")
    return ask(_text(row["question"]), re.sub(r"<<[^>]*>>", "", reply), answer=number)


def prompts(row: Row) -> Example:
    """A prompt with a verifiable answer: {"prompt": text or messages, "answer": "12"}, or GSM8K's own shape."""
    if "prompt" not in row:
        return gsm8k(row)
    answer = str(row["answer"])
    answer = final_number(answer) or _number(answer)
    asked = row["prompt"]
    messages = (Message("user", asked),) if isinstance(asked, str) else _messages(asked)
    return Example((*messages, Message("assistant", f"#### {answer}")), answer=answer)


def preference(row: Row) -> Preference:
    """{"prompt": ..., "chosen": ..., "rejected": ...}; the replies are texts, or whole conversations."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str):
        asked = row["prompt"]
        prompt = (Message("user", _text(asked)),) if isinstance(asked, str) else _messages(asked)
        return Preference(prompt, _text(chosen), _text(rejected))
    good, bad = _messages(chosen), _messages(rejected)
    if good[:-1] != bad[:-1] or len(good) < 2:
        raise ValueError("chosen and rejected do not answer the same prompt")
    return Preference(good[:-1], good[-1].content, bad[-1].content)


def humaneval(row: Row) -> Example:
    """{"prompt": "def f(...): ...", "canonical_solution": ..., "test": "def check(candidate): ...", "entry_point"}"""
    tests = f"{_text(row['test'])}\ncheck({_text(row['entry_point'])})"
    return ask(_text(row["prompt"]), _text(row["canonical_solution"]), tests=tests)


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
    """Exact match of the final number, as GSM8K is scored."""
    return final_number(reply) == example.answer


def _number(text: str) -> str:
    """In one canonical spelling. Raises ValueError for anything but a finite number."""
    value = float(text.replace(",", ""))
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return str(int(value)) if value == int(value) else str(value)


def _messages(rows: Any) -> tuple[Message, ...]:
    messages = tuple(Message(_text(row["role"]), _text(row["content"])) for row in rows)
    if not messages or any(message.role not in ("system", "user", "assistant") for message in messages):
        raise ValueError("messages must be of system, user and assistant")
    return messages


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise TypeError(f"{type(values).__name__} where a list should be")
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    return value
