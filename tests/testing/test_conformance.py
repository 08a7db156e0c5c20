"""The suite passes what keeps the rules, and names the rule that a broken policy breaks."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from rota.kernel.decisions import Allot, Order, Place, Plan, Policy
from rota.kernel.tables import Column, FloatColumn, Hosts, Jobs
from rota.rules.service import LeastAttained
from rota.testing.conformance import RULES, ConformanceError, ConformanceSuite, Subject, check_policy, rules_for


class Sized(Order):
    reads: tuple[str, ...] = ("size",)

    def keys(self, jobs: Jobs, now: float) -> Any:
        return jobs.size


class NeedsArgument(Sized):
    def __init__(self, level: int) -> None:
        self.level = level


class ReadsList(Sized):
    reads = ["size"]  # type: ignore[assignment]


class AskedSometimes(Sized):
    asked = "sometimes"  # type: ignore[assignment]


class SharesFreely(Sized):
    ties = "whatever"  # type: ignore[assignment]


class SupportsTrue(Sized):
    def supports(self, world: str) -> Any:
        return True


class ReadsUnknown(Sized):
    reads = ("size", "colour")


class ReadsUndeclared(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return jobs.size + (jobs.release if len(jobs) > 5 else 0.0)


class Mutates(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        size = jobs.size
        size *= 2.0
        return size


class Unlocks(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        size = jobs.size
        size.flags.writeable = True
        size += 1.0
        return size


class NotANumber(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        with np.errstate(invalid="ignore"):
            return jobs.size / jobs.size


class MinusInfinity(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return np.where(jobs.size == 0, -np.inf, jobs.size)


class WrongLength(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return jobs.size[:1]


class TooDeep(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return np.zeros((len(jobs), 2, 2))


class Words(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return np.array(["first"] * len(jobs))


class FailsOnNothing(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return jobs.size - jobs.size.min()


class ReviewsThePast(Sized):
    def review(self, jobs: Jobs, now: float) -> float:
        return now - 1.0


class SharedChance(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return CHANCE.random(len(jobs))


CHANCE = np.random.default_rng(0)


class UsesUpItsGenerator(Sized):
    def bind(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def keys(self, jobs: Jobs, now: float) -> Any:
        return self.rng.random(len(jobs))


@dataclass
class Remembers(Order):
    reads = ("size",)
    seen: float = 0.0

    def keys(self, jobs: Jobs, now: float) -> Any:
        self.seen = max(self.seen, float(jobs.size.max(initial=0.0)))
        return jobs.size / (1.0 + self.seen)


class FailingHook(Sized):
    def on_finish(self, job: int, host: int, now: float) -> None:
        raise KeyError(job)


class ByPosition(Sized):
    def keys(self, jobs: Jobs, now: float) -> Any:
        return np.arange(len(jobs))


class Unpicklable(Sized):
    def __init__(self) -> None:
        self.choose = lambda size: size


class ForgetsWhenCopied(Sized):
    scale = 1.0

    def bind(self, rng: np.random.Generator) -> None:
        self.scale = 2.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def keys(self, jobs: Jobs, now: float) -> Any:
        return self.scale * jobs.size


class FlatMatrix(Place):
    reads = ("outstanding",)

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> Any:
        return np.zeros((len(jobs), len(hosts)))


class UndeclaredCost(Place):
    cost_column = "outstanding"

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> Any:
        return np.zeros(len(hosts))


class OtherCost(Place):
    reads = ("outstanding",)
    cost_column = "outstanding"

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> Any:
        return hosts.outstanding + 1.0


class SamplesByLoad(Place):
    reads = ("id", "outstanding")

    def sample(self, jobs: Jobs, hosts: Hosts) -> Any:
        return hosts.id[None, hosts.outstanding < 5]


class SamplesNobody(Place):
    reads = ("id",)

    def sample(self, jobs: Jobs, hosts: Hosts) -> Any:
        return np.full((len(jobs), 1), 999)


class SamplesFlat(SamplesNobody):
    def sample(self, jobs: Jobs, hosts: Hosts) -> Any:
        return hosts.id[:1] if len(hosts) else None

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> Any:
        return np.zeros(len(hosts))


class Overspends(Allot):
    reads = ("size",)

    def amounts(self, claims: Any, budget: Any, now: float) -> Any:
        return claims.size + 1.0


class GivesNegative(Overspends):
    def amounts(self, claims: Any, budget: Any, now: float) -> Any:
        return np.full(len(claims), -1.0)


BUILT, SUPPORT, COLUMNS, READS, MUTATES, SURVIVES, NUMBERS, SHORTCUTS, REPEATS, STATE, ROWS, COPIES = RULES


@pytest.mark.parametrize(
    ("policy", "shape", "rule", "found"),
    [
        (NeedsArgument, "order", BUILT, "missing 1 required positional argument"),
        (Sized, "place", BUILT, "expected an instance of Place, found Sized"),
        (ReadsList, "order", BUILT, "reads must be a tuple"),
        (AskedSometimes, "order", BUILT, "asked must be"),
        (SharesFreely, "order", BUILT, "ties must be"),
        (SupportsTrue, "order", SUPPORT, "found True"),
        (ReadsUnknown, "order", COLUMNS, "colour"),
        (ReadsUndeclared, "order", READS, "7 rows: column release was not declared: add it to `reads`"),
        (Mutates, "order", MUTATES, "writes into a column"),
        (Unlocks, "order", MUTATES, "other values afterwards"),
        (NotANumber, "order", NUMBERS, "contains NaN"),
        (MinusInfinity, "order", NUMBERS, "contains -inf"),
        (WrongLength, "order", NUMBERS, r"2 rows: found shape \(1,\), expected \(2,\)"),
        (TooDeep, "order", NUMBERS, "found shape"),
        (Words, "order", NUMBERS, "expected numbers"),
        (FailsOnNothing, "order", SURVIVES, "random values, 0 rows: ValueError: zero-size array"),
        (ReviewsThePast, "order", NUMBERS, "review at 100.0 s names 99.0 s"),
        (SharedChance, "order", REPEATS, "two fresh copies"),
        (UsesUpItsGenerator, "order", STATE, "depends on earlier questions"),
        (Remembers, "order", STATE, "state changes only in hooks"),
        (FailingHook, "order", REPEATS, r"a hook \(on_finish\) raises KeyError"),
        (ByPosition, "order", ROWS, "rows in another order"),
        (Unpicklable, "order", COPIES, "cannot be copied"),
        (ForgetsWhenCopied, "order", COPIES, "answers differently"),
        (FlatMatrix, "place", NUMBERS, r"1 jobs: found shape \(1, 0\), expected \(0,\)"),
        (UndeclaredCost, "place", SHORTCUTS, "cost_column outstanding is not in reads"),
        (OtherCost, "place", SHORTCUTS, "costs differ from what cost_column and sample say"),
        (SamplesByLoad, "place", SHORTCUTS, "sample from ids alone: NotRevealed"),
        (SamplesNobody, "place", SHORTCUTS, "names a host that is not there"),
        (SamplesFlat, "place", SHORTCUTS, r"sample has shape \(1,\), expected \(1, d\)"),
        (Overspends, "allot", NUMBERS, "gives .* of 100.0 budget"),
        (GivesNegative, "allot", NUMBERS, "finite and not negative"),
        (Sized, "plan", BUILT, "expected an instance of Plan"),
    ],
)
def test_a_broken_policy_breaks_its_rule(policy: type[Policy], shape: str, rule: str, found: str) -> None:
    with pytest.raises(ConformanceError, match=found) as caught:
        check_policy(policy, shape)
    assert caught.value.rule == rule
    assert f"{policy.__name__} breaks '{rule}'" in str(caught.value)


@dataclass
class FairShares(Order):
    """State that changes in hooks only, keys of two columns, a column of a world of its own."""

    reads = ("id", "output_tokens")
    served: dict[int, float] = field(default_factory=dict)

    def on_arrival(self, job: int, now: float) -> None:
        self.served[job] = min(self.served.values(), default=0.0)

    def on_progress(self, jobs: Any, deltas: Any, now: float) -> None:
        for job, delta in zip(jobs.tolist(), deltas.tolist(), strict=True):
            self.served[job] += delta

    def on_finish(self, job: int, host: int, now: float) -> None:
        del self.served[job]

    def on_leave(self, job: int, reason: str, now: float) -> None:
        del self.served[job]

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        served = np.array([self.served[job] for job in jobs.id.tolist()])
        return np.stack([served, jobs.output_tokens], axis=1)


class InOrder(Allot):
    reads = ("size",)

    def amounts(self, claims: Any, budget: Any, now: float) -> Any:
        left = np.maximum(budget["tokens"] - np.cumsum(claims.size) + claims.size, 0.0)
        return np.minimum(claims.size, left)


class Nothing(Plan):
    pass


def whole_numbers(rng: np.random.Generator, rows: int) -> Any:
    return np.arange(rows) + rng.integers(10)


class TestGood(ConformanceSuite):
    subjects: ClassVar = {
        "las": Subject(LeastAttained, "order"),
        "fair": Subject(
            FairShares,
            "order",
            job_columns={"output_tokens": Column("output_tokens", "tokens")},
            draws={"output_tokens": whole_numbers},
        ),
        "position": Subject(ByPosition, "order", permutes=False),
        "in order": Subject(InOrder, "allot", budget={"tokens": 512.0, "slots": 4.0}),
        "plan": Subject(Nothing, "plan"),
    }


def test_a_place_for_many_jobs_is_asked_about_many() -> None:
    class OnlyOne(Place):
        reads_job = ("id",)
        reads = ("outstanding",)

        def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> Any:
            return hosts.outstanding + jobs.id[0]

    with pytest.raises(ConformanceError, match="can be copied"):  # it is local: everything else is fine for one job
        check_policy(OnlyOne, "place")
    with pytest.raises(ConformanceError, match="0 jobs: IndexError"):
        check_policy(OnlyOne, "place", many=True)


def test_a_suite_without_subjects_is_empty_and_plans_are_asked_no_table() -> None:
    assert list(rules_for("plan")) == [BUILT, SUPPORT]
    assert list(rules_for("order")) == list(RULES)
    assert not ConformanceSuite.subjects
