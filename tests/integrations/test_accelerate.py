"""The real Accelerate on a tiny model."""


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
