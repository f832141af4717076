"""What a task is made of: conversations, some with a known answer, some with a better and a worse reply.

Given: rows that a loader has understood. Hands on: Examples, Preferences, Tasks of them, and a TaskMixture.
Never: knows about tokens, files or models.
"""

import random
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar


class Message(NamedTuple):
    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation to learn from; the last message is the assistant's."""

    messages: tuple[Message, ...]
    letters: tuple[str, ...] = ()
    """Of a multiple choice: what may be answered; the reply is one of them."""
    answer: str = ""
    """The letter, or the number behind ####, by which a reply is judged; "" if any reply will do."""
    tests: str = ""
    """Of a programming problem: the code that judges a reply."""

    def text(self) -> str:
        """All that is said."""
        return "\n".join(message.content for message in self.messages)

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def reply(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True)
class Preference:
    """Two replies to one prompt, of which people (or a check) like the first better."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str

    def text(self) -> str:
        """All that is said."""
        return "\n".join((*(message.content for message in self.prompt), self.chosen, self.rejected))


def ask(question: str, reply: str, **more: str | tuple[str, ...]) -> Example:
    """One question, one answer."""
    return Example((Message("user", question), Message("assistant", reply)), **more)  # type: ignore[arg-type]


E = TypeVar("E", Example, Preference)


@dataclass(frozen=True)
class Task(Generic[E]):
    """A named data set in two halves."""

    name: str
    train: list[E]
    val: list[E]


@dataclass
class TaskMixture(Generic[E]):
    """Several lists of examples, shuffled into one another once and for all; reading past the end begins anew.

    >>> mixture = TaskMixture({"a": [..., ...], "b": [...]})       # doctest: +SKIP
    >>> mixture.index_map                                          # doctest: +SKIP
    [(1, 0), (0, 1), (0, 0)]
    """

    parts: dict[str, list[E]]
    seed: int = 42
    index_map: list[tuple[int, int]] = field(init=False)
    """Cursor -> (number of the task, place in it)."""

    def __post_init__(self) -> None:
        self.names = list(self.parts)
        self.index_map = [(t, i) for t, part in enumerate(self.parts.values()) for i in range(len(part))]
        random.Random(self.seed).shuffle(self.index_map)

    def __len__(self) -> int:
        return len(self.index_map)

    def __getitem__(self, cursor: int) -> E:
        """The example at ``cursor``, modulo the length. Raises IndexError if there is none at all."""
        task, place = self._place(cursor)
        return self.parts[self.names[task]][place]

    def source(self, cursor: int) -> str:
        """The name of the task that the example at ``cursor`` comes from."""
        return self.names[self._place(cursor)[0]]

    def _place(self, cursor: int) -> tuple[int, int]:
        if not self.index_map:
            raise IndexError("an empty mixture has no examples")
        return self.index_map[cursor % len(self.index_map)]
