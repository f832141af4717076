"""Where text comes from: split by file, shared out by rank, refused in one line when it cannot be read."""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from trainer import data, tasks
from trainer.data import parquet
from trainer.data.batch import Batch
from trainer.data.corpus import shuffled_by_name
from trainer.data.quality import DataReport, Quality
from trainer.data.stream import ParquetStream
from trainer.data.windows import TokenWindows, concatenate
from trainer.errors import UserError
from trainer.tasks.rows import files_of
from trainer.tokenizer import BOS, ByteTokenizer


def load(
    path: Path | None, bytes_max: int = 10**6, val_fraction: float = 0.2, report: DataReport | None = None
) -> data.Corpus:
    place = data.locate(None if path is None else str(path))
    return data.load(place, bytes_max=bytes_max, val_fraction=val_fraction, report=report or DataReport())


def write_fineweb(path: Path, texts: list[str | None], **options: object) -> Path:
    """A shard with the columns of FineWeb-EDU."""
    count = len(texts)
    table = pyarrow.table(
        {
            "text": pyarrow.array(texts, pyarrow.string()),
            "id": [f"<urn:uuid:{i}>" for i in range(count)],
            "dump": ["CC-MAIN-2024-10"] * count,
            "url": [f"https://example.org/{i}" for i in range(count)],
            "language": ["en"] * count,
            "language_score": [0.97] * count,
            "token_count": [len(t or "") for t in texts],
            "score": [3.2] * count,
            "int_score": [3] * count,
        }
    )
    pyarrow.parquet.write_table(table, path, **options)
    return path


def test_the_standard_library_is_there_without_a_download() -> None:
    corpus = load(None, bytes_max=300_000)
    assert corpus.name == "python-stdlib"
    assert 250_000 < sum(map(len, corpus.train + corpus.val)) <= 300_000
    assert any(b"def " in document for document in corpus.train)


def test_an_empty_path_is_none_and_not_the_folder_one_is_in() -> None:
    assert data.locate("") == data.locate(None) == data.Location()


def test_no_file_is_in_both_halves(corpus: Path) -> None:
    loaded = load(corpus)
    assert len(loaded.val) == 4
    assert len(loaded.train) == 16
    everything = {path.read_bytes() for path in corpus.iterdir()}
    assert {*loaded.train, *loaded.val} == everything
    assert not set(loaded.train) & set(loaded.val)


def test_the_split_depends_on_names_and_not_on_the_order_of_the_disk() -> None:
    names = [f"{i}.txt" for i in range(50)]
    assert shuffled_by_name(names) == shuffled_by_name(names[::-1])
    assert shuffled_by_name(names) != sorted(names)


def test_files_that_are_not_text_are_counted_and_left_out(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": b"one",
        "b.md": "zw\u00f6lf".encode(),
        "c.bin": b"\x00\x01",
        "d.txt": b"\xff\xfe\xfd\xfc\xfb",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".hidden").write_text("secret")
    report = DataReport()
    loaded = load(tmp_path, report=report)
    assert {*loaded.train, *loaded.val} == {b"one", "zw\u00f6lf".encode()}
    assert report.count == 2
    assert sorted(report.named) == [f"{name}: not UTF-8 text, or not to be read" for name in ("c.bin", "d.txt")]
    with pytest.raises(UserError, match="not UTF-8 text"):
        load(tmp_path, report=DataReport(refuse=True))


def test_the_limit_cuts_between_characters(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\u00e9" * 10)
    loaded = load(tmp_path, bytes_max=25)
    documents = loaded.train + loaded.val
    assert sorted(len(d.decode()) for d in documents) == [2, 10]


def test_one_file_of_text_validates_with_its_last_lines(tmp_path: Path) -> None:
    lines = [f"line {number}\n".encode() for number in range(100)]
    (tmp_path / "input.txt").write_bytes(b"".join(lines))
    loaded = load(tmp_path / "input.txt", val_fraction=0.1)
    assert (loaded.name, loaded.train, loaded.val) == ("input", [b"".join(lines[:90])], [b"".join(lines[90:])])
    (tmp_path / "input.txt").write_text("x" * 100)
    assert list(map(len, [*load(tmp_path / "input.txt").train, *load(tmp_path / "input.txt").val])) == [80, 20]
    alone = load(tmp_path)
    assert (len(alone.train[0]), len(alone.val[0])) == (80, 20), "a folder with nothing else in it is cut, too"
    (tmp_path / "input.txt").write_text("SPDX-License-Identifier: AGPL-3.0")
    with pytest.raises(UserError, match="must not be trained on"):
        load(tmp_path / "input.txt")


def test_a_remark_says_that_not_all_of_the_data_is_used(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\N{SNOWMAN}" * 1000)
    for path in (corpus, tmp_path / "a.txt", write_fineweb(tmp_path / "a.parquet", ["text"] * 500)):
        whole, part = DataReport(), DataReport()
        name = load(path, report=whole).name
        load(path, bytes_max=1000, report=part)
        assert whole.lines() == ()
        assert part.lines() == (f"0.001 MB of {name} are used: --data_bytes takes more",)
    library = DataReport()
    load(None, bytes_max=1000, report=library)
    assert library.lines() == ()


def test_a_parquet_of_fineweb_shape_is_read_and_split_by_row(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(20)]
    loaded = load(write_fineweb(tmp_path / "000_00000.parquet", texts))
    assert {*loaded.train, *loaded.val} == {t.encode() for t in texts}
    assert len(loaded.val) == 4


def test_of_several_shards_the_last_one_validates(tmp_path: Path) -> None:
    for shard in range(3):
        write_fineweb(tmp_path / f"shard_{shard}.parquet", [f"{shard}/{row}" for row in range(5)])
    loaded = load(tmp_path)
    assert loaded.train == [], "the others are a stream"
    assert {d[:1] for d in loaded.val} == {b"2"}


def test_shards_may_lie_in_folders_of_their_own_but_hidden_ones_are_none(tmp_path: Path) -> None:
    for name in ("sample/10BT/000", "sample/10BT/001", "sample/100BT/000", ".cache/000"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_fineweb(tmp_path / f"{name}.parquet", ["text"] * 3)
    place = data.locate(str(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in place.shards] == [
        "sample/100BT/000.parquet", "sample/10BT/000.parquet", "sample/10BT/001.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["txt", "parquet", "jsonl"])
def test_links_to_folders_are_followed_and_no_folder_is_read_twice(suffix: str, tmp_path: Path) -> None:
    """Shards on another disk, say. A link that leads back up must not be followed for ever."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "sets"
    elsewhere.mkdir()
    folder.mkdir()
    for part in (folder, elsewhere):
        for name in ("a", "b"):
            if suffix == "parquet":
                write_fineweb(part / f"{name}.parquet", [part.name])
            else:
                (part / f"{name}.{suffix}").write_text(part.name)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked_again").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(folder)
    expected = [folder / "a", folder / "b", folder / "linked" / "a", folder / "linked" / "b"]
    expected = [path.with_suffix(f".{suffix}") for path in expected]
    if suffix == "jsonl":
        assert files_of(folder) == expected
    elif suffix == "parquet":
        assert list(data.locate(str(folder)).shards) == expected
    else:
        loaded = load(folder)
        assert sorted(loaded.train + loaded.val) == [b"elsewhere", b"elsewhere", b"sets", b"sets"]


@pytest.mark.parametrize("pattern", ["sets", "sets/**/*.jsonl", "sets/*"])
def test_a_link_that_leads_back_gives_a_data_config_no_row_twice(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "sets/sub").mkdir(parents=True)
    (tmp_path / "sets/sub/up").symlink_to(tmp_path / "sets")
    for name in ("a", "b"):
        (tmp_path / f"sets/sub/{name}.jsonl").write_text('{"question": "1?", "answer": "#### 1"}\n' * 5)
    config = tmp_path / "data.toml"
    config.write_text(f'datasets = [{{name = "sums", format = "gsm8k", path = "{pattern}"}}]')
    [task] = tasks.load("ppo", None, str(config), DataReport(), 0.2)
    assert len(task.train) + len(task.val) == 10


def test_the_size_of_the_texts_is_theirs_also_behind_columns_of_many_parts(tmp_path: Path) -> None:
    texts = [f"{n} {'text' * 100}" for n in range(50)]
    many = [{"a": n, "b": [n] * 9, "c": "x" * 999} for n in range(50)]
    for name, table in {"plain": {"text": texts}, "nested": {"many": many, "text": texts}}.items():
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet", compression="none")
    assert parquet.text_bytes(tmp_path / "plain.parquet") == parquet.text_bytes(tmp_path / "nested.parquet") > 20_000


def test_no_more_of_a_parquet_is_read_than_asked_for(tmp_path: Path) -> None:
    path = write_fineweb(tmp_path / "big.parquet", ["x" * 100] * 1000, row_group_size=10)
    loaded = load(path, bytes_max=950)
    assert sum(map(len, loaded.train + loaded.val)) == 950


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_a_column_of_texts_may_be_of_any_kind_that_is_text(kind: pyarrow.DataType, tmp_path: Path) -> None:
    texts = pyarrow.array(["one", "two", "two"]).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    found = load(tmp_path)
    assert sorted(found.train + found.val) == [b"one", b"two", b"two"]


def test_rows_without_text_are_passed_over(tmp_path: Path) -> None:
    loaded = load(write_fineweb(tmp_path / "holes.parquet", ["a", None, "", "b"]))
    assert {*loaded.train, *loaded.val} == {b"a", b"b"}


def corrupt(tmp_path: Path) -> Path:
    path = write_fineweb(tmp_path / "corrupt.parquet", ["text"] * 50)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def other_columns(tmp_path: Path) -> Path:
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"content": ["a", "b"]}), path)
    return path


def no_file(tmp_path: Path) -> Path:
    (tmp_path / "none").mkdir()
    return tmp_path / "none"


def binary_file(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(b"\x00\xff")
    return tmp_path / "a.bin"


def empty_shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_fineweb(folder / "0.parquet", ["text"])
    write_fineweb(folder / "1.parquet", [])
    return folder


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda tmp_path: tmp_path / "missing", "no such file"),
        (corrupt, "cannot read"),
        (other_columns, "no column 'text'"),
        (no_file, "too few"),
        (binary_file, "not UTF-8 text"),
        (empty_shards, "validation split empty"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_of_cause_and_one_of_remedy(make, cause: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=cause) as caught:
        load(make(tmp_path))
    assert "\n" not in caught.value.cause
    assert caught.value.remedy


def test_parquet_without_pyarrow_names_what_to_install(tmp_path: Path, monkeypatch) -> None:
    path = write_fineweb(tmp_path / "a.parquet", ["a", "b"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as caught:
        load(path)
    assert caught.value.remedy == "pip install pyarrow"


def windows(count: int = 41, **options: int) -> TokenWindows:
    given = {"seq_len": 4, "batch_size": 2, **options}
    return TokenWindows(torch.arange(count * 4 + 1, dtype=torch.int16), name="numbers", **given)


def starts(loader: TokenWindows, batches: int) -> list[int]:
    return [start for _ in range(batches) for start in loader.next_batch().inputs[:, 0].tolist()]


def test_targets_are_the_inputs_one_token_later() -> None:
    batch = windows().next_batch()
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.datasets == {"numbers": (2, 8)}


def test_ranks_read_disjoint_windows_that_together_are_the_pass() -> None:
    ranks = [windows(rank=rank, world_size=3) for rank in range(3)]
    read = [starts(loader, loader.batches_per_epoch) for loader in ranks]
    together = [start for part in read for start in part]
    assert len({len(part) for part in read}) == 1, "no rank may run dry before another"
    assert len(together) == len(set(together)) == 36


def test_two_ranks_read_together_what_one_rank_reads_with_twice_the_batch() -> None:
    alone = starts(windows(batch_size=4), 3)
    shared = [starts(windows(rank=rank, world_size=2), 3) for rank in range(2)]
    assert set(alone) == {*shared[0], *shared[1]}


def test_each_pass_has_an_order_of_its_own_and_the_seed_fixes_it() -> None:
    loader = windows()
    first, second = starts(loader, 20), starts(loader, 20)
    assert first != second
    assert len(set(first)) == len(set(second)) == 40
    assert starts(windows(), 40) == first + second
    assert starts(windows(seed=1), 20) != first


@pytest.mark.parametrize("before", [0, 7, 20, 33])
def test_a_restored_position_goes_on_where_the_other_would_have(before: int) -> None:
    loader, restored = windows(), windows()
    starts(loader, before)
    restored.load_state(loader.state())
    assert starts(restored, 25) == starts(loader, 25)


def test_reading_moves_no_global_random_number() -> None:
    state = torch.get_rng_state()
    starts(windows(), 45)
    assert torch.equal(torch.get_rng_state(), state)


def test_less_text_than_one_batch_is_refused() -> None:
    with pytest.raises(UserError, match="too few for one batch"):
        windows(count=3, batch_size=2, world_size=2)


def test_documents_are_joined_with_a_mark_before_each() -> None:
    assert concatenate([b"ab", b"\xff"]).tolist() == [BOS, 97, 98, BOS, 255]


def test_any_text_survives_the_tokenizer() -> None:
    text = "na\u00efve \U0001f984\n\t\x00 \u4f60\u597d"
    tokenizer = ByteTokenizer()
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode(text)]) == text
    assert tokenizer.decode([0xFF, 104]) == "\\xffh"


# -- streams of shards -------------------------------------------------------------------------------------------------


def shards_in(folder: Path, count: int = 3, rows: int = 12) -> list[Path]:
    """Each document spells its own number again and again; four rows to a group."""
    return [
        write_fineweb(
            folder / f"shard_{shard}.parquet",
            [f"{shard}{row:02d} " * 10 for row in range(rows)],
            row_group_size=4,
        )
        for shard in range(count)
    ]


def stream(shards: list[Path], **options: int) -> ParquetStream:
    return ParquetStream(shards, name="fineweb", **{"seq_len": 8, "batch_size": 2, **options})


def text_of(batches: list[Batch]) -> str:
    return ByteTokenizer().decode(token for batch in batches for token in batch.inputs.flatten().tolist())


def test_a_stream_reads_every_document_of_every_shard_in_order(tmp_path: Path) -> None:
    loader = stream(shards_in(tmp_path))
    text = text_of([loader.next_batch() for _ in range(80)])
    whole = "".join(f"{shard}{row:02d} " * 10 for shard in range(3) for row in range(12))
    assert len(text) < len(whole)
    assert whole.startswith(text)
    assert 0 < loader.batches_per_epoch < 2 * len(whole) / 16, "an estimate, by the footers alone"
    batch = loader.next_batch()
    assert torch.equal(batch.inputs.flatten()[1:], batch.targets.flatten()[:-1])
    assert batch.datasets == {"fineweb": (2, 16)}


def test_a_restored_stream_stands_where_the_other_stood_before_it_reads_anything(tmp_path: Path) -> None:
    shards = shards_in(tmp_path)
    loader, restored = stream(shards), stream(shards)
    for _ in range(11):
        loader.next_batch()
    assert loader.state()["offset"] > 0
    restored.load_state(loader.state())
    assert restored.state() == loader.state()


def test_a_stream_begins_anew_when_it_ends(tmp_path: Path) -> None:
    loader = stream(shards_in(tmp_path, count=1))
    text = text_of([loader.next_batch() for _ in range(60)])
    assert text.count("000 " * 10) == 2
    assert loader.state()["epoch"] >= 1


def words_of_ranks(shards: list[Path], world_size: int, batches: int) -> list[set[str]]:
    """What each rank reads."""
    ranks = [stream(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    texts = [text_of([loader.next_batch() for _ in range(batches)]) for loader in ranks]
    return [{word for word in text.split() if len(word) == 3} for text in texts]


def test_ranks_of_a_stream_read_row_groups_of_their_own(tmp_path: Path) -> None:
    first, second = words_of_ranks(shards_in(tmp_path, count=2, rows=40), 2, batches=60)
    assert {int(word[1:]) // 4 % 2 for word in first} == {0}
    assert {int(word[1:]) // 4 % 2 for word in second} == {1}


def test_ranks_share_the_rows_where_there_are_few_row_groups(tmp_path: Path) -> None:
    """Such as one for each shard, as pandas writes them."""
    shards = shards_in(tmp_path, count=1)
    seen = words_of_ranks(shards, 5, batches=12)
    assert sum(map(len, seen)) == 12, "every document is read by one rank"
    assert len(set.union(*seen)) == 12
    loader, restored = (stream(shards, rank=3, world_size=5) for _ in range(2))
    for _ in range(7):
        loader.next_batch()
    restored.load_state(loader.state())
    assert torch.equal(restored.next_batch().inputs, loader.next_batch().inputs)


def test_shards_without_any_row_are_refused(tmp_path: Path) -> None:
    write_fineweb(tmp_path / "0.parquet", [])
    with pytest.raises(UserError, match="no rows"):
        stream([tmp_path / "0.parquet"])


def damaged_shard(path: Path, rows: int = 12, wrong: int = 5) -> Path:
    """Four rows to a group; a byte of row number ``wrong`` (from 0) is not as its page's checksum says."""
    texts = [f"row {row:02d} of it " * 9 for row in range(rows)]
    write_fineweb(path, texts, row_group_size=4, write_page_checksum=True, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(f"row {wrong:02d}".encode(), f"raw {wrong:02d}".encode()))
    return path


def test_a_damaged_page_costs_its_row_group_and_is_counted_and_named_or_refused(tmp_path: Path) -> None:
    path = damaged_shard(tmp_path / "0.parquet")
    report = DataReport()
    assert [row["text"][4:6] for _, row in parquet.rows(path, report)] == [
        "00",
        "01",
        "02",
        "03",
        "08",
        "09",
        "10",
        "11",
    ]
    assert report.count == 4
    assert report.sentence().startswith("skipped 4 bad row(s): 0.parquet:5: damaged, with 4 row(s) of row group 1: ")
    report, loaded = DataReport(), load(path)
    assert len(parquet.documents(path, 10**6, report, Quality())) == len(loaded.train + loaded.val) == report.count * 2
    report = DataReport()
    assert parquet.group_texts(path, 1, report, Quality(), slice(1, None, 2)) == []
    assert report.count == 2, "of the rows that were wanted"
    with pytest.raises(UserError, match=r"0.parquet:5: damaged, with 4 row\(s\)"):
        load(path, report=DataReport(refuse=True))


def test_a_row_of_parquet_that_is_not_utf_8_costs_itself_alone(tmp_path: Path) -> None:
    texts = pyarrow.array([b"one", b"\xff\xfe", b"three"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    report = DataReport()
    assert [row["text"] for _, row in parquet.rows(tmp_path / "a.parquet", report)] == ["one", "three"]
    assert report.lines() == ("skipped 1 bad row(s): a.parquet:2: not UTF-8",)


@pytest.mark.parametrize("whole", [0, 1, 2, 3])
def test_a_shard_that_was_cut_off_is_counted_and_named_and_the_others_are_read(tmp_path: Path, whole: int) -> None:
    for number in range(whole):
        write_fineweb(tmp_path / f"{number}.parquet", [f"{number}{row:02d} " * 10 for row in range(12)])
    write_fineweb(tmp_path / "9.parquet", ["text"] * 50)
    (tmp_path / "9.parquet").write_bytes((tmp_path / "9.parquet").read_bytes()[:-40])
    (tmp_path / "8.parquet").touch()
    report = DataReport()
    if not whole:
        with pytest.raises(UserError, match="cannot read any of 2 parquet files; skipped 2 .*8.parquet: "):
            load(tmp_path, report=report)
        return
    found = load(tmp_path, report=report)
    assert report.count == 2
    assert [line.partition(":")[0] for line in report.named] == ["8.parquet", "9.parquet"]
    assert [shard.name for shard in found.shards] == [f"{number}.parquet" for number in range(whole - 1)]
    assert len(found.train) == (10 if whole == 1 else 0), "the only one left is split by row"
    assert found.val[0].startswith(f"{whole - 1}0".encode())
    with pytest.raises(UserError, match="8.parquet: cannot be read"):
        load(tmp_path, report=DataReport(refuse=True))


def test_a_stream_counts_each_damaged_row_once_and_goes_on(trained, tmp_path: Path, capsys) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("0", "1"):
        damaged_shard(tmp_path / "shards" / f"{name}.parquet")
    flags = {"data": str(tmp_path / "shards"), "steps": 8, "eval_freq": 4, "seq_len": 64, "batch_size": 8}
    run = trained(**flags, quiet=False)
    assert run.logged("data/unreadable") == [(0, 4), (4, 8), (8, 8)], "the one that validates, then the other"
    out = capsys.readouterr().out
    assert out.count("  skipped 4 bad row(s): 1.parquet:5: damaged") == 1
    assert out.count("  skipped 8 bad row(s): 1.parquet:5: damaged") == 1
    with pytest.raises(UserError, match="1.parquet:5: damaged"):
        trained(**flags, bad_rows="refuse")


@pytest.mark.parametrize("before", [0, 1, 7, 50, 110])
def test_a_stream_goes_on_at_the_token_where_it_stood(tmp_path: Path, before: int) -> None:
    shards = shards_in(tmp_path)
    loader, restored = stream(shards), stream(shards)
    for _ in range(before):
        loader.next_batch()
    restored.load_state(loader.state())
    for _ in range(20):
        assert torch.equal(restored.next_batch().inputs, loader.next_batch().inputs)


def test_pretraining_on_shards_streams_and_resumes_bit_equal(trained, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shards_in(tmp_path / "shards", rows=60)
    flags = {"data": str(tmp_path / "shards"), "steps": 6, "seq_len": 16}
    whole = trained(**flags, out=str(tmp_path / "out"), checkpoint_freq=2)
    rest = trained(**flags, resume=str(tmp_path / "out" / "pretrain" / "checkpoint_000002.pt"))
    assert rest.losses == whole.losses[2:]
    assert whole.logged("data/avg_quality_score") == [(0, pytest.approx(3.2))]
    assert whole.logged("data/language_en_percent") == [(0, 100.0)]
    assert whole.datasets == {"shards": (6 * 4, 6 * 4 * 16)}
