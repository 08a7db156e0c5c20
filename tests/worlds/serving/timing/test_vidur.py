"""Vidur's predictor: against a twin that looks values up in dictionaries, and against Vidur's own batches."""

import csv
import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import iteration
from rota.worlds.serving.timing.vidur_profiles import _operations, forest

LLAMA, CARD = model("llama-3-8b"), gpu("a100-80g")
OPERATIONS = [
    "post_attention_layernorm",
    "attn_post_proj",
    "add",
    "input_layernorm",
    "mlp_down_proj",
    "attn_rope",
    "mlp_up_proj",
    "attn_pre_proj",
    "attn_kv_cache_save",
    "mlp_act",
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A small predictor with random values: 64 tokens, 8 decodes, KV to 256."""
    folder, random = tmp_path_factory.mktemp("vidur"), np.random.default_rng(3)
    rows = [",".join(["num_tokens", *OPERATIONS, "all_reduce"])]
    rows += [",".join(map(str, [tokens, *random.random(len(OPERATIONS) + 1)])) for tokens in range(1, 65)]
    (folder / "p_per_token_ops.csv").write_text("\n".join(rows))
    rows = [f"{batch},{kv},{random.random()}" for batch in range(1, 9) for kv in range(0, 257, 64)]
    (folder / "p_attn_decode.csv").write_text("\n".join(["batch_size,kv_cache_size,prediction", *rows]))
    rows = [f"{kv},{first},{random.random()}" for kv in range(0, 257, 64) for first in (1, 9, 30)]
    (folder / "p_attn_prefill.csv").write_text("\n".join(["kv_cache_size,chunk_from,prediction", *rows]))
    return folder / "p"


def rows_of(prefix, suffix):
    with open(f"{prefix}{suffix}.csv", newline="") as file:
        return list(csv.DictReader(file))


def rows_of_gz(path):
    with gzip.open(path, "rt") as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["num_tokens"]))


class Twin:
    """Vidur's rules over dictionaries, additions in Vidur's order."""

    def __init__(self, prefix, tp):
        self.by_tokens = {
            int(row["num_tokens"]): {k: float(v) for k, v in row.items()} for row in rows_of(prefix, "_per_token_ops")
        }
        self.decode = {
            (int(r["batch_size"]), int(r["kv_cache_size"])): float(r["prediction"])
            for r in rows_of(prefix, "_attn_decode")
        }
        self.prefill = [
            (int(r["kv_cache_size"]), int(r["chunk_from"]), float(r["prediction"]))
            for r in rows_of(prefix, "_attn_prefill")
        ]
        self.tp = tp

    def seconds(self, prefills, decodes):
        tokens = sum(chunk for _, chunk in prefills) + len(decodes)
        at = self.by_tokens[(tokens + 7) // 8 * 8]
        decode = prefill = 0
        if decodes:
            mean = int(np.mean([context + 1 for context in decodes]))  # Vidur counts the token in flight
            decode = self.decode[len(decodes), (mean + 63) // 64 * 64] * (1 + 0.1 * int(len(decodes) > 1))
        if prefills:
            kv = sum((context + 63) // 64 * 64 for context, _ in prefills)
            chunk = round(sum(chunk**2 for _, chunk in prefills) ** 0.5)
            prefill = [value for row, first, value in self.prefill if row == kv and first <= chunk][-1] * (
                1 + 0.1 * int(len(prefills) > 1)
            )
        reduce = at["all_reduce"] + 0.02 + 0.0 * self.tp**1.25 if self.tp > 1 else 0
        save = self.by_tokens[tokens]["attn_kv_cache_save"]
        attention = (
            at["attn_pre_proj"]
            + at["attn_post_proj"]
            + at["attn_rope"]
            + save
            + decode
            + prefill
            + reduce
            + at["input_layernorm"]
        )
        mlp = at["mlp_up_proj"] + at["mlp_down_proj"] + at["mlp_act"] + reduce + at["post_attention_layernorm"]
        return (attention + mlp + at["add"]) * LLAMA.layers * 1e-3


@pytest.mark.parametrize("tp", [1, 2])
def test_entry_equals_the_twin_to_the_bit(tables, tp):
    timing, slow = build({"tables": str(tables)}, LLAMA, CARD, tp, tables.parent), Twin(tables, tp)

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 200), st.lists(st.integers(1, 14), max_size=4), st.lists(st.integers(0, 255), max_size=8))
    def check(context, chunks, decodes):
        prefills = [
            (context if index == 0 else 0, chunk) for index, chunk in enumerate(chunks)
        ]  # one continues, the others are new
        if prefills or decodes:
            assert timing.seconds(iteration(prefills, decodes)) == slow.seconds(prefills, decodes)

    check()
    assert timing.extrapolations == 0


def test_beyond_the_tables_it_goes_on_and_counts(tables):
    timing = build({"tables": str(tables), "format": "vidur"}, LLAMA, CARD, 1, tables.parent)
    for seen in (iteration([(0, 70)]), iteration((), [3] * 9), iteration((), [300]), iteration([(300, 4)])):
        before = timing.extrapolations
        assert math.isfinite(timing.seconds(seen))
        assert timing.extrapolations == before + 1
    assert timing.seconds(iteration()) == 0.0


def test_vidurs_own_batches(shared_data):
    """Every prefill-only batch of one request in Vidur's output: its time as printed, to the last of six decimals."""
    import polars as pl

    folder = shared_data / "traces" / "peer_recipe"
    timing = build({"tables": str(folder / "vidur_pred_a100_llama3-8b")}, LLAMA, CARD, 1, folder)
    batches = pl.read_csv(folder / "vidur_out_batches_L8_vllm_conv2k_q6.csv.gz")
    single = batches.filter((pl.col("batch_size") == 1) & (pl.col("batch_num_decode_tokens") == 0))
    assert len(single) == 1374
    for tokens, seconds in single.select("batch_num_tokens", "batch_execution_time").iter_rows():
        assert round(timing.seconds(iteration([(0, int(tokens))])), 6) == seconds
    # the first mixed and the first decode batch, whose contexts are known: prompts of 374 and 396 tokens
    assert round(timing.seconds(iteration((), [374, 396])), 6) == 0.011516
    assert round(timing.seconds(iteration([(0, 396)], [374])), 6) == 0.03596
    assert timing.extrapolations == 0


def test_raw_profiles_come_close_to_the_forest_trained_on_them(shared_data):
    folder = shared_data / "traces"
    spec = {
        "tables": "vidur_profiles/a100_llama3-8b",
        "attention": "../peer_recipe/a100_llama3-8b_tp1_attention_DERIVED",
    }
    raw = build(spec, LLAMA, CARD, 1, folder)
    stored = build({"tables": "peer_recipe/vidur_pred_a100_llama3-8b"}, LLAMA, CARD, 1, folder)
    cases = [([], [512] * 8), ([], [1000] * 60), ([(0, 2048)], []), ([(512, 512)], [700] * 50), ([(0, 128)], [])]
    ratio = [raw.seconds(iteration(*case)) / stored.seconds(iteration(*case)) for case in cases]
    assert ratio == pytest.approx([1.0] * len(cases), abs=0.04)


def test_a_forest_over_one_number_is_the_mean_of_trees_that_answer_with_their_nearest_draw():
    """40,000 trees, each grown on its own draws, one of which repeats a point; away from the ends of the line, between points, and on them."""
    random = np.random.default_rng(5)
    x = np.array([1.0, 2.0, 4.0, 8.0, 8.0, 16.0, 24.0, 40.0])
    y, at, trees = random.random(len(x)), np.array([0.5, 2.0, 3.0, 3.1, 8.0, 13.0, 20.0, 90.0]), 40_000
    total = np.zeros(len(at))
    for _ in range(trees):
        drawn = random.integers(0, len(x), len(x))
        for k, asked in enumerate(at):
            nearest = min(np.abs(x[drawn] - asked))
            least = x[drawn][np.abs(x[drawn] - asked) == nearest].min()
            total[k] += y[drawn][x[drawn] == least].mean()
    assert forest(x, y, at) == pytest.approx(total / trees, abs=0.01)


def test_the_forest_of_many_trees_is_vidurs(shared_data):
    """Its stored predictions of Llama-3-8B's operations, at every token count, from the profile that it was trained on."""
    folder = shared_data / "traces"
    stored = rows_of_gz(folder / "peer_recipe/vidur_pred_a100_llama3-8b_per_token_ops.csv.gz")
    ours = _operations(folder / "vidur_profiles/a100_llama3-8b_mlp.csv.gz", LLAMA, 1)
    for name, mine in ours.items():
        theirs = np.array([float(row[name]) for row in stored])
        assert np.abs(mine[1 : len(theirs) + 1] / theirs - 1).mean() < 0.0012, name


def test_raw_profiles_of_a_tensor_parallel_model(shared_data):
    folder, served = shared_data / "traces" / "vidur_profiles", model("llama-2-70b")
    with pytest.raises(
        InputError, match=r"timing.all_reduce: need exactly one file .*net_a100_pairwise_nvlink_all_reduce"
    ):
        build({"tables": "a100_llama2-70b"}, served, CARD, 2, folder)
    spec = {"tables": "a100_llama2-70b", "all_reduce": "net_a100_pairwise_nvlink_all_reduce"}
    assert 0.04 < build(spec, served, CARD, 2, folder).seconds(iteration((), [512] * 8)) < 0.08
    with pytest.raises(InputError, match=r"no rows with num_tensor_parallel_workers 4 \(there are: 2\)"):
        build(spec, served, CARD, 4, folder)
    with pytest.raises(InputError, match=r"no rows with n_embd 4096"):
        build(
            {"tables": "a100_llama2-7b", "attention": "a100_llama2-70b_tp2_attention_2023"},
            model("llama-2-7b"),
            CARD,
            1,
            folder,
        )


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("_attn_decode", None, "p_attn_decode.csv.gz: no such file"),
        ("_attn_decode", lambda text: "", "the file is empty"),
        ("_attn_decode", lambda text: text.splitlines()[0], "a header but no rows"),
        (
            "_attn_decode",
            lambda text: text.replace("prediction", "predicted"),
            "column 'prediction' is missing; did you mean 'predicted'",
        ),
        (
            "_attn_decode",
            lambda text: text.replace("\n3,64,", "\n3,64,x"),
            r"line 13: prediction must be a finite number >= 0, found 'x0",
        ),
        ("_attn_decode", lambda text: text.replace("\n3,64,", "\n4,64,"), "the grid has holes"),
        ("_attn_prefill", lambda text: text.replace("\n64,1,", "\n64,2,"), "the grid has holes"),
        ("_per_token_ops", lambda text: text.replace("attn_rope", "rope"), "column 'attn_rope' is missing"),
        ("_per_token_ops", lambda text: "\n".join(text.splitlines()[:-3]), "num_tokens must run over 1, 2, 3"),
        ("_per_token_ops", lambda text: text.replace("\n2,", "\n2,nan,"), "not a CSV table|must be a finite number"),
    ],
)
def test_bad_tables(tables, tmp_path, suffix, change, message):
    for part in ("_per_token_ops", "_attn_decode", "_attn_prefill"):
        text = (tables.parent / f"p{part}.csv").read_text()
        if part != suffix:
            (tmp_path / f"p{part}.csv").write_text(text)
        elif change is not None:
            (tmp_path / f"p{part}.csv").write_text(change(text))
    with pytest.raises(InputError, match=message) as caught:
        build({"tables": "p", "format": "vidur"}, LLAMA, CARD, 1, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_file(tables, tmp_path):
    for part in ("_per_token_ops", "_attn_decode", "_attn_prefill"):
        whole = gzip.compress((tables.parent / f"p{part}.csv").read_bytes())
        (tmp_path / f"p{part}.csv.gz").write_bytes(whole)
    build({"tables": "p"}, LLAMA, CARD, 1, tmp_path)
    (tmp_path / "p_attn_prefill.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"p_attn_prefill.csv.gz: the gzip file is truncated or damaged"):
        build({"tables": "p"}, LLAMA, CARD, 1, tmp_path)


def test_all_reduce_must_be_there_with_more_gpus(tables, tmp_path):
    for part in ("_per_token_ops", "_attn_decode", "_attn_prefill"):
        text = (tables.parent / f"p{part}.csv").read_text().replace("all_reduce", "other")
        (tmp_path / f"p{part}.csv").write_text(text)
    build({"tables": "p"}, LLAMA, CARD, 1, tmp_path)
    with pytest.raises(InputError, match="column 'all_reduce' is missing"):
        build({"tables": "p"}, LLAMA, CARD, 2, tmp_path)
