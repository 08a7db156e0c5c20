"""Programs: calls that wait for one another. Read from JSON lines, or drawn.

A file has one call a line::

    {"program": "p7", "id": "plan", "arrival": 12.5, "prompt_tokens": 900, "output_tokens": 120}
    {"program": "p7", "id": "act", "after": ["plan"], "delay": 2.0, "prompt_tokens": 1400, "output_tokens": 80}

`after`: the calls of the same program that it waits for; `delay`: seconds from the end of the last of them until it arrives (a tool runs, a person
thinks); `tool`: its name. A call that waits for none has `arrival`, seconds. Optional: `tenant`, `priority`, `blocks` (ids of the prompt's blocks, equal
id = equal block and equal everything before it: chained hashes, as in Mooncake's traces).
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.reading.tables import read_bytes
from rota.worlds.serving.arrivals import Rhythm
from rota.worlds.serving.model import IntColumn, PrefixBlocks, Programs, Workload, make_workload
from rota.worlds.serving.numbers import (
    CALLS_MOST,
    TOKENS_MOST,
    Duration,
    Few,
    Many,
    Rate,
    Sigma,
    Tokens,
    check_drawn,
)

Count = Annotated[int, msgspec.Meta(ge=1)]


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the file."""

    program: str | int
    id: str | int
    prompt_tokens: Count
    output_tokens: Count
    after: list[str | int] = []
    delay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    tool: str = ""
    arrival: Annotated[float, msgspec.Meta(ge=0)] | None = None
    tenant: str = ""
    priority: int = 0
    blocks: list[int] = []


class ProgramSpec(Rhythm, forbid_unknown_fields=True, frozen=True):
    """What a scenario's ``workload: {programs: ...}`` says. Sizes are lognormal; defaults are round figures, not fits.

    When programs come is said by their `rate` and the keys of `Rhythm`; their sizes do not depend on these.

    `chain`: calls one after the other, each prompt all that was said before and something new. `fan_out`: a first
    call, `width` calls beside each other, and one that takes their answers. `best_of`: `width` answers to one prompt.
    """

    kind: Literal["chain", "fan_out", "best_of"]
    count: Many  # programs
    rate: Rate  # programs a second, mean
    calls: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 6.0  # mean of a chain, geometric
    width: Few = 4
    prompt: Tokens = 1500.0  # median tokens of the first prompt
    prompt_sigma: Sigma = 0.7
    added: Tokens = 300.0  # median tokens that a tool or a person adds
    added_sigma: Sigma = 0.8
    output: Tokens = 150.0  # median tokens of an answer
    output_sigma: Sigma = 0.8
    delay: Duration = 2.0  # median seconds of a tool or of a person
    delay_sigma: Sigma = 1.0
    tools: Few = 1  # kinds of tools, all equally often
    tool_sigma: Sigma = 0.0  # of the logarithm of their own medians, around `delay`
    system_tokens: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0  # of every prompt, the same in all programs
    block_tokens: Count = 16


def read_programs(path: Path, block_tokens: int = 16) -> Workload:
    """A workload of programs from JSON lines, also gzipped.

    Raises:
        InputError: file, line, rule: not JSON, an unknown key, a call twice, a parent that does not exist, a circle, no arrival, a block
            after two different ones.
    """
    calls: list[Call] = []
    lines: list[int] = []
    for number, text in enumerate(read_bytes(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            calls.append(msgspec.json.decode(text, type=Call))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        lines.append(number)
    if not calls:
        raise InputError(f"{path}: has no calls")
    return _assemble(path, calls, lines, block_tokens)


def _assemble(path: Path, calls: list[Call], lines: list[int], block_tokens: int) -> Workload:
    place: dict[tuple[str, str], int] = {}
    for row, call in enumerate(calls):
        key = (str(call.program), str(call.id))
        if key in place:
            raise InputError(f"{path}, line {lines[row]}: call {call.id} of program {call.program} is there twice")
        place[key] = row
        if (call.arrival is None) == (not call.after):
            rule = "waits for others: leave out its arrival" if call.after else "waits for none: it needs an arrival"
            raise InputError(f"{path}, line {lines[row]}: call {call.id} {rule}")
        if len(call.blocks) > -(-call.prompt_tokens // block_tokens):
            raise InputError(
                f"{path}, line {lines[row]}: {len(call.blocks)} blocks of {block_tokens} tokens are more than the prompt of {call.prompt_tokens}"
            )
    _check_chains(path, calls, lines)
    for row, call in enumerate(calls):
        for parent in call.after:
            if (str(call.program), str(parent)) not in place:
                raise InputError(
                    f"{path}, line {lines[row]}: call {call.id} waits for {parent}, which program {call.program} does not have"
                )
    _check_circles(path, [[place[str(call.program), str(each)] for each in call.after] for call in calls], calls, lines)
    names = list(dict.fromkeys(str(call.program) for call in calls))
    program = np.array([names.index(str(call.program)) for call in calls]) if len(names) < 64 else _index(calls, names)
    begins = np.full(len(names), np.inf)
    np.minimum.at(begins, program, np.array([np.inf if call.arrival is None else call.arrival for call in calls]))
    arrival = np.array(
        [begins[p] if call.arrival is None else call.arrival for p, call in zip(program, calls, strict=True)]
    )
    order = np.argsort(arrival, kind="stable")
    new = np.empty(len(order), np.int64)
    new[order] = np.arange(len(order))
    after = [[int(new[place[str(calls[k].program), str(parent)]]) for parent in calls[k].after] for k in order]
    tenants = tuple(dict.fromkeys(call.tenant for call in calls))
    tools = tuple(dict.fromkeys(call.tool for call in calls))
    blocks = [calls[k].blocks for k in order]
    ids = np.array([each for row in blocks for each in row], np.int64)
    prefix = None
    if len(ids):
        _, dense = np.unique(ids, return_inverse=True)
        prefix = PrefixBlocks(_offsets([len(row) for row in blocks]), dense.astype(np.int64), block_tokens)
    return make_workload(
        arrival[order],
        np.array([calls[k].prompt_tokens for k in order]),
        np.array([calls[k].output_tokens for k in order]),
        tenant=np.array([tenants.index(calls[k].tenant) for k in order]),
        session=program[order],
        priority=np.array([calls[k].priority for k in order]),
        tenants=tenants,
        prefix=prefix,
        programs=Programs(
            program[order], _offsets([len(row) for row in after]), np.array([p for row in after for p in row], np.int64),
            np.array([calls[k].delay for k in order], np.float64),
            np.array([tools.index(calls[k].tool) for k in order], np.int64),
        ),
        source=path.name,
    )  # fmt: skip


def _check_chains(path: Path, calls: list[Call], lines: list[int]) -> None:
    """The id of a block stands for all before it too, so the same one always stands before it."""
    before: dict[int, int | None] = {}
    for call, line in zip(calls, lines, strict=True):
        last: int | None = None
        for block in call.blocks:
            first = before.setdefault(block, last)
            if first != last:
                here, there = (f"after {each}" if each is not None else "first" for each in (last, first))
                raise InputError(
                    f"{path}, line {line}: block {block} stands {here}, and {there} above: an id must stand for its block and all before it (chained hashes)"
                )
            last = block


def _check_circles(path: Path, parents: list[list[int]], calls: list[Call], lines: list[int]) -> None:
    """Raises InputError where calls wait for each other: none of them would ever come."""
    left = [len(each) for each in parents]
    children: list[list[int]] = [[] for _ in calls]
    for row, each in enumerate(parents):
        for parent in each:
            children[parent].append(row)
    ready = [row for row, count in enumerate(left) if not count]
    for row in ready:  # grows while it is gone through
        for child in children[row]:
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    stuck = next((row for row, count in enumerate(left) if count), None)
    if stuck is None:
        return
    seen: list[int] = []
    while stuck not in seen:  # back to whom it waits for, until somebody is met again
        seen.append(stuck)
        stuck = next(parent for parent in parents[stuck] if left[parent])
    circle = [calls[row].id for row in seen[seen.index(stuck) :]]
    raise InputError(
        f"{path}, line {lines[stuck]}: calls of program {calls[stuck].program} wait for each other in a circle: {_chain(circle)}"
    )


def _chain(circle: list[str | int]) -> str:
    """Who waits for whom, in words; of a long circle only its beginning."""
    shown = [str(each) for each in circle[:5]]
    return " waits for ".join([*shown, "..." if len(circle) > 5 else str(circle[0])])


def _index(calls: list[Call], names: list[str]) -> IntColumn:
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[str(call.program)] for call in calls])


def _offsets(lengths: list[int]) -> IntColumn:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)


def draw_programs(spec: ProgramSpec, rng: np.random.Generator) -> Workload:
    """A workload of programs; sizes of each program come from its own draws, arrivals that are not Poisson from draws of their own."""
    begins = np.cumsum(rng.exponential(1 / spec.rate, spec.count))
    rows: list[tuple[int, list[int], float, float, int, int]] = []  # program, parents, arrival, delay, prompt, output
    tools: list[int] = []
    streams = rng.spawn(spec.count)
    slowness = np.exp(spec.tool_sigma * rng.standard_normal(spec.tools)) if spec.tools > 1 else np.ones(1)
    if not spec.poisson:
        begins = spec.process(spec.rate).first(spec.count, rng.spawn(1)[0])
    for program, (begin, own) in enumerate(zip(begins.tolist(), streams, strict=True)):
        drawn = _draw_one(spec, program, begin, len(rows), own)
        kinds = own.integers(spec.tools, size=len(drawn)).tolist() if spec.tools > 1 else [0] * len(drawn)
        rows += [(*row[:3], row[3] * float(slowness[kind]), *row[4:]) for row, kind in zip(drawn, kinds, strict=True)]
        tools += kinds
    number, parents, arrival, delay, prompt, output = zip(*rows, strict=True)
    column = np.array(number, np.int64)
    prompts = np.array(prompt, np.int64)
    return make_workload(
        np.array(arrival),
        prompts,
        np.array(output, np.int64),
        session=column,
        prefix=_stream_blocks(column, prompts, np.array(output, np.int64), spec),
        programs=Programs(
            column,
            _offsets([len(each) for each in parents]),
            np.array([p for each in parents for p in each], np.int64),
            np.array(delay),
            np.array(tools, np.int64),
        ),
        source=f"programs: {spec.kind}",
    )


def _draw_one(
    spec: ProgramSpec, program: int, begin: float, base: int, rng: np.random.Generator
) -> list[tuple[int, list[int], float, float, int, int]]:
    count = {"chain": int(rng.geometric(1 / spec.calls)), "fan_out": spec.width + 2, "best_of": spec.width}[spec.kind]
    if spec.kind == "chain":
        check_drawn(np.array([float(count)]), CALLS_MOST, f"workload.programs: calls {spec.calls:g}")
    first = spec.system_tokens + int(_draw(spec, "prompt", 1, rng)[0])
    output, added = _draw(spec, "output", count, rng), _draw(spec, "added", count, rng)
    delay = np.exp(np.log(spec.delay) + spec.delay_sigma * rng.standard_normal(count))
    rows: list[tuple[int, list[int], float, float, int, int]] = []
    said = first
    for k in range(count):
        if spec.kind == "chain":
            parents = [base + k - 1] if k else []
            said += int(output[k - 1] + added[k]) if k else 0
        elif spec.kind == "fan_out":
            parents = [] if k == 0 else [base] if k < count - 1 else list(range(base + 1, base + count - 1))
            said = (
                first
                if k == 0
                else first + int(output[0] + added[k])
                if k < count - 1
                else first + int(output[:-1].sum())
            )
        else:
            parents = []
        rows.append((program, parents, begin, float(delay[k]) if parents else 0.0, said, int(output[k])))
    return rows


def _draw(spec: ProgramSpec, name: str, count: int, rng: np.random.Generator) -> IntColumn:
    """Lognormal tokens of so many calls, at least 1."""
    median, sigma = getattr(spec, name), getattr(spec, f"{name}_sigma")
    drawn = np.maximum(1.0, np.rint(median * np.exp(sigma * rng.standard_normal(count))))
    check_drawn(drawn, TOKENS_MOST, f"workload.programs: {name} {median:g}, {name}_sigma {sigma:g}")
    return np.asarray(drawn, np.int64)


def _stream_blocks(program: IntColumn, prompt: IntColumn, output: IntColumn, spec: ProgramSpec) -> PrefixBlocks:
    """What calls share, answers included: a chain is one growing stream of tokens; in the other kinds calls share the first prompt."""
    size, common = spec.block_tokens, spec.system_tokens // spec.block_tokens
    first = np.full(int(program.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, program, prompt)
    ids: list[IntColumn] = []
    known: dict[tuple[int, int, int], int] = {}
    for row, (number, tokens) in enumerate(zip(program.tolist(), (prompt + output).tolist(), strict=True)):
        shared = tokens if spec.kind == "chain" else int(first[number])
        keys = [
            (-1, -1, k) if k < common else (number, -1 if (k + 1) * size <= shared else row, k)
            for k in range(tokens // size)
        ]
        ids.append(np.array([known.setdefault(key, len(known)) for key in keys], np.int64))
    return PrefixBlocks(_offsets([len(each) for each in ids]), np.concatenate(ids), size, answers=True)
