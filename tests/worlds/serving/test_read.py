"""Traces are read from every format, and each kind of bad input is answered in one line."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.serving.generate import generate
from rota.worlds.serving.model import PrefixBlocks, Workload, make_workload
from rota.worlds.serving.read import read_trace, write_trace

SIZES = st.integers(1, 2**31 - 1)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MOONCAKE = '{"timestamp": 1500, "input_length": 600, "output_length": 5, "hash_ids": [7, 9]}\n'


def put(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def same(left: Workload, right: Workload) -> None:
    for name in ("arrival", "prompt_tokens", "output_tokens", "session", "priority", "ttft_limit", "e2e_limit"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert [left.tenants[k] for k in left.tenant] == [right.tenants[k] for k in right.tenant]
    assert (left.prefix is None) == (right.prefix is None)
    if left.prefix is not None and right.prefix is not None:
        np.testing.assert_array_equal(left.prefix.offsets, right.prefix.offsets)
        np.testing.assert_array_equal(left.prefix.ids, right.prefix.ids)
        assert left.prefix.block_tokens == right.prefix.block_tokens


def test_azure_counts_from_the_first_row(tmp_path: Path) -> None:
    text = AZURE + "2023-11-16 18:15:46.6805901,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    got = read_trace(put(tmp_path, text))
    np.testing.assert_allclose(got.arrival, [0.0, 4.3145789], rtol=0, atol=1e-12)
    assert got.prompt_tokens.tolist() == [374, 396]
    zoned = text.replace("01,374", "01+01:00,374").replace("90,396", "90+01:00,396").replace("16 18", "16T18")
    np.testing.assert_array_equal(read_trace(put(tmp_path, zoned)).arrival, got.arrival)


def test_mooncake_has_milliseconds_and_blocks(tmp_path: Path) -> None:
    second = '{"timestamp": 2000, "input_length": 1025, "output_length": 1, "hash_ids": [7, 12, 40]}\n'
    got = read_trace(put(tmp_path, MOONCAKE + "\n" + second, "trace.jsonl"))
    assert got.arrival.tolist() == [1.5, 2.0]
    assert got.prefix is not None
    assert got.prefix.ids.tolist() == [0, 1, 0, 2, 3]
    assert got.prefix.offsets.tolist() == [0, 2, 5]
    assert got.prefix.block_tokens == 512


def test_burstgpt_splitwise_llmservingsim(tmp_path: Path) -> None:
    burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    burst += "5,ChatGPT,472,18,490,Conversation log\n"
    got = read_trace(put(tmp_path, burst + "118,GPT-4,417,276,693,Conversation log\n"))
    assert (got.arrival.tolist(), got.tenants, got.tenant.tolist()) == ([5.0, 118.0], ("ChatGPT", "GPT-4"), [0, 1])
    header = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    assert read_trace(put(tmp_path, header + "0,2,0,1,1,4096,32\n")).prompt_tokens.tolist() == [4096]
    with pytest.raises(InputError, match=r"line 2: batch_size must be 1.*found '2'"):
        read_trace(put(tmp_path, header + "0,2,0,1,2,4096,32\n"))
    line = '{"arrival_time_ns":46926808,"input_toks":33,"output_toks":5,"prefix_block_hashes_16":[4,5]}'
    got = read_trace(put(tmp_path, gzip.compress(line.encode()), "w.jsonl.gz"))
    assert got.arrival[0] == 0.046926808
    assert got.prefix is not None
    assert got.prefix.block_tokens == 16


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = put(tmp_path, "when,in,out,who,cls,slo\n1500,3,4,a,2,0.5\n2500,5,6,b,,\n")
    names = {"arrival": "when", "prompt_tokens": "in", "output_tokens": "out", "tenant": "who", "priority": "cls"}
    got = read_trace(path, {**names, "ttft": "slo"}, arrival_unit="ms")
    assert got.arrival.tolist() == [1.5, 2.5]
    assert got.tenants == ("a", "b")
    assert got.priority.tolist() == [2, 0]
    assert got.ttft_limit.tolist() == [0.5, np.inf]
    assert read_trace(path, names, arrival_unit="ms", origin="first").arrival.tolist() == [0.0, 1.0]


def test_sessions_may_be_names(tmp_path: Path) -> None:
    path = put(tmp_path, "arrival,prompt_tokens,output_tokens,session\n0,1,1,b7\n1,1,1,\n2,1,1,a1\n3,1,1,b7\n")
    got = read_trace(path).session.tolist()
    assert got[1] == -1
    assert got[0] == got[3] != got[2]


def test_unsorted_rows_are_sorted_stably_with_a_notice(tmp_path: Path) -> None:
    got = read_trace(put(tmp_path, VIDUR + "2,1,1\n1,2,1\n2,3,1\n0,4,1\n"))
    assert got.prompt_tokens.tolist() == [4, 2, 1, 3]
    assert got.notices == ("trace.csv: sorted by arrival: 2 of 4 rows came before the row above them",)


def test_sorting_moves_prefix_blocks_with_their_request(tmp_path: Path) -> None:
    lines = MOONCAKE.replace("1500", "9000") + MOONCAKE.replace("[7, 9]", "[3]") + MOONCAKE.replace("[7, 9]", "[]")
    got = read_trace(put(tmp_path, lines, "trace.jsonl"))
    assert got.prefix is not None
    assert got.prefix.offsets.tolist() == [0, 1, 1, 3]
    assert got.prefix.ids.tolist() == [0, 1, 2]


def test_zero_tokens_are_refused_dropped_or_read_as_one(tmp_path: Path) -> None:
    path = put(tmp_path, VIDUR + "0,5,0\n1,0,7\n2,3,3\n")
    with pytest.raises(InputError, match=r"line 3: num_prefill_tokens must be at least 1 \(on_zero.*found '0'"):
        read_trace(path)
    assert read_trace(path, on_zero="one").prompt_tokens.tolist() == [5, 1, 3]
    got = read_trace(path, on_zero="drop")
    assert got.arrival.tolist() == [2.0]
    assert "2 of 3 rows with zero prompt or output tokens were left out" in got.notices[0]
    with pytest.raises(InputError, match="leaves nothing"):
        read_trace(put(tmp_path, VIDUR + "0,5,0\n"), on_zero="drop")


def test_lengths_without_arrivals(tmp_path: Path) -> None:
    got = read_trace(put(tmp_path, "num_prefill_tokens,num_decode_tokens,pd_ratio\n3,4,0.75\n"))
    assert got.arrival.tolist() == [0.0]
    assert "no arrivals" in got.notices[0]


def test_line_numbers_count_blank_lines_and_quoted_breaks(tmp_path: Path) -> None:
    text = 'arrival,prompt_tokens,output_tokens,tenant\n0,1,1,"two\nlines"\n\n1,1,bad,b\n'
    with pytest.raises(InputError, match=r"trace.csv, line 5: output_tokens must be a number, found 'bad'"):
        read_trace(put(tmp_path, text))


GOOD = VIDUR + "0.5,10,5\n"
BAD_TEXT: list[tuple[str, str | bytes, str]] = [
    ("empty.csv", "", "the file is empty"),
    ("blank.csv", " \n\n", "the file is empty"),
    ("header.csv", VIDUR, "has a header but no rows"),
    ("nan.csv", GOOD + "nan,1,1\n", "line 3: arrived_at must be a number, found 'nan'"),
    ("nan2.csv", GOOD + "1,NaN,1\n", "line 3: num_prefill_tokens must be a number, found 'NaN'"),
    ("negative.csv", GOOD + "-1,1,1\n", r"line 3: arrived_at must not be negative .*found '-1'"),
    ("negative2.csv", GOOD + "1,-4,1\n", "line 3: num_prefill_tokens must be at least 0, found '-4'"),
    ("words.csv", GOOD + "1,ten,1\n2,ten,1\n", r"line 3: num_prefill_tokens must be a number, found 'ten' \(1 more"),
    ("fraction.csv", GOOD + "1,1.5,1\n", "line 3: num_prefill_tokens must be a whole number, found '1.5'"),
    ("huge.csv", GOOD + "1,3000000000,1\n", "line 3: num_prefill_tokens must be at most 2,147,483,647"),
    ("huger.csv", GOOD + "1,1" + "0" * 400 + ",1\n", "line 3: num_prefill_tokens must be"),
    ("infinite.csv", GOOD + "1e999,1,1\n", "line 3: arrived_at must be finite, found '1e999'"),
    ("hole.csv", GOOD + "1,,1\n", "line 3: num_prefill_tokens must be given, found nothing"),
    ("short.csv", GOOD + "1,2\n", "line 3: num_decode_tokens must be given, found nothing"),
    ("long.csv", GOOD + "1,2,3,4\n", "line 3: has 4 fields, the header has 3"),
    ("quote.csv", GOOD + '1,"2,3\n', "line 3"),
    ("garbage.csv", bytes(range(128, 256)) * 9, "line 1: byte 0x80 is not UTF-8 text"),
    ("zeros.csv", VIDUR.encode() + b"1,\0,3\n", "line 2: has a zero byte"),
    (
        "twice.csv",
        "arrived_at, arrived_at,num_prefill_tokens\n1,2,3\n",
        "line 1: the column 'arrived_at' is there twice",
    ),
    ("unknown.csv", "a,b\n1,2\n", "no known format has the columns a, b; map them with columns"),
    ("clock.csv", AZURE + "2023-11-16 18:15:46,1,1\nyesterday,1,1\n", "line 3: TIMESTAMP must be a date and time"),
    ("year.csv", AZURE + "9999-11-16 18:15:46,1,1\n", "line 2: TIMESTAMP must have a year in 1678..2261"),
    ("not.csv.gz", GOOD, "named .gz but is not gzip data"),
    ("cut.csv.gz", gzip.compress((GOOD * 99).encode())[:-20], "gzip data is truncated or damaged"),
    ("flip.csv.gz", gzip.compress(GOOD.encode())[:-5] + b"xxxxx", "gzip data is truncated or damaged"),
    ("wrong.jsonl", MOONCAKE + "{oops}\n", "line 2: not a JSON object"),
    ("list.jsonl", MOONCAKE + "[1]\n", "line 2: not a JSON object"),
    ("nan.jsonl", MOONCAKE + MOONCAKE.replace("600", "NaN"), "line 2: not a JSON object"),
    ("text.jsonl", MOONCAKE + MOONCAKE.replace("600", '"many"'), "line 2: input_length must be a number, found 'many'"),
    ("true.jsonl", MOONCAKE.replace("600", "true"), "line 1: input_length must be a number"),
    ("lack.jsonl", MOONCAKE + '{"timestamp": 1, "input_length": 4}\n', "line 2: output_length must be given"),
    ("ids.jsonl", MOONCAKE.replace("[7, 9]", "3"), "line 1: hash_ids must be a list of block ids"),
    ("ids2.jsonl", MOONCAKE.replace("[7, 9]", "[7, null]"), "line 1: hash_ids must have no empty ids"),
    ("ids3.jsonl", MOONCAKE.replace("[7, 9]", "[7, 9, 11]"), "line 1: hash_ids must not have more blocks of 512"),
    ("ids4.jsonl", MOONCAKE + MOONCAKE.replace("[7, 9]", "[9]"), "line 2: hash_ids must use an id only after the same"),
    ("broken.parquet", b"PAR1 and then nothing", "not a readable Parquet file"),
    ("text.parquet", GOOD, "not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_TEXT, ids=[each[0] for each in BAD_TEXT])
def test_bad_files_are_explained_in_one_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = put(tmp_path, text, name)
    with pytest.raises(InputError, match=message) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_wrong_names_and_options(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"no such file; did you mean 'trace.csv'\?"):
        read_trace(tmp_path / "trce.csv")
    with pytest.raises(InputError, match="nor its folder"):
        read_trace(tmp_path / "no" / "trace.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="unknown role 'promt_tokens'; did you mean 'prompt_tokens'"):
        read_trace(path, {"promt_tokens": "x"})
    with pytest.raises(InputError, match="has no column 'arrived_art' for arrival; did you mean 'arrived_at'"):
        read_trace(path, {"arrival": "arrived_art"})
    with pytest.raises(InputError, match="unknown format 'vidor'; did you mean 'vidur'"):
        read_trace(path, format="vidor")
    with pytest.raises(InputError, match=r"has no column 'hash_ids' for prefix_blocks|has no column 'timestamp'"):
        read_trace(path, format="mooncake")
    wrong: list[dict[str, Any]] = [{"on_zero": "drp"}, {"arrival_unit": "min"}, {"origin": "x"}, {"block_tokens": 0}]
    for options in wrong:
        with pytest.raises(InputError, match=next(iter(options))):
            read_trace(path, **options)


def test_late_first_arrival_is_noticed(tmp_path: Path) -> None:
    assert "origin: first" in read_trace(put(tmp_path, VIDUR + "1700000000,1,1\n")).notices[0]


@pytest.mark.parametrize("name", ["w.csv", "w.jsonl", "w.parquet", "w.csv.gz", "w.jsonl.gz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    parts = [{"kind": "chat", "sessions": {"turns": 2}}, {"kind": "code", "priority": 3}]
    made = generate({"kind": "mix", "rate": 3, "requests": 200, "mix": parts}, rng)
    made = replace(made, ttft_limit=np.where(made.priority == 3, np.inf, rng.random(200) + 0.1))
    write_trace(made, tmp_path / name)
    same(read_trace(tmp_path / name), made)
    assert [each.name for each in tmp_path.iterdir()] == [name]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), SIZES, SIZES, st.text("abcé,\"' \n", max_size=4)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["csv", "jsonl", "parquet"]),
)
def test_round_trip_of_anything(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], kind: str) -> None:
    rows.sort(key=lambda row: row[0])
    arrival, prompt, output, names = zip(*rows, strict=True)
    tenants = tuple(dict.fromkeys(names))
    made = make_workload(
        np.array(arrival),
        np.array(prompt),
        np.array(output),
        tenant=np.array([tenants.index(name) for name in names]),
        tenants=tenants,
    )
    path = tmp_path_factory.mktemp("any") / f"w.{kind}"
    write_trace(made, path)
    same(read_trace(path), made)


def test_writing_fails_in_one_line(tmp_path: Path) -> None:
    made = make_workload(np.zeros(1), np.ones(1, dtype=np.int64), np.ones(1, dtype=np.int64))
    with pytest.raises(InputError, match=r"cannot tell what to write from '\.txt'"):
        write_trace(made, tmp_path / "w.txt")
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(made, tmp_path / "no" / "w.csv")


def test_parquet_wall_clock(tmp_path: Path) -> None:
    times = ["2024-05-10 00:00:01", "2024-05-10 00:00:03"]
    frame = pl.DataFrame({"arrival": times, "prompt_tokens": [1, 2], "output_tokens": [1, 1]})
    frame.with_columns(pl.col("arrival").str.to_datetime()).write_parquet(tmp_path / "w.parquet")
    assert read_trace(tmp_path / "w.parquet").arrival.tolist() == [0.0, 2.0]


def test_empty_prefix_is_no_id(tmp_path: Path) -> None:
    blocks = PrefixBlocks(np.array([0, 0, 1]), np.array([0]), 16)
    made = make_workload(np.zeros(2), np.full(2, 20), np.ones(2, dtype=np.int64), prefix=blocks)
    write_trace(made, tmp_path / "w.csv")
    same(read_trace(tmp_path / "w.csv"), made)


def test_real_traces(shared_data: Path) -> None:
    traces = shared_data / "traces"
    azure = read_trace(traces / "azure2023/AzureLLMInferenceTrace_conv.csv.gz")
    assert (len(azure), azure.arrival[0], int(azure.prompt_tokens[0])) == (19366, 0.0, 374)
    mooncake = read_trace(traces / "mooncake/conversation_trace.jsonl.gz")
    assert len(mooncake) == 12031
    assert mooncake.prefix is not None
    # The share of blocks that an infinite cache holds as a leading prefix; 36.6 % is computed in the data's README.
    ids = mooncake.prefix.ids
    assert 1 - len(np.unique(ids)) / len(ids) == pytest.approx(0.366, abs=0.001)
    assert len(read_trace(traces / "splitwise/test_trace.csv")) == 3
    assert len(read_trace(traces / "peer_recipe/workload_conv10k_q6.csv.gz")) == 10000
