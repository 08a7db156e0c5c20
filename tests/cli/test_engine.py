"""`rota engine`: it says where it listens, ends cleanly on a signal, and names a mistake in one line."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "rota.cli.main", "engine"]


def start(*words: str) -> tuple[subprocess.Popen[str], str]:
    running = subprocess.Popen(
        [*COMMAND, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    said = running.stdout.readline()
    found = re.search(r"http://[0-9.:]+", said)
    assert found, said
    return running, found.group()


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_finish(name: signal.Signals) -> None:
    running, url = start("--speed", "5", "--grace", "20", "--served-model-name", "mine")
    body = {"model": "mine", "prompt": "hello", "max_tokens": 300, "ignore_eos": True, "stream": True}
    answer, lines = post(f"{url}/v1/completions", body), list[bytes]()
    lines.append(answer.readline())
    reader = threading.Thread(target=lambda: lines.extend(answer))
    reader.start()
    running.send_signal(name)
    reader.join(30)
    assert lines[-2] == b"data: [DONE]\n"
    assert sum(b'"text":"' in line for line in lines) == 300
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0
    assert "ending: 1 requests run on for at most 20 s" in out
    assert err == ""


def test_a_second_signal_ends_at_once() -> None:
    running, url = start("--grace", "60")
    answer = post(
        f"{url}/v1/completions", {"prompt": "hello", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    )
    answer.readline()
    running.send_signal(signal.SIGINT)
    assert running.stdout is not None
    assert "ending" in running.stdout.readline()
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=10) == 0
    answer.close()
    running.communicate()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "llama-3.1-8"], "model 'llama-3.1-8' is not in the catalogue"),
        (["--fail", "refus"], "unknown fault 'refus'; did you mean 'refuse'?"),
        (["--output-tokens", "many"], "--output-tokens: expected mean,sigma"),
        (["nothing.yaml"], "nothing.yaml: cannot be read"),
        (["--host", "192.0.2.1"], "192.0.2.1 cannot be used"),
    ],
)
def test_mistakes(words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: port {port} on 127.0.0.1 is in use; choose another\n"
