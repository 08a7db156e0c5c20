"""Synthetic workloads whose sizes and arrivals are fitted to real traces.

Sizes: a pair of correlated standard normals is mapped through each column's own quantiles (a Gaussian copula with
tabulated margins). Arrivals: Poisson or gamma gaps in a rate that jumps between two levels (`Variation`) and follows
the day if asked to. The figures are in `rota.worlds.serving.kinds`.
"""

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.arrivals import Above0, Process, Variation
from rota.worlds.serving.kinds import ADDED, KINDS, Kind, Quantiles
from rota.worlds.serving.model import FloatColumn, IntColumn, PrefixBlocks, Workload, make_workload
from rota.worlds.serving.numbers import Duration, Sigma, Spread

REQUESTS_MAX = 200_000_000  # more do not fit in memory


class Sessions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Conversations of several turns: each prompt is all that was said before and something new.

    Defaults are those of the Mooncake conversation trace. Turns are geometric, the gap from one request to the next is
    lognormal, and what a follow-up adds is drawn from the trace's quantiles.
    """

    turns: Annotated[float, msgspec.Meta(ge=1)] = 1.49  # mean
    gap_seconds: Duration = 123.0  # median
    gap_sigma: Sigma = 0.97  # of the logarithm
    system_tokens: Annotated[int, msgspec.Meta(ge=0)] = (
        0  # a system prompt before every first prompt, the same in all sessions of a group
    )
    groups: Annotated[int, msgspec.Meta(ge=1)] = 1  # system prompts, each shared by the sessions of its group
    zipf: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # a group's popularity falls with its rank to this power
    block_tokens: Annotated[int, msgspec.Meta(ge=1)] = 16


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """One kind in a mix."""

    kind: str
    share: Above0 = 1.0  # of the requests, relative to the other parts
    tenant: str | None = None  # None: the kind's name
    priority: int = 0
    cv: Spread | None = None
    variation: Variation | Literal["fitted", "none"] = "fitted"
    sessions: Sessions | None = None


class GeneratorSpec(msgspec.Struct, forbid_unknown_fields=True):
    """What a scenario's ``workload: {generate: ...}`` says."""

    kind: str  # chat, code, summarise, burst or mix
    requests: Annotated[int, msgspec.Meta(ge=1)] | None = None  # either this
    duration: Above0 | None = None  # or this, seconds
    rate: Above0 | None = None  # requests a second; None: that of the kind's source
    profile: Literal["constant", "day"] = "constant"  # day: a cosine, highest at 14:00; a convention, not a fit
    day_seconds: Above0 = 86400.0  # length of the day, to compress it
    peak_to_trough: Annotated[float, msgspec.Meta(ge=1)] = 3.0
    cv: Spread | None = None  # of the gaps; given, it replaces the fitted variation of the rate
    variation: Variation | Literal["fitted", "none"] = "fitted"
    sessions: Sessions | None = None
    tenant: str = ""
    priority: int = 0
    mix: list[Part] = []


def parse_generator(spec: Any, where: str = "workload.generate") -> GeneratorSpec:
    """Check what the scenario says.

    Raises:
        InputError: unknown kind or key (nearest names), impossible value, not exactly one of requests and duration.
    """
    data = {"kind": spec} if isinstance(spec, str) else spec
    parsed = data if isinstance(data, GeneratorSpec) else decode(GeneratorSpec, data, where)
    known = (*KINDS, "mix")
    if parsed.kind not in known:
        raise InputError(f"{where}.kind: unknown kind '{parsed.kind}'{nearest(parsed.kind, known)}")
    if (parsed.requests is None) == (parsed.duration is None):
        found = "neither" if parsed.requests is None else "both"
        raise InputError(f"{where}: needs exactly one of requests and duration (seconds), found {found}")
    _check_finite(parsed, where)
    if (parsed.kind == "mix") != bool(parsed.mix):
        raise InputError(
            f"{where}: kind mix and a list mix: [{{kind, share}}, ...] go together; found kind '{parsed.kind}'"
        )
    if parsed.kind == "mix":
        _check_mix(parsed, where)
    return parsed


def _check_finite(spec: GeneratorSpec, where: str) -> None:
    for name in ("duration", "rate", "day_seconds", "peak_to_trough", "cv"):
        value = getattr(spec, name)
        if value is not None and not np.isfinite(value):
            raise InputError(f"{where}.{name}: must be finite, found {value}")


def _check_mix(spec: GeneratorSpec, where: str) -> None:
    if spec.rate is None:
        raise InputError(f"{where}: a mix needs rate, its requests a second in all")
    for name, neutral in (("cv", None), ("variation", "fitted"), ("sessions", None), ("tenant", ""), ("priority", 0)):
        if getattr(spec, name) != neutral:
            raise InputError(f"{where}.{name}: belongs to each part of the mix, not to the mix")
    for index, part in enumerate(spec.mix):
        if part.kind not in KINDS:
            raise InputError(f"{where}.mix[{index}].kind: unknown kind '{part.kind}'{nearest(part.kind, KINDS)}")
    if len({part.sessions.block_tokens for part in spec.mix if part.sessions}) > 1:
        raise InputError(f"{where}.mix: all sessions need the same block_tokens")


def generate(spec: Any, rng: np.random.Generator) -> Workload:
    """Draw a workload.

    Args:
        spec: a mapping as in the scenario, see `GeneratorSpec`; for example ``{kind: chat, requests: 1000, rate: 5}``.
        rng: the seed's stream for the workload. Each part of a mix draws from its own child of it.

    Returns:
        A workload sorted by arrival. With `duration`, what would arrive later is left out; with `requests`, their
        number is exact.
    """
    parsed = parse_generator(spec)
    parts = parsed.mix or [_only_part(parsed)]
    shares = np.array([part.share for part in parts])
    shares /= shares.sum()
    total = parsed.rate or KINDS[parts[0].kind].rate
    if (parsed.requests or total * float(parsed.duration or 0)) > REQUESTS_MAX:
        raise InputError(
            f"workload.generate: asks for more than {REQUESTS_MAX:,} requests; lower requests, duration or rate"
        )
    counts: list[int | None] = [None] * len(parts)
    if parsed.requests is not None:
        counts = [int(each) for each in np.diff(np.rint(np.append(0, shares.cumsum()) * parsed.requests))]
    streams = rng.spawn(len(parts)) if parsed.mix else [rng]
    drawn = [
        _draw(part, parsed, float(total * share), count, stream)
        for part, share, count, stream in zip(parts, shares, counts, streams, strict=True)
    ]
    return _merge(drawn, parts, " + ".join(part.kind for part in parts))


def _only_part(spec: GeneratorSpec) -> Part:
    return Part(spec.kind, 1.0, spec.tenant, spec.priority, spec.cv, spec.variation, spec.sessions)


def _draw(part: Part, spec: GeneratorSpec, rate: float, requests: int | None, rng: np.random.Generator) -> Workload:
    """The requests of one kind."""
    kind = KINDS[part.kind]
    variation = kind.variation if part.variation == "fitted" and part.cv is None else None
    if isinstance(part.variation, Variation):
        variation = part.variation
    day = spec.day_seconds if spec.profile == "day" else None
    turns = part.sessions.turns if part.sessions else 1.0
    process = Process(rate / turns, part.cv or 1.0, variation, day, spec.peak_to_trough)
    if part.sessions:
        return _converse(part, kind, process, requests, spec.duration, rng)
    arrival = process.until(float(spec.duration or 0), rng) if requests is None else process.first(requests, rng)
    prompt, output = _sizes(kind, len(arrival), rng)
    return make_workload(arrival, prompt, output)


def _sizes(kind: Kind, count: int, rng: np.random.Generator) -> tuple[IntColumn, IntColumn]:
    prompt, other = rng.standard_normal((2, count))
    output = kind.correlation * prompt + np.sqrt(1 - kind.correlation**2) * other
    return _tokens(prompt, kind.prompt), _tokens(output, kind.output)


def _tokens(scores: FloatColumn, quantiles: Quantiles) -> IntColumn:
    """Token counts at normal scores, rounded, at least 1."""
    known, tokens_there = np.array(quantiles).T
    tokens = np.rint(np.exp(np.interp(scores, known, np.log(tokens_there))))
    return np.asarray(np.maximum(tokens, 1), dtype=np.int64)


def _converse(
    part: Part, kind: Kind, process: Process, requests: int | None, duration: float | None, rng: np.random.Generator
) -> Workload:
    """Requests of sessions: drawn session after session, then sorted by arrival."""
    sessions = part.sessions or Sessions()
    if requests is None:
        start = process.until(float(duration or 0), rng)
        turns = rng.geometric(1 / sessions.turns, len(start))
    else:
        turns = rng.geometric(1 / sessions.turns, requests)
        turns = turns[: np.searchsorted(np.cumsum(turns), requests) + 1]
        turns[-1] -= turns.sum() - requests
        start = process.first(len(turns), rng)
    first = np.cumsum(turns) - turns  # row of each session's first request
    session = np.repeat(np.arange(len(turns)), turns)
    rows = len(session)
    gaps = np.exp(np.log(sessions.gap_seconds) + sessions.gap_sigma * rng.standard_normal(rows))
    prompt, output = _sizes(kind, rows, rng)
    said = np.concatenate(([0], output[:-1])) + _tokens(
        rng.standard_normal(rows), ADDED
    )  # the last answer and something new
    gaps[first], said[first] = start, prompt[first] + sessions.system_tokens
    group = _groups(sessions, len(turns), rng)
    arrival = _sums(gaps, session, first)
    prompt = _sums(said, session, first)
    kept = np.argsort(arrival, kind="stable")
    kept = kept[arrival[kept] <= (np.inf if duration is None else duration)]
    session, prompt = session[kept], prompt[kept]
    return make_workload(
        arrival[kept],
        prompt,
        output[kept],
        session=session,
        prefix=_stream_blocks(session, prompt, sessions, group),
    )


def _groups(sessions: Sessions, count: int, rng: np.random.Generator) -> IntColumn:
    """The group of each session, popular ones first."""
    if sessions.groups == 1:
        return np.zeros(count, np.int64)
    popularity = np.arange(1, sessions.groups + 1) ** -sessions.zipf
    return rng.choice(sessions.groups, size=count, p=popularity / popularity.sum())


def _sums(values: Any, group: IntColumn, first: IntColumn) -> Any:
    """Cumulative sums that start again in each group of rows."""
    total = np.cumsum(values)
    return total - (total[first] - values[first])[group]


def _stream_blocks(session: IntColumn, prompt: IntColumn, sessions: Sessions, group: IntColumn) -> PrefixBlocks:
    """Block ids of whole blocks: a session is one growing stream of tokens; the first may be its group's system prompt."""
    size, common = sessions.block_tokens, sessions.system_tokens // sessions.block_tokens
    own = np.zeros(int(session.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(own, session, prompt // size - common)
    start = sessions.groups * common + np.cumsum(own) - own  # id of a session's first block after the system prompt
    lengths = prompt // size
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    mine = np.repeat(start[session] - common, lengths)
    shared = np.repeat(group[session] * common if common else np.zeros(len(session), np.int64), lengths)
    ids = index + np.where(index < common, shared, mine)
    return PrefixBlocks(offsets, ids, size)


def _merge(drawn: list[Workload], parts: list[Part], source: str) -> Workload:
    """One workload of all parts, sorted by arrival; earlier parts first at equal times."""
    names = [part.kind if part.tenant is None else part.tenant for part in parts]
    tenants = tuple(dict.fromkeys(names))
    sizes = [len(each) for each in drawn]
    arrival = np.concatenate([each.arrival for each in drawn])
    if not len(arrival):
        raise InputError("workload.generate: not one request arrives within duration; raise duration or rate")
    order = np.argsort(arrival, kind="stable")
    offset = np.cumsum([0] + [int(each.session.max(initial=-1)) + 1 for each in drawn])
    session = [np.where(each.session < 0, -1, each.session + start) for each, start in zip(drawn, offset, strict=False)]
    return make_workload(
        arrival[order],
        np.concatenate([each.prompt_tokens for each in drawn])[order],
        np.concatenate([each.output_tokens for each in drawn])[order],
        tenant=np.repeat([tenants.index(name) for name in names], sizes)[order],
        session=np.concatenate(session)[order],
        priority=np.repeat([part.priority for part in parts], sizes)[order],
        tenants=tenants,
        prefix=_merge_blocks(drawn, order),
        source=source,
    )


def _merge_blocks(drawn: list[Workload], order: IntColumn) -> PrefixBlocks | None:
    """The parts' blocks under new ids, in the given order of requests."""
    known = [each.prefix for each in drawn if each.prefix is not None]
    if not known:
        return None
    start = np.cumsum([0] + [int(each.ids.max(initial=-1)) + 1 for each in known])
    ids = np.concatenate([each.ids + base for each, base in zip(known, start, strict=False)])
    blocks = [
        np.zeros(len(each), dtype=np.int64) if each.prefix is None else np.diff(each.prefix.offsets) for each in drawn
    ]
    lengths = np.concatenate(blocks)
    first = (np.cumsum(lengths) - lengths)[order]
    offsets = np.concatenate(([0], np.cumsum(lengths[order])))
    index = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths[order])
    return PrefixBlocks(offsets, ids[index], known[0].block_tokens)
