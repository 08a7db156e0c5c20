"""Batchers of published systems: cases by hand, what their papers say, and the mistakes one can make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.route.engine.settings import ENGINE_BATCHERS, Settings, resolve
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.batching import Batcher, Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import BATCHERS, S3, BatchSizeAdvisor, LayeredPrefill, PastFuture, SemiPD, VllmV1
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import iteration
from rota.worlds.serving.world import Serving

UNIT = {"constant": 1.0}


def timing(**numbers: float) -> Any:
    return build({"linear": numbers}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())


def run(work: Workload, batcher: Batcher, seed: int = 0, clock: Any = None, **shape: Any) -> Simulation:
    sizes: dict[str, Any] = {"kv_blocks": 40, "block_tokens": 1, "max_running": 8, "context_limit": 1000} | shape
    rules = batcher.rules(Engine(sizes["kv_blocks"], sizes["block_tokens"], sizes["max_running"], 1000, 1000, 4))
    engine = Replica("hand", rules=rules, timing=clock or timing(**UNIT), **sizes)
    roles = Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
    made = Simulation(work, [engine], roles, work.output_tokens.astype(np.float64), seed=seed)
    made.run()
    return made


def requests(*rows: tuple[float, int, int]) -> Workload:
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(arrival, prompt, output)


class TestPastFuture:
    def test_admitted_only_when_the_peak_fits(self) -> None:
        """Cache of 40 tokens, answers of at most 10. Prompts 10 and 10: together they peak at 10 + 9 + 10 + 9 = 38 tokens; with a third one, 57."""
        work = requests((0.0, 10, 10), (0.0, 10, 10), (0.0, 10, 10))
        made = run(work, PastFuture(estimate="limit", max_new_tokens=10, reserved=0.0))
        assert made.seconds[at.SCHEDULED].tolist() == [
            0.0,
            0.0,
            10.0,
        ]  # an iteration is a second: the third waits for the first two
        assert not made.jobs[at.PREEMPTIONS].any()
        aggressive = run(work, VllmV1())
        assert aggressive.seconds[at.SCHEDULED].tolist() == [0.0, 0.0, 0.0]  # 30 prompt tokens fit now
        assert aggressive.jobs[at.PREEMPTIONS].sum() > 0

    def test_one_that_ends_soon_makes_room(self) -> None:
        """A peak is no sum of ends: at 20 s the first has 30 tokens in the cache and 1 to go, so 30 + 1 + 2 + 1 = 34 is the most with a second of 2 + 20."""
        work = requests((0.0, 11, 21), (1.0, 2, 3))
        made = run(work, PastFuture(estimate="quantile", max_new_tokens=21, reserved=0.0), kv_blocks=34)
        assert made.seconds[at.SCHEDULED, 1] == 20.0  # nothing has ended: 21 are taken for both
        past = requests((0.0, 1, 3), (0.0, 1, 21), (30.0, 11, 21), (31.0, 2, 3))
        made = run(past, PastFuture(estimate="quantile", quantile=0.5, max_new_tokens=21, reserved=0.0), kv_blocks=34)
        assert made.seconds[at.SCHEDULED, 3] == 31.0  # half of the past answers had 3 tokens

    def test_draws_are_of_the_past_answers_that_are_longer(self) -> None:
        """Past answers have 4 or 12 tokens. Of one with 6 out, 12 is the only length that is left, whatever is drawn."""
        from tests.worlds.serving.slow_inside import expected

        class Seen:
            rules = PastFuture(max_new_tokens=100).rules(Engine(1, 1, 1, 1000, 1000))
            past = (4, 12, 4, 12)

        class One:
            number, generated = 3, 6

        assert expected(Seen(), One()) == 12  # type: ignore[arg-type]
        drawn = set()
        for number in range(20):
            One.number, One.generated = number, 0
            drawn.add(expected(Seen(), One()))  # type: ignore[arg-type]
        assert drawn == {4, 12}

    def test_fewer_displaced_than_aggressive_and_more_at_once_than_conservative(self) -> None:
        """The paper's claim, in direction, on 300 requests of very unequal answers and a cache of two longest ones."""
        rng = np.random.default_rng(4)
        output = np.minimum(rng.geometric(1 / 40, 300), 400)
        work = make_workload(np.arange(300) * 4.0, rng.integers(5, 60, 300), output)
        found = {
            name: run(work, batcher, kv_blocks=900, max_running=64, clock=timing(constant=1.0, prefill_tokens=0.01))
            for name, batcher in {
                "aggressive": VllmV1(),
                "conservative": PastFuture(estimate="limit", max_new_tokens=400),
                "past-future": PastFuture(max_new_tokens=400),
            }.items()
        }
        displaced = {name: made.jobs[at.PREEMPTIONS].sum() for name, made in found.items()}
        waited = {
            name: (made.seconds[at.FIRST_TOKEN] - made.seconds[at.ARRIVAL]).mean() for name, made in found.items()
        }
        assert displaced["conservative"] == 0
        assert displaced["past-future"] < 0.5 * displaced["aggressive"]
        assert waited["past-future"] < 0.5 * waited["conservative"]


class TestS3:
    def test_packs_the_largest_that_fits(self) -> None:
        """Room for 40: needs are 8 + 4, 20 + 12, 4 + 4 and 2 + 4 tokens. 32 goes first, 8 fits beside it; at 4 s there is room for 6, at 11 s for 12."""
        work = requests((0.0, 8, 3), (0.0, 20, 11), (0.0, 4, 4), (0.0, 2, 2))
        made = run(work, S3(bucket_tokens=4))
        assert made.seconds[at.SCHEDULED].tolist() == [11.0, 0.0, 0.0, 4.0]

    def test_an_answer_that_outgrows_it_comes_back_with_twice_as_much(self) -> None:
        """4 tokens are aside for the answer and it has 9: it goes when it needs a fifth in the cache, and once more at none, as 8 cached ones are enough."""
        work = requests((0.0, 3, 9))
        rules = S3(bucket_tokens=4).rules(Engine(40, 1, 8, 1000, 1000))
        engine = Replica("hand", 40, 1, 8, 1000, rules, timing(**UNIT))
        roles = Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
        made = Simulation(work, [engine], roles, np.array([4.0]))
        made.run()
        assert made.jobs[at.PREEMPTIONS].tolist() == [1]
        assert made.seconds[at.FINISH].tolist() == [9.0]  # its fifth token comes with the second prefill

    def test_more_at_once_than_with_the_worst_case(self) -> None:
        """The paper's claim in direction: short answers of which a hundred tokens may be asked for."""
        rng = np.random.default_rng(1)
        work = make_workload(np.zeros(200), rng.integers(2, 10, 200), rng.integers(1, 20, 200))
        ends = [
            run(work, S3(bucket_tokens=size), kv_blocks=400, max_running=64).seconds[at.FINISH].max()
            for size in (5, 100)
        ]
        assert ends[0] < ends[1] / 3


class TestLayeredPrefill:
    def test_a_prompt_takes_as_many_iterations_as_there_are_groups(self) -> None:
        """Work of a prompt of 8 is 8 s through 4 layers. In groups of 2 tokens' work: 4 iterations of 1/4 (1 + 8 s), and the decode beside it goes on."""
        clock = timing(constant=1.0, prefill_tokens=1.0)
        work = requests((0.0, 1, 7), (1.5, 8, 1))
        made = run(work, LayeredPrefill(chunk_tokens=2, most_tokens=100), clock=clock)
        # 0..2 first prompt; 2..5, 5..8, 8..11, 11..14: with a decode 9/4 + 1 x 3/4 = 3 s each
        assert made.seconds[at.FIRST_TOKEN].tolist() == [2.0, 14.0]
        assert made.seconds[at.FINISH].tolist() == [16.0, 14.0]  # two more decodes of 1 s

    def test_never_more_groups_than_layers(self) -> None:
        clock = timing(constant=1.0, prefill_tokens=1.0)
        made = run(requests((0.0, 100, 1)), LayeredPrefill(chunk_tokens=2), kv_blocks=200, clock=clock)
        assert made.hosts[0, at.ITERATIONS] == 4
        assert made.seconds[at.FINISH].tolist() == [101.0]  # the same work as in one go

    def test_experts_are_read_once_a_layer(self) -> None:
        """Why it exists: a prompt of 8,192 in chunks of 512 reads the experts 16 times, in groups of layers once."""
        for name, least in (("qwen3-30b-a3b", 1.5), ("qwen3-32b", 0.9)):
            clock = build("roofline", model(name), gpu("h100"), 2, Path())
            chunks = sum(clock.seconds(iteration([(512 * k, 512)], [], k == 15)) for k in range(16))
            whole = clock.seconds(iteration([(0, 8192)], [], 1))
            assert chunks / whole > least
        assert chunks / whole < 1.5  # the dense model


class TestSemiPD:
    def test_both_streams_by_hand(self) -> None:
        """Iterations of 1 s alone and half of the compute each: 2 s for both. The prompt that comes at 3 begins at once, beside the decode of 2 to 4."""
        work = requests((0.0, 1, 4), (3.0, 1, 2))
        made = run(work, SemiPD(control_seconds=0.0, decode_scale=1.0, contention=0.0))
        assert made.seconds[at.FIRST_TOKEN].tolist() == [2.0, 5.0]
        # decodes end at 4, 6, 8: the second joins the one that begins at 6
        assert made.seconds[at.FINISH].tolist() == [8.0, 8.0]

    def test_contention_is_paid_beside_the_other_stream(self) -> None:
        work = requests((0.0, 1, 4), (3.0, 1, 2))
        made = run(work, SemiPD(control_seconds=0.0, decode_scale=1.0, contention=0.5))
        assert made.seconds[at.FIRST_TOKEN].tolist() == [2.0, 6.0]  # 2 s x 1.5
        assert made.seconds[at.FINISH].tolist() == [9.0, 9.0]  # 2..4 alone, 4..7 beside the prompt, 7..9 both

    def test_the_controller_finds_the_share_with_equal_distances(self) -> None:
        """One prompt's first token takes 2 s of a limit of 1, a decode 2 s of a limit of 4: x = 2 / (2 + 0.5) = 0.8."""
        from rota.worlds.serving.kernels import inside

        work = requests((0.0, 1, 4))
        made = run(work, SemiPD(control_seconds=0.5, ttft=1.0, tpot=4.0, decode_scale=1.0, contention=0.0))
        assert made.arrays[at.A_INSIDE_FLOATS][0, inside.SHARE] == pytest.approx(0.8)

    @given(share=st.floats(0.1, 0.9), scale=st.floats(0.0, 1.0))
    def test_a_larger_share_is_faster(self, share: float, scale: float) -> None:
        alone = requests((0.0, 5, 1))
        seconds = run(alone, SemiPD(share=share, control_seconds=0.0, prompt_scale=scale)).seconds[at.FINISH, 0]
        assert seconds == pytest.approx(1.0 - scale + scale / share)
        assert seconds >= 1.0 - 1e-12


class TestBatchSizeAdvisor:
    def test_against_the_closed_form(self) -> None:
        """With L(B) = a + b B: T(B) / (B T(1)) = (a + b) / (a + b B) > epsilon, so B < ((a + b) / epsilon - a) / b; T grows, so the largest is advised."""
        clock = timing(constant=0.01, decodes=0.001)
        assert BatchSizeAdvisor(context=0, epsilon=0.13).advise(clock, 500) == int((0.011 / 0.13 - 0.01) / 0.001)
        assert BatchSizeAdvisor(context=0, epsilon=0.0, tpot=0.03).advise(clock, 500) == 20
        assert BatchSizeAdvisor(context=0, epsilon=0.0).advise(clock, 64) == 64

    def test_slots_of_a_replica(self) -> None:
        rules = BatchSizeAdvisor(context=0, epsilon=0.0, tpot=0.03).rules(
            Engine(100, 16, 64, 512, 4096, 4, timing(constant=0.01, decodes=0.001))
        )
        assert rules.max_running == 20
        engine = Replica("hand", 4000, 1, 64, 1000, rules, timing(**UNIT))
        work = make_workload(np.zeros(50), np.full(50, 4), np.full(50, 10))
        made = Simulation(work, [engine], Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]()))
        made.run()
        starts, ends = made.seconds[at.SCHEDULED], made.seconds[at.FINISH]
        assert max(((starts <= moment) & (ends > moment)).sum() for moment in starts) == 20

    def test_a_limit_that_nobody_keeps(self) -> None:
        with pytest.raises(InputError, match=r"one request alone takes 0\.011 s"):
            BatchSizeAdvisor(context=0, tpot=0.001).advise(timing(constant=0.01, decodes=0.001), 8)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (PastFuture(window=0), "window at least 1"),
        (PastFuture(max_new_tokens=-1), "max_new_tokens must be at least 0"),
        (PastFuture(quantile=0.0), "quantile must be above 0"),
        (PastFuture(reserved=1.0), "reserved at least 0 and below 1"),
        (S3(bucket_tokens=0), "bucket_tokens must be at least 1"),
        (LayeredPrefill(chunk_tokens=0), "chunk_tokens must be at least 1"),
        (LayeredPrefill(most_tokens=4), "most_tokens .4. must be at least max_running"),
        (SemiPD(share=0.95), "least <= share <= 1 - least"),
        (SemiPD(decode_scale=2.0), "shares of 0 to 1"),
        (SemiPD(ttft=0.0), "above 0 seconds"),
        (SemiPD(contention=float("inf")), "at least 0 and finite"),
        (SemiPD(control_seconds=float("inf")), "at least 0 and finite"),
        (BatchSizeAdvisor(epsilon=1.0), "epsilon at least 0 and below 1"),
    ],
)
def test_parameters_out_of_range(made: Batcher, says: str) -> None:
    with pytest.raises(InputError, match=says):
        made.rules(Engine(100, 16, 8, 512, 2048))


def scenario(**more: Any) -> dict[str, Any]:
    return {
        "workload": {"generate": {"kind": "chat", "requests": 10, "rate": 2.0}},
        "fleet": [{"model": "llama-3-8b", "gpu": "a100-80g"}],
        **more,
    }


@pytest.mark.parametrize(
    ("policy", "more", "says"),
    [
        ({"batch": "s3"}, {}, "works with predicted answers, which are hidden"),
        ({"batch": "s3", "order": "lcfs"}, {"information": {"output_tokens": "oracle"}}, "says itself who goes first"),
        ({"batch": "semi_pd", "order": "srpt"}, {"information": {"output_tokens": "oracle"}}, "does not do"),
    ],
)
def test_what_does_not_apply_is_said_in_words(policy: dict[str, Any], more: dict[str, Any], says: str) -> None:
    world = Serving()
    found = world.resolve(world.load(scenario(**more), Path()), {"name": "one", **policy}, Path())
    assert found is not None
    assert says in found


@pytest.mark.parametrize("name", [name for name in BATCHERS if name not in ENGINE_BATCHERS])
def test_the_live_engine_says_what_it_cannot_be(name: str) -> None:
    with pytest.raises(InputError, match="works in the simulated fleet only"):
        resolve(Settings(model="llama-3-8b", gpu="a100-80g", batch=name))
