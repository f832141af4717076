"""The gate: numbers pass unchanged, everything else needs a word from its owner."""

import math
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import wire
from sidecar.rows import Row, RunInfo
from sidecar.sinks import secrecy
from sidecar.sinks.privacy import Gate, Identity, Manifest

from .harness import Manager, Run
from .stand_ins import delivered


def row(kind: str = "step", **metrics: Any) -> Row:
    return Row("run-1", 0, 1, 1, 1.0, kind, {name.replace("__", "/"): value for name, value in metrics.items()})


def through(given_row: Row, *allow: str, **more: Any) -> dict[str, Any]:
    return Gate("run-1", "wandb", allow, **more).rows([given_row])[0].metrics


def test_numbers_pass_unchanged_and_strings_do_not() -> None:
    passed = through(row(train__loss=0.5, n=3, flag=True, nan=math.nan, word="secret", many=[1.0], unknown=None))
    assert passed.keys() == {"train/loss", "n", "flag", "nan"}
    assert (passed["train/loss"], passed["n"], passed["flag"]) == (0.5, 3, True)
    assert math.isnan(passed["nan"])


def test_text_and_histograms_pass_only_by_their_own_word() -> None:
    text, histogram = row("text", sample="once"), row("histogram", w={"edges": [0.0, 1.0], "counts": [2.0]})
    assert through(text) == through(histogram) == {}
    assert through(text, "text") == {"sample": "once"}
    assert through(text, "samples") == {"sample": "once"}
    assert through(text, "histograms") == {}
    assert through(histogram, "histograms") == {"w": {"edges": [0.0, 1.0], "counts": [2.0]}}
    assert through(histogram, "text") == {}


def test_an_allow_word_that_does_not_exist_is_an_error_with_the_list() -> None:
    with pytest.raises(ValueError, match="artifacts, histograms, hosts, text"):
        Gate("run-1", "wandb", ["everything"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model/name", "Qwen/Qwen2.5-Coder-1.5B"), ("model/lora_r", 16), ("hyperparams/learning_rate", 1e-4),
        ("max_tokens", 4096), ("num_key_value_heads", 8), ("optimizer", "adamw_torch"), ("bf16", True),
        ("betas", [0.9, 0.95]), ("dtype", "bfloat16"), ("tokenizer", "gpt2"), ("device_name", "NVIDIA H100 80GB HBM3"),
        ("lr_scheduler_type", "cosine"), ("train/optimizer", "muon"), ("hyperparams/template", "chatml"),
    ],
)  # fmt: skip
def test_what_a_researcher_needs_to_compare_runs_passes(key: str, value: Any) -> None:
    assert Gate("run-1", "wandb").config({key: value}) == {key: value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", "abc"), ("openaiApiKey", "abc"), ("hf_token", "abc"), ("model/token", "abc"), ("password", 1234),
        ("secret_key", 99), ("optimizer", "/home/ann/adam"), ("model/name", "/data/private/model"),
        ("hyperparams/file", "corpus.jsonl"), ("hyperparams/mail", "ann@example.org"), ("prompt", "tell me a secret"),
        ("dataset", "in-house-corpus"), ("data_path", "train.bin"), ("hyperparams/data", "in-house/corpus"),
        ("model/name", "sk-abcdefghijklmnopqrstuvwx"), ("optimizer", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"),
        ("hyperparams/url", "https://example.org/x"), ("hyperparams/who", "anneliese"), ("command", "python train.py"),
        ("hyperparams/win", "C:\\data\\x"), ("hyperparams/text", "two words"), ("names", ["a", "b"]), ("obj", object()),
    ],
)  # fmt: skip
def test_what_names_a_person_a_place_or_a_secret_does_not_pass(key: str, value: Any) -> None:
    gate = Gate("run-1", "wandb", identity=Identity.of("anneliese"))
    assert gate.config({key: value}) == {}
    assert gate.manifest().withheld == {"config": 1}


def test_a_key_its_owner_allowed_passes_but_never_a_secret() -> None:
    gate = Gate("run-1", "wandb", allow_config=["data*", "note"])
    assert gate.config({"dataset": "in-house corpus", "data_key": "x", "note": "hf_" + "a1" * 12, "other": "x y"}) == {
        "dataset": "in-house corpus"
    }


def test_labels_lose_what_identifies_and_hosts_need_their_word() -> None:
    info = RunInfo(
        "run-1", name="anneliese-d12", notes="see /home/anneliese/notes.txt or ann@example.org",
        tags=["node7", "small"], hosts=["node7"], launch_id="slurm-1-node7", config={"lr": 1.0},
    )  # fmt: skip
    identity = Identity.of("anneliese", "node7")
    cleaned = Gate("run-1", "wandb", identity=identity).info(info)
    assert cleaned.name == "[redacted]-d12"
    assert cleaned.notes == "see [redacted] or [redacted]"
    assert cleaned.tags == ["[redacted]", "small"]
    assert (cleaned.hosts, cleaned.launch_id) == ([], "")
    assert Gate("run-1", "wandb", ["hosts"], identity=identity).info(info).hosts == ["node7"]


def test_names_of_metrics_that_hold_a_path_or_a_person_are_withheld() -> None:
    gate = Gate("run-1", "wandb", identity=Identity.of("anneliese"))
    (passed,) = gate.rows([row(loss=1.0, **{"eval//home/x": 2.0, "loss anneliese": 3.0, "x" * 201: 4.0})])
    assert passed.metrics == {"loss": 1.0}
    assert gate.manifest().withheld == {"name": 2 + 1}


@pytest.mark.parametrize(
    "name",
    ["train/loss", "val/loss/GSM8K", "gradients/transformer.h.11.mlp.c_proj.weight/norm", "system/gpu_0_power_watts",
     "train/learning_rate/1", "weights/model.layers.0.self_attn.q_proj.weight_std", "a/b/c/d_e_f_g_h_i_j_k_1_2_3"],
)  # fmt: skip
def test_ordinary_metric_names_pass(name: str) -> None:
    assert Gate("run-1", "wandb").rows([Row("r", 0, 0, 0, 0.0, "step", {name: 1.0})])[0].metrics == {name: 1.0}


@given(st.dictionaries(st.text(max_size=20), st.text() | st.binary() | st.lists(st.text()) | st.none(), max_size=5))
@settings(max_examples=200, deadline=None)
def test_no_value_that_is_not_a_number_ever_leaves_a_metrics_row(metrics: dict[str, Any]) -> None:
    assert through(Row("r", 0, 0, 0, 0.0, "step", metrics)) == {}


@given(st.text(alphabet=string.printable, max_size=60), st.text(alphabet=string.printable, max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_configuration_is_answered_without_an_error(key: str, value: str) -> None:
    for kept in Gate("run-1", "wandb").config({key: value, "n": {key: {"deep": value}}}).values():
        assert not secrecy.looks_secret(str(kept))


def test_the_manifest_says_what_left_and_what_was_withheld(tmp_path: Path, stand_ins: None) -> None:
    run = Run(tmp_path, config={"lr": 0.5, "prompt": "do not tell"})
    with Manager(run, "remote", "recorder") as manager:
        run.steps(0, 4, word="private")
        run.emit(wire.Text(run.now_ns, 0, 4, "sample", "private text"))
        manager.drain()
    content = (tmp_path / "egress" / "run-1.json").read_bytes()
    (manifest,) = msgspec.json.decode(content, type=list[Manifest])
    assert (manifest.sink, manifest.allow, manifest.config_keys) == ("remote", [], ["lr"])
    assert manifest.sent["step"] == 5
    assert (manifest.withheld["text"], manifest.withheld["string"], manifest.withheld["config"]) == (1, 5, 1)
    assert "private" not in str(delivered(tmp_path, "remote"))
    assert "private text" in str(delivered(tmp_path, "recorder"))
