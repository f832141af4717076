"""Prints the catalogue as docs/metrics.md: ``python -m sidecar.metrics > docs/metrics.md``.

Given: nothing. Hands on: Markdown. Never: holds a fact that the tables do not have.
"""

from collections.abc import Iterator

from sidecar.metrics import ALIASES, FAMILIES, GROUPS


def document() -> str:
    """docs/metrics.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "Made from the tables in `sidecar/metrics/` by `python -m sidecar.metrics > docs/metrics.md`; do not edit."
    yield ""
    yield "W&B, TensorBoard, the API and the export share the names of the first tables. A name in braces stands for"
    yield "many. What is not known is absent, never 0. Prometheus names are in base units: a percentage is a ratio"
    yield "0..1 there, GB are bytes. Sources: *trainer* (sent by the training process), *derived* (computed by the"
    yield "sidecar), *hardware* (read by the sidecar). Everything logged that has no Prometheus name of its own is"
    yield '`training_metric{name="..."}`.'
    for title, metrics in GROUPS.items():
        yield from ("", f"## {title}", "", "| Name | Unit | Type | Source | Prometheus | Meaning |",
                    "|---|---|---|---|---|---|")
        for m in metrics:
            outside = f"`{m.prometheus}`" if m.prometheus else "-"
            yield f"| `{m.name}` | {m.unit or '-'} | {m.kind} | {m.source} | {outside} | {m.help} |"
    yield from ("", "## Prometheus families", "", "| Name | Type | Unit | Labels | Meaning |", "|---|---|---|---|---|")
    for f in FAMILIES.values():
        yield f"| `{f.name}` | {f.kind} | {f.unit or '-'} | {', '.join(f.labels) or '-'} | {f.help} |"
    yield from ("", "## Other names for the same number", "", "| Alias | Canonical name |", "|---|---|")
    for alias, name in ALIASES.items():
        yield f"| `{alias}` | `{name}` |"


if __name__ == "__main__":
    print(document(), end="")
