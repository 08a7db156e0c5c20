"""LLMServingSim profiles: grid points exact, between them a readable twin, beyond them counted."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import iteration

CARD = gpu("rtx-4090")
TOKENS, SEQUENCES = (1, 4, 16, 64, 256), (1, 2, 8, 64)
CHUNKS, OLD, COUNTS, CONTEXTS = (0, 16, 64, 256), (0, 16, 128), (0, 1, 4, 16), (16, 64, 512)
LAYERS = {"embedding": 0, "final_layernorm": 0, "layernorm": 2, "qkv_proj": 1, "rotary_emb": 1, "o_proj": 1}
MLP = {"gate_up_proj": 1, "act_fn": 1, "down_proj": 1}
EXPERTS, MOE_TOKENS = (8, 16, 64, 128), (1, 8, 64, 256)


def small(folder, name, skew=True):
    """A small random profile of a model, in LLMServingSim's files."""
    random, served = np.random.default_rng(7), model(name)
    place = folder / served.name / "tp1"
    place.mkdir(parents=True)
    values = {}

    def table(file, header, keys):
        values[file] = {
            key: 1 + 20 * random.random() + 0.01 * sum(each for each in key if isinstance(each, int)) for key in keys
        }
        rows = [",".join(map(str, [*key, value])) for key, value in values[file].items()]
        (place / f"{file}.csv").write_text("\n".join([header, *rows]))

    layers = [*LAYERS, *([] if served.experts else MLP), *(["qk_norm"] if "qwen" in name else [])]
    table("dense", "layer,tokens,time_us", [(layer, key) for layer in layers for key in TOKENS])
    table(
        "per_sequence",
        "layer,sequences,time_us",
        [(layer, key) for layer in ("lm_head", "sampler") for key in SEQUENCES],
    )
    grid = itertools.product(CHUNKS, OLD, COUNTS, (0, *CONTEXTS))
    cells = [key for key in grid if (key[0] or key[2]) and (key[0] or not key[1]) and (key[2] > 0) == (key[3] > 0)]
    table("attention", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", cells)
    if served.experts:
        table("moe", "tokens,activated_experts,time_us", list(itertools.product(MOE_TOKENS, EXPERTS)))
    labels = itertools.product(
        CHUNKS, ("n<=4", "n<=16"), ("sr<=15%", "sr<=70%", "sr>70%"), ("kvB<=1k",), ("kp=0", "kp<=512")
    )
    rows = [f"{','.join(map(str, key))},{random.random():.4f},4" for key in labels]
    (place / "skew_fit.csv").write_text(
        "\n".join(["pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples", *rows])
    )
    values["alpha"] = {tuple(row.split(",")[:5]): float(row.split(",")[5]) for row in rows}
    enabled = "true" if skew else "false"
    (place.parent / "meta.yaml").write_text(
        f"skew_fit:\n  enabled: {enabled}\n  per_tp:\n    1: {{alpha_default: 0.05}}\n"
    )
    return place.parent, values


CAPTURED = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]  # graphs of vLLM


def line(keys, value_at, x):
    """Held below the first key, linear between, the last line beyond."""
    if x <= keys[0]:
        return value_at(keys[0])
    high = next((index for index, key in enumerate(keys) if key >= x), len(keys) - 1)
    low = max(0, high - 1)
    share = (x - keys[low]) / (keys[low + 1] - keys[low])
    return value_at(keys[low]) + share * (value_at(keys[low + 1]) - value_at(keys[low]))


class Twin:
    """One layer after the other, one axis after the other, in microseconds."""

    def __init__(self, served, values, skew):
        self.served, self.values, self.skew = served, values, skew

    def cell(self, chunk, old, count, context):
        """A measured value; where an axis does not apply, the value without it."""
        if chunk == 0 and count == 0:
            count = 1  # nothing: what the smallest decode costs
        return self.values["attention"][chunk, old if chunk else 0, count, max(context, CONTEXTS[0]) if count else 0]

    def attention(self, chunk, old, count, context):
        def along_context(c, k, n):
            return line(CONTEXTS, lambda d: self.cell(c, k, n, d), context)

        def along_old(c, n):
            return line(OLD, lambda k: along_context(c, k, n), old)

        return line(CHUNKS, lambda c: line(COUNTS, lambda n: along_old(c, n), count), chunk)

    def alpha(self, chunk, count, rate, longest, old):
        if chunk not in CHUNKS:
            return 0.05
        n = "n<=4" if count <= 4 else "n<=16" if count <= 16 else "?"
        share = "sr<=15%" if rate <= 0.15 else "sr<=70%" if rate <= 0.70 else "sr>70%"
        kp = "kp=0" if old == 0 else "kp<=512" if old <= 512 else "?"
        return self.values["alpha"].get((str(chunk), n, share, "kvB<=1k" if longest <= 1024 else "?", kp), 0.05)

    def seconds(self, chunks, decodes):
        tokens, requests = sum(chunk for _, chunk in chunks) + len(decodes), len(chunks) + len(decodes)
        tokens = min((size for size in CAPTURED if size >= tokens), default=tokens)
        layer = 0.0
        for name, times in {**LAYERS, **MLP, "qk_norm": 1}.items():
            if (name, 1) in self.values["dense"]:
                layer += times * line(TOKENS, lambda key, name=name: self.values["dense"][name, key], tokens)
        chunk, old = sum(each for _, each in chunks), sum(context for context, _ in chunks)
        mean = sum(decodes) // len(decodes) if decodes else 0
        attention = self.attention(chunk, old, len(decodes), mean)
        if self.skew and len(decodes) > 1 and max(decodes) > mean:
            rate = (mean - min(decodes)) / (max(decodes) - min(decodes))
            top = self.attention(chunk, old, len(decodes), max(decodes))
            attention += self.alpha(chunk, len(decodes), rate, max(decodes), old) * max(0.0, top - attention)
        layer += attention
        if self.served.experts:
            active = self.served.experts * (1 - (1 - self.served.experts_per_token / self.served.experts) ** tokens)
            layer += line(EXPERTS, lambda e: line(MOE_TOKENS, lambda key: self.values["moe"][key, e], tokens), active)
        once = sum(
            line(TOKENS, lambda key, name=name: self.values["dense"][name, key], tokens)
            for name in ("embedding", "final_layernorm")
        )
        once += sum(
            line(SEQUENCES, lambda key, n=n: self.values["per_sequence"][n, key], requests)
            for n in ("lm_head", "sampler")
        )
        return (self.served.layers * layer + once) * 1e-6


@pytest.mark.parametrize(("name", "skew"), [("llama-3.1-8b", True), ("llama-3.1-8b", False), ("qwen3-30b-a3b", True)])
def test_entry_equals_the_twin(tmp_path, name, skew):
    folder, values = small(tmp_path, name, skew)
    served = model(name)
    timing, slow = build({"tables": str(folder)}, served, CARD, 1, tmp_path), Twin(served, values, skew)
    chunk = st.one_of(st.sampled_from((16, 64, 256)), st.integers(1, 300))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 90), chunk), max_size=2), st.lists(st.integers(1, 700), max_size=20))
    def check(chunks, decodes):
        if chunks or decodes:
            assert timing.seconds(iteration(chunks, decodes)) == pytest.approx(slow.seconds(chunks, decodes), rel=1e-9)

    check()


def test_grid_points_are_exact_and_nothing_is_extrapolated(tmp_path):
    folder, values = small(tmp_path, "llama-3.1-8b")
    timing, slow = (
        build({"tables": str(folder)}, model("llama-3.1-8b"), CARD, 1, tmp_path),
        Twin(model("llama-3.1-8b"), values, True),
    )
    for chunk, old, count, context in values["attention"]:
        if 0 < chunk + count <= TOKENS[-1]:
            seen = ([(old, chunk)] if chunk else [], [context] * count)
            assert timing.seconds(iteration(*seen)) == pytest.approx(slow.seconds(*seen), rel=1e-12)
    assert timing.extrapolations == 0


@pytest.mark.parametrize(
    "seen", [([(0, 300)], []), ([(200, 16)], []), ([], [5] * 17), ([], [600, 600]), ([(0, 1)] * 65, [])]
)
def test_beyond_the_grid_is_counted(tmp_path, seen):
    folder, _ = small(tmp_path, "llama-3.1-8b")
    timing = build({"tables": str(folder)}, model("llama-3.1-8b"), CARD, 1, tmp_path)
    assert timing.seconds(iteration(*seen)) > 0
    assert timing.extrapolations == 1


def test_cells_that_the_profiler_skipped_are_continued_and_counted(tmp_path):
    folder, _values = small(tmp_path, "llama-3.1-8b")
    path = folder / "tp1" / "attention.csv"
    rows = [row for row in path.read_text().splitlines() if not (row.split(",")[2] == "16" and row[0] in "126")]
    path.write_text("\n".join(rows))
    timing = build({"tables": str(folder)}, model("llama-3.1-8b"), CARD, 1, tmp_path)
    assert math.isfinite(timing.seconds(iteration([(0, 64)], [64] * 16)))
    assert timing.extrapolations == 1
    assert timing.seconds(iteration([], [64] * 16)) > 0
    assert timing.extrapolations == 1


def test_options(tmp_path):
    folder, _ = small(tmp_path, "llama-3.1-8b", skew=False)
    served, seen = model("llama-3.1-8b"), iteration([(0, 20)], [10, 400])

    def seconds(**options):
        return build({"tables": str(folder), **options}, served, CARD, 1, tmp_path).seconds(seen)

    assert seconds(overhead_seconds=0.001) == pytest.approx(seconds() + 0.001)
    assert seconds(graph_tokens=16) == seconds(graph_tokens=0) < seconds()  # 22 tokens, 24 in the graph
    assert seconds(skew=True) > seconds() == seconds(skew=False)


def test_all_reduce_of_two_gpus(tmp_path):
    folder, _ = small(tmp_path, "llama-3.1-8b")
    (folder / "tp1").rename(folder / "tp2")
    served, seen = model("llama-3.1-8b"), iteration([(0, 100)])
    free = build({"tables": str(folder), "link_bandwidth": 1e30, "link_latency": 0}, served, CARD, 2, tmp_path)
    slow = build({"tables": str(folder), "link_bandwidth": 1e9, "link_latency": 1e-5}, served, CARD, 2, tmp_path)
    # two all-reduces a layer, two steps each, half of the 104 x 4096 x 2 bytes a step: 100 tokens, padded
    expected = 32 * 2 * 2 * (1e-5 + 104 * 4096 * 2 / 2 / 1e9)
    assert slow.seconds(seen) - free.seconds(seen) == pytest.approx(expected)
    with pytest.raises(InputError, match=r"tp1: no such profile folder \(there are: tp2\)"):
        build({"tables": str(folder)}, served, CARD, 1, tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dense", None, "dense.csv.gz: no such file"),
        ("dense", lambda text: text.replace("o_proj", "out_proj"), "layer 'o_proj' is missing"),
        ("dense", lambda text: text.replace("layer,", "name,"), "column 'layer' is missing"),
        (
            "attention",
            lambda text: text.replace("\n0,0,1,16,", "\n0,0,1,16,-"),
            "line 2: time_us must be a finite number >= 0, found '-",
        ),
        ("attention", lambda text: "", "the file is empty"),
        ("attention", lambda text: "\n".join(text.splitlines()[:2]), "needs at least two values"),
        ("per_sequence", lambda text: text.replace("sampler", "sample"), "layer 'sampler' is missing"),
        ("skew_fit", lambda text: text.replace("n<=4", "n=<4"), "bucket label 'n=<4' is not of the form"),
    ],
)
def test_bad_profiles(tmp_path, file, change, message):
    folder, _ = small(tmp_path, "llama-3.1-8b")
    path = folder / "tp1" / f"{file}.csv"
    text = path.read_text()
    path.unlink()
    if change is not None:
        path.write_text(change(text))
    with pytest.raises(InputError, match=message) as caught:
        build({"tables": str(folder), "format": "llmservingsim"}, model("llama-3.1-8b"), CARD, 1, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_measured_profiles_are_read(shared_data):
    folder = shared_data / "traces" / "llmservingsim" / "perf"
    cases = {
        "RTX4090/Llama-3.1-8B": ("llama-3.1-8b", "rtx-4090", 1),
        "RTXPRO6000/Qwen3-32B": ("qwen3-32b", "rtx-pro-6000", 2),
    }
    cases["RTXPRO6000/Qwen3-30B-A3B-Instruct-2507"] = ("qwen3-30b-a3b", "rtx-pro-6000", 1)
    for place, (name, card, tp) in cases.items():
        timing = build({"tables": place}, model(name), gpu(card), tp, folder)
        assert 0.01 < timing.seconds(iteration((), [512] * 64)) < 0.1
        assert timing.extrapolations == 0
        roofline = build("roofline", model(name), gpu(card), tp, folder)
        for seen in (
            iteration((), [512] * 8),
            iteration((), [1000] * 100),
            iteration([(0, 1024)]),
            iteration([(0, 400)], [600] * 30),
        ):
            assert roofline.seconds(seen) == pytest.approx(timing.seconds(seen), rel=0.2)
