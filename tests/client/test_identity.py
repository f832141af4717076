"""Every rank of a launch computes the same run id; no two launches do."""

from sidecar.client import identity


def run_id(environ: dict[str, str], number: int = 1, project: str = "p", name: str | None = None) -> str:
    return identity.run_id(None, environ, number, project, name, None)


def test_the_argument_wins_over_everything() -> None:
    assert identity.run_id("mine", {"SIDECAR_RUN_ID": "other"}, 1, "p", None, None) == "mine"


def test_the_first_init_of_a_launch_takes_the_given_id_and_later_ones_count_up() -> None:
    environ = {"SIDECAR_RUN_ID": "abc"}
    assert [run_id(environ, number) for number in (1, 2, 3)] == ["abc", "abc-2", "abc-3"]


def test_ranks_agree_and_launches_differ() -> None:
    ranks = [run_id({"TORCHELASTIC_RUN_ID": "j1", "RANK": str(rank)}) for rank in range(4)]
    assert len(set(ranks)) == 1
    assert run_id({"TORCHELASTIC_RUN_ID": "j2"}) != ranks[0]
    assert run_id({"TORCHELASTIC_RUN_ID": "j1"}, 2) != ranks[0]


def test_the_launch_is_named_by_the_first_of_our_own_torchrun_and_slurm() -> None:
    environ = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "1"}
    assert identity.launch_id(environ) == "slurm-5.1"
    assert identity.launch_id({**environ, "TORCHELASTIC_RUN_ID": "e"}) == "e"
    assert identity.launch_id({**environ, "TORCHELASTIC_RUN_ID": "e", "SIDECAR_LAUNCH_ID": "s"}) == "s"
    assert identity.launch_id({}) == identity.launch_id({})


def test_an_unnamed_torchrun_does_not_share_its_id_with_the_next_one() -> None:
    first = identity.launch_id({"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"})
    assert first != "none"
    assert first == identity.launch_id({"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"})


def test_rank_and_world_size_come_from_torchrun_or_slurm() -> None:
    assert (identity.rank({}), identity.world_size({})) == (0, 1)
    assert (identity.rank({"RANK": "3"}), identity.world_size({"WORLD_SIZE": "8"})) == (3, 8)
    assert (identity.rank({"SLURM_PROCID": "2"}), identity.world_size({"SLURM_NTASKS": "4"})) == (2, 4)
    assert identity.world_size({"WORLD_SIZE": "nonsense"}) == 1
