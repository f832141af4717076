"""What a run had consumed after each step, so that a resumed trainer's progress starts from where its checkpoint was.

Given: a Mark after each step. Hands on: progress counters set back to just before a step.
Never: touches lifetime counters, or keeps more than about a thousand marks: the older ones are thinned out.

The sidecar is not told which checkpoint a trainer resumed from; the first step of the new process says it. Steps that
follow a checkpoint event keep their mark for as long as there is room, so that resuming from them is exact.
"""

from bisect import bisect_left, bisect_right

from msgspec.structs import replace

from sidecar.state import Join, Mark, RunState

MARKS_MAX = 1024
CHECKPOINT_MARKS_MAX = 64

Datasets = dict[str, tuple[int, int]]


def add(state: RunState, mark: Mark) -> None:
    """Marks stay sorted: where steps are numbered anew in each epoch, those of this epoch replace the earlier ones."""
    if state.marks and mark.step <= state.marks[-1].step:
        start = replace(state.marks[-1], step=mark.step - 1)
        for known in (state.marks, state.checkpoint_marks):
            del known[bisect_left(known, start.step, key=lambda other: other.step) :]
        state.marks.append(start)
    state.marks.append(mark)
    if len(state.marks) >= MARKS_MAX:
        _thin(state)


def rewind(state: RunState, step: int) -> None:
    """Progress goes back to just before ``step``: to a checkpoint's mark, the exact step, or in between two marks."""
    marks = state.marks
    at = bisect_left(marks, step, key=lambda mark: mark.step)
    low = marks[at - 1] if at else Mark(step - 1, 0, 0, 0, 0, None)
    high = marks[at] if at < len(marks) else None
    if at and high is not None and low.step < step - 1 and low.step < state.marks_dense_from:
        low = _between(low, high, step - 1)
    i = bisect_left(state.checkpoint_marks, step, key=lambda mark: mark.step)
    if i and state.checkpoint_marks[i - 1].step >= (marks[at - 1].step if at else 0):
        low = state.checkpoint_marks[i - 1]
    state.tokens, state.samples, state.loss_tokens = low.tokens, low.samples, low.loss_tokens
    state.training_ns, state.flops = low.training_ns, low.flops
    if low.datasets is not None:
        state.datasets = dict(low.datasets)
    elif not at:
        state.datasets = {}
    del marks[at:]
    del state.checkpoint_marks[i:]


def add_late(state: RunState, own: Join) -> None:
    """A rank reported this step after it had been completed: a resume from later on must not forget its share."""
    training_ns = own.training_ns if state.lead == own.rank else 0
    for marks in (state.marks, state.checkpoint_marks):
        at = bisect_left(marks, own.step, key=lambda mark: mark.step)
        marks[at:] = [
            Mark(
                mark.step, mark.tokens + own.tokens, mark.samples + own.samples, mark.loss_tokens + own.loss_tokens,
                mark.training_ns + training_ns, _with(mark.datasets, own.datasets), mark.flops + own.flops,
            )
            for mark in marks[at:]
        ]  # fmt: skip


def _with(known: Datasets | None, more: Datasets) -> Datasets | None:
    if not more or known is None:
        return known
    added = {}
    for name, (samples, tokens) in more.items():
        before = known.get(name, (0, 0))
        added[name] = (before[0] + samples, before[1] + tokens)
    return {**known, **added}


def mark_checkpoint(state: RunState) -> None:
    """A checkpoint was written after the latest step: resuming from it must be exact, however long ago it is."""
    if not state.marks:
        return
    mark = state.marks[-1]
    known = state.checkpoint_marks
    at = bisect_right(known, mark.step, key=lambda other: other.step)
    if not at or known[at - 1].step != mark.step:
        known.insert(at, mark)
    if len(known) > CHECKPOINT_MARKS_MAX:
        del known[0]


def _between(low: Mark, high: Mark, step: int) -> Mark:
    """The marks between these two were thinned out: assume that every step did the same."""
    part, whole = step - low.step, high.step - low.step

    def share(before: int, after: int) -> int:
        return before + (after - before) * part // whole

    return Mark(
        step, share(low.tokens, high.tokens), share(low.samples, high.samples),
        share(low.loss_tokens, high.loss_tokens), share(low.training_ns, high.training_ns), low.datasets,
        low.flops + (high.flops - low.flops) * part / whole,
    )  # fmt: skip


def _thin(state: RunState) -> None:
    """Keeps every mark of the newer half, and every other one of the older half: old checkpoints are seldom resumed."""
    half = MARKS_MAX // 2
    state.marks_dense_from = state.marks[half].step
    state.marks = state.marks[:half:2] + state.marks[half:]
