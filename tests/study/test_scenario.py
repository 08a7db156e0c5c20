"""The scenario loader: strict, and clear about what is wrong."""

from pathlib import Path

import pytest
import yaml
from tests.study.small import SMALL, write

from rota.kernel.errors import InputError
from rota.study.scenario import read

BROKEN = {
    "unknown key": ("polices: []\n" + SMALL, "small.yaml: unknown key 'polices'; did you mean 'policies'?"),
    "unknown world": (SMALL.replace("world: serving", "world: servin"), "did you mean 'serving'?"),
    "no world": (SMALL.replace("world: serving", ""), "small.yaml: world: missing"),
    "world is a list": (SMALL.replace("world: serving", "world: [serving]"), "world: expected a name"),
    "unknown role": (
        SMALL.replace("route: random", "rute: random"),
        "policies[1]: unknown key 'rute'; did you mean 'route'?",
    ),
    "same name": (SMALL.replace("name: luck", "name: turns"), "policies[1]: the name 'turns' is taken by policies[0]"),
    "no name": (SMALL.replace("name: luck, ", ""), "policies[1]: has no name"),
    "no policies": (SMALL[: SMALL.index("policies:")], "policies: give a list of at least one"),
    "unknown metric": (SMALL + "objective: e2e_men\n", "objective: 'e2e_men' is not a metric; did you mean 'e2e_mean'"),
    "seeds": (SMALL.replace("seeds: 2", "seeds: 0"), "seeds: expected a number of seeds"),
    "seed twice": (SMALL.replace("seeds: 2", "seeds: [1, 1]"), "seeds: each seed may appear once"),
    "key twice": (SMALL + "name: again\n", "the key 'name' is already on line 3"),
    "not YAML": (SMALL + "slo: {ttft: [1\n", "is not YAML"),
    "a list": ("- world\n", "a scenario is a mapping of keys, found list"),
    "empty": ("", "found NoneType"),
    "a list as a key": ("? [1, 2]\n: 3\n", "line 1: a key must be text or a number"),
    "unknown GPU": (SMALL.replace("a100-80g", "a100-80"), "fleet[0]: "),
    "unknown setting": (SMALL.replace("count: 2", "cuont: 2"), "unknown key 'cuont'; did you mean 'count'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_clear_line(case: str, tmp_path: Path) -> None:
    text, said = BROKEN[case]
    with pytest.raises(InputError) as error:
        read(write(tmp_path, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "small.yaml" in str(error.value)


def test_what_is_no_text_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="is not a text file"):
        read(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"no such file; did you mean 'binary\.yaml'"):
        read(tmp_path / "binry.yaml")


def test_numbers_are_what_people_mean(tmp_path: Path) -> None:
    def value(text: str) -> object:
        return read(write(tmp_path), [f"slo.ttft={text}"]).sections["slo"]["ttft"]

    assert value("1e6") == 1e6
    assert value("1.5e-3") == 0.0015
    assert value("10") == 10
    for text in ("1:30", "2024-01-01", "010"):  # YAML 1.1 makes 90, a date and 8 of these
        with pytest.raises(InputError, match="ttft"):
            value(text)


def test_set_reaches_into_lists_and_makes_missing_mappings(tmp_path: Path) -> None:
    found = read(
        write(tmp_path),
        ["fleet.0.count=8", "policies.1.batch=vllm_v0", "information.output_tokens.predicted.error=0.3"],
    )
    assert found.sections["fleet"][0]["count"] == 8
    assert found.policies[1]["batch"] == "vllm_v0"
    assert found.sections["information"] == {"output_tokens": {"predicted": {"error": 0.3}}}
    assert read(write(tmp_path, SMALL + "slo:\n"), ["slo.ttft=1"]).sections["slo"] == {"ttft": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("fleet.1.count=8", "does not exist (items are 0..0)"),
        ("fleet.x.count=8", "does not exist (items are 0..0)"),
        ("name.first=8", "name is 'small' and has no keys inside"),
        ("seeds", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("fleet.0.cuont=8", "did you mean 'count'"),
        ("fleat.0.count=8", "did you mean 'fleet'"),
        ("name=[", "is not a YAML value"),
    ],
)
def test_a_wrong_set_is_said(change: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(write(tmp_path), [change])
    assert said in str(error.value)


def test_the_resolved_scenario_reads_back(tmp_path: Path) -> None:
    first = read(write(tmp_path), seeds=3)
    again = read(write(tmp_path, yaml.safe_dump(first.resolved(), sort_keys=False), "again.yaml"))
    assert again.resolved() == first.resolved()
    assert again.digest() == first.digest()
    assert first.seeds == (0, 1, 2)


def test_the_digest_follows_the_content_of_named_files(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from rota.rules.arrival import FirstCome as Mine\n", encoding="utf-8")
    path = write(tmp_path, SMALL.replace("route: random", "order: 'mine:Mine'"))
    assert list(read(path).files()) == ["mine.py"]
    before = read(path).digest()
    (tmp_path / "mine.py").write_text("from rota.rules.arrival import LastCome as Mine\n", encoding="utf-8")
    assert read(path).digest() != before
