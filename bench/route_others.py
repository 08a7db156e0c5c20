"""Other routers beside ours, each a process before the same engine: whichever of their packages a given Python has.

LiteLLM's proxy (``pip install 'litellm[proxy]'``), SGLang's router (``sglang-router``), vLLM's router (``vllm-router``). Each with its own defaults, one
process, logs off; LiteLLM without a database.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

PACKAGES = {"LiteLLM": "litellm", "SGLang's router": "sglang_router", "vLLM's router": "vllm_router"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 60.0) -> None:
    for _ in range(int(10 * seconds)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens at {port}")


def command(name: str, python: str, port: int, engine: int, folder: Path) -> list[str]:
    """How a router is started at a port before an engine's."""
    if name == "LiteLLM":
        config = folder / "litellm.yaml"
        model = {"model": "openai/m", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
        general = {"dangerously_permit_weak_or_unset_master_key": True}  # it refuses to start without a key otherwise
        models = [{"model_name": "m", "litellm_params": model}]
        config.write_text(yaml.safe_dump({"model_list": models, "general_settings": general}))
        script = str(Path(python).parent / "litellm")
        return [script, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    module = f"{PACKAGES[name]}.launch_router"
    urls = ["--worker-urls", f"http://127.0.0.1:{engine}"]
    return [python, "-m", module, *urls, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
            "--prometheus-port", str(free_port()), "--log-level", "error"]  # fmt: skip


def has(python: str, package: str) -> bool:
    """Whether a Python has a package."""
    said = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
    return said.returncode == 0


def listens(process: "subprocess.Popen[bytes]", port: int, seconds: float) -> bool:
    """Wait until a process listens; False where it ends before, or takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def started(folder: Path, python: str | None, engine: int) -> Iterator[dict[str, tuple[int, int]]]:
    """Port and process of the others, by name; none without a Python to start them with."""
    ports: dict[str, int] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}
    environment = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    try:
        for name, package in PACKAGES.items() if python is not None else ():
            assert python is not None
            if not has(python, package):
                print(f"{name}: {python} has no {package}, left out")
                continue
            ports[name] = free_port()
            log = (folder / f"{package}.log").open("wb")
            line = command(name, python, ports[name], engine, folder)
            running[name] = subprocess.Popen(line, stdout=log, stderr=log, env=environment, cwd=folder)
            log.close()
        for name in list(ports):
            if not listens(running[name], ports[name], 120):
                said = (folder / f"{PACKAGES[name]}.log").read_text(errors="replace").strip().splitlines()
                print(f"{name}: does not listen, left out: {said[-1] if said else 'it said nothing'}")
                del ports[name]
        yield {name: (port, running[name].pid) for name, port in ports.items()}
    finally:
        for each in running.values():
            each.terminate()
        for each in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(20)
            each.kill()
