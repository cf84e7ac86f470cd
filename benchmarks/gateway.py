"""The gateway's throughput, and what it adds to a request's time, beside going direct.

    .venv/bin/python benchmarks/gateway.py --rounds 5

The gateway has one core for itself (``taskset``); the server that it asks, which answers from memory for
next to nothing (``replay/``), and the client that asks share another. Direct and through the gateway take
turns, and medians are shown. Requests differ from each other, so none is answered with another's. With three
endpoints the gateway compares their hashes. Where other processes take a part of the gateway's core, what it
took of CPU time says more than what it did in a second. Nothing leaves this machine.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.replay.server import running_replay  # noqa: E402

CHAIN_ID = 1
BLOCKS = 20_000
BLOCKS_WITH_RECEIPTS = 1_000
HEADER_BYTES, RECEIPTS_BYTES, TRACES = 1_600, 150_000, 1
METHODS = {"header": "eth_getBlockByNumber", "traces": "trace_block", "receipts": "eth_getBlockReceipts"}
CONFIG = """\
tokens: [{ name: bench, token: env:BENCH_TOKEN }]
limits: { max_body_bytes: 16777216 }
pools:
  one:
    chain_id: 1
    hedge_after_seconds: 0
    endpoints: [{ name: a, url: env:URL_A, limits: { concurrency: 64 } }]
  three:
    chain_id: 1
    hedge_after_seconds: 0
    endpoints:
      - { name: a, url: env:URL_A, limits: { concurrency: 64 } }
      - { name: b, url: env:URL_B, limits: { concurrency: 64 } }
      - { name: c, url: env:URL_C, limits: { concurrency: 64 } }
"""


@dataclass(frozen=True)
class Work:
    """What is asked, and how.

    Attributes:
        name: for the table.
        kind: key of ``METHODS``.
        connections: of the client; each waits for its answer before it asks again.
        batch: requests in one body; 1: a single request.
        per_second: bodies a second, of all connections together; 0: as many as there are answers.
        pool: of the gateway.
    """

    name: str
    kind: str
    connections: int
    batch: int = 1
    per_second: int = 0
    pool: str = "one"


ALL_WORK = (
    Work("single, header of 1.6 KB", "header", 64),
    Work("single, one trace", "traces", 64),
    Work("single, header, three endpoints", "header", 64, pool="three"),
    Work("single, receipts of 150 KB", "receipts", 16),
    Work("batches of 100 headers", "header", 8, batch=100),
    Work("batches of 100 traces", "traces", 8, batch=100),
    Work("batches of 100 headers, three endpoints", "header", 8, batch=100, pool="three"),
    Work("500 single requests a second, header", "header", 8, per_second=500),
)


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        items: JSON-RPC requests a second.
        p50: milliseconds of an HTTP exchange.
        p99: likewise.
        cpu: the gateway's share of its core, 0 to 1.
    """

    items: float
    p50: float
    p99: float
    cpu: float = 0.0


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--only", default="", help="work whose name holds this")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the gateway, one for the rest")
    os.sched_setaffinity(0, cores[:1])  # the client, and the server that it starts
    with tempfile.TemporaryDirectory() as folder:
        _record(Path(folder))
        with (
            running_replay(Path(folder)) as server,
            _running_gateway(Path(folder), server, cores[1]) as gateway,
        ):
            works = [work for work in ALL_WORK if arguments.only in work.name]
            for work in works:
                _compare(work, server, gateway, arguments.rounds, arguments.seconds)


def _compare(work: Work, server: str, gateway: "_Gateway", rounds: int, seconds: float) -> None:
    taken: dict[str, list[Figures]] = {"direct": [], "gateway": []}
    for number in range(rounds):
        for name, url in (("direct", f"{server}/"), ("gateway", f"{gateway.url}/v1/{work.pool}")):
            before, begun = gateway.cpu_seconds, time.monotonic()
            load = _Load(work, url, gateway.token, seconds, first_block=number * 7919)
            asyncio.run(load.run())
            share = (gateway.cpu_seconds - before) / (time.monotonic() - begun)
            taken[name].append(load.figures(share))
    direct, through = (_median(one) for one in taken.values())
    print(f"{work.name}:")
    for name, one in (("direct", direct), ("gateway", through)):
        used = f", {one.cpu:4.0%} of its core, {one.cpu / one.items * 1e6:.0f} us CPU a request"
        used = used if name == "gateway" else ""
        print(f"  {name:8} {one.items:9,.0f} requests/s, p50 {one.p50:7.2f} ms, p99 {one.p99:7.2f} ms{used}")
    if work.per_second:
        print(f"  added    p50 {through.p50 - direct.p50:.2f} ms, p99 {through.p99 - direct.p99:.2f} ms")
    sys.stdout.flush()


def _median(taken: Sequence[Figures]) -> Figures:
    names = ("items", "p50", "p99", "cpu")
    return Figures(*(statistics.median(getattr(one, name) for one in taken) for name in names))


class _Load:
    """Asks over several connections for so many seconds."""

    def __init__(self, work: Work, url: str, token: str, seconds: float, first_block: int) -> None:
        self._work, self._url, self._token, self._seconds = work, urlsplit(url), token, seconds
        self._block = first_block
        self._latencies: list[float] = []
        self._begun = self._ended = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._begun = loop.time()
        clients, paced = [], []
        for number in range(self._work.connections):
            client = _Client(self._next_body, self._done, loop.create_future())
            await loop.create_connection(lambda client=client: client, self._url.hostname, self._url.port)
            clients.append(client)
            if not self._work.per_second:
                client.ask()
            else:
                paced.append(loop.create_task(self._paced(client, number)))
        self._begun = loop.time()
        await asyncio.sleep(self._seconds)
        self._ended = loop.time()
        for client in clients:
            client.stop()
        await asyncio.gather(*(client.ended for client in clients))
        for task in paced:
            task.cancel()

    async def _paced(self, client: "_Client", number: int) -> None:
        """Ask at even distances; an answer that comes late lets the next request begin late."""
        loop = asyncio.get_running_loop()
        every = self._work.connections / self._work.per_second
        due = loop.time() + every * number / self._work.connections
        while not client.ended.done():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += every
            await client.ask_once()

    def figures(self, cpu: float) -> Figures:
        ordered = sorted(self._latencies)
        count = len(ordered)
        rate = count * self._work.batch / (self._ended - self._begun)
        return Figures(rate, ordered[count // 2] * 1000, ordered[count * 99 // 100] * 1000, cpu)

    def _done(self, seconds: float) -> None:
        if not self._ended:
            self._latencies.append(seconds)

    def _next_body(self) -> bytes:
        items = b",".join(self._next_item(number) for number in range(self._work.batch))
        body = items if self._work.batch == 1 else b"[%b]" % items
        return (
            f"POST {self._url.path} HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
            f"Authorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _next_item(self, number: int) -> bytes:
        kind = self._work.kind
        self._block = (self._block + 1) % (BLOCKS_WITH_RECEIPTS if kind == "receipts" else BLOCKS)
        more = b",false" if kind == "header" else b""
        method = METHODS[kind].encode()
        params = b'["0x%x"%b]' % (self._block, more)
        return b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}' % (number, method, params)


class _Client(asyncio.Protocol):
    """One connection; checks that each answer is a result."""

    def __init__(self, next_body, done, ended) -> None:  # type: ignore[no-untyped-def]
        self._next_body, self._done = next_body, done
        self.ended: asyncio.Future[None] = ended
        self._idle: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._missing = 0
        self._sent = 0.0
        self._stopping = self._waiting = self._is_paced = False

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]
        self._transport = transport

    def ask(self) -> None:
        self._waiting = True
        body = self._next_body()
        self._sent = time.perf_counter()
        self._transport.write(body)

    async def ask_once(self) -> None:
        self._is_paced = True
        self._idle = asyncio.get_running_loop().create_future()
        self.ask()
        await self._idle

    def stop(self) -> None:
        self._stopping = True
        if not self._waiting:
            self._end()

    def data_received(self, data: bytes) -> None:
        if not self._pieces:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            if not head.startswith(b"HTTP/1.1 200") or length is None or b'"error"' in rest[:300]:
                sys.exit(f"not answered: {data[:500]!r}")
            self._missing = int(length[1])
            data = rest
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        self._done(time.perf_counter() - self._sent)
        self._pieces.clear()
        self._waiting = False
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        if self._stopping:
            self._end()
        elif not self._is_paced:
            self.ask()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            sys.exit(f"the connection was lost: {error}")


@dataclass
class _Recorded:
    """The recording while it is made."""

    content: bytearray = field(default_factory=bytearray)
    slices: list[int] = field(default_factory=list)

    def add(self, value: bytes) -> None:
        self.slices += [len(self.content), len(value)]
        self.content += value


def _record(folder: Path) -> None:
    """Write made-up blocks of the sizes of mainnet's; only some have receipts, to keep the file small."""
    recorded = _Recorded()
    filler = secrets.token_hex(HEADER_BYTES // 2 - 200)
    for number in range(BLOCKS):
        header = {
            "number": hex(number),
            "hash": f"0x{number + 1:064x}",
            "parentHash": f"0x{number:064x}",
            "timestamp": hex(1_700_000_000 + number),
            "logsBloom": f"0x{filler}",
            "transactions": [],
        }
        placed: Mapping[str, object] = {"blockNumber": number, "blockHash": header["hash"]}
        trace = {**placed, "action": {"value": "0x0"}, "type": "call", "traceAddress": []}
        block = json.dumps(header, separators=(",", ":")).encode()
        recorded.add(block)
        recorded.add(block)
        placing = f'"blockHash":"{header["hash"]}","blockNumber":"{hex(number)}"'
        receipt = f'{{{placing},"logsBloom":"0x{filler[:1000]}"}}'
        has_receipts = number < BLOCKS_WITH_RECEIPTS
        receipts = ",".join([receipt] * (RECEIPTS_BYTES // len(receipt))) if has_receipts else ""
        recorded.add(f"[{receipts}]".encode())
        recorded.add(b"")
        recorded.add(json.dumps([trace] * TRACES, separators=(",", ":")).encode())
    (folder / "chain.bin").write_bytes(recorded.content)
    (folder / "chain.idx").write_bytes(
        struct.pack(f"<{2 + len(recorded.slices)}Q", BLOCKS, CHAIN_ID, *recorded.slices)
    )


@dataclass(frozen=True)
class _Gateway:
    """The process that is measured."""

    url: str
    token: str
    process: psutil.Process

    @property
    def cpu_seconds(self) -> float:
        """What it took so far."""
        user, system, *_ = self.process.cpu_times()
        return user + system


@contextmanager
def _running_gateway(folder: Path, server: str, core: int) -> Iterator[_Gateway]:
    """Run ``trace gateway`` on one core."""
    config, token = folder / "rpc_pools.yaml", secrets.token_hex(32)
    config.write_text(CONFIG)
    environment = {**os.environ, "BENCH_TOKEN": token, **{f"URL_{one}": f"{server}/{one}" for one in "ABC"}}
    trace = Path(sys.executable).with_name("trace")
    command = ["taskset", "-c", str(core), str(trace), "gateway", "--config", str(config), "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if found is None:
                sys.exit("the gateway did not start")
            yield _Gateway(found[0], token, psutil.Process(process.pid))
        finally:
            process.terminate()


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
