# ruff: noqa: E501 - scripts read better on one line
"""Training loops of many kinds that log nothing: steps and model FLOPs as torch's hooks tell them."""

import pytest

SMALL = """
    import torch
    model = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8)
    def backward(factor=1.0): (model(x).pow(2).mean() * factor).backward()
"""
ONE_PASS = 2 * 2 * 4 * 8 * 8  # Forward, and the weight's gradient: the input needs none.

LOOPS = {
    "micro-batches make one step": (6, 3 * ONE_PASS, """
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(6):
            for _ in range(3): backward()
            optimizer.step(); optimizer.zero_grad()
    """),
    "a closure is the model's work": (6, 3 * ONE_PASS, """
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, tolerance_change=0, tolerance_grad=0)
        def closure():
            optimizer.zero_grad(); loss = model(x).pow(2).mean(); loss.backward(); return loss
        for _ in range(6): optimizer.step(closure)
    """),
    "what a scaler skips is no step": (6, ONE_PASS, """
        optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler("cpu", init_scale=4.0)
        for i in range(8):
            scaler.scale(model(x).pow(2).mean() * (float("inf") if i in (3, 5) else 1.0)).backward()
            scaler.step(optimizer); scaler.update(); optimizer.zero_grad()
    """),
    "an optimizer's own products are not the model's": (6, ONE_PASS, """
        class Muon(torch.optim.Optimizer):
            def __init__(self, params): super().__init__(params, {"lr": 0.02})
            @torch.no_grad()
            def step(self):
                for p in self.param_groups[0]["params"]:
                    update = p.grad.bfloat16()
                    for _ in range(5): update = update + 0.1 * (update @ update.mT) @ update
                    p.add_(update.to(p.dtype), alpha=-1e-3)
        other = torch.nn.Parameter(torch.ones(3))
        optimizers = [torch.optim.AdamW([other]), Muon(model.parameters())]
        for _ in range(6):
            backward(); other.grad = torch.ones(3)
            for optimizer in optimizers: optimizer.step()
            model.zero_grad()
    """),
    "a compiled step counts": (6, None, """
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        @torch.compile(backend="aot_eager")
        def step(): optimizer.step()
        for _ in range(6): backward(); step(); optimizer.zero_grad()
    """),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_steps_and_flops_of_a_loop(name: str, captured, listener) -> None:
    count, flops, loop = LOOPS[name]
    captured(SMALL + loop.replace("\n    ", "\n"), "torch", OMP_NUM_THREADS="1")
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= count)
    assert [row.step for row in steps] == list(range(count))
    if flops is not None:
        assert {row.metrics["train/flops"] for row in steps[2:]} == {flops}
        assert listener.projector(run_id)[0].state.facts["dtype"] == "float32"
