"""Whether a key's limit holds under overload, counted where the provider would count it.

    .venv/bin/python benchmarks/gateway_limits.py --seconds 60

Four workers, each a process with a token of its own, ask a gateway without a pause, far more than its one key
allows. A server in the provider's place notes when each request arrives; the fullest window of one second,
begun at any arrival, and the share of the limit that was used are shown. Nothing leaves this machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

WORKERS = ("a", "b", "c", "d")
CONNECTIONS = 8
"""Of each worker; each waits for its answer before it asks again."""
BUSY = 429


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--limit", type=int, default=25, help="requests per second of the key")
    arguments = parser.parse_args()
    mine, theirs = multiprocessing.Pipe()
    provider = multiprocessing.Process(target=_provide, args=(theirs,), daemon=True)
    provider.start()
    tokens = {name: secrets.token_hex(16) for name in WORKERS}
    with (
        tempfile.TemporaryDirectory() as folder,
        _running_gateway(Path(folder), mine.recv(), arguments.limit, tokens) as url,
        multiprocessing.Pool(len(tokens)) as pool,
    ):
        time.sleep(3)  # what the gateway asks for its own sake at first is over
        works = [(url, token, arguments.seconds) for token in tokens.values()]
        begun = time.monotonic()
        statuses = pool.starmap(_work, works)
        ended = time.monotonic()
    mine.send("report")
    moments = [one for one in mine.recv() if begun <= one]
    _show(moments, statuses, arguments.limit, ended - begun)


def _show(moments: Sequence[float], statuses: Sequence[Counter[int]], limit: int, seconds: float) -> None:
    fullest = max(bisect_left(moments, begin + 1.0) - at for at, begin in enumerate(moments))
    answered = [one[200] for one in statuses]
    print(f"limit {limit}/s, {seconds:.0f} s, {len(statuses)} workers:")
    print(f"  fullest second at the provider   {fullest}")
    print(f"  answered, of what the limit allows  {sum(answered) / (limit * seconds):.1%}")
    print(f"  answered to each worker  {answered}")
    print(f"  refused with 429  {sum(one[BUSY] for one in statuses)}")
    print(f"  others  {sum(one.total() - one[200] - one[BUSY] for one in statuses)}")


def _provide(parent: Connection) -> None:
    moments: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        moments.append(time.monotonic())
        asked = json.loads(await request.read())
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": "0x1"})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        parent.send(f"http://{host}:{port}/")
        await asyncio.to_thread(parent.recv)
        parent.send(moments)

    asyncio.run(run())


def _work(url: str, token: str, seconds: float) -> Counter[int]:
    """Ask for balances, each another, and return how often each HTTP status came."""
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds

    async def ask(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            params = [f"0x{secrets.token_hex(20)}", "0x1"]
            body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": params}
            async with session.post(f"{url}/v1/limited", json=body) as response:
                await response.read()
                statuses[response.status] += 1

    async def run() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            await asyncio.gather(*(ask(session) for _ in range(CONNECTIONS)))

    asyncio.run(run())
    return statuses


@contextmanager
def _running_gateway(folder: Path, provider: str, limit: int, tokens: dict[str, str]) -> Iterator[str]:
    config = {
        "tokens": [{"name": name, "token": f"env:TOKEN_{name}"} for name in tokens],
        "pools": {
            "limited": {
                "chain_id": 1,
                "endpoints": [
                    {"name": "only", "url": "env:PROVIDER", "limits": {"requests_per_second": limit}}
                ],
            }
        },
    }
    path = folder / "rpc_pools.yaml"
    path.write_text(json.dumps(config))
    environment = {
        **os.environ,
        "PROVIDER": provider,
        **{f"TOKEN_{name}": one for name, one in tokens.items()},
    }
    command = [Path(sys.executable).with_name("trace"), "gateway", "--config", path, "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                sys.exit("the gateway did not start")
            yield found[0]
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
