"""Does a text hold a secret? Told from ordinary names by how it is built, not by its digits. Pure.

Given: a text, or the name of a setting. Hands on: yes or no, or the text with secrets replaced.
Never: knows the secrets themselves, or takes a run's name, a date, a UUID or a short commit for one.

Keys of well-known services are recognised by their prefix. Any other word of 20 characters or more is split at its
separators. Parts that can be read (words, numbers, short or dashed hexadecimal) are harmless; a word is a secret when
16 or more of its characters are in other parts. Digits, hexadecimal of fewer than 32 places and UUIDs are ids that
machines give.
"""

import re
from collections.abc import Callable

REDACTED = "[redacted]"

SECRET_WORDS = frozenset(
    {
        "apikey", "auth", "authorization", "bearer", "cookie", "credential", "credentials", "key", "keys",
        "login", "passphrase", "passwd", "password", "pat", "private", "pwd", "secret", "secrets", "session",
        "token", "tokens", "webhook", "dsn",
    }
)  # fmt: skip
STRONG_SECRET = re.compile(r"(api|access|auth|private|secret)[_-]?(key|token)|passw|secret|credential", re.I)

WORD_CHARS_MIN = 20
UNEXPLAINED_CHARS_MIN = 16
HEX_ID_CHARS_MAX = 31
SHORT_MIX_CHARS_MAX = 10
ABBREVIATION_CHARS_MAX = 5
READABLE_SHARE, READABLE_SHARE_SHORT = 0.6, 0.5
"""Of a word's pairs of letters; abbreviations of five letters at most need fewer."""

_KNOWN_PREFIXES = re.compile(
    r"""(?x) sk-[\w-]{16,} | hf_\w{16,} | gh[pousr]_\w{20,} | github_pat_\w{20,} | xox[abprs]-[\w-]{10,}
    | AKIA[0-9A-Z]{12,} | AIza[\w-]{30,} | glpat-[\w-]{16,} | eyJ[\w-]{10,}\.[\w-]{10,} | -----BEGIN | wandb_v\d_\w{10,}
    | ://[^/\s:@]+:[^/\s@]+@ | \bBearer\s+\S{8,}"""
)
_WORD = re.compile(rf"[A-Za-z0-9+/_=-]{{{WORD_CHARS_MIN},}}")
_SEPARATOR = re.compile(r"[-_/+=]")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_UUID = re.compile(r"[0-9a-f]{12}[47][0-9a-f]{3}[89ab][0-9a-f]{15}")
_RUNS = re.compile(r"[A-Za-z]+|[0-9]+")
_LABEL_WORDS = re.compile(r"[A-Za-z0-9]+")

FOLLOWERS = {
    "a": "bcdgiklmnprstuvy", "b": "aeilosu", "c": "acehiklortu", "d": "adeiosu", "e": "acdefgilmnpqrstvwxy",
    "f": "aefiloru", "g": "ehinrsu", "h": "aeiot", "i": "abcdefglmnoprstvz", "k": "e", "l": "adeilostuy",
    "m": "abeimopsu", "n": "acdefgilnostuv", "o": "abcdgiklmnoprstuvw", "p": "aeiloprstuy", "q": "u",
    "r": "acdegilmnorstuy", "s": "acehilopstuy", "t": "acehiloprstuy", "u": "abceilmnprst", "v": "aei",
    "w": "aehior", "x": "cept", "y": "pst", "z": "e",
}  # fmt: skip
PAIRS = frozenset(first + second for first, seconds in FOLLOWERS.items() for second in seconds)
"""The 230 most usual pairs of letters in the words of English and of programs: 93 % of them, 34 % of chance."""


def is_secret_key(key: str) -> bool:
    """Does the key's name say that its (string) value is a secret? ``tokenizer`` does not, ``api_token`` does."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return bool(STRONG_SECRET.search(key)) or any(word.lower() in SECRET_WORDS for word in _LABEL_WORDS.findall(spaced))


def looks_secret(text: str) -> bool:
    return bool(_KNOWN_PREFIXES.search(text)) or any(looks_random(word) for word in _WORD.findall(text))


def has_known_prefix(text: str) -> bool:
    """Only keys with a prefix of their own: for whole files, where chance makes any other word."""
    return bool(_KNOWN_PREFIXES.search(text))


def without_secrets(text: str) -> str:
    replace: Callable[[re.Match[str]], str] = lambda found: REDACTED if looks_random(found[0]) else found[0]  # noqa: E731
    return _WORD.sub(replace, _KNOWN_PREFIXES.sub(REDACTED, text))


def looks_random(word: str) -> bool:
    """Is it more like a key than like words, numbers and the ids that machines give?"""
    if len(word) < WORD_CHARS_MIN:
        return False
    unexplained = sum(len(part) for part in _SEPARATOR.split(word) if part and not _explains_itself(part))
    return unexplained >= UNEXPLAINED_CHARS_MIN


def _explains_itself(part: str) -> bool:
    if _HEX.fullmatch(part) and not part.isdigit():
        return len(part) <= HEX_ID_CHARS_MAX or bool(_UUID.fullmatch(part))
    if len(part) <= ABBREVIATION_CHARS_MAX and part.isalpha() and (part.islower() or part.isupper()):
        return True
    runs = _RUNS.findall(part)
    if not all(len(run) <= 3 or _is_readable(run) for run in runs if run.isalpha()):
        return False
    if len(part) <= SHORT_MIX_CHARS_MAX:
        return len(runs) == 1 or part[1:].lower() == part[1:] or part.upper() == part
    return len(part) / len(runs) >= 2.5


def _is_readable(letters: str) -> bool:
    low = letters.lower()
    known = sum(low[at : at + 2] in PAIRS for at in range(len(low) - 1))
    return known >= (len(low) - 1) * (READABLE_SHARE if len(low) > 5 else READABLE_SHARE_SHORT)
