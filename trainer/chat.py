"""The chat template: a conversation as tokens, and the loss mask of what the assistant said.

    BOS  USER_START what? USER_END  ASSISTANT_START this. ASSISTANT_END

Given: messages. Hands on: (token ids, loss mask); the mask is True on the assistant's words and ASSISTANT_END.
Never: lets text produce a special token: text is bytes, 0 to 255, and special tokens begin at 256.
"""

from collections.abc import Iterable, Sequence

from trainer.tasks.example import Message
from trainer.tokenizer import ASSISTANT_END, ASSISTANT_START, BOS, USER_END, USER_START, ByteTokenizer

TURNS = {"user": (USER_START, USER_END), "assistant": (ASSISTANT_START, ASSISTANT_END)}
TEMPLATE = 1
"""To be raised when ``render`` changes: prepared tokens of another template are not used again."""
_tokenizer = ByteTokenizer()


def render(messages: Iterable[Message]) -> tuple[list[int], list[bool]]:
    """A system message goes in front of the user's next words: this template has no special token for it."""
    tokens, loss_mask, system = [BOS], [False], ""
    for message in messages:
        if message.role == "system":
            system += f"{message.content}\n\n"
            continue
        start, end = TURNS[message.role]
        text = _tokenizer.encode(system + message.content if message.role == "user" else message.content)
        is_reply = message.role == "assistant"
        tokens += [start, *text, end]
        loss_mask += [False, *[is_reply] * len(text), is_reply]
        system = "" if message.role == "user" else system
    return tokens, loss_mask


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
