"""Settings: which source wins, and what a mistake says."""

import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import config
from sidecar.cli import main
from sidecar.config import Loaded, load, read
from sidecar.errors import UserError


def test_option_beats_variable_beats_file_beats_default() -> None:
    def port(**sources: object) -> tuple[int, str]:
        loaded = load(sources.get("options", {}), sources.get("environ", {}), sources.get("text"))  # type: ignore[arg-type]
        return loaded.config.port, loaded.origins["port"]

    file, variable, option = {"text": "port = 1"}, {"environ": {"SIDECAR_PORT": "2"}}, {"options": {"port": "3"}}
    assert port() == (9797, "default")
    assert port(**file) == (1, "sidecar.toml")
    assert port(**file, **variable) == (2, "SIDECAR_PORT")
    assert port(**file, **variable, **option) == (3, "option --port")


def test_every_setting_has_an_origin_and_is_shown() -> None:
    shown = load({}, {}).shown()
    assert [field for field, _, _ in shown] == list(config.FIELDS)
    assert {origin for _, _, origin in shown} == {"default"}


def test_secrets_are_never_shown() -> None:
    loaded = load({}, {"SIDECAR_TOKEN": "hush"})
    assert ("token", "***", "SIDECAR_TOKEN") in loaded.shown()
    assert "hush" not in str(loaded.shown())
    with pytest.raises(UserError) as refused:
        load({}, {}, "token = 1234321")
    assert "1234321" not in str(refused.value)


def test_a_password_in_an_address_is_not_shown_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_OTLP_ENDPOINT", "https://me:hush@host:4318/v1")
    monkeypatch.setenv("SIDECAR_TOKEN", "hushed")
    assert main(["config", "show"]) == 0
    assert main(["config", "show", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "hush" not in printed
    assert printed.count("https://***@host:4318/v1") == 2
    assert load({}, dict(os.environ)).config.otlp_endpoint == "https://me:hush@host:4318/v1"
    with pytest.raises(UserError) as refused:
        load({"endpoint": "http://me:hush@host"}, {})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "variable", ["SIDECAR_PROJCT", "SIDECAR_SINKKS", "SIDECAR_WANDB_MODES", "SIDECAR_LOGLEVEL", "SIDECAR_PROT"]
)
def test_a_variable_that_is_nearly_ours_is_an_error_with_a_suggestion(variable: str) -> None:
    with pytest.raises(UserError, match=f"unknown variable {variable}") as refused:
        load({}, {variable: "1"})
    assert refused.value.remedy.startswith("did you mean SIDECAR_")


def test_no_variable_of_our_own_is_taken_for_a_slip(repository: Path) -> None:
    ours = set()
    for path in [*(repository / "sidecar").rglob("*.py"), *(repository / "trainer").rglob("*.py")]:
        ours |= set(re.findall(r"\bSIDECAR_[A-Z_]*[A-Z]\b", path.read_text()))
    settable = {f"SIDECAR_{field.upper()}" for field in config.FIELDS} | set(config.ENVIRONMENT_ALIASES)
    assert len(ours - settable) > 5
    load({}, dict.fromkeys(ours - settable, "1"))


@pytest.mark.parametrize(
    ("options", "environ", "text", "cause", "remedy"),
    [
        ({}, {}, "prot = 1", 'sidecar.toml: unknown key "prot"', 'did you mean "port"?'),
        ({}, {}, "[wandb]\nmod = 1", 'unknown key "wandb_mod"', 'did you mean "wandb_mode"?'),
        ({}, {}, "zzzz = 1", 'unknown key "zzzz"', "`sidecar config show` lists every key"),
        ({}, {}, "a = 1\nb c", "is not valid TOML", "correct line 2 of sidecar.toml"),
        ({}, {}, "port = 'x'", "sidecar.toml: port: 'x' is not accepted", "from 0 (any free port) to 65535"),
        ({}, {"SIDECAR_LOG_LEVEL": "loud"}, None, "SIDECAR_LOG_LEVEL: 'loud'", "use one of debug, info"),
        ({"endpoint": "bogus"}, {}, None, "--endpoint: 'bogus' is not accepted", "use ipc://PATH or tcp://ADDRESS:PORT"),
        ({"port": "70000"}, {}, None, "--port: '70000' is not accepted", "from 0"),
        ({"grace_seconds": "-1"}, {}, None, "--grace: '-1' is not accepted", "grace_seconds"),
        ({"grace_seconds": "nan"}, {}, None, "--grace: 'nan' is not accepted", "grace_seconds"),
        ({"sample_seconds": "inf"}, {}, None, "--sample-seconds: 'inf' is not accepted", "sample_seconds"),
        ({}, {"SIDECAR_KEEP": "maybe"}, None, "SIDECAR_KEEP: 'maybe' is not accepted", "use true or false"),
    ],
)
def test_mistakes_name_their_source_and_the_remedy(
    options: dict[str, object], environ: dict[str, str], text: str | None, cause: str, remedy: str
) -> None:
    with pytest.raises(UserError) as refused:
        load(options, environ, text)
    assert cause in refused.value.cause
    assert remedy in refused.value.remedy
    assert refused.value.exit_code == 2
    assert len(str(refused.value).splitlines()) == 2


def test_lists_are_separated_by_commas_and_none_is_the_empty_one() -> None:
    def sinks(text: str) -> tuple[str, ...]:
        return load({"sinks": text}, {}).config.sinks

    assert sinks("wandb, tensorboard,") == ("wandb", "tensorboard")
    assert sinks("none") == ()
    assert load({}, {"SIDECAR_ALLOW_SINKS": "none"}).config.allow_sinks == ()
    assert load({}, {}).config.allow_sinks is None


def test_port_of_a_kubernetes_service_is_not_taken_for_ours() -> None:
    assert load({}, {"SIDECAR_PORT": "tcp://10.0.0.1:9797"}).config.port == 9797


def test_empty_and_unknown_variables_are_left_alone() -> None:
    assert load({}, {"SIDECAR_PORT": "", "SIDECAR_SERVICE_HOST": "10.0.0.1"}).config == load({}, {}).config


def test_directory_is_absolute_and_knows_the_home_directory() -> None:
    assert load({}, {"XDG_DATA_HOME": "/x"}).config.dir == "/x/trainer-sidecar"
    assert load({}, {"HOME": "/h"}).config.dir == "/h/.local/share/trainer-sidecar"
    assert Path(load({"dir": "here"}, {}).config.dir).is_absolute()


@given(st.text())
def test_any_text_is_a_settings_file_or_a_clear_error(text: str) -> None:
    try:
        assert isinstance(load({}, {}, text), Loaded)
    except UserError as error:
        assert len(str(error).splitlines()) == 2


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nothing\.toml"):
        read({}, {}, str(tmp_path / "nothing.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read({}, {}, str(tmp_path / "binary.toml"))


def test_a_user_without_a_home_is_asked_for_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(UserError, match=r"no home directory is known for ~/\.local"):
        load({}, {})
    assert load({"dir": "/data"}, {}).config.dir == "/data"


def test_settings_handed_to_the_service_come_out_the_same() -> None:
    from sidecar.supervise import settings_as_variables

    first = load({"sinks": "wandb", "allow_sinks": "none", "keep": True, "grace_seconds": "2.5"}, {"HOME": "/h"})
    again = load({}, settings_as_variables(first, {"HOME": "/h"}))
    assert again.config == first.config
