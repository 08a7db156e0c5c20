"""The dashboard in a browser: it shows a backend going down and coming back, live, without a console error."""

import asyncio
import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rota.route.dashboard import PAGE
from tests.route.stub import Stub, routed, until
from tests.route.test_proxy import STREAM, chat

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-dev-shm-usage", "disable-component-update", "disable-sync", "enable-logging=stderr", "remote-debugging-port=0",
)  # fmt: skip


def test_the_page_needs_nothing_else() -> None:
    text = PAGE.decode()
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', text)
    assert "http" not in text.replace("http-equiv", "")
    assert "innerHTML" not in text  # names of tenants and backends are text, never markup


def test_the_stream_is_plain_json(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()], policy={"place": "power_of_two"}) as setup:
            async with chat(setup, STREAM) as answer:
                await answer.read()
            async with setup.client.get(setup.url + "/events") as answer:
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                line = await answer.content.readline()
                seen = json.loads(line.removeprefix(b"data: "), parse_constant=lambda text: pytest.fail(text))
                assert seen["answers"] == 1
                assert seen["ttft"]["p50"] > 0
                assert set(seen["recent"][0]["costs"]) == {"a", "b"}

    asyncio.run(run())


class Tab:
    """A page in a headless browser, driven by its own debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[Any] = []

    async def call(self, method: str, **options: Any) -> dict[str, Any]:
        self._number += 1
        mine = self._number
        await self._socket.send_json({"id": mine, "method": method, "params": options})
        while True:
            said = await self._socket.receive_json()
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(said["params"])
            if said.get("method") == "Runtime.consoleAPICalled" and said["params"]["type"] == "error":
                self.errors.append(said["params"])
            if said.get("id") == mine:
                return dict(said["result"])

    async def text(self, script: str) -> str:
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return str(answer["result"].get("value"))

    async def wait(self, script: str, wanted: str) -> None:
        found = ""
        for _ in range(100):
            found = await self.text(script)
            if found == wanted:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"{script} is {found}, not {wanted}; errors: {self.errors}")


STATE = "[...document.querySelectorAll('#backends .state')].map(each => each.textContent).join()"


def test_a_browser_sees_a_backend_go_down_and_come_back(tmp_path: Path) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH: the dashboard cannot be opened")

    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()]) as setup:
            for tenant in ("<b>team</b>", "other"):
                async with chat(setup, STREAM, headers={"x-llm-d-inference-fairness-id": tenant}) as answer:
                    await answer.read()
            flags = [f"--{flag}" for flag in FLAGS]
            process = await asyncio.create_subprocess_exec(
                browser,
                *flags,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1280,900",
                "about:blank",
                stderr=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
            )
            assert process.stderr is not None
            try:
                async with asyncio.timeout(90):
                    while not (match := re.search(rb"ws://127\.0\.0\.1:(\d+)/", await process.stderr.readline())):
                        pass
                    await look(setup, int(match[1]))
            finally:
                process.terminate()
                await process.wait()

    async def look(setup: Any, port: int) -> None:
        async with setup.client.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(each for each in await answer.json() if each["type"] == "page")
        async with setup.client.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**26) as socket:
            tab = Tab(socket)
            for area in ("Runtime", "Log", "Page"):
                await tab.call(f"{area}.enable")
            await tab.call("Page.navigate", url=setup.url + "/")
            await tab.wait(STATE, "up,up")
            await tab.wait("document.getElementById('link').textContent", "live")
            await setup.stubs[0].stop()
            await tab.wait(STATE, "down,up")
            assert "not reached" in await tab.text("document.querySelector('.why').textContent")
            await setup.stubs[0].start()
            await tab.wait(STATE, "up,up")
            assert "<b>team</b>" in await tab.text("document.getElementById('tenants').textContent")
            assert await tab.text("document.querySelectorAll('#recent .cost.chosen').length") == "2"
            for width, name in ((1280, "wide"), (390, "phone")):
                await tab.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=900,
                    deviceScaleFactor=1,
                    mobile=width < 500,
                )
                assert await tab.text("document.documentElement.scrollWidth <= innerWidth") == "True", name
            assert not tab.errors
            await shoot(tab, tmp_path)

    async def shoot(tab: Tab, folder: Path) -> None:
        picture = await tab.call("Page.captureScreenshot")
        (folder / "dashboard.png").write_bytes(base64.b64decode(picture["data"]))
        assert (folder / "dashboard.png").stat().st_size > 5000

    asyncio.run(run())


def test_no_dashboard_where_none_is_wanted(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()], pages={"dashboard": False, "metrics": False}) as setup:
            for path in ("/", "/events", "/metrics"):
                async with setup.client.get(setup.url + path) as answer:
                    assert answer.status == 404

    asyncio.run(run())


def test_watching_ends_with_the_router(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()]) as setup, setup.client.get(setup.url + "/events") as answer:
            await answer.content.readline()
            await setup.running.drain()
            await asyncio.wait_for(answer.read(), 5)
            await until(lambda: setup.running.over.is_set())

    asyncio.run(run())
