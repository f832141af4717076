"""Data sets in their true formats, the chat template, the mixture, and rows that nobody can to_example."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer import chat, tasks
from trainer.data.batch import IGNORE
from trainer.data.conversations import Conversations, pack, prepare
from trainer.data.preferences import PreferencePairs
from trainer.data.quality import DataReport
from trainer.errors import UserError
from trainer.tasks import builtin, formats
from trainer.tasks.example import Message, Preference, TaskMixture, ask
from trainer.tasks.rows import read
from trainer.tokenizer import ASSISTANT_END, ASSISTANT_START, BOS, PAD, USER_END, USER_START

SMOLTALK = {
    "messages": [
        {"content": "Be brief.", "role": "system"},
        {"content": "Hi", "role": "user"},
        {"content": "Hello!", "role": "assistant"},
        {"content": "Bye", "role": "user"},
        {"content": "See you.", "role": "assistant"},
    ],
    "source": "smol-magpie-ultra",
}
MMLU = {"question": "2+2?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1}
ARC = {
    "id": "Mercury_1", "question": "Which is hot?", "answerKey": "2",
    "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]},
}  # fmt: skip
GSM8K = {"question": "48 and 24?", "answer": "She sold 48+24 = <<48+24=72>>72 clips.\n#### 1,072"}
PREFERENCE = {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Rome."}
ULTRAFEEDBACK = {
    "prompt": "Capital of France?",
    "chosen": [{"content": "Capital of France?", "role": "user"}, {"content": "Paris.", "role": "assistant"}],
    "rejected": [{"content": "Capital of France?", "role": "user"}, {"content": "Rome.", "role": "assistant"}],
}
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "one",
}  # fmt: skip


def jsonl(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_smoltalk_keeps_every_turn() -> None:
    example = formats.smoltalk(SMOLTALK)
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert example.reply == "See you."


def test_mmlu_and_arc_become_questions_with_a_letter_to_answer() -> None:
    mmlu, arc = formats.mmlu(MMLU), formats.arc(ARC)
    assert mmlu.prompt[0].content == "2+2?\nA) 3\nB) 4\nC) 5\nD) 6"
    assert (mmlu.reply, mmlu.answer, mmlu.letters) == ("B", "B", ("A", "B", "C", "D"))
    assert arc.prompt[0].content.endswith("2) fire\n3) snow")
    assert (arc.reply, arc.letters) == ("2", ("1", "2", "3"))
    assert formats.mmlu({"train": MMLU}) == mmlu, "the auxiliary file nests its rows"


def test_gsm8k_is_judged_by_the_number_behind_the_marks() -> None:
    example = formats.gsm8k(GSM8K)
    assert example.answer == "1072"
    assert "<<" not in example.reply
    assert formats.is_correct(example, "Therefore #### 1072.")
    assert formats.is_correct(example, "#### 1072.00")
    assert not formats.is_correct(example, "#### 1073")
    assert not formats.is_correct(example, "1072")


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("12", "12.0", True), ("0.5", ".50", True), ("1,000", "1000", True), ("0", "-0", True), ("7", "007", True),
        ("0.1", "0.10000000000000000001", False), ("12345678901234567890", "12345678901234567891", False),
    ],
)  # fmt: skip
def test_final_numbers_are_compared_as_numbers_to_the_last_digit(answer: str, said: str, right: bool) -> None:
    example = formats.gsm8k({"question": "?", "answer": f"#### {answer}"})
    assert formats.is_correct(example, f"#### {said}") is right


@pytest.mark.parametrize("reply", ["#### 1.2.3", f"#### {'9' * 400}", "#### ..", "#### -", "####", "#### 1\n#### 5"])
def test_whatever_a_model_writes_is_judged_and_ends_nothing(reply: str) -> None:
    assert not formats.is_correct(formats.gsm8k({"question": "?", "answer": "#### 5"}), reply)


@given(st.text())
def test_no_reply_at_all_can_end_the_judging(text: str) -> None:
    example = formats.gsm8k({"question": "?", "answer": "#### 5"})
    assert formats.is_correct(example, f"{text}####5") or "####" in text


ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.builds(Message, ROLES, st.text())))
def test_any_conversation_is_learnt_from_exactly_where_the_assistant_speaks(messages: list[Message]) -> None:
    tokens, learn = chat.render(messages)
    assert len(tokens) == len(learn)
    said = [message.content for message in messages if message.role == "assistant"]
    expected = [token for text in said for token in (*text.encode("utf-8", "surrogatepass"), ASSISTANT_END)]
    assert [token for token, wanted in zip(tokens, learn, strict=True) if wanted] == expected
    assert chat.render_prompt(messages) == [*tokens, ASSISTANT_START]
    assert max(tokens) < PAD


@pytest.mark.parametrize("row", [PREFERENCE, ULTRAFEEDBACK])
def test_preferences_may_be_texts_or_conversations(row: dict) -> None:
    assert formats.preference(row) == Preference((Message("user", "Capital of France?"),), "Paris.", "Rome.")


def test_prompts_need_no_reply_to_be_verified() -> None:
    example = formats.prompts({"prompt": "3+4?", "answer": 7})
    assert example.prompt == (Message("user", "3+4?"),)
    assert formats.is_correct(example, "#### 7")
    assert formats.prompts(GSM8K).answer == "1072"


@pytest.mark.parametrize(
    ("to_example", "row"),
    [
        (formats.smoltalk, {"messages": []}),
        (formats.smoltalk, {"messages": [{"role": "user", "content": "alone"}]}),
        (formats.smoltalk, {"messages": [{"role": "assistant", "content": "unasked"}]}),
        (formats.mmlu, {**MMLU, "answer": 7}),
        (formats.mmlu, {**MMLU, "choices": None}),
        (formats.arc, {**ARC, "answerKey": "D"}),
        (formats.gsm8k, {**GSM8K, "answer": "72"}),
        (formats.gsm8k, {"question": 1, "answer": "#### 1"}),
        (formats.preference, {"prompt": "x", "chosen": "y"}),
        (formats.prompts, {"prompt": "x", "answer": "many"}),
        (formats.prompts, {"prompt": "x", "answer": "inf"}),
        (formats.gsm8k, {"question": "x", "answer": "#### 1.2.3"}),
        (formats.prompts, {"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}),
        (formats.preference, {"prompt": "x", "chosen": "y", "rejected": "y"}),
        (formats.preference, {n: [{"role": "user", "content": c} for c in ("x", n)] for n in ("chosen", "rejected")}),
    ],
)
def test_a_row_of_another_shape_is_no_example(to_example, row, tmp_path: Path) -> None:
    problems = DataReport()
    assert read([jsonl(tmp_path / "rows.jsonl", [row])], to_example, problems) == []
    assert problems.count == 1
    assert problems.named[0].startswith("rows.jsonl:1: ")


@pytest.mark.parametrize(
    ("to_example", "row", "reason"),
    [
        (formats.smoltalk, {"messages": None}, "messages is null, not a list"),
        (formats.smoltalk, {"messages": "hello"}, "messages is text, not a list"),
        (formats.smoltalk, {"messages": ["hello"]}, "messages is text, not an object"),
        (formats.smoltalk, {"messages": [{"role": "user", "content": []}]}, "content is a list, not text"),
        (formats.smoltalk, {"messages": [{"role": "tool", "content": "x"}]}, "messages has one of 'tool', not of .*"),
        (formats.mmlu, {**MMLU, "answer": None}, "answer None is not one of 4 choices"),
        (formats.mmlu, {**MMLU, "choices": ["x"] * 12, "answer": 11}, "answer 11 is not one of 12 choices"),
        (formats.arc, {**ARC, "choices": None}, "choices is null, not an object"),
        (formats.gsm8k, {**GSM8K, "question": 5}, "question is a number, not text"),
        (formats.preference, {"prompt": None, "chosen": "x", "rejected": "y"}, "prompt is null, not a list"),
        (formats.prompts, {"prompt": "x", "answer": "$5"}, "the answer '[$]5' is no finite number"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_by_its_field(to_example, row, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        to_example(row)


def test_corrupt_lines_are_counted_and_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "gsm8k.jsonl", [GSM8K, '{"question": "cut of', "", "[1]", GSM8K, {"question": "?"}])
    problems = DataReport()
    assert len(read([path], formats.gsm8k, problems)) == 2
    assert problems.count == 3
    assert problems.named == [
        "gsm8k.jsonl:2: not JSON", "gsm8k.jsonl:4: not an object", "gsm8k.jsonl:6: no field 'answer'"
    ]  # fmt: skip
    assert problems.sentence().startswith("skipped 3 bad row(s): gsm8k.jsonl:2")


def test_corrupt_lines_are_refused_by_option(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "gsm8k.jsonl", [GSM8K, "nonsense"])
    with pytest.raises(UserError, match="gsm8k.jsonl:2: not JSON"):
        read([path], formats.gsm8k, DataReport(refuse=True))


def local_sets(folder: Path) -> Path:
    """Small files as the hub has them: JSONL, and parquet with splits in their names."""
    jsonl(folder / "smoltalk.jsonl", [SMOLTALK] * 6)
    jsonl(folder / "gsm8k" / "train.jsonl", [GSM8K] * 5)
    jsonl(folder / "gsm8k" / "test.jsonl", [GSM8K] * 2)
    jsonl(folder / "preferences.jsonl", [PREFERENCE, ULTRAFEEDBACK] * 4)
    (folder / "mmlu").mkdir()
    (folder / "arc-easy").mkdir()
    for split, count in (("auxiliary_train", 7), ("test", 3)):
        rows = pyarrow.Table.from_pylist([MMLU] * count)
        pyarrow.parquet.write_table(rows, folder / "mmlu" / f"{split}-00000-of-00001.parquet")
    for split in ("train", "validation"):
        rows = pyarrow.Table.from_pylist([ARC] * 4)
        pyarrow.parquet.write_table(rows, folder / "arc-easy" / f"{split}-00000-of-00001.parquet")
    return folder


def load(stage: str, *, data: Path | None = None, config: Path | None = None) -> list[tasks.Task]:
    return tasks.load(stage, data and str(data), config and str(config), DataReport(), 0.2)


def test_a_folder_is_searched_for_the_sets_that_the_stage_mixes(tmp_path: Path) -> None:
    local_sets(tmp_path)
    sizes = {task.name: (len(task.train), len(task.val)) for task in load("midtrain", data=tmp_path)}
    assert sizes == {"SmolTalk": (5, 1), "MMLU": (7, 3), "GSM8K": (5, 2)}
    assert [task.name for task in load("sft", data=tmp_path)] == ["ARC-Easy", "GSM8K", "SmolTalk"]
    assert [len(task.train) for task in load("dpo", data=tmp_path)] == [6]
    assert [task.name for task in load("ppo", data=tmp_path)] == ["GSM8K"]


def test_a_parquet_that_was_cut_off_is_counted_and_named_and_the_other_files_are_read(tmp_path: Path) -> None:
    local_sets(tmp_path)
    half = tmp_path / "mmlu" / "auxiliary_train-00001-of-00002.parquet"
    half.write_bytes((tmp_path / "mmlu" / "auxiliary_train-00000-of-00001.parquet").read_bytes()[:-40])
    report = DataReport()
    mmlu = tasks.load("midtrain", str(tmp_path), None, report, 0.2)[1]
    assert (len(mmlu.train), len(mmlu.val)) == (7, 3)
    assert report.sentence().startswith(f"skipped 1 bad row(s): {half.name}: cannot be read: ")
    with pytest.raises(UserError, match=f"{half.name}: cannot be read"):
        tasks.load("midtrain", str(tmp_path), None, DataReport(refuse=True), 0.2)


@pytest.mark.parametrize("fetched", [("all",), ("all", "auxiliary_train")])
def test_a_part_of_the_hubs_repository_is_read_by_the_names_of_its_files(fetched: tuple, tmp_path: Path) -> None:
    """All of it has its training rows twice, and is read by the hub's patterns."""
    tmp_path = tmp_path / "sets [1]"  # Brackets are a pattern, too.
    splits = {"all": ("auxiliary_train", "dev", "validation", "test"), "auxiliary_train": ("train",)}
    for folder in fetched:
        for split in splits[folder]:
            place = tmp_path / "mmlu" / folder / f"{split}-00000-of-00001.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([MMLU] * 2), place)
    [mmlu] = load("midtrain", data=tmp_path)
    assert (len(mmlu.train), len(mmlu.val)) == (2, 2 if len(fetched) == 2 else 6)


def test_a_data_config_names_sets_formats_and_limits(tmp_path: Path) -> None:
    local_sets(tmp_path)
    config = tmp_path / "sft.toml"
    config.write_text(
        '[[datasets]]\nname = "talk"\nformat = "smoltalk"\npath = "smoltalk.jsonl"\nstop = 4\n'
        '[[datasets]]\nname = "sums"\nformat = "gsm8k"\npath = "gsm8k/train.jsonl"\nval_path = "gsm8k/test.jsonl"\n'
    )
    assert {t.name: len(t.train) for t in load("sft", config=config)} == {"talk": 3, "sums": 5}
    as_json = tmp_path / "sft.json"
    as_json.write_text('{"datasets": [{"name": "talk", "format": "smoltalk", "path": "smoltalk.jsonl"}]}')
    assert [t.name for t in load("sft", config=as_json)] == ["talk"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("datasets = [", "not a data config"),
        pytest.param(f"datasets = {'[' * 100_000}", "not a data config", id="deep"),
        ('[[datasets]]\nname = "a"\nformat = "xml"\npath = "a"', "unknown format 'xml'"),
        ('[[datasets]]\nname = "a"\nformat = "arc"\npath = "a"\nfrom = 1', "unknown key 'from'"),
        ("datasets = []", "names no datasets"),
        ('[[datasets]]\nname = "a"\nformat = "arc"\npath = "empty"', "no .jsonl"),
        ('[[datasets]]\nname = "a"\nformat = "arc"\npath = "empty.jsonl"', "too few"),
    ],
)
def test_a_wrong_data_config_is_refused_in_one_line(text: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "data.toml").write_text(text)
    with pytest.raises(UserError, match=cause) as caught:
        load("sft", config=tmp_path / "data.toml")
    assert "\n" not in caught.value.cause


def test_a_folder_without_any_of_the_sets_says_which_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the data sets of sft: arc-easy"):
        load("sft", data=tmp_path)


# -- built in ----------------------------------------------------------------------------------------------------------


def test_the_built_in_questions_are_about_real_functions_and_have_right_answers() -> None:
    chats, choices = builtin.chat(), builtin.modules()
    assert len(chats.train) > 300
    for example in choices.val[:20]:
        offered = dict(line.split(") ", 1) for line in example.prompt[0].content.splitlines()[1:])
        name = example.prompt[0].content.split("?")[0].rsplit(" ", 1)[1]
        source = Path(sys.modules["os"].__file__).parent / f"{offered[example.answer]}.py"
        text = source.read_text()
        assert f"def {name}(" in text or f"class {name}" in text


def test_every_answer_about_a_function_is_the_first_sentence_of_its_own_docstring() -> None:
    """Checked with the standard library's own reader of sources, not with ours."""
    task = builtin.chat()
    for example in (*task.train, *task.val)[::25]:
        path = example.prompt[0].content.removeprefix("What does ").removesuffix(" do?")
        module, name = path.split(".")
        source = (Path(sys.modules["os"].__file__).parent / f"{module}.py").read_text()
        [node] = [n for n in ast.parse(source).body if getattr(n, "name", "") == name][:1]
        said = " ".join(inspect.cleandoc(ast.get_docstring(node)).split())
        assert said.startswith(" ".join(example.reply.removesuffix(".").split())), path


def test_no_other_choice_that_is_offered_even_mentions_the_name() -> None:
    task = builtin.modules()
    for example in (*task.train, *task.val):
        question, *lines = example.prompt[0].content.splitlines()
        name = question.rsplit(" ", 1)[1].rstrip("?")
        offered = dict(line.split(") ", 1) for line in lines)
        assert len(set(offered.values())) == 4
        assert [letter for letter, module in offered.items() if name in builtin.words_of(module)] == [example.answer]


def test_every_built_in_program_passes_its_own_tests_and_fails_another_ones() -> None:
    for program in builtin.programs().val:
        for solution, works in ((program.reply, True), ("    return None\n", False)):
            code = f"{program.prompt[0].content}{solution}\n{program.tests}"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
            assert (done.returncode == 0) == works


@pytest.mark.parametrize("make", [builtin.chat, builtin.modules, builtin.sums, builtin.preferences])
def test_the_halves_of_every_built_in_task_share_no_question(make) -> None:
    task = make()
    train = {example.text() for example in task.train}
    assert len(task.val) > 30
    assert not train & {example.text() for example in task.val}


def test_every_built_in_sum_is_right_and_no_problem_is_in_both_halves() -> None:
    task = builtin.sums()
    for example in task.train + task.val:
        words = example.prompt[0].content.split()
        a, b = int(words[2]), int(words[6].rstrip("."))
        assert int(example.answer) == (a + b if words[5] == "gets" else a - b)
        assert formats.is_correct(example, example.reply)
    assert not set(task.train) & set(task.val)


def test_the_rejected_reply_differs_from_the_chosen_in_being_wrong() -> None:
    sums = builtin.sums()
    for pair, example in zip(builtin.preferences().val, sums.val, strict=True):
        assert formats.is_correct(example, pair.chosen)
        assert formats.final_number(pair.rejected) is not None
        assert not formats.is_correct(example, pair.rejected)


def test_asking_about_modules_imports_none_of_them(repository: Path) -> None:
    code = "import sys; from trainer.tasks import builtin; builtin.entries(); print('turtle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- the mixture -------------------------------------------------------------------------------------------------------

MIXTURE = TaskMixture({"a": [ask(f"a{i}", "x") for i in range(5)], "b": [ask(f"b{i}", "y") for i in range(3)]}, seed=7)


def test_the_mixture_holds_every_example_once_in_an_order_that_the_seed_fixes() -> None:
    assert sorted(MIXTURE.index_map) == [(0, i) for i in range(5)] + [(1, i) for i in range(3)]
    assert MIXTURE.index_map == TaskMixture(MIXTURE.parts, seed=7).index_map
    assert MIXTURE.index_map != TaskMixture(MIXTURE.parts, seed=8).index_map


def test_reading_past_the_end_begins_anew_and_the_source_follows() -> None:
    for cursor in range(8):
        task, place = MIXTURE.index_map[cursor]
        assert MIXTURE[cursor + 16] == MIXTURE[cursor] == MIXTURE.parts["ab"[task]][place]
        assert MIXTURE.source(cursor + 8) == "ab"[task]


def test_an_empty_mixture_has_nothing_to_give() -> None:
    with pytest.raises(IndexError):
        TaskMixture({"a": []})[0]


# -- the chat template -------------------------------------------------------------------------------------------------


def test_only_what_the_assistant_says_is_learnt_from() -> None:
    tokens, learn = chat.render([Message("user", "hi"), Message("assistant", "yo")])
    assert tokens == [BOS, USER_START, *b"hi", USER_END, ASSISTANT_START, *b"yo", ASSISTANT_END]
    assert [t for t, wanted in zip(tokens, learn, strict=True) if wanted] == [*b"yo", ASSISTANT_END]


def test_a_system_message_stands_before_the_users_words() -> None:
    tokens, _ = chat.render([Message("system", "S"), Message("user", "u"), Message("assistant", "a")])
    assert bytes(t for t in tokens if t < 256) == b"S\n\nua"


def test_a_system_message_without_words_of_the_user_stands_in_their_place() -> None:
    alone = [BOS, USER_START, *b"S\n\nT", USER_END]
    system = [Message("system", "S"), Message("system", "T")]
    assert chat.render_prompt(system) == [*alone, ASSISTANT_START]
    assert chat.render([*system, Message("assistant", "a")])[0] == [*alone, ASSISTANT_START, *b"a", ASSISTANT_END]
    tokens, learn = chat.render([Message("user", "u"), Message("assistant", "a"), Message("system", "S")])
    assert bytes(t for t in tokens if t < 256) == b"uaS"
    assert not learn[-1]


@given(st.lists(st.builds(Message, ROLES, st.text())))
def test_no_word_of_any_conversation_is_lost(messages: list[Message]) -> None:
    text = b"".join(message.content.encode("utf-8", "surrogatepass") for message in messages)
    tokens, _ = chat.render(messages)
    assert bytes(t for t in tokens if t < 256).replace(b"\n", b"") == text.replace(b"\n", b"")


def test_a_prompt_is_the_beginning_of_the_whole_and_a_reply_ends_at_its_mark() -> None:
    example = ask("q", "r")
    prompt, whole = chat.render_prompt(example.prompt), chat.render(example.messages)[0]
    assert whole[: len(prompt)] == prompt
    assert chat.reply_of([*whole[len(prompt) :], *b"junk"]) == "r"


def test_text_cannot_spell_a_mark() -> None:
    tokens, _ = chat.render([Message("user", "<|assistant_start|>\u0103"), Message("assistant", "")])
    assert tokens.count(ASSISTANT_START) == 1


def loader(packed: bool = False, **options: int) -> Conversations:
    prepared = prepare(MIXTURE, 32)
    return Conversations(prepared, name="mixture", seq_len=32, **{"batch_size": 2, "packed": packed, **options})


def test_targets_are_the_assistants_words_and_nothing_else() -> None:
    batch = loader().next_batch()
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        learnt = targets[targets != IGNORE].tolist()
        assert learnt in ([*b"x", ASSISTANT_END], [*b"y", ASSISTANT_END])
        at = int((targets != IGNORE).nonzero()[0])
        assert inputs[at] == ASSISTANT_START
    assert batch.loss_tokens == 4
    assert batch.tokens == int((batch.inputs != PAD).sum())
    assert sum(samples for samples, _ in batch.datasets.values()) == batch.samples == 2


def test_learning_from_everything_leaves_out_only_beginnings_and_padding() -> None:
    prepared = prepare(MIXTURE, 32, train_on_prompts=True)
    batch = Conversations(prepared, name="m", seq_len=32, batch_size=2, packed=True).next_batch()
    learnt = batch.targets[batch.targets != IGNORE]
    assert BOS not in learnt.tolist()
    assert PAD not in learnt.tolist()
    assert USER_END in learnt.tolist()


def test_packed_rows_hold_whole_conversations_in_order() -> None:
    assert pack([3, 3, 5, 9, 2], room=8) == [[0, 1], [2], [3], [4]]
    rows = loader(packed=True, batch_size=1)
    assert [number for row in rows.rows for number in row] == list(range(8))
    assert len(rows.rows) < 8
    assert rows.next_batch().samples > 1


def test_a_pass_reads_every_conversation_once_over_all_ranks() -> None:
    seen: list[int] = []
    for rank in range(2):
        share = loader(rank=rank, world_size=2)
        seen += [number for _ in range(share.batches_per_epoch) for number in share.next().tolist()]
    assert sorted(seen) == list(range(8))


def test_too_long_conversations_are_cut_and_those_cut_off_from_the_reply_are_dropped() -> None:
    mixture = TaskMixture({"a": [ask("q" * 50, "r"), ask("q", "r" * 50), ask("q", "r")]})
    prepared = prepare(mixture, 20)
    assert (len(prepared), prepared.truncated, prepared.dropped) == (2, 2, 1)
    assert int(prepared.lengths().max()) == 21


def test_both_replies_of_a_pair_follow_the_same_prompt() -> None:
    """Which may have replies of its own: none of them is what was preferred."""
    asked = [[Message("user", f"q{i}"), Message("assistant", "said before"), Message("user", "?")] for i in range(4)]
    pairs = TaskMixture({"p": [Preference(tuple(turns[i % 2 :]), "good", "bad") for i, turns in enumerate(asked)]})
    batch = PreferencePairs(pairs, seq_len=32, batch_size=2).next_batch()
    assert batch.samples == 2
    for chosen, rejected in zip(*batch.targets.chunk(2), strict=True):
        assert bytes(t for t in chosen.tolist() if 0 <= t < 256) == b"good"
        assert bytes(t for t in rejected.tolist() if 0 <= t < 256) == b"bad"
    prompts = [row[: len(row) - row[::-1].index(ASSISTANT_START)] for row in batch.inputs.tolist()]
    assert prompts[:2] == prompts[2:]
    assert torch.equal(batch.inputs[0] == PAD, batch.inputs[0] == PAD)


def test_a_pair_that_does_not_fit_is_left_out_whole() -> None:
    pairs = TaskMixture({"p": [Preference((Message("user", "q"),), "g" * n, "b") for n in (1, 50)]})
    assert PreferencePairs(pairs, seq_len=32, batch_size=1).dropped == 1
    with pytest.raises(UserError, match="too few"):
        PreferencePairs(pairs, seq_len=32, batch_size=2)
