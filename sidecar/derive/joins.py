"""Bring the ranks' reports of one optimizer step together, and advance the run by it.

Given: one Join per rank and step, in journal order. Hands on: run-level counters, windows and the derived metrics
of each step, each exactly once. Never: looks at a clock.

A step is complete once every rank of the run that is still alive has reached it. Ranks that report nothing are waited
for within limits (ABSENT_RANKS_WAIT, SILENT_RANKS_WAIT, by the arrival times in the journal), then steps are completed
without them: without an absent rank until its first record, without a silent one until it is level with the others
again. What they report later still counts in the totals.
"""

from bisect import bisect_left
from heapq import heappop, heappush
from typing import TypeVar

from sidecar.derive import anomalies, marks, progress, throughput
from sidecar.derive.derived import derived_metrics
from sidecar.state import LIVE, NOBODY, STEP_BOUNDS, Join, Mark, RankState, RunState, Statistic

PENDING_JOINS_MAX = 8_192
SECOND_NS = 1_000_000_000

ABSENT_RANKS_WAIT = ((8, 5 * SECOND_NS), (0, 30 * SECOND_NS))
"""The first incomplete step waits for ranks that never took a step here until more than so many steps are pending and
so much time has passed, by either pair. They may live on another node."""
SILENT_RANKS_WAIT = ((64, 5 * SECOND_NS), (8, 60 * SECOND_NS))
"""The same for ranks that stopped reporting steps. The time matters for fast steps, which travel by the hundred, and
after an outage, when the whole backlog of one rank comes before that of the next."""
LEVEL_STEPS = 8
"""A rank that is no longer waited for is waited for again once it is at most so many steps behind."""
WAIT_NS_MIN = min(wait_ns for _, wait_ns in ABSENT_RANKS_WAIT + SILENT_RANKS_WAIT)
DELIVERY_NS_MAX = 2 * SECOND_NS
"""From an event to its place in the journal, unless it was part of a backlog."""

RESTART_TOGETHER_NS = 5 * SECOND_NS
"""A rank that ends a step this long after another rank's new process began does not restart with it. Until then its
reports may be the late tail of a process that ended. (Clocks of hosts may differ by seconds.)"""

STEPS_ARE_SENT = (None, "torch")
"""Values of ``captured`` with which every rank reports its steps."""

T = TypeVar("T", int, float)


def report(state: RunState, rank: RankState, own: Join) -> None:
    """One rank has ended one step."""
    if own.attempt < state.attempt and state.restarted and own.time_ns > state.restarted_ns + RESTART_TOGETHER_NS:
        rank.attempt = own.attempt = state.attempt  # It went on while another rank restarted.
        count_present(state)
    attempt, step = own.attempt, own.step
    if (attempt, step) <= (state.joined_attempt, state.joined_step):
        if attempt == state.joined_attempt and step >= state.joined_step - LEVEL_STEPS:
            rank.excused = False
        _count_late(state, own)
        settle(state, own.received_ns)
        return
    rank.excused = False
    if state.alive == 1 and state.present >= state.expected and not state.pending and not state.stale:
        advance(state, own)
        return
    if attempt < state.attempt:
        _merge_stale(state, own)
    elif (join := state.pending.get(step)) is None:
        state.pending[step] = own
        heappush(state.pending_steps, step)
    else:
        _merge(join, own)
    settle(state, own.received_ns)


def settle(state: RunState, received_ns: int) -> None:
    """Completes every step that waits for nobody any more, in order. ``received_ns``: of the record that just came."""
    if state.stale:
        _settle_stale(state)
    pending = state.pending
    while pending:
        join = pending[state.pending_steps[0]]
        while not _complete(state, join) and len(pending) <= PENDING_JOINS_MAX:
            waited_ns = received_ns - join.received_ns
            if waited_ns < WAIT_NS_MIN or not _stop_waiting(state, join, waited_ns):
                return
        del pending[heappop(state.pending_steps)]
        _settle_stale(state, everything=True)  # Attempts are completed one after the other.
        advance(state, join)


def expect_no_more_ranks(state: RunState) -> None:
    """Every rank heard of has finished just now: the others will not come. (Out of a backlog they still might.)"""
    state.partial = state.partial or state.present < state.expected
    state.expected = min(state.expected, state.present)
    settle(state, 0)


def _stop_waiting(state: RunState, join: Join, waited_ns: int) -> bool:
    """Go on without the ranks that hold this step up, if it has waited for long enough. False: it has not."""
    pending = len(state.pending)
    if not _is_over(ABSENT_RANKS_WAIT, pending, waited_ns):
        return False
    if state.present < state.expected:
        state.expected, state.partial = state.present, True
        return True
    silent_too = _is_over(SILENT_RANKS_WAIT, pending, waited_ns)
    key = (join.attempt, join.step)
    blockers = [rank for rank in state.ranks.values() if _blocks(rank, key) and (silent_too or rank.reached < 0)]
    for rank in blockers:
        rank.excused = True
    return bool(blockers)


def _is_over(limits: tuple[tuple[int, int], ...], pending: int, waited_ns: int) -> bool:
    return any(pending > steps and waited_ns >= wait_ns for steps, wait_ns in limits)


def count_present(state: RunState) -> None:
    state.present = sum(rank.attempt == state.attempt for rank in state.ranks.values())
    if not state.partial:  # Where log rows are the steps, often only the main process logs any.
        state.expected = state.present if state.captured not in STEPS_ARE_SENT else state.world_size


def begin_attempt(state: RunState, rank: RankState, *, restarted: bool) -> None:
    """``rank`` starts again at some step: it joins the attempt that its peers began, or begins the next one."""
    typical = throughput.percentile(throughput.step_seconds(state.window), 0.5)
    if typical is not None:
        state.typical_step_ns = int(typical * SECOND_NS)
    if rank.attempt < state.attempt:
        rank.attempt = state.attempt
    else:
        state.stale.extend(state.pending[step] for step in sorted(state.pending))
        state.pending, state.pending_steps = {}, []
        state.attempt += 1
        if state.partial:
            state.expected = min(state.present, state.world_size)
        state.restarted, state.restarted_ns = restarted, rank.started_ns
        state.restarts += restarted
        rank.attempt = state.attempt
    count_present(state)
    settle(state, rank.last_received_ns)


def _complete(state: RunState, join: Join) -> bool:
    if state.present < state.expected and join.attempt == state.attempt:
        return False
    if join.ranks >= state.alive and state.alive == len(state.ranks):  # The usual case.
        return True
    key = (join.attempt, join.step)
    blocker = state.ranks.get(join.blocker)
    if blocker is not None and _blocks(blocker, key):
        return False
    # From the end: ranks mostly report in order, so the last one blocks longest and the cache is renewed least often.
    join.blocker = next((rank.rank for rank in reversed(state.ranks.values()) if _blocks(rank, key)), NOBODY)
    return join.blocker == NOBODY


def _blocks(rank: RankState, key: tuple[int, int]) -> bool:
    return (rank.attempt, rank.reached) < key and rank.state in LIVE and not rank.excused


def _merge(join: Join, own: Join) -> None:
    join.ranks += own.ranks
    join.tokens += own.tokens
    join.samples += own.samples
    join.loss_tokens += own.loss_tokens
    join.flops += own.flops
    join.loss_sum += own.loss_sum
    join.loss_weight += own.loss_weight
    if own.training_ns > join.training_ns:
        join.training_ns = own.training_ns
    if own.datasets:
        join.datasets = _added(join.datasets, own.datasets)
    if own.dataset_losses:
        join.dataset_losses = _added(join.dataset_losses, own.dataset_losses)
    if own.rank < join.rank:
        join.rank, join.session, join.seq = own.rank, own.session, own.seq
        join.mono_ns, join.time_ns = own.mono_ns, own.time_ns
        join.metrics, join.phases = own.metrics, own.phases


def _added(one: dict[str, tuple[T, T]], other: dict[str, tuple[T, T]]) -> dict[str, tuple[T, T]]:
    """Pairs added up by name; neither argument is changed."""
    out = dict(one)
    for name, (first, second) in other.items():
        before = out.get(name)
        out[name] = (first, second) if before is None else (before[0] + first, before[1] + second)
    return out


def _merge_stale(state: RunState, own: Join) -> None:
    for join in state.stale:
        if (join.attempt, join.step) == (own.attempt, own.step):
            _merge(join, own)
            return
    state.stale.append(own)
    state.stale.sort(key=lambda join: (join.attempt, join.step))


def _settle_stale(state: RunState, *, everything: bool = False) -> None:
    while state.stale and (everything or len(state.stale) > PENDING_JOINS_MAX or _complete(state, state.stale[0])):
        join = state.stale.pop(0)
        if (join.attempt, join.step) > (state.joined_attempt, state.joined_step):
            advance(state, join)
        else:
            _count_late(state, join)


def _count_late(state: RunState, own: Join) -> None:
    """The step has been completed without this report (or was reported twice): the totals still get it."""
    state.tokens += own.tokens
    state.tokens_total += own.tokens
    state.samples += own.samples
    state.samples_total += own.samples
    state.loss_tokens += own.loss_tokens
    state.flops += own.flops
    state.flops_total += own.flops or own.tokens * (state.model.flops_per_token or 0.0)
    if state.lead == own.rank:
        state.training_ns += own.training_ns
    for name, consumed in own.datasets.items():
        consume(state, name, *consumed)
    marks.add_late(state, own)


def count_past(state: RunState, own: Join, *, kept: bool) -> None:
    """A step of a dead process that became known late. ``kept``: its successor continued after it: it is progress."""
    state.tokens_total += own.tokens
    state.samples_total += own.samples
    state.flops_total += own.flops or own.tokens * (state.model.flops_per_token or 0.0)
    if kept:
        state.tokens += own.tokens
        state.samples += own.samples
        state.loss_tokens += own.loss_tokens
        state.flops += own.flops
        marks.add_late(state, own)
    for name, (samples, tokens) in own.datasets.items():
        consume(state, name, samples, tokens, kept=kept)


def consume(state: RunState, name: str, samples: int, tokens: int, *, kept: bool = True) -> None:
    """``kept``: it counts as progress, not only in the lifetime totals."""
    if kept:
        seen = state.datasets.get(name, (0, 0))
        state.datasets[name] = (seen[0] + samples, seen[1] + tokens)
    seen = state.datasets_total.get(name, (0, 0))
    state.datasets_total[name] = (seen[0] + samples, seen[1] + tokens)


def advance(state: RunState, join: Join) -> None:
    """The run has ended a step: counters, marks, window, learning, and what is computed from them."""
    step = join.step
    if join.attempt != state.joined_attempt:
        _enter_attempt(state, join)
    state.joined_step = state.step = step
    if state.first_step is None:
        state.first_step = step
    if step <= state.rework_until:
        state.rework_steps += 1
    if step > state.max_step:
        state.max_step = step
    state.steps_seen += 1
    state.steps_total += 1
    state.tokens = tokens = state.tokens + join.tokens
    state.tokens_total += join.tokens
    state.samples = samples = state.samples + join.samples
    state.samples_total += join.samples
    state.loss_tokens += join.loss_tokens
    if join.flops:
        state.flops += join.flops
        state.flops_total += join.flops
    elif state.model.flops_per_token:
        state.flops_total += join.tokens * state.model.flops_per_token

    state.devices = max(join.ranks, state.alive)
    window = state.window
    stream = (join.rank, join.session, join.attempt)
    if window.stream != stream:
        _new_clock(state, join, stream)
    state.training_ns = training_ns = state.training_ns + join.training_ns
    point = (join.mono_ns, tokens, samples, step, state.flops, training_ns)
    oldest = throughput.push(window, point)
    if join.training_ns:
        seconds = join.training_ns / SECOND_NS
        state.histogram[bisect_left(STEP_BOUNDS, seconds)] += 1
        state.histogram_seconds += seconds

    snapshot_of_datasets = None
    if join.datasets:
        for name, consumed in join.datasets.items():
            consume(state, name, *consumed)
        if len(state.datasets) <= 32:
            snapshot_of_datasets = dict(state.datasets)
    marks.add(state, Mark(step, tokens, samples, state.loss_tokens, training_ns, snapshot_of_datasets, state.flops))

    progress.enter_epoch(state, join)
    loss = join.loss_sum / join.loss_weight if join.loss_weight else None
    if loss is not None:
        state.loss = loss
        anomalies.watch_loss(state, loss, step, join.time_ns)
    norm = join.metrics.get("train/grad_norm")
    if type(norm) is float or type(norm) is int:
        anomalies.watch_gradient(state, float(norm), step, join.time_ns)
    state.derived = derived = derived_metrics(state, join, loss, point, oldest)
    state.emitted.append((join.seq, step, join.time_ns / SECOND_NS, derived))


def _new_clock(state: RunState, join: Join, stream: tuple[int, int, int]) -> None:
    """Another stream's monotonic clock: durations across the change mean nothing."""
    progress.new_clock(state, join)
    throughput.clear(state.window, stream)


def _enter_attempt(state: RunState, join: Join) -> None:
    """The first complete step of a new attempt. New processes that begin at a step that was done before rewind the run.

    A process that merely stepped back does not, nor does one that restarted alone and goes on where the others are.
    """
    state.joined_attempt = join.attempt
    state.loss_series = Statistic()  # What is replayed after a restart must not look like a spike.
    state.grad_series = Statistic()
    done = max(max(r.reached_before, r.reached if r.state not in LIVE else -1) for r in state.ranks.values())
    if state.restarted and join.step <= done:
        state.rework_until = max(state.rework_until, state.max_step)
        if state.marks and join.step <= state.marks[-1].step:
            marks.rewind(state, join.step)
