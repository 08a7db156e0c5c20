"""What a request trace is: named columns, validated once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

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
    source: str = ""  # file name or generator, for the report
    notices: tuple[str, ...] = field(default=())  # what the reader changed or noticed, one line each

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
    source: str = "",
    notices: tuple[str, ...] = (),
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
        source=source,
        notices=notices,
    )
