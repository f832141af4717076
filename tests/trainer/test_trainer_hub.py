"""Data sets from the hub: the files of the documents' sets in their true layout, and what happens without a hub."""

import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fake_hub import SHA, Hub, Repos, fake_hub

from trainer import data, tasks
from trainer.config import PipelineConfig
from trainer.data import hub
from trainer.data.quality import DataReport
from trainer.errors import UserError
from trainer.stages import STAGES, pipeline_config
from trainer.tasks.known_datasets import KNOWN_DATASETS

MESSAGE = pyarrow.struct([("content", pyarrow.string()), ("role", pyarrow.string())])
MESSAGES = pyarrow.list_(MESSAGE)
TEXTS = pyarrow.list_(pyarrow.string())
MMLU = pyarrow.struct(
    [("question", pyarrow.string()), ("subject", pyarrow.string()), ("choices", TEXTS), ("answer", pyarrow.int64())]
)
TEXT = pyarrow.string()


def said(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}


TALK = [said("user", "Hi"), said("assistant", "Hello!")]
QUESTION = {"question": "2+2?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1}
ARC_ROW = {
    "id": "Mercury_7", "question": "Which is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
    "answerKey": "B",
}  # fmt: skip
PAIR = {
    "prompt": "Hi", "prompt_id": "ab" * 32, "chosen": TALK, "rejected": [TALK[0], said("assistant", "No.")],
    "messages": TALK, "score_chosen": 8.5, "score_rejected": 3.0,
}  # fmt: skip
TYPES: dict[str, dict[str, pyarrow.DataType]] = {
    "smoltalk": {"messages": MESSAGES, "source": TEXT},
    "mmlu": {name: MMLU.field(name).type for name in ("question", "subject", "choices", "answer")},
    "auxiliary": {"train": MMLU},
    "gsm8k": {"question": TEXT, "answer": TEXT},
    "arc": {
        "id": TEXT, "question": TEXT, "answerKey": TEXT,
        "choices": pyarrow.struct([("text", TEXTS), ("label", TEXTS)]),
    },
    "ultrafeedback": {
        "prompt": TEXT, "prompt_id": TEXT, "chosen": MESSAGES, "rejected": MESSAGES, "messages": MESSAGES,
        "score_chosen": pyarrow.float64(), "score_rejected": pyarrow.float64(),
    },
    "humaneval": dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), TEXT),
}  # fmt: skip
"""The columns of each set's files on the hub."""
SUM = {"question": "Ann has 2 and gets 3. How many?", "answer": "2+3=<<2+3=5>>5\n#### 5"}
PROGRAM = {
    "task_id": "HumanEval/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "one",
}  # fmt: skip


def parquet(kind: str, *rows: dict[str, Any]) -> bytes:
    table = pyarrow.Table.from_pylist(list(rows), schema=pyarrow.schema(list(TYPES[kind].items())))
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written)
    return written.getvalue()


def shard(number: int, rows: int = 30) -> bytes:
    written = io.BytesIO()
    table = pyarrow.table({"text": [f"{number}{row:02d} " * 40 for row in range(rows)]})
    pyarrow.parquet.write_table(table, written, row_group_size=10)
    return written.getvalue()


def split_files(pattern: str, kind: str, train: list[dict], test: list[dict]) -> dict[str, bytes]:
    """The same rows as the hub names them: <split>-00000-of-00001.parquet."""
    return {
        pattern.format(f"{split}-00000-of-00001.parquet"): parquet(kind, *rows)
        for split, rows in (("train", train), ("test", test))
    }


def repositories() -> Repos:
    talk = {"messages": TALK, "source": "smol-magpie-ultra-short"}
    return {
        "HuggingFaceTB/smol-smoltalk": split_files("data/{}", "smoltalk", [talk] * 6, [talk] * 2),
        "cais/mmlu": {
            "auxiliary_train/train-00000-of-00001.parquet": parquet("auxiliary", *[{"train": QUESTION}] * 7),
            "all/auxiliary_train-00000-of-00001.parquet": parquet("mmlu", *[QUESTION] * 7),
            "all/dev-00000-of-00001.parquet": parquet("mmlu", QUESTION),
            "all/test-00000-of-00001.parquet": parquet("mmlu", *[QUESTION] * 3),
            "anatomy/test-00000-of-00001.parquet": parquet("mmlu", QUESTION),
        },
        "openai/gsm8k": split_files("main/{}", "gsm8k", [SUM] * 5, [SUM] * 2)
        | split_files("socratic/{}", "gsm8k", [SUM], [SUM]),
        "allenai/ai2_arc": split_files("ARC-Easy/{}", "arc", [ARC_ROW] * 4, [ARC_ROW] * 2)
        | split_files("ARC-Challenge/{}", "arc", [ARC_ROW] * 3, [ARC_ROW] * 2),
        "HuggingFaceH4/ultrafeedback_binarized": {
            f"data/{split}-00000-of-00001.parquet": parquet("ultrafeedback", *[PAIR] * count)
            for split, count in {"train_prefs": 9, "test_prefs": 2, "train_sft": 9, "test_gen": 2}.items()
        },
        "openai/openai_humaneval": {"openai_humaneval/test-00000-of-00001.parquet": parquet("humaneval", PROGRAM)},
        "karpathy/fineweb-edu-100b-shuffle": {f"shard_{n:05d}.parquet": shard(n) for n in range(6)},
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    return tmp_path / "hub"


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake_hub(repositories()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


def load(stage: str, problems: DataReport | None = None, **options: Any) -> list[tasks.Task]:
    return tasks.load(stage, "hub", None, problems or DataReport(), 0.2, **options)


def sizes(loaded: list[tasks.Task]) -> dict[str, tuple[int, int]]:
    return {task.name: (len(task.train), len(task.val)) for task in loaded}


def test_every_set_of_the_documents_is_read_from_the_hub_in_its_true_layout(online: Hub) -> None:
    assert sizes(load("midtrain")) == {"SmolTalk": (6, 2), "MMLU": (7, 3), "GSM8K": (5, 2)}
    assert sizes(load("sft")) == {"ARC-Easy": (4, 2), "ARC-Challenge": (3, 2), "GSM8K": (5, 2), "SmolTalk": (6, 2)}
    assert sizes(load("dpo")) == {"preferences": (9, 2)}, "not the splits that are for other uses"
    assert sizes(load("ppo")) == {"GSM8K": (5, 2)}
    assert sizes(load("eval"))["HumanEval"] == (0, 1), "there is nothing to learn from, only to judge by"
    assert not any("anatomy" in name or "socratic" in name for name in online.fetched)


def test_what_was_fetched_is_not_fetched_again_and_needs_no_hub_later(online: Hub, monkeypatch) -> None:
    first = sizes(load("midtrain"))
    fetched = list(online.fetched)
    assert sizes(load("midtrain")) == first
    assert online.fetched == fetched
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sizes(load("midtrain")) == first


def test_plain_text_takes_so_many_shards_as_asked_for_of_which_the_last_validates(online: Hub) -> None:
    place = data.locate("hub", files_max=3)
    assert [path.name for path in place.shards] == [f"shard_0000{n}.parquet" for n in (0, 1, 5)]
    corpus = data.load(place, bytes_max=10**6, val_fraction=0.1, report=DataReport())
    assert corpus.name == "FineWeb-EDU"
    assert {text[:1] for text in corpus.val} == {b"5"}
    one = data.locate("hf://datasets/karpathy/fineweb-edu-100b-shuffle/shard_00002.parquet")
    alone = data.load(one, bytes_max=10**6, val_fraction=0.1, report=DataReport())
    assert (alone.name, len(alone.train), len(alone.val)) == ("fineweb-edu-100b-shuffle", 27, 3)


def test_pretraining_streams_what_the_hub_has(online: Hub, trained) -> None:
    run = trained("pretrain", data="hub", hub_files=3, steps=2)
    assert set(run.datasets) == {"FineWeb-EDU"}
    assert run.begun["config"]["dataset/train_shards"] == 2


def test_a_data_config_may_name_sets_on_the_hub(online: Hub, tmp_path: Path) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(
        "datasets:\n"
        "  - {name: sums, format: gsm8k, path: 'hf://datasets/openai/gsm8k/main/train-*', "
        "val_path: 'hf://datasets/openai/gsm8k@main/main/test-*'}\n"
        f"  - {{name: talk, format: smoltalk, path: 'hf://datasets/HuggingFaceTB/smol-smoltalk@{SHA}', stop: 4}}\n"
    )
    loaded = tasks.load("sft", None, str(config), DataReport(), 0.2)
    assert sizes(loaded) == {"sums": (5, 2), "talk": (4, 2)}


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("hf://openai/gsm8k", "is no address"),
        ("hf://datasets/openai", "is no address"),
        ("hf://datasets/openai/gsm9k", "no data set openai/gsm9k"),
        ("hf://datasets/openai/gsm8k/none/*", "no file none/"),
        ("hf://datasets/openai/gsm8k@v9/main/*", "no data set"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_one_line(online: Hub, address: str, cause: str) -> None:
    with pytest.raises(UserError, match=cause) as caught:
        data.locate(address, without_hub="builtin")
    assert "\n" not in caught.value.cause


def test_without_the_hub_the_run_ends_unless_the_built_in_data_will_do(offline: None, trained) -> None:
    with pytest.raises(UserError, match="hub cannot be reached") as caught:
        load("sft")
    assert "--without_hub builtin" in caught.value.remedy
    problems = DataReport()
    loaded = load("sft", problems, without_hub="builtin")
    assert [task.name for task in loaded] == ["modules", "sums", "docstrings"]
    assert "built-in data instead" in problems.lines()[0]
    with pytest.raises(UserError, match="hub cannot be reached"):
        trained("pretrain", data="hub", steps=1)
    assert set(trained("pretrain", data="hub", without_hub="builtin", steps=1).datasets) == {"python-stdlib"}


def test_sets_from_the_cache_leave_no_trace_when_another_one_is_missing(online: Hub, monkeypatch) -> None:
    hub.fetch(hub.parse("hf://datasets/HuggingFaceTB/smol-smoltalk"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    problems, alone = DataReport(), DataReport()
    assert load("midtrain", problems, without_hub="builtin") == tasks.load("midtrain", None, None, alone, 0.2)
    assert problems.quality == alone.quality


def test_a_hub_that_never_answers_is_given_up(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="timed out"):
            load("dpo")


def test_without_its_library_the_extra_to_install_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub") as caught:
        load("sft")
    assert "trainer-sidecar[hub]" in caught.value.remedy
    assert [task.name for task in load("ppo", without_hub="builtin")] == ["sums"]


def test_nothing_of_the_hub_is_loaded_for_data_of_ones_own(repository: Path) -> None:
    import subprocess

    code = (
        "import sys; from trainer import data, tasks; from trainer.data.quality import DataReport; data.locate(None); "
        "tasks.load('ppo', None, None, DataReport(), 0.1); "
        "print('huggingface_hub' in sys.modules, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_copy_of_a_repository_is_read_as_the_hub_would_be(tmp_path: Path) -> None:
    """Such repositories hold more than one set."""
    copies = {"mmlu": "cais/mmlu", "gsm8k": "openai/gsm8k", "preferences": "HuggingFaceH4/ultrafeedback_binarized"}
    repos = repositories()
    for word, repo in copies.items():
        for name, content in repos[repo].items():
            path = tmp_path / word / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    found = {**sizes(tasks.load("midtrain", str(tmp_path), None, DataReport(), 0.2))}
    found |= sizes(tasks.load("dpo", str(tmp_path), None, DataReport(), 0.2))
    assert found == {"MMLU": (7, 3), "GSM8K": (5, 2), "preferences": (9, 2)}


def test_rows_that_a_repository_has_twice_are_read_once(tmp_path: Path) -> None:
    """As in HuggingFaceTB/smoltalk: a folder of everything beside one for each subset."""
    talk = {"messages": TALK, "source": "everyday"}
    subsets = {"all": (5, 3), "everyday": (3, 2), "rewrites": (2, 1)}
    for subset, (train, test) in subsets.items():
        for name, content in split_files(f"data/{subset}/{{}}", "smoltalk", [talk] * train, [talk] * test).items():
            path = tmp_path / "smoltalk" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert sizes(tasks.load("midtrain", str(tmp_path), None, DataReport(), 0.2)) == {"SmolTalk": (5, 3)}
    config = tmp_path / "sets.toml"
    for place in ("smoltalk", "smoltalk/data/*", "smoltalk/data/*/*.parquet"):
        config.write_text(f'datasets = [{{name = "talk", format = "smoltalk", path = "{place}"}}]')
        assert sizes(tasks.load("sft", None, str(config), DataReport(), 0.2)) == {"talk": (5, 3)}, place
    config.write_text('datasets = [{name = "talk", format = "smoltalk", path = "smoltalk/data/everyday"}]')
    assert sizes(tasks.load("sft", None, str(config), DataReport(), 0.2)) == {"talk": (3, 2)}


def test_only_the_hubs_own_shards_of_the_same_split_count_as_copies() -> None:
    shards = ["all/dev-00000-of-00001.parquet", "law/dev-00000-of-00001.parquet", "law/train-00000-of-00001.parquet"]
    assert hub.without_copies(shards) == [shards[0], shards[2]]
    own = ["all/train.jsonl", "mine/train.jsonl", "train-00000-of-00001.parquet", "all/train-00000-of-00001.parquet"]
    assert hub.without_copies(own) == own


def test_every_set_on_the_hub_has_something_to_validate_by() -> None:
    for known in KNOWN_DATASETS.values():
        assert (known.repo is None) == (known.val is None)
        for address in filter(None, known.addresses() if known.repo else ()):
            assert hub.parse(address).repo == known.repo


def test_the_pipeline_takes_all_its_data_from_the_hub() -> None:
    config = PipelineConfig(data="hub", origins={"data": "flag"})
    assert {pipeline_config(config, name, "g").data for name in STAGES} == {"hub"}
