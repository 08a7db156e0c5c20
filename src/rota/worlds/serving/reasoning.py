"""Programs that reason in rounds, drawn: samples of one question, searches in a tree, chains of thought in chunks.

The calls of a round wait for all calls of the one before, and after each round the program has an answer (see `answers`). `samples`: every call
has the question as its prompt, as in self-consistency (Wang et al. 2023). `tree`: every call goes on from one of the round before, as in
Rebase. `thoughts`: one call a round, a chunk of one chain; from the second round on there may be a probe beside it, which asks for the answer that
the chain before this chunk has (so does Dynasor's `cot.py`, which sends the two at once and decides when both are back). Sizes are lognormal.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np

from rota.kernel.errors import InputError
from rota.worlds.serving.answers import UNKNOWN, Answers, AnswerSpec, check_answers, draw_answers
from rota.worlds.serving.arrivals import Process, Variation
from rota.worlds.serving.model import IntColumn, PrefixBlocks, Programs, Workload, make_workload
from rota.worlds.serving.numbers import (
    CALLS_MOST,
    TOKENS_MOST,
    Calls,
    Few,
    Many,
    Rate,
    Sigma,
    Spread,
    Tokens,
    check_drawn,
)

Count = Annotated[int, msgspec.Meta(ge=1)]


class ReasoningSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one entry of a scenario's ``workload: {reasoning: [...]}`` says; the programs of all entries come together."""

    kind: Literal["samples", "tree", "thoughts"]
    count: Many  # programs
    rate: Rate  # programs a second
    variation: Spread | Variation = (
        1.0  # a number: of the gaps between them, gamma, 1 is Poisson; {cv, seconds}: of the rate
    )
    rounds: Calls = 8.0  # median
    rounds_sigma: Sigma = 0.0
    width: Few = 1  # calls a round
    prompt: Tokens = 200.0  # median tokens of the question
    prompt_sigma: Sigma = 0.5
    output: Tokens = 256.0  # median tokens of a call's answer
    output_sigma: Sigma = 0.5
    answers: AnswerSpec = AnswerSpec()


def check_reasoning(specs: tuple[ReasoningSpec, ...]) -> None:
    """Raises InputError: no entry, a chain of thought that is wide, answers that settle before they begin."""
    if not specs:
        raise InputError(
            "workload.reasoning: is empty; give at least one entry such as {kind: samples, count: 100, rate: 1}"
        )
    for number, spec in enumerate(specs):
        where = f"workload.reasoning[{number}]"
        if spec.kind == "thoughts" and spec.width > 1:
            raise InputError(
                f"{where}.width: a chain of thought has one call a round, found {spec.width}; leave it out"
            )
        check_answers(spec.answers, f"{where}.answers")


@dataclass
class _Call:
    parents: list[int]  # places in the program
    round: int
    prompt: int
    output: int
    blocks: IntColumn  # names of the tokens' blocks, from 0 in each program
    probe: bool = False


def draw_reasoning(specs: tuple[ReasoningSpec, ...], rng: np.random.Generator, block_tokens: int = 16) -> Workload:
    """A workload of programs that reason, in order of arrival; sizes and answers of each program come from its own draws."""
    drawn: list[tuple[float, int, list[_Call], IntColumn]] = []
    for kind, (spec, own) in enumerate(zip(specs, rng.spawn(len(specs)), strict=True)):
        for begin, stream in zip(_begins(spec, own), own.spawn(spec.count), strict=True):
            calls = _draw_calls(spec, stream, block_tokens)
            drawn.append((begin, kind, calls, draw_answers(spec.answers, calls[-1].round + 1, stream)))
    drawn.sort(key=lambda each: each[0])
    return _assemble(specs, drawn, block_tokens)


def _begins(spec: ReasoningSpec, rng: np.random.Generator) -> list[float]:
    """When the programs of an entry come, seconds."""
    if isinstance(spec.variation, Variation):
        found = Process(spec.rate, variation=spec.variation).first(spec.count, rng)
    else:
        shape = spec.variation**-2
        found = np.cumsum(rng.gamma(shape, 1 / (shape * spec.rate), spec.count))
    return [float(each) for each in found]


def _assemble(
    specs: tuple[ReasoningSpec, ...], drawn: list[tuple[float, int, list[_Call], IntColumn]], block_tokens: int
) -> Workload:
    calls = [call for _, _, each, _ in drawn for call in each]
    sizes = np.array([len(each) for _, _, each, _ in drawn])
    program = np.repeat(np.arange(len(drawn)), sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes).tolist()
    names = np.array([int(max(call.blocks.max(initial=-1) for call in each)) + 1 for _, _, each, _ in drawn])
    base = np.repeat(np.cumsum(names) - names, sizes).tolist()
    kinds = np.array([kind for _, kind, _, _ in drawn], np.int64)
    known = [_known(specs[kind], each) for _, kind, _, each in drawn]
    answers = Answers(
        np.array([call.round for call in calls], np.int64),
        np.array([call.probe for call in calls], np.bool_),
        _offsets([len(each) for each in known]),
        np.concatenate(known),
        np.array([each[-1] for _, _, _, each in drawn], np.int64),
    )
    parents = [[start + place for place in call.parents] for start, call in zip(first, calls, strict=True)]
    blocks = [start + call.blocks for start, call in zip(base, calls, strict=True)]
    return make_workload(
        np.repeat(np.array([begin for begin, _, _, _ in drawn]), sizes),
        np.array([call.prompt for call in calls], np.int64),
        np.array([call.output for call in calls], np.int64),
        session=program,
        prefix=PrefixBlocks(
            _offsets([len(each) for each in blocks]), np.concatenate(blocks), block_tokens, answers=True
        ),
        programs=Programs(
            program,
            _offsets([len(each) for each in parents]),
            np.array([place for each in parents for place in each], np.int64),
            np.zeros(len(calls)),
            kind=kinds,
            answers=answers,
        ),
        source="reasoning: " + ", ".join(dict.fromkeys(spec.kind for spec in specs)),
    )


def _offsets(lengths: list[int]) -> IntColumn:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)


def _known(spec: ReasoningSpec, given: IntColumn) -> IntColumn:
    """The answer that is known at the end of each round: of a chain of thought, what it had a chunk before."""
    return given if spec.kind != "thoughts" else np.concatenate([[UNKNOWN], given[:-1]])


def _draw_calls(spec: ReasoningSpec, rng: np.random.Generator, block_tokens: int) -> list[_Call]:
    question = _draw(spec, "prompt", 1, TOKENS_MOST, rng)[0]
    rounds = _draw(spec, "rounds", 1, CALLS_MOST, rng)[0]
    output = np.array(_draw(spec, "output", rounds * spec.width, TOKENS_MOST, rng)).reshape(rounds, spec.width)
    if spec.kind == "thoughts":
        return _thoughts(spec, question, output[:, 0].tolist(), block_tokens)
    onto = rng.integers(spec.width, size=(rounds, spec.width)) if spec.kind == "tree" else None
    return _rounds(question, output, onto, block_tokens)


def _rounds(question: int, output: IntColumn, onto: IntColumn | None, size: int) -> list[_Call]:
    """Rounds of calls beside each other. `onto`: for each which call of the round before it goes on from; None: all answer the question."""
    rounds, width = output.shape
    calls: list[_Call] = []
    paths: list[tuple[int, IntColumn]] = [
        (question, np.arange(question // size))
    ] * width  # tokens so far, their blocks
    last = question // size
    for number in range(rounds):
        made = []
        for place in range(width):
            said, blocks = paths[place if onto is None else int(onto[number, place])]
            tokens = said + int(output[number, place])
            own = np.arange(last, last + tokens // size - len(blocks))
            last += len(own)
            made.append((tokens, np.concatenate([blocks, own])))
            parents = list(range((number - 1) * width, number * width)) if number else []
            calls.append(_Call(parents, number, said, int(output[number, place]), made[-1][1]))
        if onto is not None:
            paths = made
    return calls


def _thoughts(spec: ReasoningSpec, question: int, chunks: list[int], size: int) -> list[_Call]:
    """One growing stream of tokens, and a probe beside every chunk but the first."""
    calls: list[_Call] = []
    said, before = question, list[int]()
    for number, chunk in enumerate(chunks):
        made = [len(calls)]
        calls.append(_Call(before, number, said, chunk, np.arange((said + chunk) // size)))
        if number:
            made.append(len(calls))
            asked = said + spec.answers.probe_prompt
            calls.append(_Call(before, number, asked, spec.answers.probe_output, np.arange(said // size), probe=True))
        said, before = said + chunk, made
    return calls


def _draw(spec: ReasoningSpec, name: str, count: int, most: int, rng: np.random.Generator) -> list[int]:
    median, sigma = getattr(spec, name), getattr(spec, f"{name}_sigma")
    drawn = np.maximum(1.0, np.rint(median * np.exp(sigma * rng.standard_normal(count))))
    check_drawn(drawn, most, f"workload.reasoning: {spec.kind}: {name} {median:g}, {name}_sigma {sigma:g}")
    return [int(each) for each in drawn]
