"""Experts that are chosen unevenly or shared by replicas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import Model, gpu, model
from rota.worlds.serving.timing import build, experts, roofline
from rota.worlds.serving.timing.features import GANG_TOKENS, iteration
from rota.worlds.serving.timing.pointer import float_array
from rota.worlds.serving.world import Serving

NAME = "qwen3-30b-a3b"


def made(folder: Path = Path(), name: str = NAME, tp: int = 1, **options: Any) -> Any:
    return build({"roofline": {"experts": options}}, model(name), gpu("h100"), tp, folder)


def plain(name: str = NAME, tp: int = 1) -> Any:
    return build("roofline", model(name), gpu("h100"), tp, Path())


@njit
def touched(parameters: int, tokens: float) -> Any:
    return experts.touched(float_array(parameters + 8 * experts._OWN, experts.POINTS), tokens)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 16, 100, 511, 2048, 100_000])
def test_even_loads_are_the_plain_roofline(tokens: int) -> None:
    features = iteration([(0, tokens)], [])
    assert made().seconds(features) == pytest.approx(plain().seconds(features), rel=2e-3)


@given(tokens=st.floats(1.0, 200_000.0), skew=st.floats(0.0, 2.0))
def test_touched_experts_against_the_formula(tokens: float, skew: float) -> None:
    loads = (np.arange(128) + 1.0) ** -skew
    chosen = np.minimum(1.0, 8 * loads / loads.sum())
    exact = (1.0 - (1.0 - chosen) ** tokens).sum()
    assert touched(made(skew=skew).parameters.ctypes.data, tokens) == pytest.approx(exact, rel=2e-3)


def test_touched_experts_against_drawn_tokens() -> None:
    """Tokens that choose each expert by its own coin: four standard errors of the mean over many batches."""
    rng, loads = np.random.default_rng(1), (np.arange(128) + 1.0) ** -1.0
    chosen = np.minimum(1.0, 8 * loads / loads.sum())
    counts = [(rng.random((32, 128)) < chosen).any(axis=0).sum() for _ in range(400)]
    error = np.std(counts) / 20
    assert abs(touched(made(skew=1.0).parameters.ctypes.data, 32.0) - np.mean(counts)) <= 4 * error


def test_uneven_loads_read_less() -> None:
    few = iteration((), [500] * 16)
    assert made(skew=1.0).seconds(few) < 0.9 * made().seconds(few)


def write(folder: Path, rows: Any, name: str = "loads.csv") -> str:
    head = ",".join(["task", "layer", *(f"e{k}" for k in range(len(rows[0])))])
    lines = [f"t,{n}," + ",".join(str(v) for v in row) for n, row in enumerate(rows)]
    (folder / name).write_text("\n".join([head, *lines]))
    return name


def test_loads_from_a_file_are_the_means_of_its_rows(tmp_path: Path) -> None:
    even, one = [1] * 8, [4, *[1] * 7]
    file = write(tmp_path, [even, one])
    found = made(tmp_path, "mixtral-8x7b", 4, load=file).parameters
    each = [
        made(tmp_path, "mixtral-8x7b", 4, load=write(tmp_path, [row], f"{k}.csv")).parameters
        for k, row in enumerate((even, one))
    ]
    table = slice(experts._OWN, experts._ROOFLINE)
    assert found[table] == pytest.approx((each[0][table] + each[1][table]) / 2, rel=1e-12)
    assert found[experts._OWN] == pytest.approx(
        2.0
    )  # one token: two experts, however uneven, while no probability is over 1


def test_shared_by_two_replicas_by_hand(tmp_path: Path) -> None:
    """Loads 3 1 | 1 1 1 1 1 1 of Mixtral's eight on 2 replicas of 4: the first has 6/10 of the choices, so 1.2 times its even share."""
    file = write(tmp_path, [[3, 1, 1, 1, 1, 1, 1, 1]])
    timing, served, chip = made(tmp_path, "mixtral-8x7b", 4, load=file, parallel=2), model("mixtral-8x7b"), gpu("h100")
    assert timing.ranks == 2
    assert timing.parameters[experts._BUSIEST] == pytest.approx(1.2)
    tokens = 4096.0
    chosen = np.array([0.6, 0.2, 0.2, 0.2])
    assert touched(timing.parameters.ctypes.data, tokens) == pytest.approx((1 - (1 - chosen) ** tokens).sum(), rel=1e-3)
    factors = roofline.factors(chip, {})
    rate = chip.collective_bandwidth or chip.link * factors.link
    others = 1.0 * (1 - 0.5**2)
    assert timing.parameters[experts._TOKEN] == pytest.approx(2 * 32 * others * served.hidden * 2 / 4 / rate)
    assert timing.parameters[experts._LATENCY] == pytest.approx(64 * factors.link_latency)


def test_the_tokens_of_all_replicas_count() -> None:
    timing = made(parallel=4)
    features = iteration([(0, 2048)], [])
    alone = timing.seconds(features)
    features[GANG_TOKENS] = 4 * 2048
    assert timing.seconds(features) > 1.2 * alone


def test_a_gang_of_replicas_runs() -> None:
    scenario = {
        "workload": {"generate": {"kind": "chat", "requests": 60, "rate": 20.0}},
        "fleet": [
            {
                "model": NAME,
                "gpu": "h100",
                "tp": 1,
                "count": 4,
                "timing": {"roofline": {"experts": {"skew": 0.5, "parallel": 4}}},
            }
        ],
    }
    world = Serving()
    case = world.load(scenario, Path())
    metrics = world.run(case, world.workload(case, 0), {"name": "fcfs"}, 0).metrics
    assert metrics["unfinished"] == 0
    scenario["fleet"][0]["count"] = 6  # type: ignore[index]
    with pytest.raises(InputError, match="multiple"):
        world.load(scenario, Path())


def test_the_smaller_deepseek_is_in_the_catalogue() -> None:
    served: Model = model("deepseek-v2-lite")
    active = served.parameters - served.moe_layers * (served.experts - served.experts_per_token) * served.expert_weights
    assert active == pytest.approx(2.66e9, rel=0.02)  # the card says 2.4 billion, without one of the two embeddings


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        ({"skew": 1.0}, "llama-3-8b", "has no experts"),
        ({"skewed": 1.0}, NAME, "unknown key 'skewed'.*skew"),
        ({"skew": -1}, NAME, "finite number >= 0"),
        ({"parallel": 3}, NAME, "divides the 128 experts"),
        ({"parallel": 0}, NAME, "divides the 128 experts"),
        ({"skew": 1.0, "load": "x.csv"}, NAME, "not both"),
        ({"load": "missing.csv"}, NAME, "no such file"),
    ],
)
def test_mistakes(options: dict[str, Any], name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        made(tmp_path, name, **options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("e0,e1\n1,2", "needs a column for each of the 8 experts"),
        (",".join(f"e{k}" for k in range(8)), "has no rows"),
        (",".join(f"e{k}" for k in range(8)) + "\n1,1,1,x,1,1,1,1", "line 2: a load is no number"),
        (",".join(f"e{k}" for k in range(8)) + "\n0,0,0,0,0,0,0,0", "line 2: loads must be"),
    ],
)
def test_mistakes_in_a_file(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "loads.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        made(tmp_path, "mixtral-8x7b", 4, load="loads.csv")


def test_not_with_overlap() -> None:
    with pytest.raises(InputError, match="do not go together"):
        build({"roofline": {"experts": {}, "overlap": {}}}, model(NAME), gpu("h100"), 1, Path())
