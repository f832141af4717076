"""What is published is what is sent, whatever is asked."""

from urllib.parse import quote

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.web.openapi import JSON_ANSWERS, REFUSALS, Error
from tests.web.conftest import Client
from tests.web.fake_views import FakeViews, make_history, make_snapshot

RUN = "nanochat-d12-1"
PATHS = [path for path in JSON_ANSWERS if path != "/status"] + ["/status"]
words = st.text(max_size=40) | st.sampled_from(
    ["", RUN, "json", "text", "step", "time", "train/loss", "0", "-1", "NaN", "1e400", "null", "../../etc/passwd",
     "\0", "\u202e", "<script>", "a,b,c", "%", "%00", "%ff", "'; --", "9" * 400])
parameters = st.lists(st.tuples(st.sampled_from(["run", "format", "names", "name", "points", "x", "other"]), words),
                      max_size=5)


def client_with_everything() -> Client:
    views = FakeViews(make_snapshot())
    views.histories[RUN] = make_history(300)
    return Client(views)


CLIENT = client_with_everything()


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PATHS), words, parameters)
def test_any_question_gets_an_answer_of_the_published_shape(path: str, run: str, asked: list) -> None:
    address = path.replace("{run_id}", quote(run, safe=""))
    query = "&".join(f"{name}={quote(value)}" for name, value in asked)
    answer = CLIENT.get(f"{address}?{query}")
    if answer.status_code != 200:
        assert str(answer.status_code) in REFUSALS
        assert msgspec.json.decode(answer.content, type=Error).error
    elif answer.headers["content-type"] == "application/json":
        msgspec.json.decode(answer.content, type=JSON_ANSWERS.get(path) if path in JSON_ANSWERS else object)


def test_the_document_describes_every_route_and_refers_only_to_what_it_contains() -> None:
    document = CLIENT.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return here + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    assert set(JSON_ANSWERS) | {"/metrics", "/api/v1/stream", "/api/v1/schema/status"} == set(document["paths"])
    assert all(operation["get"]["description"] for operation in document["paths"].values())
    assert "run_id" in schemas["Status"]["properties"]


def test_the_schema_of_status_allows_null_before_any_run() -> None:
    schema = CLIENT.get("/api/v1/schema/status").json()
    assert {"type": "null"} in schema["$defs"]["Status"]["properties"]["run_id"]["anyOf"]
