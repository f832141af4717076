# ruff: noqa: E501 - scripts and tables read better on one line
"""The real Accelerate on a tiny model."""

import pytest


def test_a_tracker_logs_what_the_accelerator_is_told(script, listener) -> None:
    script("""
    import torch
    from accelerate import Accelerator
    from sidecar.client.integrations.accelerate import SidecarTracker
    accelerator = Accelerator(cpu=True, log_with=SidecarTracker("acc", name="tiny"), gradient_accumulation_steps=2)
    accelerator.init_trackers("acc", config={"lr": 0.1})
    model, optimizer = accelerator.prepare(torch.nn.Linear(4, 1), torch.optim.SGD([torch.zeros(1)], lr=0.1))
    for step in range(5):
        accelerator.log({"train/loss": 1.0 / (step + 1)}, step=step)
    accelerator.log({"late": 1}, step=2)
    accelerator.end_training()
    """)
    rows = listener.rows(kinds=("log",))
    assert [(row.step, row.metrics) for row in rows] == [(step, {"train/loss": 1.0 / (step + 1)}) for step in range(5)]
    (run_id,) = listener.run_ids()
    assert [row.step for row in listener.rows(run_id, ("late",))] == [2]
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.config) == ("acc", "tiny", {"lr": 0.1})


@pytest.mark.slow
def test_two_ranks_accumulate_log_once_and_resume_as_the_same_run(script, listener) -> None:
    script("""
    import torch
    from accelerate import Accelerator
    from sidecar.client.integrations.accelerate import SidecarTracker

    def train(first, last, resume):
        tracker = SidecarTracker("acc", name="two")
        accelerator = Accelerator(cpu=True, log_with=tracker, gradient_accumulation_steps=2)
        accelerator.register_for_checkpointing(tracker)
        net = torch.nn.Linear(4, 1)
        data = torch.utils.data.DataLoader(torch.ones(48, 4), batch_size=2)
        model, optimizer, data = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), data)
        if resume:
            accelerator.load_state("state")
        accelerator.init_trackers("acc")
        step, rank = first, accelerator.process_index
        for batch in data:
            with accelerator.accumulate(model):
                loss = model(batch).square().mean() * 0 + rank
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                accelerator.log({"train/loss": accelerator.gather(loss).mean().item(), "world": accelerator.num_processes},
                                step=step)
            if step == last:
                break
        if resume:
            accelerator.end_training()  # Takes the process group with it.
        else:
            accelerator.save_state("state")
            tracker.finish()

    train(0, 4, resume=False)
    train(4, 6, resume=True)
    """, ranks=2)
    (run_id,) = listener.run_ids()
    rows = listener.rows(run_id, wait=lambda rows: len(rows) >= 6)
    assert [(row.rank, row.step, row.metrics) for row in rows] == [
        (0, step, {"train/loss": 0.5, "world": 2}) for step in range(1, 7)
    ]
    state = listener.projector(run_id)[0].state
    assert (state.step, state.loss, state.world_size, state.rework_steps) == (6, 0.5, 2, 0)


def test_accelerates_own_wandb_tracker_works_on_the_capture(captured, listener) -> None:
    captured("""
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("acc", config={"lr": 0.1}, init_kwargs={"wandb": {"name": "tiny"}})
    for step in range(3):
        accelerator.log({"loss": step}, step=step)
    accelerator.end_training()
    """)
    assert [(row.step, row.metrics) for row in listener.rows(kinds=("log",))] == [(s, {"loss": s}) for s in range(3)]
    (run_id,) = listener.run_ids()
    assert listener.projector(run_id)[0].state.config == {"lr": 0.1}
