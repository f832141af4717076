"""One launch on several nodes, or as several tasks of one, is one run wherever that can be known."""

from collections import Counter

import pytest

from sidecar.launch_identity import identify, lacks_common_id

STEP = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_CLUSTER_NAME": "alps"}


def test_every_task_of_a_slurm_step_has_the_same_ids() -> None:
    first, second = (identify(None, STEP | {"SLURM_PROCID": str(task)}, now) for task, now in ((0, 1.0), (1, 99.0)))
    assert first == second
    assert first.run_id.startswith("slurm-4711.0-")


def test_steps_jobs_and_clusters_are_told_apart() -> None:
    others = [{"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "4712"}, {"SLURM_CLUSTER_NAME": "jura"}, {}]
    assert len({identify(None, STEP | other, 1.0) for other in others}) == 4


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS"])
def test_launches_outside_a_step_of_several_tasks_are_each_their_own(missing: str) -> None:
    environ = {name: value for name, value in STEP.items() if name != missing}
    assert max(Counter(word for _ in range(9) for word in identify(None, environ, 1.0)).values()) == 1


def test_ids_that_the_user_chose_are_kept() -> None:
    assert identify("mine", STEP | {"SIDECAR_LAUNCH_ID": "theirs"}, 1.0) == ("mine", "theirs")


@pytest.mark.parametrize(
    ("command", "environ", "lacks"),
    [
        ("torchrun --nnodes 2 train.py", {}, True),
        ("torchrun --nnodes=1:4 train.py", {}, True),
        ("torchrun train.py", {"PET_NNODES": "2"}, True),
        ("torchrun --nnodes 2 train.py", STEP, False),
        ("torchrun --nnodes 1 train.py", {}, False),
        ("torchrun --standalone train.py --nnodes", {}, False),
        ("python train.py", {}, False),
    ],
)
def test_a_launch_on_several_nodes_without_a_common_id_is_known(command: str, environ: dict, lacks: bool) -> None:
    assert lacks_common_id(None, command.split(), environ) is lacks
    assert not lacks_common_id("mine", command.split(), environ)
