"""The same study on a Ray cluster of two processes: the same bits, and a killed worker loses nothing."""

from pathlib import Path

import pytest
from tests.study.small import write

from rota.kernel.errors import InputError
from rota.study.runner import run_study
from rota.study.scenario import read

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rota[ray]'")

QUEUES = """
world: queues
name: small
workload: {load: 0.8, jobs: 2000}
policies:
  - {name: fcfs, order: fcfs}
  - {name: srpt, order: srpt}
  - {name: mine, order: "killed_once:KilledOnce"}
seeds: 3
"""
KILLED_ONCE = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from rota.kernel.decisions import Order

MARK = Path(__file__).parent / "killed"
DRIVER = Path(__file__).parent / "driver"


@dataclass
class KilledOnce(Order):
    reads = ("release",)

    def keys(self, jobs, now):
        if DRIVER.exists() and int(DRIVER.read_text()) != os.getpid() and not MARK.exists():
            MARK.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return jobs.release
"""


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_bits_and_survives_a_killed_worker(tmp_path: Path) -> None:
    import os

    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    scenario = read(write(tmp_path, QUEUES), [], None)
    here = run_study(scenario, tmp_path / "here")
    (tmp_path / "driver").write_text(str(os.getpid()))
    there = run_study(scenario, tmp_path / "there", jobs=2, executor="ray")
    assert (tmp_path / "killed").exists(), "no worker was killed: the test shows nothing"
    assert there.summary.equals(here.summary)
    for name in ("outcomes.parquet", "series.parquet", "summary.parquet"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


def test_an_executor_that_does_not_exist(tmp_path: Path) -> None:
    scenario = read(write(tmp_path, QUEUES.replace("killed_once:KilledOnce", "lcfs").replace('"', "")), [], None)
    with pytest.raises(InputError, match="did you mean 'ray'"):
        run_study(scenario, tmp_path / "out", executor="rai")
    with pytest.raises(InputError, match="give --executor ray"):
        run_study(scenario, tmp_path / "out", address="auto")
    assert not (tmp_path / "out").exists()
