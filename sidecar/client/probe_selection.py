"""Which parameters and modules of a model a probe looks at, and what they are called.

Given: a module, and what the user asked for. Hands on: names, the same all through a run. Never: reads a weight.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

LAYERS_MAX = 64
LAYERS_LIMIT = 128  # What one may ask for: three numbers a layer must fit one record of 512.
WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

Selection = int | str | Sequence[str] | None


def plain_name(name: str) -> str:
    """A parameter's name without what DDP, torch.compile, FSDP and checkpointing put in front."""
    return WRAPPERS.sub("", name)


def chosen(names: Sequence[str], selection: Selection) -> list[str]:
    """A number: so many names, evenly spread, first and last included. Regular expressions: the names that match."""
    if isinstance(selection, str | list | tuple):
        patterns = [re.compile(p) for p in ([selection] if isinstance(selection, str) else selection)]
        return [name for name in names if any(p.search(name) for p in patterns)][:LAYERS_LIMIT]
    count = min(LAYERS_MAX if selection is None else int(selection), LAYERS_LIMIT, len(names))  # type: ignore[arg-type]
    if count < 2:
        return list(names[: max(0, count)])
    return [names[i * (len(names) - 1) // (count - 1)] for i in range(count)]


def chosen_modules(model: Any, selection: bool | Sequence[str]) -> dict[str, Any]:
    """True: the blocks (the module list with most parameters). Regular expressions: the modules that match."""
    if not selection:
        return {}
    named = {plain_name(name): module for name, module in model.named_modules() if name}
    if selection is not True:
        patterns = [re.compile(p) for p in ([selection] if isinstance(selection, str) else selection)]
        found = {name: module for name, module in named.items() if any(p.search(name) for p in patterns)}
        return {name: found[name] for name in chosen(list(found), None)}
    lists = {n: m for n, m in named.items() if type(m).__name__ in ("ModuleList", "Sequential") and len(m) > 1}
    size: Callable[[str], int] = lambda name: sum(p.numel() for p in lists[name].parameters())  # noqa: E731
    if not lists:
        return {name: module for name, module in named.items() if "." not in name}
    blocks = max(lists, key=size)
    inside = {name: m for name, m in named.items() if re.fullmatch(re.escape(blocks) + r"\.[^.]+", name)}
    return {name: inside[name] for name in chosen(list(inside), None)}
