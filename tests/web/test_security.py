"""Who is answered: hosts, tokens, bind addresses, sizes, times."""

import pytest

from sidecar.web.security import BindRefused, Security, check_bind, host_allowed, is_loopback, token_accepted
from tests.web.conftest import Client
from tests.web.fake_views import FakeViews, make_snapshot

TOKEN = "0123456789abcdef0123456789abcdef"

HOSTS = {
    "127.0.0.1": True, "127.0.0.1:9400": True, "localhost": True, "LOCALHOST": True, "localhost:80": True,
    "localhost.": True, "localhost.:9797": True, "[::1]": True, "[::1]:9400": True, "[0:0:0:0:0:0:0:1]": True,
    "evil.example": False, "127.0.0.1.evil.example": False, "": False, "0.0.0.0": False, "127.1": False,
    "localhost.evil.example": False, "evil.example:9797": False, "localhost:": False, "localhost:99999": False,
    "localhost@evil.example": False, "localhost/evil": False, "local host": False, "::1": False, "[::1": False,
    "[::ffff:127.0.0.1]": False, "localhost..": False, "lоcalhost": False, "a" * 5_000: False,
}


@pytest.mark.parametrize(("host", "allowed"), HOSTS.items(), ids=[host[:30] or "empty" for host in HOSTS])
def test_only_names_of_this_machine_are_answered(host: str, allowed: bool) -> None:
    assert host_allowed(host, Security()) is allowed


def test_configured_names_are_answered_exactly_or_below_a_wildcard() -> None:
    chosen = Security(allowed_hosts=("gpu7.example.org", "*.cluster.local"))
    assert host_allowed("GPU7.example.org:9797", chosen)
    assert host_allowed("10-0-0-1.pods.cluster.local", chosen)
    assert host_allowed("localhost", chosen)
    assert not host_allowed("x.gpu7.example.org", chosen)
    assert not host_allowed("evilcluster.local", chosen)
    assert not host_allowed("cluster.local", chosen)


def test_with_a_token_any_host_is_answered_unless_names_are_given() -> None:
    assert host_allowed("10.1.2.3:9797", Security(host="0.0.0.0", token=TOKEN))
    assert not host_allowed("10.1.2.3:9797", Security(host="0.0.0.0", token=TOKEN, allowed_hosts=("a.example",)))


def test_a_foreign_host_header_gets_400_and_no_data() -> None:
    client = Client(FakeViews(make_snapshot()))
    for path in ("/", "/status", "/metrics", "/healthz", "/nope"):
        answer = client.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 400, path
        assert b"nanochat" not in answer.content


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True),
    ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False),
    ("::ffff:10.0.0.1", False), ("example.org", False), ("localhost.example.org", False), ("127.1", False),
])
def test_only_what_no_other_machine_can_reach_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "gpu7"])
def test_binding_beyond_loopback_without_a_token_is_refused_with_a_remedy(host: str) -> None:
    with pytest.raises(BindRefused) as refused:
        check_bind(Security(host=host))
    assert "token" in refused.value.remedy
    check_bind(Security(host=host, token=TOKEN))


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(BindRefused, match="characters"):
        check_bind(Security(token="secret"))


def test_with_a_token_data_needs_it_and_probes_do_not() -> None:
    client = Client(FakeViews(make_snapshot()), Security(token=TOKEN))
    for path in ("/status", "/metrics", "/api/v1/runs", "/api/v1/stream", "/openapi.json"):
        for header in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": f"Basic {TOKEN}"},
                       {"authorization": TOKEN}, {"authorization": "Bearer "}):
            answer = client.get(path, headers=header)
            assert answer.status_code == 401, (path, header)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert b"nanochat" not in answer.content
    assert client.get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    for path in ("/healthz", "/livez", "/readyz", "/", "/page/app.js"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert b"nanochat" not in answer.content


def test_non_ascii_tokens_are_refused_not_crashed_on() -> None:
    assert not token_accepted("Bearer é", TOKEN)
    assert not token_accepted(None, TOKEN)


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/nope", "/healthz", "/page/app.js"])
def test_every_answer_carries_the_security_headers(path: str) -> None:
    headers = Client(FakeViews(make_snapshot())).get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_long_addresses_and_bodies_are_refused() -> None:
    client = Client(FakeViews(make_snapshot()))
    assert client.get("/status?run=" + "x" * 9_000).status_code == 414
    assert client.request("GET", "/status", content=b"x" * 100).status_code == 413
