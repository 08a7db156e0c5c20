"""splitwise-sim's measurements and AIConfigurator's operator tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import iteration

LLAMA = model("llama-2-70b")
HEADER = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel"


@pytest.fixture
def measurements(tmp_path):
    """Prompts of 100, 200, 400 tokens take 10, 20, 50 ms; batches of 1 and 4 take 5 and 8 ms a token."""
    rows = ["100,1,9,10,5", "100,1,9,9,5", "100,1,9,90,5", "200,1,9,20,5", "100,4,9,50,8"]
    (tmp_path / "perf_model.csv").write_text("\n".join([HEADER, *(f"llama2-70b,h100-80gb,{row},2" for row in rows)]))
    return tmp_path


def test_splitwise_by_hand(measurements):
    timing = build({"tables": "perf_model"}, LLAMA, gpu("h100"), 2, measurements)
    assert timing.seconds(iteration([(0, 100)])) == pytest.approx(0.010)  # the median of three
    assert timing.seconds(iteration([(0, 150)])) == pytest.approx(0.015)
    assert timing.seconds(iteration([(0, 100), (0, 200)])) == pytest.approx(0.035)
    assert timing.seconds(iteration([(0, 149)], [7])) == pytest.approx(1.1 * 0.015)
    assert timing.seconds(iteration((), [7, 9])) == pytest.approx(0.006)
    assert timing.seconds(iteration([(0, 10)])) == pytest.approx(0.010)
    assert timing.seconds(iteration()) == 0.0
    assert timing.extrapolations == 0
    assert timing.seconds(iteration([(0, 500)])) == pytest.approx(0.065)
    assert timing.extrapolations == 1
    assert timing.seconds(iteration((), [1] * 7)) == pytest.approx(0.011)
    assert timing.extrapolations == 2
    other = build({"tables": "perf_model", "mixed_factor": 2}, LLAMA, gpu("h100"), 2, measurements)
    assert other.seconds(iteration([(0, 149)], [7])) == pytest.approx(2 * 0.015)
    same = build({"tables": "perf_model", "as_splitwise_sim": True}, LLAMA, gpu("h100"), 2, measurements)
    assert same.seconds(iteration([(0, 10)])) == pytest.approx(0.001)  # the first line continued
    assert same.seconds(iteration((), [7] * 300)) == pytest.approx(
        0.0065
    )  # its curve: 5, 5, 8 ms at 100, 200, 400 tokens


@pytest.mark.parametrize(
    ("options", "tp", "card", "message"),
    [
        ({}, 4, "h100", r"nothing measured at tp 4 for llama-2-70b on h100 \(tp: 2\)"),
        ({}, 2, "a100-80g", "no rows with hardware 'a100-80gb'; did you mean 'h100-80gb'"),
        ({"rows": {"model": "bloom"}}, 2, "h100", r"no rows with model 'bloom' \(known: llama2-70b\)"),
    ],
)
def test_what_splitwise_has_not_measured(measurements, options, tp, card, message):
    with pytest.raises(InputError, match=message):
        build({"tables": "perf_model", "format": "splitwise", **options}, LLAMA, gpu(card), tp, measurements)


def test_splitwise_grid_points(shared_data):
    import polars as pl

    folder = shared_data / "traces" / "splitwise"
    timing = build({"tables": str(folder)}, LLAMA, gpu("h100"), 8, folder)
    rows = pl.read_csv(folder / "perf_model.csv.gz")
    rows = rows.filter(
        (pl.col("model") == "llama2-70b") & (pl.col("hardware") == "h100-80gb") & (pl.col("tensor_parallel") == 8)
    )
    for (batch,), group in rows.group_by("batch_size"):
        assert timing.seconds(iteration((), [512] * batch)) == pytest.approx(group["token_time"].median() * 1e-3)
    one = rows.filter(pl.col("prompt_size") * pl.col("batch_size") == 512)["prompt_time"].median()
    assert timing.seconds(iteration([(0, 512)])) == pytest.approx(one * 1e-3)


def silicon(folder, scale=1.0, window=False):
    """Tables of a perfect machine: products at the peak, attention at half of it, decodes at the bandwidth."""
    card, rows = gpu("h100"), ["m,n,k,latency,gemm_dtype"]
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
    for m in (1, 64, 4096):
        rows += [
            f"{m},{n},{k},{scale * max(2 * m * n * k / card.bf16, 2 * n * k / card.bandwidth) * 1e3},bfloat16"
            for n, k in shapes
        ]
    (folder / "x_gemm_perf.csv").write_text("\n".join(rows))
    header = "batch_size,isl,step,num_heads,num_key_value_heads,head_dim,latency,kv_cache_dtype,window_size"
    rows = [header, *(["1,1000,0,32,8,128,999,bfloat16,128"] if window else [])]
    rows += [
        f"1,{n},0,32,8,128,{scale * 4 * 4096 * n * (n + 1) / 2 / (card.bf16 / 2) * 1e3},bfloat16,0"
        for n in (1, 1000, 4000)
    ]
    (folder / "x_context_attention_perf.csv").write_text("\n".join(rows))
    cells = [(batch, context) for batch in (1, 10, 100) for context in (1, 1000, 4000) if batch * context < 300_000]
    rows = [header] + [f"{b},1,{c},32,8,128,{b * c * 4096 / card.bandwidth * 1e3},bfloat16,0" for b, c in cells]
    (folder / "x_generation_attention_perf.csv").write_text("\n".join(rows))
    return folder / "x"


def test_aiconfigurator_sums_the_operators(tmp_path):
    served, card = model("llama-3-8b"), gpu("h100")
    timing = build({"tables": str(silicon(tmp_path, window=True))}, served, card, 1, tmp_path)
    elementwise = 32 * (5 * 2.5e-6 + 64 * 2 * (8 * 4096 + 3 * 14336 + 2 * 4096) / (card.bandwidth * 0.834))
    weights = 32 * (served.attention_weights + served.dense_mlp_weights)
    decode = timing.seconds(iteration((), [1000] * 64, samples=0))
    assert decode == pytest.approx(
        2 * weights / card.bandwidth + 32 * 64 * 1000 * 4096 / card.bandwidth + elementwise, rel=1e-6
    )
    head = timing.seconds(iteration((), [1000] * 64, samples=64)) - decode
    assert head == pytest.approx(2 * 4096 * 128256 / card.bandwidth, rel=1e-6)
    assert timing.extrapolations == 0
    assert timing.seconds(iteration((), [5000])) > 0
    assert timing.extrapolations == 1
    assert timing.seconds(iteration((), [4000] * 100)) > timing.seconds(
        iteration((), [4000] * 90)
    )  # the missing corner is filled


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 900)), max_size=4),
    st.lists(st.integers(1, 3000), max_size=40),
    st.integers(1, 300),
)
def test_aiconfigurator_more_work_never_takes_less(tmp_path_factory, chunks, decodes, more):
    folder = tmp_path_factory.getbasetemp() / "silicon"
    folder.mkdir(exist_ok=True)
    timing = build({"tables": str(silicon(folder))}, model("llama-3-8b"), gpu("h100"), 1, folder)
    before = timing.seconds(iteration(chunks, decodes))
    assert timing.seconds(iteration(chunks, [*decodes, max([*decodes, more])])) >= before
    if chunks:
        context, chunk = chunks[0]
        assert timing.seconds(iteration([(context + more, chunk), *chunks[1:]], decodes)) >= before


def test_tables_that_beat_the_data_sheet_are_refused(tmp_path, shared_data):
    with pytest.raises(InputError, match=r"needed rows are faster than h100 can be \(up to 3 times its peak\)"):
        build({"tables": str(silicon(tmp_path, scale=0.3))}, model("llama-3-8b"), gpu("h100"), 1, tmp_path)
    folder = shared_data / "traces" / "aiconfigurator"
    with pytest.raises(
        InputError,
        match=r"h200_sxm_vllm0.19.0_context_attention_perf.csv.gz: 16 of 34 needed rows are faster than h200 can be",
    ):
        build({"tables": "h200_sxm_vllm0.19.0"}, model("llama-3.1-8b"), gpu("h200"), 1, folder)


def test_aiconfigurator_errors(tmp_path):
    with pytest.raises(InputError, match="serve dense models without latent attention, mixtral-8x7b is not one"):
        build({"tables": str(silicon(tmp_path))}, model("mixtral-8x7b"), gpu("h100"), 1, tmp_path)
    with pytest.raises(InputError, match=r"x_custom_allreduce_perf.csv.gz: no such file"):
        build({"tables": "x"}, model("llama-3-8b"), gpu("h100"), 2, tmp_path)
    with pytest.raises(InputError, match=r"nothing measured with num_heads 40 \(there are: 32\)"):
        build({"tables": "x"}, model("llama-2-13b"), gpu("h100"), 1, tmp_path)


@pytest.mark.parametrize(
    ("card", "prefix", "name", "tp"),
    [
        ("a100-80g", "a100_sxm_vllm0.14.0", "llama-3.1-8b", 1),
        ("a100-80g", "a100_sxm_vllm0.14.0", "llama-2-70b", 4),
        ("h100", "h100_sxm_vllm0.19.0", "llama-3.1-8b", 1),
        ("h100", "h100_sxm_vllm0.19.0", "llama-3.1-70b", 4),
    ],
)
def test_the_roofline_of_an_iteration_agrees_with_the_operator_tables(shared_data, card, prefix, name, tp):
    folder = shared_data / "traces" / "aiconfigurator"
    tables = build({"tables": prefix}, model(name), gpu(card), tp, folder)
    roofline = build("roofline", model(name), gpu(card), tp, folder)
    cases = [([], [n] * b) for n in (256, 1024, 4000) for b in (1, 16, 128)] + [
        ([(0, n)] * b, [500] * d) for n in (128, 1024) for b in (1, 2) for d in (0, 32)
    ]
    ratio = [roofline.seconds(iteration(*case)) / tables.seconds(iteration(*case)) for case in cases]
    assert np.median(np.abs(np.array(ratio) - 1)) < 0.08
    assert np.max(np.abs(np.array(ratio) - 1)) < 0.2
