"""`build`: which model a scenario's `timing` names, and the errors of those that name none."""

import pickle
import subprocess
import sys

import pytest

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.timing import build
from rota.worlds.serving.timing.features import FEATURES, NAMES, iteration

LLAMA, CARD = model("llama-3-8b"), gpu("a100-80g")


def test_features_by_hand():
    seen = iteration([(100, 3), (0, 10)], [7, 50], samples=3)
    # pairs: 101 + 102 + 103 and 1 + 2 + ... + 10
    assert dict(zip(NAMES, seen[:FEATURES], strict=True)) == {
        "prefill_tokens": 13,
        "prefill_requests": 2,
        "prefill_context": 100,
        "prefill_squares": 109,
        "prefill_pairs": 306 + 55,
        "decodes": 2,
        "decode_context": 57,
        "decode_max": 50,
        "decode_min": 7,
        "samples": 3,
    }
    assert len(NAMES) == FEATURES
    assert iteration()[9] == 0
    assert iteration([(0, 1)], [2])[9] == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rofline", "timing: unknown kind 'rofline'; did you mean 'roofline'"),
        ({"tabels": "x"}, "timing: unknown kind 'tabels'; did you mean 'tables'"),
        ({}, "timing: unknown kind ''"),
        (7, "timing: must be a name or a mapping, found 7"),
        ({"roofline": {}, "linear": {}}, "give one of roofline, tables, linear, found roofline and linear"),
        ({"roofline": {}, "format": "vidur"}, "timing.roofline: unknown key 'format'"),
        ({"roofline": 3}, "timing.roofline: must be a mapping, found 3"),
        ({"tables": 3}, "timing.tables: must be a folder or a prefix of files, found 3"),
        ({"tables": "x", "format": "vidor"}, "unknown format 'vidor'; did you mean 'vidur'"),
        ({"tables": "x", "format": "vidur", "overhead": 1}, "timing: unknown key 'overhead'"),
        (
            {"tables": "x", "format": "splitwise", "mixed_factor": "high"},
            "timing.mixed_factor: must be a number, found 'high'",
        ),
        (
            {"tables": "x", "format": "splitwise", "mixed_factor": True},
            "timing.mixed_factor: must be a number, found True",
        ),
        (
            {"tables": "x", "format": "splitwise", "mixed_factor": -1},
            "timing.mixed_factor: must be a finite number >= 0",
        ),
        ({"tables": "x", "format": "llmservingsim", "skew": 1}, "timing.skew: must be true or false, found 1"),
    ],
)
def test_bad_specs(spec, message, tmp_path):
    with pytest.raises(InputError, match=message):
        build(spec, LLAMA, CARD, 1, tmp_path)


def test_formats_are_guessed_when_they_are_unambiguous(tmp_path):
    with pytest.raises(InputError, match="no such folder, and no files that start with it"):
        build({"tables": "nothing"}, LLAMA, CARD, 1, tmp_path)
    (tmp_path / "odd.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"none of the known formats; add format: one of vidur"):
        build({"tables": "odd"}, LLAMA, CARD, 1, tmp_path)
    (tmp_path / "x_gemm_perf.csv").write_text("")
    (tmp_path / "x_mlp.csv").write_text("")
    with pytest.raises(InputError, match="looks like aiconfigurator or vidur; add format"):
        build({"tables": "x"}, LLAMA, CARD, 1, tmp_path)
    (tmp_path / "x_mlp.csv").unlink()
    with pytest.raises(InputError, match=r"x_gemm_perf.csv: the file is empty"):
        build({"tables": "x"}, LLAMA, CARD, 1, tmp_path)


def test_too_many_gpus_for_the_heads():
    with pytest.raises(InputError, match="32 attention heads, which 5 GPUs cannot share evenly"):
        build("roofline", LLAMA, CARD, 5, None)


def test_a_timing_crosses_a_process_boundary(tmp_path):
    timing = build("roofline", LLAMA, CARD, 1, tmp_path)
    copy = pickle.loads(pickle.dumps(timing))
    seen = iteration([(0, 100)], [5])
    assert copy.seconds(seen) == timing.seconds(seen)
    assert copy.entry.address == timing.entry.address


def test_only_the_module_that_is_needed_is_imported():
    code = (
        "import sys\nfrom pathlib import Path\nfrom rota.worlds.serving.catalogue import gpu, model\n"
        "from rota.worlds.serving.timing import build\nassert 'numba' not in sys.modules\n"
        "build({'linear': {'constant': 1}}, model('llama-3-8b'), gpu('h100'), 1, Path())\n"
        "assert not any(name.endswith(('roofline', 'vidur', 'llmservingsim')) for name in sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
