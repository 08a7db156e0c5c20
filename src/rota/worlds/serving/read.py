"""Request traces from and to files: the field's formats and generic tables; CSV, JSON lines, Parquet, also gzipped."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.labels import ROLES as LABELS
from rota.worlds.serving.labels import Label, Labels
from rota.worlds.serving.model import IntColumn, PrefixBlocks, Workload, make_workload

if TYPE_CHECKING:
    import polars as pl

    from rota.kernel.reading.tables import Table

ROLES = (
    "arrival",
    "prompt_tokens",
    "output_tokens",
    "tenant",
    "session",
    "priority",
    "ttft",
    "tpot",
    "e2e",
    "prefix_blocks",
    "class",
    "adapter",
    "model",
    "category",
    "topic",
)
_NEEDED = ("arrival", "prompt_tokens", "output_tokens")


@dataclass(frozen=True)
class Format:
    """Which column plays which role, and in what unit numeric arrivals are."""

    about: str  # what it is and where its columns are documented
    columns: Mapping[str, str]  # role -> column
    unit: str = "s"
    block_tokens: int = 16
    optional: Mapping[str, str] = field(default_factory=dict)  # roles whose column some versions of the format have
    single: str = ""  # a column that must be 1 in every row, because a row is one request here


FORMATS: dict[str, Format] = {
    "azure2023": Format(
        "Azure LLM inference traces 2023 and 2024 (AzurePublicDataset): wall-clock times",
        {"arrival": "TIMESTAMP", "prompt_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
    ),
    "mooncake": Format(
        "Mooncake FAST'25 traces: milliseconds, prefix blocks of 512 tokens",
        {
            "arrival": "timestamp",
            "prompt_tokens": "input_length",
            "output_tokens": "output_length",
            "prefix_blocks": "hash_ids",
        },
        unit="ms",
        block_tokens=512,
    ),
    "burstgpt": Format(
        "BurstGPT (arXiv 2401.17644): the model is the tenant; failed requests have 0 response tokens (see on_zero)",
        {
            "arrival": "Timestamp",
            "prompt_tokens": "Request tokens",
            "output_tokens": "Response tokens",
            "tenant": "Model",
        },
        optional={"session": "Session ID"},
    ),
    "vidur": Format(
        "Vidur replay traces (microsoft/vidur)",
        {"arrival": "arrived_at", "prompt_tokens": "num_prefill_tokens", "output_tokens": "num_decode_tokens"},
    ),
    "splitwise": Format(
        "splitwise-sim traces (Mutinifni/splitwise-sim): the application is taken as the tenant",
        {
            "arrival": "arrival_timestamp",
            "prompt_tokens": "prompt_size",
            "output_tokens": "token_size",
            "tenant": "application_id",
        },
        single="batch_size",
    ),
    "llmservingsim": Format(
        "LLMServingSim workloads (casys-kaist/LLMServingSim): nanoseconds",
        {"arrival": "arrival_time_ns", "prompt_tokens": "input_toks", "output_tokens": "output_toks"},
        unit="ns",
        optional={"prefix_blocks": "prefix_block_hashes_16"},
    ),
    "rota": Format(
        "recordings of rota route: a folder, or one of its files",
        {
            "arrival": "arrival",
            "prompt_tokens": "prompt_tokens",
            "output_tokens": "output_tokens",
            "tenant": "tenant",
            "session": "session",
            "priority": "priority",
            "ttft": "ttft_limit",
            "tpot": "tpot_limit",
            "e2e": "e2e_limit",
        },
    ),
    "generic": Format("columns named after the roles, or mapped to them", {role: role for role in _NEEDED}),
    "lengths": Format(
        "Vidur length files: no arrivals, every request is there at time 0 (set arrivals: poisson, gamma or closed)",
        {"prompt_tokens": "num_prefill_tokens", "output_tokens": "num_decode_tokens"},
    ),
}


def read_trace(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    *,
    arrival_unit: Literal["s", "ms", "us", "ns"] | None = None,
    block_tokens: int | None = None,
    on_zero: Literal["error", "drop", "one"] = "error",
    origin: Literal["auto", "keep", "first"] = "auto",
    under: str | None = None,
    follow: bool = False,
) -> Workload:
    """Read a request trace.

    Args:
        path: CSV, JSON lines or Parquet, possibly .gz (told by extension, else by content); or the folder of a recording of rota route.
        columns: role -> column of the file, over what the format says. Roles: `ROLES`; ttft, tpot, e2e are limits in
            seconds.
        format: a key of `FORMATS`; recognised from the columns when not given.
        arrival_unit: unit of numeric arrivals, when it is not the format's own.
        block_tokens: tokens a prefix block, when it is not the format's own (generic: 16, or n of a column
            prefix_blocks_n).
        on_zero: what to do with rows of zero prompt or output tokens: refuse, leave out, or read as one token. The
            latter two are counted in a notice.
        origin: "first" counts arrivals from the earliest one, "keep" leaves numbers as they are, "auto" is "first" for
            wall-clock times only.
        under: of a recording, the place policy whose requests are meant.
        follow: of a recording, requests of a session come as long after the answers that they had waited for as they did.

    Returns:
        The workload, sorted by arrival (stably), with notices on what was changed.

    Raises:
        InputError: one line with file, row, rule and value.
    """
    from rota.kernel.reading.tables import open_table

    _check_options(arrival_unit=arrival_unit, block_tokens=block_tokens, on_zero=on_zero, origin=origin)
    for role in columns or {}:
        if role not in ROLES:
            raise InputError(f"{path}: columns: unknown role '{role}'{nearest(role, ROLES)}")
    left_out: tuple[str, ...] = ()
    if Path(path).is_dir():
        from rota.worlds.serving.recording import conversations, open_recording

        table, left_out = open_recording(Path(path), under)
    elif under is not None or follow:
        name = "under" if under is not None else "follow"
        raise InputError(f"{path}: is no folder of a recording; leave out '{name}', which is about recordings")
    else:
        table = open_table(Path(path))
    chosen = FORMATS[_choose(table, columns or {}, format)]
    mapping, blocks = _map(table, chosen, columns or {})
    if chosen.single in table.frame.columns:
        _only_ones(table, chosen.single)
    unit = arrival_unit or (chosen.unit if mapping.get("arrival") == chosen.columns.get("arrival") else "s")
    work = _workload(table, mapping, unit, block_tokens or blocks, on_zero, origin)
    if follow:
        work = replace(work, programs=conversations(table.frame))
    return replace(work, notices=(*left_out, *work.notices)) if left_out else work


def _check_options(**options: object) -> None:
    allowed: dict[str, tuple[object, ...]] = {
        "arrival_unit": (None, "s", "ms", "us", "ns"),
        "on_zero": ("error", "drop", "one"),
        "origin": ("auto", "keep", "first"),
    }
    for name, values in allowed.items():
        if options[name] not in values:
            raise InputError(
                f"{name}: unknown value '{options[name]}'{nearest(str(options[name]), map(str, filter(None, values)))}"
            )
    size = options["block_tokens"]
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise InputError(f"block_tokens: must be a whole number of at least 1, found {size!r}")


def _choose(table: "Table", columns: Mapping[str, str], format: str | None) -> str:
    """The name of the format: as given, or the first whose needed columns are all there (or mapped)."""
    if format is not None:
        if format not in FORMATS:
            raise InputError(f"{table.path}: unknown format '{format}'{nearest(format, FORMATS)}")
        return format
    header = set(table.frame.columns)
    for name, known in FORMATS.items():
        own = set(known.columns.values())
        if own <= header and not (name == "lengths" and columns.get("arrival")):
            return name
    if columns:
        return "generic"
    raise InputError(
        f"{table.path}: no known format has the columns {', '.join(table.frame.columns)[:120]}; "
        f"map them with columns: {{arrival: ..., prompt_tokens: ..., output_tokens: ...}} "
        f"or name the format ({', '.join(FORMATS)})"
    )


def _map(table: "Table", chosen: Format, columns: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Role -> column for this file, and the tokens of a prefix block."""
    header, blocks = table.frame.columns, chosen.block_tokens
    mapping = {role: name for role, name in chosen.optional.items() if name in header}
    if chosen is FORMATS["generic"]:
        mapping |= {role: role for role in ROLES if role in header}
    for name in header:
        if match := re.fullmatch(r"prefix_blocks_([1-9]\d*)", name):
            mapping["prefix_blocks"], blocks = name, int(match[1])
    mapping |= {**chosen.columns, **columns}
    for role, name in mapping.items():
        if name not in header:
            raise InputError(f"{table.path}: has no column '{name}' for {role}{nearest(str(name), header)}")
    return mapping, blocks


def _only_ones(table: "Table", column: str) -> None:
    from rota.kernel.reading.columns import complain, integers

    complain(table, integers(table, column, 0) != 1, column, "must be 1, because a row is one request here")


def _workload(
    table: "Table", mapping: Mapping[str, str], unit: str, block_tokens: int, on_zero: str, origin: str
) -> Workload:
    from rota.kernel.reading import columns as read
    from rota.worlds.serving.conversations import prefix_blocks, sessions

    notices: list[str] = []
    table, tokens = _tokens(table, mapping, on_zero, notices)
    rows = len(table.frame)
    if "arrival" in mapping:
        arrival, clock = read.arrivals(table, mapping["arrival"], unit, "s", origin)
    else:
        arrival, clock = np.zeros(rows), False
        notices.append("the file has no arrivals: every request is there at time 0")
    back = int(np.count_nonzero(np.diff(arrival) < 0))
    order = np.argsort(arrival, kind="stable")
    if back:
        notices.append(f"sorted by arrival: {back:,} of {rows:,} rows came before the row above them")
    if not clock and arrival.min() > 86400:
        notices.append(f"the first arrival is at {arrival.min():,.0f} s; origin: first would start there")
    tenant, tenants = read.labels(table, mapping["tenant"]) if "tenant" in mapping else (None, ("",))
    session = sessions(table, mapping["session"])[order] if "session" in mapping else None
    priority = None
    if "priority" in mapping:
        priority = read.integers(table, mapping["priority"], -read.WHOLE_MAX, empty=0)[order]
    limits = {role: read.limits(table, mapping[role])[order] for role in ("ttft", "tpot", "e2e") if role in mapping}
    prefix: PrefixBlocks | None = None
    if "prefix_blocks" in mapping:
        prefix = prefix_blocks(table, mapping["prefix_blocks"], block_tokens, tokens[0], order)
    labels: dict[str, Label] = {}
    for role, name in LABELS.items():
        if role in mapping:
            index, names = read.labels(table, mapping[role])
            labels[name] = Label.of(index[order], names)
    return make_workload(
        arrival[order],
        tokens[0][order],
        tokens[1][order],
        tenant=None if tenant is None else tenant[order],
        tenants=tenants,
        session=session,
        priority=priority,
        ttft_limit=limits.get("ttft"),
        tpot_limit=limits.get("tpot"),
        e2e_limit=limits.get("e2e"),
        prefix=prefix,
        source=Path(table.path).name,
        notices=tuple(f"{Path(table.path).name}: {notice}" for notice in notices),
        labels=Labels(**labels),  # type: ignore[arg-type]
    )


def _tokens(
    table: "Table", mapping: Mapping[str, str], on_zero: str, notices: list[str]
) -> tuple["Table", tuple[IntColumn, IntColumn]]:
    """Prompt and output tokens, with zeros treated as asked for."""
    from rota.kernel.reading.columns import complain, integers
    from rota.kernel.reading.tables import Table

    names = (mapping["prompt_tokens"], mapping["output_tokens"])
    prompt, output = (integers(table, name, 0) for name in names)
    if on_zero == "error":
        for name, values in zip(names, (prompt, output), strict=True):
            complain(
                table,
                values == 0,
                name,
                "must be at least 1 (on_zero: drop leaves such rows out, on_zero: one reads them as 1)",
            )
    zero = (prompt == 0) | (output == 0)
    if not zero.any():
        return table, (prompt, output)
    count = f"{np.count_nonzero(zero):,} of {len(zero):,} rows with zero prompt or output tokens"
    if on_zero == "one":
        notices.append(f"{count} were read as one token (on_zero: one)")
        return table, (np.maximum(prompt, 1), np.maximum(output, 1))
    if zero.all():
        raise InputError(
            f"{table.path}: all {len(zero):,} rows have zero prompt or output tokens; on_zero: drop leaves nothing"
        )
    notices.append(f"{count} were left out (on_zero: drop)")
    kept, place = np.flatnonzero(~zero), table.place
    return Table(table.path, table.frame[kept], lambda row: place(int(kept[row]))), (prompt[kept], output[kept])


def write_trace(workload: Workload, path: str | Path) -> None:
    """Write a workload as a generic table that `read_trace` gives back equal: .csv, .jsonl (each also .gz) or .parquet.

    Columns with their neutral value in every row are left out; prefix blocks go to ``prefix_blocks_<block_tokens>``.
    The file is written whole or not at all.

    Raises:
        InputError: the extension is not known, or the file cannot be written.
    """
    import gzip

    target = Path(path)
    kind = Path(target.name.removesuffix(".gz")).suffix
    if kind not in (".csv", ".jsonl", ".parquet") or target.name.endswith(".parquet.gz"):
        raise InputError(
            f"{path}: cannot tell what to write from '{kind}'; use .csv, .jsonl (or either with .gz) or .parquet"
        )
    data = _encode(_frame(workload, kind), kind)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _frame(workload: Workload, kind: str) -> "pl.DataFrame":
    import polars as pl

    data = {name: pl.Series(getattr(workload, name)) for name in _NEEDED}
    if workload.tenants != ("",):
        data["tenant"] = pl.Series(np.array(workload.tenants, dtype=np.str_)[workload.tenant])
    for name, neutral in (("session", -1), ("priority", 0)):
        values = getattr(workload, name)
        if np.any(values != neutral):
            data[name] = pl.Series(values)
    for name in ("ttft", "tpot", "e2e"):
        limit = getattr(workload, f"{name}_limit")
        if np.any(np.isfinite(limit)):
            data[name] = pl.Series(np.where(np.isfinite(limit), limit, np.nan)).fill_nan(None)
    for role, name in LABELS.items():
        label = getattr(workload.labels, name)
        if label is not None:
            data[role] = pl.Series(np.array([*label.names, ""], dtype=np.str_)[label.index])
    if workload.prefix is not None:
        data[f"prefix_blocks_{workload.prefix.block_tokens}"] = _lists(workload.prefix, kind == ".csv")
    return pl.DataFrame(data)


def _lists(prefix: PrefixBlocks, as_text: bool) -> "pl.Series":
    import polars as pl

    lists = [each.tolist() for each in np.split(prefix.ids, prefix.offsets[1:-1])]
    if as_text:
        return pl.Series([" ".join(map(str, each)) for each in lists], dtype=pl.String)
    return pl.Series(lists, dtype=pl.List(pl.Int64))


def _encode(frame: "pl.DataFrame", kind: str) -> bytes:
    import io

    buffer = io.BytesIO()
    if kind == ".csv":
        frame.write_csv(buffer)
    elif kind == ".jsonl":
        frame.write_ndjson(buffer)
    else:
        frame.write_parquet(buffer)
    return buffer.getvalue()
