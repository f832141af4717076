"""The training loop, the same for every stage: batch, forward, backward, step, tell the sidecar; at times validate,
sample and save.

Given: a stage, its flags, this process' World. Hands on: the trained Weights, and every number to the sidecar.
Never: waits for the sidecar, or lets validation and samples change the training: no global random number moves.
"""

import dataclasses
import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sidecar
from trainer import checkpoint, monitoring, run_history
from trainer.config import Config
from trainer.console import QUIET, VERBOSE, Console
from trainer.data.batch import Batch
from trainer.distributed import World
from trainer.errors import UserError, as_user_error
from trainer.files import own_folder
from trainer.flops import peak_flops
from trainer.generate import generate_samples, sample_names
from trainer.nonfinite import NonFiniteGuard
from trainer.optimizer import build_optimizer, restore_optimizer
from trainer.precision import autocast_to, dtype_of
from trainer.sample_metrics import sample_metrics
from trainer.schedule import learning_rate_at, plan
from trainer.stage import Stage
from trainer.stages import load_stage
from trainer.step_metrics import StepMetrics
from trainer.throughput import ThroughputMeter
from trainer.tokenizer import IDENTITY
from trainer.weights import Weights, build_model, config_for


def train_stage(name: str, config: Config, world: World, weights: Weights | None) -> Weights:
    """One stage from the weights it starts with to its last checkpoint. Raises UserError before training starts."""
    config = config_for(config, weights)
    loop = Loop(load_stage(name)(config, world), config, world, weights)
    with own_folder(config.out, world):
        loop.open()
        try:
            loop.announce()
            loop.run_to_the_end()
        except BaseException as error:
            error = as_user_error(error, world.device, when=f" at step {loop.step + 1}") or error
            loop.close(failure=error.cause if isinstance(error, UserError) else type(error).__name__)
            raise error
        loop.close()
    return Weights(name, loop.gpt.config, loop.gpt.state_dict())


class Loop:
    def __init__(self, stage: Stage, config: Config, world: World, weights: Weights | None = None) -> None:
        self.stage, self.config, self.world = stage, config, world
        self.console = Console.of(config, is_main=world.is_main)
        self.schedule = plan(config, max(1, stage.batches_per_epoch // config.grad_accum))
        self.dtype = dtype_of(config, world)
        stage.autocast = autocast_to(self.dtype, world)
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(config.seed)  # Every rank draws the same weights ...
        self.gpt = build_model(config, weights).to(world.device)  # The bare GPT: sampled from, validated, saved.
        self.gpt.checkpoint_activations = config.checkpoint_activations
        torch.manual_seed(config.seed + 1 + world.rank)  # ... and its own dropout.
        self.raw_model = stage.wrap_model(self.gpt)  # What is trained: with PPO, the GPT and a value head.
        self.optimizer = build_optimizer(self.raw_model, config)
        self.step = 0  # Optimizer steps done, skipped ones included.
        self.remarks_printed: tuple[str, ...] = ()
        self.guard = NonFiniteGuard(config.nan_loss, world.device)
        self.started_from = weights.origin if weights else None
        self.resumed_id: str | None = None
        self.resumed_from = self._resume(config.resume) if config.resume else None
        self.first_step = self.step
        on_gpu = world.device.type == "cuda"
        if on_gpu or config.prefetch:
            stage.prefetch(pin=on_gpu, depth=config.grad_accum)
        self.model = self._compile_and_distribute()  # What a step calls: raw_model, compiled and in DDP.
        self.run: sidecar.Run

    def open(self) -> None:
        """Begin the run at the sidecar. Raises UserError if there can be none."""
        config, world = self.config, self.world
        self.facts = facts = monitoring.model_facts(self.gpt, config, world, self.dtype)
        settings = monitoring.run_config(self.gpt, config, self.schedule, world)
        settings |= {**self.stage.data_facts, "dataset_sizes": self.stage.dataset_sizes}
        settings |= {"from_weight": self.started_from} if self.started_from else {}
        total = self.schedule.total_steps
        self.history = run_history.begin_run(config, world)
        self.run = monitoring.init_run(self.stage.name, config, facts, settings, total, self.resumed_id, self.history)

    def announce(self) -> None:
        """Say on the console, and log once, what is about to be trained."""
        config, world, facts = self.config, self.world, self.facts
        if config.watch_freq is not None:
            self.run.watch(self.raw_model, self.optimizer, every=config.watch_freq, histograms=True, activations=True)
        self.meter = ThroughputMeter(
            self.schedule, first_step=self.step, world_size=world.size, flops_per_token=facts["flops_per_token"],
            peak_flops=peak_flops(facts),
        )  # fmt: skip
        if world.is_main and self.step == 0:
            self.run.log({k: v for k, v in self.stage.data_facts.items() if not isinstance(v, str)}, step=0)
        self.console.say(
            f"{self.stage.name}: {facts['params']:,} parameters, {self.schedule.total_steps} steps of "
            f"{config.batch_size * config.grad_accum * world.size} x {facts['seq_len']} tokens from "
            f"{self.stage.data_facts['dataset/name']} on {world.size} x {facts['device_name']} ({facts['dtype']})"
            + (f", starting from {self.started_from}" if self.started_from else "")
            + (f", resumed from {self.resumed_from} at step {self.step}" if self.resumed_from else "")
        )
        self._say_remarks()

    def _say_remarks(self) -> None:
        """Print the new ones. Other ranks print only what came up while training: rank 0 may not have met it."""
        remarks = (*self.stage.remarks, *monitoring.remarks(self.config))
        for remark in (remark for remark in remarks if remark not in self.remarks_printed):
            self.console.say(f"  {remark}")
            if self.step > self.first_step and not (self.world.is_main or self.config.quiet):
                print(f"rank {self.world.rank}: {remark}", file=sys.stderr)
        self.remarks_printed = remarks

    def run_to_the_end(self) -> None:
        total = self.schedule.total_steps

        def is_time(period: int) -> bool:
            return self.step % period == 0 or self.step == total

        self.model.train()
        while self.step < total:
            self._train_step()
            if is_time(self.schedule.eval_freq):
                self._validate()
            if is_time(self.schedule.generate_freq):
                self._generate_samples()
            if self.config.out and is_time(self.config.checkpoint_freq or total):
                self._save(self.config.out)

    def close(self, failure: str | None = None) -> None:
        self.console.wipe()
        if failure is not None:
            self.run.finish(state="failed", reason=failure)
            return
        self.console.say(self.meter.summary(), QUIET)
        samples = self._count_samples()
        if self.world.is_main:
            self.run.log(run_history.end_run(self.history, self.config, samples), step=self.step)
        self.run.finish()

    def _count_samples(self) -> int:
        """Samples that all ranks have trained on since this process began. All of them must call this together."""
        return int(self.world.sum_over_ranks(self.meter.samples)[0])

    # -- a step --------------------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        """One optimizer step over ``grad_accum`` micro-batches."""
        self.meter.begin()
        lr = self._set_learning_rate()
        with self.run.phase(self.stage.batch_phase):
            batches = [self.stage.next_batch().to(self.world.device) for _ in range(self.config.grad_accum)]
        counts = [batch.loss_tokens if self.stage.loss_is_per_token else None for batch in batches]
        scales, metrics = self.world.loss_scales(counts), StepMetrics()
        for micro, batch in enumerate(batches):
            with self._sync_only_last(micro):
                loss, numbers = self._forward_backward(batch, scales[micro])
            metrics.add(batch, loss, numbers, weight=counts[micro], flops=self.stage.flops(self.gpt, batch))
            for name, (samples, tokens) in batch.datasets.items():
                self.run.dataset(name, samples=samples, tokens=tokens)
        with self.run.phase("optimizer"):
            grad_norm = nn.utils.clip_grad_norm_(self.raw_model.parameters(), self.config.grad_clip or math.inf)
            self.guard.step(self.optimizer, grad_norm, self.step + 1)
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._report_step(lr, grad_norm.detach(), metrics)

    def _forward_backward(self, batch: Batch, scale: float | Tensor) -> tuple[Tensor, dict[str, Any]]:
        compiling = self.config.compile and self.step == self.first_step
        with self.run.phase("compile" if compiling else "forward"), self.stage.autocast():
            loss, metrics = self.stage.loss(self.model, batch)
        with self.run.phase("compile" if compiling else "backward"):
            torch.mul(loss, scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), metrics

    def _set_learning_rate(self) -> float:
        config, total = self.config, self.schedule.total_steps
        lr = learning_rate_at(
            self.step, total, peak=config.learning_rate, warmup=config.warmup, min_share=config.min_lr
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _report_step(self, lr: float, grad_norm: Tensor, metrics: StepMetrics) -> None:
        """The step's event for the sidecar, and its line on the console."""
        on_cpu, step, total = self.world.device.type == "cpu", self.step, self.schedule.total_steps
        loss: Any = metrics.loss()
        norm: Any = grad_norm
        if on_cpu:  # On a GPU the numbers stay there as tensors: nothing may wait for them in a step.
            loss, norm = loss.item(), norm.item()
        self.run.step(
            step, loss=loss, learning_rate=lr, grad_norm=norm, tokens=metrics.tokens, samples=metrics.samples,
            epoch=step / self.schedule.steps_per_epoch, metrics=metrics.metrics() | self.guard.metrics(),
        )  # fmt: skip
        is_logged = step % self.config.log_train_freq == 0 or step == total
        if is_logged:
            loss = float(loss)  # Waits for a GPU, and must do so within the time that is measured.
        self.meter.end(step, loss, metrics)
        if step % self.config.log_freq == 0:
            self.console.mean_loss(step, total, self.meter.mean_loss())
        if is_logged:
            self.console.train(lr=lr, grad_norm=float(norm), **self.meter.report(step))
        elif self.console.level >= VERBOSE:
            self.console.say(f"Step {step}: loss={float(loss):.4f}", VERBOSE)
        self.console.progress(step, total)
        if on_cpu or is_logged:
            self.guard.check(step)

    # -- validation and samples ----------------------------------------------------------------------------------------

    def _validate(self) -> None:
        with self.run.phase("evaluation"):
            numbers = self.stage.validate(self.gpt, self.schedule.eval_iters, self.world)
        if self.world.is_main:
            self.run.log(numbers, step=self.step)
        self.console.validation(self.step, numbers)
        self._say_remarks()

    def _generate_samples(self) -> None:
        if not self.world.is_main:
            return
        prompts = self.config.generation_prompts or self.stage.prompts
        with self.run.phase("sampling"):
            texts = generate_samples(self.gpt, prompts, seed=self.config.seed, chat=self.stage.chats)
            added = [text[len(prompt) :].removeprefix("\n") for prompt, text in texts.items()]
            numbers = sample_metrics(added)
            if (perplexity := self.stage.sample_perplexity(added)) is not None:
                numbers["samples/perplexity"] = perplexity
        for prompt, name in sample_names(prompts).items():
            self.run.text(name, texts[prompt], step=self.step)
        self.run.log(numbers, step=self.step)
        self.console.samples(texts)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self, folder: str) -> None:
        """Write a checkpoint. If the disk fails, training goes on; only at the last checkpoint that ends the run."""
        state, samples = self._state(), self._count_samples()
        if not self.world.is_main:
            return
        path, start = checkpoint.path_for(Path(folder) / self.stage.name, self.step), time.perf_counter()
        try:
            with self.run.phase("checkpoint"):
                size = checkpoint.save(path, state)
        except OSError as error:
            if self.step == self.schedule.total_steps:
                raise UserError(
                    f"cannot write {path}: {error.strerror}", "free some space, or give --out another folder"
                ) from error
            self.console.say(f"Step {self.step}: no checkpoint, cannot write {path}: {error.strerror}", QUIET)
            return
        run_history.record_checkpoint(self.history, self.config, samples)
        self.run.checkpoint(self.step, seconds=time.perf_counter() - start, bytes=size, name=path.name, path=path)
        self.console.say(f"Step {self.step}: checkpoint {path} ({size / 1e6:.1f} MB)")

    def _state(self) -> dict[str, Any]:
        """All that a checkpoint holds; all ranks must call this together."""
        return {
            **self._identity(),
            "step": self.step,
            "total_steps": self.schedule.total_steps,
            "run_id": self.run.id,
            "weights": self.gpt.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": checkpoint.random_state(self.world),
            "data": self.stage.state(),
            "data_of_ranks": {name: self.world.gather(part) for name, part in self.stage.rank_state().items()},
            "skipped_steps": int(self.guard.skipped),
        }

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that resumes it."""
        return {
            "stage": self.stage.name,
            "tokenizer": IDENTITY,
            "model": dataclasses.asdict(self.gpt.config),
            "dataset": self.stage.data_facts,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "grad_accum": self.config.grad_accum,
            "world_size": self.world.size,
            **self.stage.resume_facts,
        }

    def _resume(self, where: str) -> Path:
        path = checkpoint.newest(where, self.stage.name)
        state = checkpoint.load_file(path, "stage")
        checkpoint.check_matches(state, self._identity(), str(path))
        with checkpoint.validating(path):
            self._restore(state, path)
        return path

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        if state["step"] >= self.schedule.total_steps:
            raise UserError(
                f"{path} is already at step {state['step']} of {self.schedule.total_steps}", "give more --steps"
            )
        self.gpt.load_state_dict(state["weights"])
        restore_optimizer(self.optimizer, state["optimizer"])
        checkpoint.restore_random_state(state["random"], self.world)
        self.stage.load_state(state["data"])
        self.stage.load_rank_state({name: parts[self.world.rank] for name, parts in state["data_of_ranks"].items()})
        self.guard.restore(state["skipped_steps"])
        self.step, self.resumed_id = state["step"], state["run_id"]

    # -- ranks ---------------------------------------------------------------------------------------------------------

    def _compile_and_distribute(self) -> nn.Module:
        """The module that the stage's loss calls: compiled if asked for, in DDP if there are several ranks."""
        model: Any = torch.compile(self.raw_model) if self.config.compile else self.raw_model
        if self.world.size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.world.local_rank] if self.world.device.type == "cuda" else None,
            forward_sync_buffers=False,  # They are the rotary tables: constants.
            gradient_as_bucket_view=True,  # Else every gradient is kept, and copied, twice.
        )

    def _sync_only_last(self, micro: int) -> AbstractContextManager[Any]:
        """Ranks average their gradients once per step, in the backward pass of the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and micro < self.config.grad_accum - 1:
            return self.model.no_sync()
        return nullcontext()
