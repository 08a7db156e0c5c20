"""The conformance suite: what every policy keeps to, in whatever world it is asked.

In a test module of your own::

    from rota.testing.conformance import ConformanceSuite, Subject

    class TestMine(ConformanceSuite):
        subjects: ClassVar = {"mine": Subject(MyOrder, "order")}

or for one policy, outside pytest: ``check_policy(MyOrder, "order")``.
"""

import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rota.kernel.decisions import Allot, Order, Place, Plan, Policy, hooks
from rota.kernel.errors import NotRevealed
from rota.kernel.streams import generator
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, AnyColumn, Column, Hosts, Table
from rota.testing.scenes import HOSTS, JOBS, NOW, Draw, Question, UnknownColumn, questions

SHAPES: dict[str, tuple[type[Policy], str]] = {
    "order": (Order, "keys"),
    "place": (Place, "costs"),
    "allot": (Allot, "amounts"),
    "plan": (Plan, "solve"),
}


class ConformanceError(AssertionError):
    """A policy breaks a rule; `rule` is the rule's name."""

    def __init__(self, rule: str, policy: str, found: str) -> None:
        super().__init__(f"{policy} breaks '{rule}': {found}")
        self.rule = rule


class Broken(Exception):
    """Raised inside a rule, with what was found."""


@dataclass
class Subject:
    """A policy under test, and what its world offers it.

    Attributes:
        factory: A class or function that builds the policy without arguments.
        shape: ``order``, ``place``, ``allot`` or ``plan``.
        job_columns: Columns of jobs (or claims) that the world has besides `JOB_COLUMNS`.
        host_columns: Columns of hosts that the world has besides `HOST_COLUMNS`.
        draws: Own generators of values for columns on which random numbers make no sense.
        budget: What an allot may give away; the first limit is the policy's to keep.
        many: The policy may be asked to place many jobs at once.
        permutes: Rows in another order get the same answers in that order. Say no only where the order means something.
        world: The name that `supports` is asked about.
    """

    factory: Callable[[], Policy]
    shape: str
    job_columns: Mapping[str, Column] = field(default_factory=dict)
    host_columns: Mapping[str, Column] = field(default_factory=dict)
    draws: Mapping[str, Draw] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=lambda: {"budget": 100.0})
    many: bool = False
    permutes: bool = True
    world: str = "any"

    @property
    def name(self) -> str:
        """The policy's name for messages."""
        return getattr(self.factory, "__name__", repr(self.factory))

    @property
    def known(self) -> dict[str, Column]:
        """The columns that `reads` may name."""
        if self.shape == "place":
            return {**HOST_COLUMNS, **self.host_columns}
        return self.known_job

    @property
    def known_job(self) -> dict[str, Column]:
        """The columns that `reads_job` may name."""
        return {**JOB_COLUMNS, **self.job_columns}

    @cached_property
    def questions(self) -> list[Question]:
        """What the policy is asked, the same every time."""
        policy = self.factory()
        reads_job = getattr(policy, "reads_job", ())
        return list(questions(policy.reads, reads_job, self.known, self.known_job, self.draws, self.shape, self.many))

    def fresh(self, seed: int = 0) -> Policy:
        """A copy as a run begins with: built, bound, told which hosts are up and which jobs came."""
        policy = self.factory()
        policy.bind(generator(seed, "policy"))
        for host in range(HOSTS):
            policy.on_host(host, True, 0.0)
        for job in range(JOBS):
            policy.on_arrival(job, 0.0)
        return policy

    def ask(self, policy: Policy, question: Question) -> AnyColumn:
        """The answer as an array, with the checks that every rule relies on."""
        tables = question.tables(self.shape, self.known, self.known_job)
        method = getattr(policy, SHAPES[self.shape][1])
        more = (dict(self.budget),) if self.shape == "allot" else ()
        try:
            answer = np.array(method(*tables, *more, question.now))
        except NotRevealed as error:
            raise Broken(f"{question.name}: {error}") from error
        except Exception as error:
            raise Broken(f"{question.name}: {type(error).__name__}: {error}") from error
        return answer


def _constructs(subject: Subject) -> None:
    base = SHAPES[subject.shape][0]
    try:
        policy = subject.factory()
    except Exception as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    if not isinstance(policy, base):
        raise Broken(f"expected an instance of {base.__name__}, found {type(policy).__name__}")
    for name in ("reads", "reads_job"):
        reads = getattr(policy, name, ())
        if not isinstance(reads, tuple) or not all(isinstance(each, str) for each in reads):
            raise Broken(f"{name} must be a tuple of column names, found {reads!r}")
    if isinstance(policy, Order):
        if policy.asked not in ("arrival", "decision", "pick"):
            raise Broken(f"asked must be arrival, decision or pick, found {policy.asked!r}")
        if policy.ties not in ("break", "share"):
            raise Broken(f"ties must be break or share, found {policy.ties!r}")


def _says_support(subject: Subject) -> None:
    answer = subject.factory().supports(subject.world)
    if answer is not None and not isinstance(answer, str):
        raise Broken(f"expected None or the reason in words, found {answer!r}")


def _known_columns(subject: Subject) -> None:
    try:
        len(subject.questions)
    except UnknownColumn as error:
        raise Broken(f"reads a column that does not exist: {error}") from error


def _declared_reads(subject: Subject) -> None:
    policy = subject.fresh()
    for question in subject.questions:
        try:
            subject.ask(policy, question)
        except Broken as broken:
            if isinstance(broken.__cause__, NotRevealed):
                raise


def _well_formed(subject: Subject) -> None:
    policy = subject.fresh()
    for question in subject.questions:
        answer = subject.ask(policy, question)
        _check_shape(subject, question, answer)
        if answer.dtype.kind not in "iufb":
            raise Broken(f"{question.name}: expected numbers, found {answer.dtype}")
        numbers = answer.astype(np.float64)
        if np.isnan(numbers).any():
            raise Broken(f"{question.name}: contains NaN")
        if np.isneginf(numbers).any():
            raise Broken(f"{question.name}: contains -inf; only inf has a meaning")
        if subject.shape == "allot":
            _check_budget(subject, question, numbers)
        if isinstance(policy, Order):
            _check_review(policy, question, subject)


def _check_shape(subject: Subject, question: Question, answer: AnyColumn) -> None:
    expected: list[tuple[int, ...]] = [(question.count,)]
    fits = answer.shape[:1] == (question.count,) and answer.ndim <= (1 if subject.shape == "place" else 2)
    if subject.shape == "place" and question.jobs != 1:
        expected.append((question.jobs, question.count))
        fits = answer.shape in expected
    if not fits:
        raise Broken(f"{question.name}: found shape {answer.shape}, expected {' or '.join(map(str, expected))}")


def _check_budget(subject: Subject, question: Question, amounts: AnyColumn) -> None:
    name, limit = next(iter(subject.budget.items()))
    first = amounts if amounts.ndim == 1 else amounts[:, 0]
    if (amounts < 0).any() or not np.isfinite(amounts).all():
        raise Broken(f"{question.name}: amounts must be finite and not negative")
    if first.sum() > limit * (1 + 1e-12):
        raise Broken(f"{question.name}: gives {first.sum()} of {limit} {name}")


def _check_review(policy: Order, question: Question, subject: Subject) -> None:
    [jobs] = question.tables(subject.shape, subject.known, subject.known_job)
    again = policy.review(jobs, question.now)  # type: ignore[arg-type]
    if math.isnan(again) or again < question.now:
        raise Broken(f"{question.name}: review at {question.now} s names {again} s; expected a later time or inf")


def _leaves_table_alone(subject: Subject) -> None:
    policy = subject.fresh()
    for question in subject.questions:
        tables = question.tables(subject.shape, subject.known, subject.known_job)
        more = (dict(subject.budget),) if subject.shape == "allot" else ()
        before = [_contents(table) for table in tables]
        try:
            getattr(policy, SHAPES[subject.shape][1])(*tables, *more, question.now)
        except Exception as error:
            if isinstance(error, ValueError) and "read-only" in str(error):
                raise Broken(f"{question.name}: writes into a column ({error})") from error
            continue  # another rule's concern
        if before != [_contents(table) for table in tables]:
            raise Broken(f"{question.name}: a column has other values afterwards")


def _survives(subject: Subject) -> None:
    policy = subject.fresh()
    for question in subject.questions:
        subject.ask(policy, question)


def _contents(table: Table) -> dict[str, tuple[Any, ...]]:
    columns = {name: getattr(table, name) for name in table.names}
    return {name: (column.dtype, column.shape, column.tobytes()) for name, column in columns.items()}


def _shortcuts(subject: Subject) -> None:
    """What a world may use instead of asking (`cost_column`, `cost_terms`, `sample`) says the same as `costs`."""
    policy = subject.fresh()
    if not isinstance(policy, Place):
        return
    for name in policy.terms:
        if name not in policy.reads:
            raise Broken(f"cost_column {name} is not in reads {policy.reads}")
    if not policy.terms and type(policy).sample is Place.sample:
        return
    for question in subject.questions:
        jobs, hosts = question.tables(subject.shape, subject.known, subject.known_job)
        ids = question.rows.get("id")
        bare = Hosts({} if ids is None else {"id": ids}, subject.known.values(), rows=question.count)
        try:
            candidates = policy.sample(jobs, bare)  # type: ignore[arg-type]
        except Exception as error:
            raise Broken(f"{question.name}: sample from ids alone: {type(error).__name__}: {error}") from error
        if candidates is not None:
            _check_candidates(question, candidates)
        derived = Place.costs(policy, jobs, hosts, question.now)  # type: ignore[arg-type]
        if not np.array_equal(derived, subject.ask(policy, question)):
            raise Broken(f"{question.name}: costs differ from what cost_column and sample say")


def _check_candidates(question: Question, candidates: AnyColumn) -> None:
    if candidates.ndim != 2 or len(candidates) != question.jobs:
        raise Broken(f"{question.name}: sample has shape {candidates.shape}, expected ({question.jobs}, d)")
    if not np.isin(candidates, question.rows["id"]).all():
        raise Broken(f"{question.name}: sample names a host that is not there")


def _deterministic(subject: Subject) -> None:
    first, second = (_lifetime(subject, subject.fresh()) for _ in range(2))
    for question, one, other in zip(subject.questions, first, second, strict=True):
        if not _same_bits(one, other):
            raise Broken(f"{question.name}: two fresh copies with equal generators answer differently")


def _lifetime(subject: Subject, policy: Policy) -> list[AnyColumn]:
    """Answers of a policy that is told of starts, service, ends and departures between the questions."""
    answers = []
    for number, question in enumerate(subject.questions):
        answers.append(subject.ask(policy, question))
        try:
            _live(policy, number, NOW + number)
        except Exception as error:
            told = ", ".join(hooks(policy))
            raise Broken(f"a hook ({told}) raises {type(error).__name__}: {error}") from error
    return answers


def _live(policy: Policy, number: int, now: float) -> None:
    job, host = number % JOBS, number % HOSTS
    policy.on_refresh(now)
    policy.on_start(job, host, now)
    policy.on_progress(np.array([job], dtype=np.int64), np.array([1.0]), now)
    last = (
        lambda: policy.on_finish(job, host, now),
        lambda: policy.on_preempt(job, host, now),
        lambda: policy.on_leave(job, "rejected", now),
        lambda: policy.on_tool_return(job, now),
    )
    last[number % len(last)]()
    if number % 3 == 2 and number > JOBS // 2:  # then it is gone; it comes back, so that later questions may name it
        policy.on_host(host, False, now)
        policy.on_host(host, True, now)
    if number % len(last) in (0, 2):
        policy.on_arrival(job, now)


def _stateless_questions(subject: Subject) -> None:
    """Asked twice, and asked in the opposite order: no answer depends on the questions before it."""
    forth, back = subject.fresh(), subject.fresh()
    first = [subject.ask(forth, question) for question in subject.questions]
    second = [subject.ask(forth, question) for question in subject.questions]
    reverse = [subject.ask(back, question) for question in reversed(subject.questions)][::-1]
    for question, *answers in zip(subject.questions, first, second, reverse, strict=True):
        if not all(_same_bits(answers[0], answer) for answer in answers[1:]):
            raise Broken(f"{question.name}: the answer depends on earlier questions; state changes only in hooks")


def _permutes(subject: Subject) -> None:
    if not subject.permutes or subject.shape == "allot":  # claims stand in order
        return
    policy = subject.fresh()
    rng = generator(0, "conformance/permutation")
    for question in subject.questions:
        order = rng.permutation(question.count)
        straight = subject.ask(policy, question)
        moved = subject.ask(policy, question.permuted(order.tolist()))
        rows = straight[..., order] if subject.shape == "place" else straight[order]
        if rows.shape != moved.shape or not np.allclose(rows, moved, rtol=1e-9, atol=0, equal_nan=True):
            raise Broken(f"{question.name}: rows in another order get other answers")


def _copies(subject: Subject) -> None:
    policy = subject.fresh()
    try:
        copies = {"deepcopy": deepcopy(policy), "pickle": pickle.loads(pickle.dumps(policy))}
    except Exception as error:
        raise Broken(f"cannot be copied: {type(error).__name__}: {error}") from error
    for question in subject.questions:
        answer = subject.ask(policy, question)
        for how, copy in copies.items():
            if not _same_bits(answer, subject.ask(copy, question)):
                raise Broken(f"{question.name}: a copy by {how} answers differently")


def _same_bits(one: AnyColumn, other: AnyColumn) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


# In this order, so that the first broken rule is the most basic one.
RULES: dict[str, Callable[[Subject], None]] = {
    "is constructible with defaults": _constructs,
    "supports answers None or a reason": _says_support,
    "declares existing columns": _known_columns,
    "reads only what it declares": _declared_reads,
    "does not mutate the table": _leaves_table_alone,
    "survives every table, of 0 and 1 rows too": _survives,
    "answers with numbers of the right shape": _well_formed,
    "has shortcuts that agree with its costs": _shortcuts,
    "is deterministic given its generator": _deterministic,
    "changes no state when asked": _stateless_questions,
    "does not depend on the order of rows": _permutes,
    "can be copied and pickled": _copies,
}
_WITHOUT_TABLES = ("is constructible with defaults", "supports answers None or a reason")


def rules_for(shape: str) -> Iterator[str]:
    """The names of the rules that a shape keeps to; a plan is asked no table."""
    return (rule for rule in RULES if shape != "plan" or rule in _WITHOUT_TABLES)


def check_rule(subject: Subject, rule: str) -> None:
    """Raise ConformanceError where a policy breaks one rule."""
    try:
        RULES[rule](subject)
    except Broken as broken:
        raise ConformanceError(rule, subject.name, str(broken)) from broken.__cause__


def check_policy(factory: Callable[[], Policy], shape: str, **options: Any) -> None:
    """Check a policy against every rule of its shape; `options` are the other fields of `Subject`.

    Raises:
        ConformanceError: the first rule that is broken, with what was found.
    """
    subject = Subject(factory, shape, **options)
    for rule in rules_for(shape):
        check_rule(subject, rule)


class ConformanceSuite:
    """Subclass it in a test module as ``Test...`` and give `subjects`: pytest then runs one test a policy and rule."""

    subjects: ClassVar[Mapping[str, Subject]] = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Called by pytest for each test of the class."""
        if {"subject", "rule"} <= set(metafunc.fixturenames):
            cases = [(name, rule) for name, subject in self.subjects.items() for rule in rules_for(subject.shape)]
            values = [(self.subjects[name], rule) for name, rule in cases]
            metafunc.parametrize(("subject", "rule"), values, ids=[f"{name}-{rule}" for name, rule in cases])

    def test_rule(self, subject: Subject, rule: str) -> None:
        """One policy keeps one rule."""
        check_rule(subject, rule)
