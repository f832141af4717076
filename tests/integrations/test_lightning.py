# ruff: noqa: E501 - scripts and tables read better on one line
"""The real Lightning on a tiny random model."""

from pathlib import Path

import pytest

PREAMBLE = """
    import warnings; warnings.filterwarnings("ignore")
    import torch, lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Tiny(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": 8})
            self.net = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Flatten(), torch.nn.Linear(8 * 4, 1))
        def training_step(self, batch, index):
            loss = self.net(batch[0]).pow(2).mean()
            self.log("train/loss", loss)
            return loss
        def validation_step(self, batch, index):
            self.log("val/loss", self.net(batch[0]).pow(2).mean())
        def configure_optimizers(self):
            optimizer = torch.optim.SGD([{"params": [p]} for p in self.parameters()], lr=0.1)
            optimizer.param_groups[1]["lr"] = 1.0
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loader(): return DataLoader(TensorDataset(torch.randint(0, 32, (24, 4))), batch_size=2)
    quiet = dict(accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=2,
                 default_root_dir="out")
"""


def test_logger_and_callback_share_one_run(script, listener) -> None:
    script(PREAMBLE + """
    from sidecar.client.integrations.lightning import SidecarCallback, SidecarLogger
    trainer = lightning.Trainer(logger=SidecarLogger("light", name="tiny", stage="sft"),
                                callbacks=[SidecarCallback(watch={"every": 4})], max_epochs=2, accumulate_grad_batches=3, **quiet)
    trainer.fit(Tiny(), loader(), loader())
    """)
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",))
    assert [row.step for row in steps] == list(range(8))
    assert {row.metrics["train/num_samples"] for row in steps} == {6}
    assert {row.metrics["train/num_tokens"] for row in steps} == {24}
    rates = [(row.metrics["train/learning_rate"], row.metrics["train/learning_rate/1"]) for row in steps]
    assert rates == [pytest.approx((0.1 * 0.5**step, 0.5**step)) for step in range(8)]  # Those of the step itself.
    logs = listener.rows(run_id, ("log",))
    assert [row.step for row in logs if "train/loss" in row.metrics] == [1, 3, 5, 7]
    assert sum("val/loss" in row.metrics for row in logs) == 2
    (watched,) = {row.step for row in logs if "weights/global_std" in row.metrics}
    norms = [row.metrics["gradients/net.0.weight"] for row in logs if "gradients/net.0.weight" in row.metrics]
    assert (watched, len(norms)) == (4, 1)
    assert norms[0] > 0  # Lightning computes gradients inside the optimizer's step.
    derived = listener.rows(run_id, ("derived",))
    assert all(row.metrics["performance/optimizer_time_ms"] > 0 for row in derived)
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.stage, state.total_steps) == ("light", "tiny", "sft", 8)
    assert state.config["width"] == 8
    assert state.facts["params"] == 32 * 8 + 8 * 4 + 1
    assert sum("phase/evaluation" in row.metrics for row in listener.rows(run_id, ("phase",))) >= 2
    saved = listener.rows(run_id, ("checkpoint",))
    assert [row.step for row in saved] == [4, 8]
    assert [Path(row.metrics["checkpoint/path"]).name for row in saved] == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    assert Path(saved[-1].metrics["checkpoint/path"]).is_file()


def test_a_resumed_fit_is_the_same_run_and_what_it_does_again_is_marked(script, listener) -> None:
    """The checkpoint after nine steps knows the run; of the twelve that were done, three are done again."""
    script(PREAMBLE + """
    from lightning.pytorch.callbacks import ModelCheckpoint
    from sidecar.client.integrations.lightning import SidecarCallback, SidecarLogger
    saving = ModelCheckpoint("ckpt", filename="{step}", every_n_train_steps=9)
    def trainer(**more):
        return lightning.Trainer(logger=SidecarLogger("light"), callbacks=[SidecarCallback(), saving], **more, **quiet)
    trainer(max_epochs=1).fit(Tiny(), loader())
    import sidecar.client.run as runs
    runs.current().finish()
    trainer(max_epochs=2).fit(Tiny(), loader(), ckpt_path="ckpt/step=9.ckpt")
    """)
    (run_id,) = listener.run_ids()
    steps = [row.step for row in listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 27)]
    assert steps == [*range(12), *range(9, 24)]
    state = listener.projector(run_id)[0].state
    assert (state.restarts, state.rework_steps, state.samples, state.samples_total) == (1, 3, 48, 54)


@pytest.mark.slow
def test_both_ranks_report_their_own_steps(script, listener) -> None:
    script(PREAMBLE + """
    from sidecar.client.integrations.lightning import SidecarCallback, SidecarLogger
    del quiet["devices"]
    trainer = lightning.Trainer(logger=SidecarLogger("light"), callbacks=[SidecarCallback()], max_epochs=1, devices=2,
                                strategy="ddp", **quiet)
    trainer.fit(Tiny(), loader())
    """, ranks=2)
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 12)
    assert sorted((row.rank, row.step) for row in steps) == [(rank, step) for rank in (0, 1) for step in range(6)]


@pytest.mark.slow
def test_both_ranks_of_a_resumed_fit_go_on_as_the_same_run(script, listener) -> None:
    """Two launches of two ranks: the checkpoint after three of the six steps tells each rank which run it was."""
    text = PREAMBLE + """
    from lightning.pytorch.callbacks import ModelCheckpoint
    from sidecar.client.integrations.lightning import SidecarCallback, SidecarLogger
    quiet.update(devices=2, strategy="ddp")
    saving = ModelCheckpoint("ckpt", filename="{step}", every_n_train_steps=3)
    trainer = lightning.Trainer(logger=LOGGER, callbacks=[SidecarCallback(), saving], max_steps=STEPS, **quiet)
    trainer.fit(Tiny(), loader(), ckpt_path=FROM)
    """.replace("LOGGER", "SidecarLogger('light')")
    script(text.replace("STEPS", "5").replace("FROM", "None"), ranks=2)
    script(text.replace("STEPS", "8").replace("FROM", "'ckpt/step=3.ckpt'"), ranks=2, launch_id="again")
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 20)
    done = [*range(5), *range(3, 8)]
    assert sorted((row.rank, row.step) for row in steps) == sorted((rank, step) for rank in (0, 1) for step in done)
    state = listener.projector(run_id)[0].state
    assert (state.restarts, state.rework_steps, state.samples, state.samples_total) == (1, 2, 2 * 8 * 2, 2 * 10 * 2)


def test_lightnings_own_wandb_logger_works_on_the_capture(captured, listener) -> None:
    captured(PREAMBLE + """
    from lightning.pytorch.loggers import WandbLogger
    logger = WandbLogger(project="light", name="under-capture")
    lightning.Trainer(logger=logger, max_epochs=1, **quiet).fit(Tiny(), loader(), loader())
    logger.experiment.summary["best"] = 1
    print(logger.version, logger.experiment.id)
    """)
    rows = listener.rows(kinds=("log",))
    losses = [row for row in rows if "train/loss" in row.metrics]
    assert [row.metrics["trainer/global_step"] for row in losses] == [1, 3, 5, 7, 9, 11]
    assert all("trainer/global_step" in row.metrics for row in rows)
    (run_id,) = listener.run_ids()
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.captured) == ("light", "under-capture", "wandb")
    assert state.config["width"] == 8
