"""Names of KV blocks, and the map from them to the blocks of a cache."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.kernels.pages import PAGE, block_named, give_name, take_name
from rota.worlds.serving.model import PrefixBlocks, Workload
from rota.worlds.serving.naming import lay_out_names

IntColumn = npt.NDArray[np.int64]


@numba.njit
def play(where: Any, counts: Any, rows: Any, names: Any, blocks: Any, found: Any) -> None:
    """Give each name its block, -1: take the name away; and look all of them up after each step."""
    for step in range(len(names)):
        if blocks[step] >= 0:
            give_name(where, counts, rows, names[step], blocks[step])
        else:
            take_name(where, counts, rows, names[step])
        for name in range(found.shape[1]):
            found[step, name] = block_named(where, rows, name)


@given(st.data())
def test_a_name_is_found_where_a_dictionary_has_it(data: st.DataObject) -> None:
    """Names far apart and close together, with no more pages than blocks, for as long as one likes."""
    room, span = 6, 5 * PAGE
    known: dict[int, int] = {}
    steps, expected = [], []
    for _ in range(data.draw(st.integers(1, 60))):
        free = sorted(set(range(room)) - set(known.values()))
        if known and (not free or data.draw(st.booleans())):
            name, block = data.draw(st.sampled_from(sorted(known))), -1
            del known[name]
        else:
            near = sorted({(name + 1) % span for name in known} - set(known)) or [0]
            name = data.draw(
                st.one_of(st.sampled_from(near), st.integers(0, span - 1).filter(lambda n: n not in known))
            )
            block = known[name] = data.draw(st.sampled_from(free))
        steps.append((name, block))
        expected.append([known.get(name, -1) for name in range(span)])
    where, vacant = np.zeros(span // PAGE, np.int32), np.arange(1, room + 2, dtype=np.int32)
    rows, found = np.zeros((room + 1, PAGE), np.int32), np.zeros((len(steps), span), np.int64)
    names, blocks = np.array(steps, np.int64).T.copy()
    play(where, vacant, rows, names, blocks, found)
    assert found.tolist() == expected
    assert (rows[0] == 0).all()
    assert np.count_nonzero(where) == len({name // PAGE for name in known})


def workload(prompts: list[int], answers: list[int], ids: list[list[int]], known: int, through: bool) -> Workload:
    """Requests with what a trace says of their prompts."""
    rows = len(prompts)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64)
    flat = np.array([one for each in ids for one in each], np.int64)
    limit = np.full(rows, np.inf)
    return Workload(
        np.arange(rows, dtype=np.float64), np.array(prompts, np.int64), np.array(answers, np.int64), np.zeros(rows, np.int64),
        np.full(rows, -1), np.zeros(rows, np.int64), limit, limit.copy(), limit.copy(), prefix=PrefixBlocks(offsets, flat, known, through),
    )  # fmt: skip


def slow_name(work: Workload, size: int, j: int, k: int) -> tuple[int, ...]:
    """What identifies the k-th block of a request: what the trace says of it, otherwise the request and the number."""
    assert work.prefix is not None
    known, ids = work.prefix.block_tokens, work.prefix.ids[work.prefix.offsets[j] : work.prefix.offsets[j + 1]]
    tokens = work.prompt_tokens[j] + (work.output_tokens[j] if work.prefix.answers else 0)
    if (k + 1) * size <= tokens:
        if known >= size and k // (known // size) < len(ids):
            return int(ids[k // (known // size)]), k % (known // size)
        if known < size and (k + 1) * (size // known) <= len(ids):
            return (int(ids[(k + 1) * (size // known) - 1]),)
    return -1, j, k


@given(st.data())
def test_two_blocks_have_one_name_where_the_trace_says_so(data: st.DataObject) -> None:
    """And otherwise never; for all sizes of blocks beside one another."""
    rows, known = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([2, 4, 8]))
    prompts = data.draw(st.lists(st.integers(1, 40), min_size=rows, max_size=rows))
    answers = data.draw(st.lists(st.integers(1, 20), min_size=rows, max_size=rows))
    ids = [data.draw(st.lists(st.integers(0, 6), max_size=prompt // known)) for prompt in prompts]
    sizes = data.draw(st.lists(st.sampled_from([2, 4, 8, 16]), unique=True, max_size=3))
    reserved = data.draw(st.integers(0, 80))
    work = workload(prompts, answers, ids, known, data.draw(st.booleans()))
    starts, names, most = lay_out_names(work, sizes, reserved)
    for row, size in enumerate(sizes):
        seen: dict[tuple[int, ...], int] = {}
        for j in range(rows):
            mine = names[starts[2 * row, j] : starts[2 * row, j + 1]]
            for k in range(-(-max(prompts[j] + answers[j], reserved) // size)):
                name = int(mine[k]) if k < len(mine) else int(starts[2 * row + 1, j]) + k
                assert 0 <= name < most
                assert seen.setdefault(slow_name(work, size, j, k), name) == name
        assert len(set(seen.values())) == len(seen)


SIZES = [
    (16, 24, False),
    (16, 40, False),
    (24, 16, False),
    (16, 48, True),
    (48, 16, True),
    (16, 16, True),
    (16, 1, True),
]


@pytest.mark.parametrize(("known", "size", "fits"), SIZES)
def test_blocks_that_do_not_fall_on_one_another_are_refused(known: int, size: int, fits: bool) -> None:
    """Blocks of 24 tokens over a trace's of 16: the first ends within the trace's second one, whose name says nothing of half of it."""
    work = workload([96, 96], [1, 1], [[0, 1], [0, 2]], known, False)
    if fits:
        lay_out_names(work, [size])
        return
    with pytest.raises(
        InputError,
        match=f"blocks of {size} tokens does not fit a workload that names its prompts in blocks of {known}: take",
    ):
        lay_out_names(work, [size])


@pytest.mark.parametrize("caching", [True, False])
def test_a_scenario_with_such_blocks_is_refused_where_they_are_cached(caching: bool, tmp_path: Path) -> None:
    """In `rota check` and `rota run` alike, whose first step is the workload; without a cache the sizes do not matter."""
    call = {"program": "p", "id": "a", "arrival": 0.0, "prompt_tokens": 48, "output_tokens": 4, "blocks": [1, 2, 3]}
    (tmp_path / "calls.jsonl").write_text(json.dumps(call) + "\n")
    group = {"model": "llama-3.1-8b", "gpu": "h100", "block_tokens": 24, "prefix_caching": caching}
    scenario = parse(
        {
            "world": "serving",
            "workload": {"trace": "calls.jsonl", "format": "programs"},
            "fleet": [group],
            "policies": [{"name": "a"}],
        },
        tmp_path,
    )
    if not caching:
        assert len(scenario.world.workload(scenario.case, 0)) == 1
        return
    with pytest.raises(InputError, match=r"^fleet, block_tokens: .* 24 .* 16: take a divisor or a multiple of 16$"):
        scenario.world.workload(scenario.case, 0)


def test_too_many_names_are_refused() -> None:
    work = workload([8], [1], [[0, 1]], 4, False)
    large = replace(work, output_tokens=np.array([1 << 33]))
    with pytest.raises(
        InputError, match=r"workload: 4,294,967,300 different KV blocks, the prefix caches know 2,147,483,647 at most"
    ):
        lay_out_names(large, [2])
