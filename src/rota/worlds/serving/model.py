"""What a request trace is: named columns, validated once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.answers import Answers
from rota.worlds.serving.labels import Labels

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PrefixBlocks:
    """Prefix identity of prompts: equal id = equal block *and* equal everything before it.

    Request ``i`` has the ids ``ids[offsets[i]:offsets[i + 1]]``, each for ``block_tokens`` prompt tokens from the start of the prompt.
    Ids are dense: 0 .. ids.max().
    """

    offsets: IntColumn  # (requests + 1,)
    ids: IntColumn  # (blocks,)
    block_tokens: int
    answers: bool = False  # the ids go on through the answers, which later prompts may repeat


@dataclass(frozen=True)
class Programs:
    """Calls that wait for one another: conversations, agents with tools, search trees. Every request of the workload is a call of one program.

    Call ``i`` arrives `delay[i]` seconds after the last of its parents ``parents[offsets[i]:offsets[i + 1]]`` has ended; one without parents arrives
    when the workload says. In the workload, a call with parents has the arrival of its program.
    """

    program: IntColumn  # (requests,), 0 .. programs - 1
    offsets: IntColumn  # (requests + 1,)
    parents: IntColumn  # rows of the workload
    delay: FloatColumn  # seconds: a tool runs, a person thinks
    tool: IntColumn | None = None  # which kind of tool that is, an index; None: all of one kind
    kind: IntColumn | None = None  # of each program; None: all of one kind
    answers: Answers | None = None  # what programs would answer if they were ended early; None: they are not

    def __post_init__(self) -> None:
        rows = len(self.program)
        if len(self.offsets) != rows + 1 or len(self.delay) != rows:
            raise InputError(
                f"programs: columns of {rows} calls, {len(self.offsets) - 1} lists of parents and {len(self.delay)} delays"
            )
        if rows and not (np.isfinite(self.delay).all() and self.delay.min() >= 0):
            raise InputError("programs: delays must be finite and not negative")
        child = np.repeat(np.arange(rows), np.diff(self.offsets))
        if len(self.parents) and (self.parents.min() < 0 or self.parents.max() >= rows):
            raise InputError("programs: a parent is not a row of the workload")
        if (self.program[self.parents] != self.program[child]).any():
            raise InputError("programs: a call waits for one of another program")
        self._check_cycles(child)

    def _check_cycles(self, child: IntColumn) -> None:
        left = np.diff(self.offsets).astype(np.int64)
        ready, seen = np.flatnonzero(left == 0), 0
        while len(ready):
            seen += len(ready)
            reached = child[np.isin(self.parents, ready)]
            np.subtract.at(left, reached, 1)
            ready = np.unique(reached[left[reached] == 0])
        if seen < len(left):
            stuck = int(np.flatnonzero(left > 0)[0])
            raise InputError(
                f"programs: the calls of program {self.program[stuck]} wait for each other in a circle, call {stuck} among them"
            )

    @property
    def roots(self) -> npt.NDArray[np.bool_]:
        """Calls that wait for none."""
        return np.asarray(np.diff(self.offsets) == 0)


@dataclass(frozen=True)
class Workload:
    """A request trace. One row a request, ordered by arrival; read-only arrays.

    Columns not known to the source have their neutral value (session -1, priority 0, limits inf).
    """

    arrival: FloatColumn  # seconds since the start of the trace, non-decreasing
    prompt_tokens: IntColumn  # >= 1
    output_tokens: IntColumn  # >= 1, true length; hidden from policies unless revealed
    tenant: IntColumn  # index into `tenants`
    session: IntColumn  # -1: none
    priority: IntColumn  # smaller is more urgent, as in vLLM
    ttft_limit: FloatColumn  # seconds after arrival, inf: none
    tpot_limit: FloatColumn  # seconds a token, inf: none
    e2e_limit: FloatColumn  # seconds after arrival, inf: none
    tenants: tuple[str, ...] = ("",)
    prefix: PrefixBlocks | None = None
    programs: Programs | None = None
    source: str = ""  # file name or generator, for the report
    notices: tuple[str, ...] = field(default=())  # what the reader changed or noticed, one line each
    labels: Labels = field(default_factory=Labels)  # classes, adapters, models, categories

    def __len__(self) -> int:
        return len(self.arrival)

    def __post_init__(self) -> None:
        rows = len(self.arrival)
        for name in (
            "arrival",
            "prompt_tokens",
            "output_tokens",
            "tenant",
            "session",
            "priority",
            "ttft_limit",
            "tpot_limit",
            "e2e_limit",
        ):
            column = getattr(self, name)
            if column.shape != (rows,):
                raise InputError(f"workload: column {name} has shape {column.shape}, expected ({rows},)")
            column.flags.writeable = False
        if rows and (np.any(np.diff(self.arrival) < 0) or not np.all(np.isfinite(self.arrival))):
            raise InputError("workload: arrivals must be finite and sorted")
        self.labels.check(rows)
        if self.programs is not None and len(self.programs.program) != rows:
            raise InputError(f"workload: {rows} requests and {len(self.programs.program)} calls of programs")
        for name in ("prompt_tokens", "output_tokens"):
            if rows and getattr(self, name).min() < 1:
                raise InputError(f"workload: {name} must be at least 1")


def make_workload(
    arrival: FloatColumn,
    prompt_tokens: IntColumn,
    output_tokens: IntColumn,
    *,
    tenant: IntColumn | None = None,
    session: IntColumn | None = None,
    priority: IntColumn | None = None,
    ttft_limit: FloatColumn | None = None,
    tpot_limit: FloatColumn | None = None,
    e2e_limit: FloatColumn | None = None,
    tenants: tuple[str, ...] = ("",),
    prefix: PrefixBlocks | None = None,
    programs: Programs | None = None,
    source: str = "",
    notices: tuple[str, ...] = (),
    labels: Labels | None = None,
) -> Workload:
    """Build a `Workload` with neutral values for the columns that are not given."""
    rows = len(arrival)

    def ints(column: IntColumn | None, neutral: int) -> IntColumn:
        return (
            np.full(rows, neutral, dtype=np.int64) if column is None else np.ascontiguousarray(column, dtype=np.int64)
        )

    def limits(column: FloatColumn | None) -> FloatColumn:
        return np.full(rows, np.inf) if column is None else np.ascontiguousarray(column, dtype=np.float64)

    return Workload(
        arrival=np.ascontiguousarray(arrival, dtype=np.float64),
        prompt_tokens=np.ascontiguousarray(prompt_tokens, dtype=np.int64),
        output_tokens=np.ascontiguousarray(output_tokens, dtype=np.int64),
        tenant=ints(tenant, 0),
        session=ints(session, -1),
        priority=ints(priority, 0),
        ttft_limit=limits(ttft_limit),
        tpot_limit=limits(tpot_limit),
        e2e_limit=limits(e2e_limit),
        tenants=tenants,
        prefix=prefix,
        programs=programs,
        source=source,
        notices=notices,
        labels=labels or Labels(),
    )
