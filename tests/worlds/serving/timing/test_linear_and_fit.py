"""The linear model, and fitting it."""

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.cli.fit_timing import fit_timing
from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import FEATURES, NAMES, iteration
from rota.worlds.serving.timing.fit import fit


def linear(**coefficients):
    return build({"linear": coefficients}, model("llama-3-8b"), gpu("h100"), 1, None)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=11, max_size=11),
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 99)), max_size=3),
)
def test_entry_equals_the_sum(values, chunks):
    values[0] += 1e-3
    timing = linear(**dict(zip(("constant", *NAMES), values, strict=True)))
    seen = iteration(chunks, [5, 9])
    assert timing.seconds(seen) == pytest.approx(values[0] + float(np.dot(values[1:], seen[:FEATURES])), rel=1e-12)
    assert timing.extrapolations == 0


def test_an_empty_iteration_takes_no_time():
    assert linear(constant=1.0).seconds(iteration()) == 0.0


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"prefil_tokens": 1}, "unknown coefficient 'prefil_tokens'; did you mean 'prefill_tokens'"),
        ({"constant": "x"}, "timing.linear.constant: must be a number of seconds, found 'x'"),
        ({"constant": math.nan}, "timing.linear.constant: must be a number"),
        ({}, "give at least one coefficient above 0"),
        ({"constant": 1, "decodes": -1}, "must not be negative"),
    ],
)
def test_bad_coefficients(coefficients, message):
    with pytest.raises(InputError, match=message):
        linear(**coefficients)


def measured(path, rows=200, noise=0.02):
    """Iterations of a machine that is linear, with a little noise."""
    random = np.random.default_rng(5)
    lines = ["prefill_tokens,prefill_pairs,decodes,decode_context,samples,seconds"]
    for _ in range(rows):
        chunk, decodes = int(random.integers(0, 2000)) * int(random.integers(0, 2)), int(random.integers(1, 100))
        context, pairs = decodes * int(random.integers(10, 4000)), chunk * (chunk + 1) / 2
        seconds = 0.006 + 5e-5 * chunk + 1e-8 * pairs + 2e-5 * decodes + 3e-8 * context
        lines.append(f"{chunk},{pairs},{decodes},{context},0,{seconds * math.exp(noise * random.normal())}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_known_coefficients_are_found_again(tmp_path):
    found = fit(measured(tmp_path / "measured.csv"))
    assert found.coefficients["constant"] == pytest.approx(0.006, rel=0.05)
    assert found.coefficients["prefill_tokens"] == pytest.approx(5e-5, rel=0.1)
    assert found.coefficients["decode_context"] == pytest.approx(3e-8, rel=0.1)
    assert found.median_error < 0.03
    assert 20 < found.held_out < 60
    assert found.rows == 200
    assert fit(tmp_path / "measured.csv") == found  # the same bits again
    assert fit(tmp_path / "measured.csv", seed=2).held_out != 0


def test_the_command_prints_what_a_scenario_reads(tmp_path, capsys):
    import yaml

    fit_timing(measured(tmp_path / "measured.csv"), out=tmp_path / "timing.yaml", seed=1)
    printed = capsys.readouterr().out
    assert "held-out ones: median" in printed
    spec = yaml.safe_load((tmp_path / "timing.yaml").read_text())["timing"]
    assert yaml.safe_load(printed)["timing"] == spec
    assert build(spec, model("llama-3-8b"), gpu("h100"), 1, tmp_path).seconds(iteration((), [100])) > 0.006
    with pytest.raises(InputError, match="cannot be written"):
        fit_timing(tmp_path / "measured.csv", out=tmp_path / "no" / "where.yaml", seed=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("seconds,decodes\n", "a header but no rows"),
        ("decodes\n1\n", "column 'seconds' is missing"),
        ("seconds\n1\n", "needs a column prefill_tokens or decodes"),
        ("seconds,decods\n1,1\n", "unknown column 'decods'; did you mean 'decodes'"),
        ("seconds,decodes\n1,1\n2,x\n", "line 3: decodes must be a finite number >= 0, found 'x'"),
        ("seconds,decodes\n1,1\nnan,2\n", "line 3: seconds must be a finite number >= 0, found 'nan'"),
        ("seconds,decodes\n1,-1\n", "line 2: decodes must be a finite number >= 0, found '-1'"),
        ("seconds,decodes\n0,1\n", "line 2: seconds must be above 0"),
        ("seconds,decodes\n1,1\n1,1\n", "2 rows are too few to fit 2 coefficients"),
        ("seconds,decodes\n" + "1,0\n" * 20, "every column is 0"),
    ],
)
def test_bad_measurements(tmp_path, text, message):
    path = tmp_path / "measured.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        fit(path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        fit(tmp_path / "nothing.csv")
    whole = gzip.compress(measured(tmp_path / "measured.csv").read_bytes())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or damaged"):
        fit(tmp_path / "cut.csv.gz")
