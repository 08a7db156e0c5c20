"""What goes on inside a slow replica beyond its batcher, written for reading: nothing is sorted that can be looked for, nothing is kept that can be
counted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from rota.kernel.streams import uniform
from rota.worlds.serving.batching import RESERVE_FIXED
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing.features import DECODE_CONTEXT, DECODE_MAX, DECODE_MIN, DECODES, iteration

if TYPE_CHECKING:
    from tests.worlds.serving.slow import Request, SlowReplica


def expected(engine: "SlowReplica", r: "Request") -> int:
    """The length that Past-Future takes an answer to have."""
    rules = engine.rules.future
    assert rules is not None
    most = max(rules.limit, r.generated + 1)
    if rules.estimate == "limit":
        return most
    if rules.estimate == "released":
        moving = float(rules.limit)
        for length in engine.past:
            moving = (1.0 - 0.9) * length + 0.9 * moving
        return max(min(rules.limit, max(int(1.1 * r.generated), int(moving))), r.generated + 1)
    longer = sorted(length for length in engine.past[-rules.window :] if length > r.generated)
    if not longer:
        return most
    if rules.estimate == "quantile":
        return longer[max(ceil(rules.quantile * len(longer)), 1) - 1]
    return longer[int(float(uniform(0, "past_future", r.number, r.generated)) * len(longer))]


def peak(requests: Sequence[tuple[int, int]]) -> int:
    """The most tokens at any moment of (now, left), iteration after iteration."""
    last = max(left for _, left in requests)
    return max(sum(now + t for now, left in requests if left >= t) for t in range(last + 1))


def peak_fits(engine: "SlowReplica", candidate: "Request") -> bool:
    if not engine.running:
        return True
    rules, requests = engine.rules.future, []
    assert rules is not None
    for r in [*engine.running, candidate]:
        now = r.computed if r.decoding else r.target
        requests.append((now, max(r.prompt + expected(engine, r) - 1 - now, 0)))
    return peak(requests) <= int((1.0 - rules.reserved) * engine.replica.kv_blocks * engine.replica.block_tokens)


def blocks_aside(engine: "SlowReplica", r: "Request") -> int:
    """Blocks that S3 sets aside for a request."""
    rules = engine.rules.reservation
    assert rules is not None
    if r.set_aside == 0:
        r.set_aside = r.prompt + ceil(max(r.size, 1.0) / rules.bucket_tokens) * rules.bucket_tokens
    return min(engine.pool.need(max(r.set_aside, r.target)), engine.replica.kv_blocks)


def longest_fitting(engine: "SlowReplica") -> "Request | None":
    room = engine.replica.kv_blocks - sum(blocks_aside(engine, r) for r in engine.running)
    able = [r for r in engine.waiting if blocks_aside(engine, r) <= room]
    return min(able, key=lambda r: (-blocks_aside(engine, r), r.tie), default=None)


def after_check(engine: "SlowReplica") -> None:
    """Who has filled what was set aside goes back, and gets twice as much for its answer."""
    for r in list(engine.running):
        blocks_aside(engine, r)
        all_there_is = engine.pool.need(r.set_aside) >= engine.replica.kv_blocks
        if r.decoding and r.computed >= r.set_aside and not all_there_is:
            r.set_aside = r.prompt + 2 * (r.set_aside - r.prompt)
            engine.displace(r)


@dataclass
class Wave:
    """Prompts on their way through the groups of layers."""

    done: int = 0
    groups: int = 1

    def under_way(self, running: "Sequence[Request]") -> bool:
        if self.done and not any(r.chunk for r in running if not r.decoding):
            self.done = 0
        return self.done > 0

    def seconds(
        self, replica: Replica, prefills: Sequence[tuple[int, int]], decodes: Sequence[int], samples: int
    ) -> float:
        tokens = sum(chunk for _, chunk in prefills)
        if not tokens:
            self.done, self.groups = 0, 1
            return replica.timing.seconds(iteration((), decodes, samples))
        if self.done == 0:
            self.groups = max(1, min(ceil(tokens / replica.rules.layer_tokens), replica.rules.layers))
        last = self.done + 1 == self.groups
        both = replica.timing.seconds(iteration(prefills, decodes, samples if last else len(decodes)))
        if self.groups == 1:
            return both
        alone = replica.timing.seconds(iteration((), decodes, len(decodes))) if decodes else 0.0
        return both / self.groups + alone * (self.groups - 1) / self.groups

    def goes_on(self, batch: "Sequence[Request]") -> bool:
        if all(r.decoding for r in batch):
            return False
        self.done = (self.done + 1) % self.groups
        return self.done > 0


def with_draft(
    engine: "SlowReplica", prefills: Sequence[tuple[int, int]], decodes: "Sequence[Request]", samples: int
) -> float:
    """Seconds of an iteration, and whether it has a draft."""
    rules, replica, engine.drafted = engine.replica.speculative, engine.replica, False
    assert rules is not None
    k, contexts = rules.tokens, [r.computed for r in decodes]
    plain = replica.timing.seconds(iteration(prefills, contexts, samples))
    prompts = 0.0
    if rules.draft is not None and prefills:
        prompts = rules.draft.seconds(iteration(prefills, (), 0))
    if not decodes or (rules.off_above >= 0 and len(decodes) > rules.off_above):
        return plain + prompts
    room = 0
    if replica.rules.reserve != RESERVE_FIXED:
        for r in decodes:
            most = min(k, r.output - r.generated - 1)
            room += engine.pool.need(r.computed + 1 + most) - engine.pool.need(r.computed + 1)
    if room > len(engine.pool.free):
        return plain + prompts
    features = iteration(prefills, contexts, samples + k * len(decodes))
    features[DECODES] = len(decodes) * (k + 1.0)
    seconds = replica.timing.seconds(features)
    if rules.draft is not None:
        features = iteration((), contexts, len(decodes))
        features[DECODE_CONTEXT] = sum(contexts) + len(decodes) * 0.5 * (k - 1.0)
        features[DECODE_MAX] = features[DECODE_MIN] = 0.0
        seconds += k * rules.draft.seconds(features)
    else:
        seconds += k * rules.cost * replica.timing.seconds(iteration((), contexts, len(decodes)))
    if rules.off_above < 0:
        alone = replica.timing.seconds(iteration(prefills, (), samples - len(decodes))) if prefills else 0.0
        if seconds - alone >= rules.expected * (plain - alone):
            return plain + prompts
    engine.drafted = True
    return seconds + prompts


def speculate(engine: "SlowReplica", r: "Request") -> int:
    """How many draft tokens of a decode are right, of those that its answer still needs."""
    rules = engine.replica.speculative
    assert rules is not None
    more = 0
    while more < min(rules.tokens, r.output - r.generated - 1):
        if float(uniform(0, "acceptance", r.number, r.generated + more)) >= rules.acceptance:
            break
        more += 1
    r.computed += more
    if engine.replica.rules.reserve != RESERVE_FIXED:
        engine.pool.extend(r, r.computed)
    return more
