"""Properties of what decides which example comes when: the mixture, the order of a pass, the position in a stream."""

import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.batch import BatchSampler
from trainer.data.stream import ParquetStream
from trainer.tasks.example import Example, TaskMixture, ask

STAGES = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(0, 12), max_size=4)
RANKS = st.integers(1, 5)


def mixture(sizes: dict[str, int], seed: int) -> TaskMixture[Example]:
    parts = {name: [ask(f"{name}{i}", "x") for i in range(size)] for name, size in sizes.items()}
    return TaskMixture(parts, seed)


@given(STAGES, st.integers())
def test_the_index_map_is_a_shuffle_of_every_place_of_every_task(sizes: dict[str, int], seed: int) -> None:
    mixed = mixture(sizes, seed)
    assert sorted(mixed.index_map) == [(t, i) for t, size in enumerate(sizes.values()) for i in range(size)]
    assert mixed.index_map == mixture(sizes, seed).index_map


@given(STAGES.filter(lambda sizes: sum(sizes.values()) > 0), st.integers(), st.integers(0, 1000))
def test_any_cursor_has_an_example_and_its_task_also_beyond_the_end(sizes, seed: int, cursor: int) -> None:
    mixed = mixture(sizes, seed)
    task, place = mixed.index_map[cursor % len(mixed)]
    assert mixed[cursor].prompt[0].content == f"{mixed.names[task]}{place}"
    assert mixed.source(cursor) == mixed.names[task]
    assert mixed[cursor + len(mixed)] == mixed[cursor]


@given(STAGES, st.integers())
def test_shuffling_moves_no_global_random_number(sizes: dict[str, int], seed: int) -> None:
    before = random.getstate()
    mixture(sizes, seed)
    assert random.getstate() == before


@given(
    count=st.integers(1, 60), batch_size=st.integers(1, 6), world_size=RANKS, seed=st.integers(0, 2**31),
    before=st.integers(0, 40), after=st.integers(1, 20),
)  # fmt: skip
def test_an_order_goes_on_from_any_position_and_a_pass_has_no_row_twice(
    count: int, batch_size: int, world_size: int, seed: int, before: int, after: int
) -> None:
    def orders() -> list[BatchSampler]:
        share = {"batch_size": batch_size, "seed": seed, "world_size": world_size}
        return [BatchSampler(count, rank=rank, **share) for rank in range(world_size)]

    def rows(order: BatchSampler, batches: int) -> list[int]:
        return [row for _ in range(batches) for row in order.next().tolist()]

    whole, restored = orders(), orders()
    per_pass = whole[0].batches_per_epoch
    if not per_pass:
        return
    one_pass = [row for order in orders() for row in rows(order, per_pass)]
    assert len(set(one_pass)) == len(one_pass) == per_pass * batch_size * world_size
    assert set(one_pass) <= set(range(count))
    for order, later in zip(whole, restored, strict=True):
        rows(order, before)
        later.load_state(order.state())
        assert rows(later, after) == rows(order, after)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Documents of very different lengths, some without text, in row groups of three."""
    folder, rng = tmp_path_factory.mktemp("shards"), random.Random(5)
    for shard in range(3):
        texts = [f"{shard}.{row} " * rng.choice([0, 1, 2, 40]) or None for row in range(10)]
        table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())})
        pyarrow.parquet.write_table(table, folder / f"{shard}.parquet", row_group_size=3)
    return sorted(folder.iterdir())


@settings(max_examples=25, deadline=None)
@given(seq_len=st.integers(1, 40), batch_size=st.integers(1, 3), before=st.integers(0, 30), data=st.data())
def test_a_stream_goes_on_from_any_position_and_joins_its_documents_without_a_gap(
    shards: list[Path], seq_len: int, batch_size: int, before: int, data: st.DataObject
) -> None:
    world_size = data.draw(st.integers(1, 3))
    rank = data.draw(st.integers(0, world_size - 1))

    def stream() -> ParquetStream:
        share = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        return ParquetStream(shards, name="s", seq_len=seq_len, **share)

    def tokens(loader: ParquetStream, batches: int) -> list[int]:
        return [t for _ in range(batches) for t in loader.next_batch().inputs.flatten().tolist()]

    whole, restored = stream(), stream()
    first = tokens(whole, before)
    restored.load_state(whole.state())
    rest = tokens(whole, 5)
    assert tokens(restored, 5) == rest
    assert tokens(stream(), before + 5) == first + rest
