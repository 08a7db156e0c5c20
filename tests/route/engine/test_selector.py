"""The loop that wakes on time is still woken by everything else."""

import asyncio
import socket
import threading

from rota.route.engine.selector import new_event_loop


def test_sleeping_does_not_hide_events() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        asleep = asyncio.ensure_future(asyncio.sleep(60.0))  # so that every wait has an end
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            threading.Timer(0.02, theirs.send, [b"hello"]).start()
            assert await asyncio.wait_for(loop.sock_recv(ours, 5), 10.0) == b"hello"
        told = asyncio.Event()
        threading.Timer(0.02, loop.call_soon_threadsafe, [told.set]).start()
        await asyncio.wait_for(told.wait(), 10.0)
        began = loop.time()
        await asyncio.sleep(0.0003)
        assert loop.time() - began >= 0.0003 - 1e-6  # never early
        asleep.cancel()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work())
