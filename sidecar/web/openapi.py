"""The OpenAPI document, so that what is published is what is sent.

Given: the document FastAPI made from the routes. Hands on: the same with the schemas of our own structs.
Never: describes by hand what a struct already says.
"""

from typing import Any

import msgspec

from sidecar.snapshot import RunSummary
from sidecar.web.status import Status, null_before_any_run


class Error(msgspec.Struct):
    """Every refusal: what was wrong, and for an unknown run which ones there are."""

    error: str
    runs: list[str] | msgspec.UnsetType = msgspec.UNSET


class Runs(msgspec.Struct):
    runs: list[RunSummary]


class Probe(msgspec.Struct):
    status: str


class Series(msgspec.Struct):
    """Columns as long as the common axis; null where there is no value."""

    values: list[float | None]
    min: list[float | None]
    max: list[float | None]
    states: list[str | None] | None
    """None, or per place: null | nan | inf | -inf"""


class HistoryAnswer(msgspec.Struct):
    """With names: x and series. Without: the names there are."""

    x: list[float] | msgspec.UnsetType = msgspec.UNSET
    series: dict[str, Series] | msgspec.UnsetType = msgspec.UNSET
    names: list[str] | msgspec.UnsetType = msgspec.UNSET


JSON_ANSWERS: dict[str, type] = {
    "/status": Status,
    "/healthz": Probe,
    "/livez": Probe,
    "/readyz": Probe,
    "/api/v1/runs": Runs,
    "/api/v1/runs/{run_id}": Status,
    "/api/v1/runs/{run_id}/history": HistoryAnswer,
}
OTHER_ANSWERS: dict[str, tuple[str, ...]] = {
    "/status": ("text/plain",),
    "/metrics": ("text/plain", "application/openmetrics-text"),
    "/api/v1/stream": ("text/event-stream",),
}
REFUSALS = {
    "400": "Malformed, or a Host that is not served here",
    "401": "A token is needed",
    "404": "No such run",
    "413": "Requests have no body here",
    "414": "The address is too long",
    "422": "A parameter is out of its range",
}
JOURNALS_BUSY = "Too many requests wait for old journals to be read"
UNAVAILABLE = {
    "/status": JOURNALS_BUSY,
    "/livez": "Training has stalled or its process is gone",
    "/readyz": "Events cannot be taken in at the moment",
    "/api/v1/runs/{run_id}": JOURNALS_BUSY,
    "/api/v1/runs/{run_id}/history": JOURNALS_BUSY,
    "/api/v1/stream": f"Too many open streams. {JOURNALS_BUSY}",
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Replace the answers of every operation by the real ones. Changes and returns ``document``."""
    structs = [*dict.fromkeys(JSON_ANSWERS.values()), Error]
    references, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    null_before_any_run(components)
    schema_of = dict(zip(structs, references, strict=True))
    for path, operations in document["paths"].items():
        content: dict[str, Any] = {media: {"schema": {"type": "string"}} for media in OTHER_ANSWERS.get(path, ())}
        if path not in OTHER_ANSWERS or path in JSON_ANSWERS:
            content["application/json"] = {"schema": schema_of.get(JSON_ANSWERS.get(path, object), {"type": "object"})}
        refused = {"application/json": {"schema": schema_of[Error]}}
        responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
        for code, cause in REFUSALS.items():
            responses[code] = {"description": cause, "content": refused}
        responses["400"]["content"] = refused | {"text/plain": {"schema": {"type": "string"}}}
        if path in UNAVAILABLE:
            answer = content if JSON_ANSWERS.get(path) is Probe else refused
            responses["503"] = {"description": UNAVAILABLE[path], "content": answer}
        operations["get"]["responses"] = responses
    document["components"] = {"schemas": components}
    return document
