"""The chat template: a conversation as tokens, and the loss mask of what the assistant said.

    BOS  USER_START what? USER_END  ASSISTANT_START this. ASSISTANT_END

Given: messages. Hands on: (token ids, loss mask); the mask is True on the assistant's words and ASSISTANT_END.
Never: lets text produce a special token: text is bytes, 0 to 255, and special tokens begin at 256.
"""

from collections.abc import Iterable, Iterator, Sequence

from trainer.tasks.example import Message
from trainer.tokenizer import ASSISTANT_END, ASSISTANT_START, BOS, USER_END, USER_START, ByteTokenizer

TURNS = {"user": (USER_START, USER_END), "assistant": (ASSISTANT_START, ASSISTANT_END)}
TEMPLATE = 2
"""To be raised when ``render`` changes: prepared tokens of another template are not used again."""
_tokenizer = ByteTokenizer()


def render(messages: Iterable[Message]) -> tuple[list[int], list[bool]]:
    tokens, loss_mask = [BOS], [False]
    for role, content in _turns(messages):
        start, end = TURNS[role]
        text, is_reply = _tokenizer.encode(content), role == "assistant"
        tokens += [start, *text, end]
        loss_mask += [False, *[is_reply] * len(text), is_reply]
    return tokens, loss_mask


def _turns(messages: Iterable[Message]) -> Iterator[Message]:
    """This template has no special token for a system message: it goes in front of the user's next words, or stands in
    their place where the user says nothing."""
    system: list[str] = []
    for message in messages:
        if message.role == "system":
            system.append(message.content)
            continue
        if message.role == "user":
            message = Message("user", "\n\n".join((*system, message.content)))
        elif system:
            yield Message("user", "\n\n".join(system))
        yield message
        system = []
    if system:
        yield Message("user", "\n\n".join(system))


def render_prompt(messages: Sequence[Message]) -> list[int]:
    """Up to where the assistant begins to speak."""
    return [*render(messages)[0], ASSISTANT_START]


def reply_of(tokens: Iterable[int]) -> str:
    """What the assistant said, up to ASSISTANT_END."""
    said = []
    for token in tokens:
        if token == ASSISTANT_END:
            break
        said.append(token)
    return _tokenizer.decode(said)
