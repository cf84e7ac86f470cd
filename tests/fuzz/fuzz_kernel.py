"""Fuzzes the compiled decoder under AddressSanitizer and UndefinedBehaviorSanitizer.

    .venv/bin/python -m tests.fuzz.fuzz_kernel --executions 10000000

Builds ``fuzz_kernel.c`` with the sanitizers of the C compiler, and gives it mutated replies: some of two real
blocks as they come, some of odd blocks. A finding ends the process with the sanitizer's report. That what
the kernel takes is also *right* is for the tests, which compare it with the decoder in Python.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from ctypes import POINTER, c_int32, c_int64, c_uint64
from pathlib import Path
from typing import Any

from trace_dagster.chain.decoding import kernel
from trace_dagster.chain.decoding.layout import Shape
from trace_dagster.chain.decoding.layouts import BLOCK, LOGS, RECEIPT, RECEIPTS, TRACES

SANITIZERS = ("address", "undefined")
SOURCE = Path(__file__).with_name("fuzz_kernel.c")
HASH, ADDRESS = "0x" + "ab" * 32, "0x" + "cd" * 20
PLACE = {"blockHash": HASH, "blockNumber": "0x5", "transactionHash": HASH, "transactionIndex": "0x0"}
LOG = {
    **PLACE,
    "address": ADDRESS,
    "logIndex": "0x0",
    "topics": [HASH, HASH],
    "data": "0x00ff",
    "removed": False,
}
RECEIPT_ROW = {
    **PLACE,
    "cumulativeGasUsed": "0x5208",
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x3b9aca00",
    "status": "0x1",
    "from": ADDRESS,
    "to": None,
    "contractAddress": ADDRESS,
    "type": "0x2",
    "logs": [LOG, LOG],
    "logsBloom": "0x" + "00" * 256,
    "l1Fee": "0x1",
    "unknown": {"deep": [1, "two", None]},
}
TRANSACTION = {
    "hash": HASH,
    "nonce": "0x1",
    "blockHash": HASH,
    "blockNumber": "0x5",
    "transactionIndex": "0x0",
    "from": ADDRESS,
    "to": ADDRESS,
    "value": hex(2**255),
    "gas": "0x5208",
    "gasPrice": 1000,
    "input": "0xabcd",
    "type": "0x4",
    "chainId": "0x1",
    "v": "0x1",
    "r": "0x" + "1" * 63,
    "s": "0x2",
    "yParity": "0x0",
    "accessList": [{"address": ADDRESS, "storageKeys": [HASH]}],
    "authorizationList": [
        {"chainId": "0x1", "address": ADDRESS, "nonce": "0x0", "yParity": "0x1", "r": "0x1", "s": "0x2"}
    ],
    "blobVersionedHashes": [HASH],
    "maxFeePerBlobGas": "0x1",
    "odd": 'caf\u00e9 \\ " \ud83d\ude00',
}
BLOCK_ROW = {
    "number": "0x5",
    "hash": HASH,
    "parentHash": HASH,
    "timestamp": "0x1",
    "gasUsed": "0x5208",
    "gasLimit": "0x1c9c380",
    "baseFeePerGas": "0x7",
    "extraData": "0x",
    "difficulty": "0x0",
    "uncles": [],
    "transactions": [TRANSACTION],
    "logsBloom": "0x" + "00" * 256,
    "totalDifficulty": None,
    "later": [[{}]],
    "withdrawals": [{"index": "0x0", "validatorIndex": "0x1", "address": ADDRESS, "amount": "0x2"}],
}
TRACE = {
    "type": "call",
    "traceAddress": [0, 1],
    "subtraces": 0,
    "transactionPosition": 0,
    "error": "Reverted",
    "blockHash": HASH,
    "blockNumber": 5,
    "transactionHash": HASH,
    "action": {
        "from": ADDRESS,
        "to": ADDRESS,
        "value": "0x1",
        "gas": "0x5208",
        "input": "0x",
        "callType": "call",
    },
    "result": {"gasUsed": "0x1", "output": "0x01"},
}
HEADER = {**BLOCK_ROW, "transactions": [HASH, HASH]}
SEEDS: Sequence[Sequence[tuple[Shape, Any]]] = (
    [(BLOCK, BLOCK_ROW), (RECEIPTS, [RECEIPT_ROW])],
    [(BLOCK, HEADER), (BLOCK, None), (LOGS, [LOG]), (TRACES, [TRACE])],
    [(RECEIPT, RECEIPT_ROW)],
    [(LOGS, [LOG, LOG, LOG])],
    [(TRACES, [TRACE, {**TRACE, "action": {"init": "0x00"}, "result": None, "type": "create"}])],
)


class _Seed(ctypes.Structure):
    _fields_ = (
        ("reply", ctypes.c_char_p),
        ("size", c_int64),
        ("shapes", POINTER(POINTER(kernel._Shape))),
        ("shape_count", c_int32),
        ("shape_of", POINTER(c_int32)),
        ("calls", c_int64),
    )


def _reply(results: Sequence[Any]) -> bytes:
    answers = [{"jsonrpc": "2.0", "id": number, "result": one} for number, one in enumerate(results)]
    return json.dumps(answers if len(answers) > 1 else answers[0], separators=(",", ":")).encode()


def _seed(calls: Sequence[tuple[Shape, Any]], kept: list[Any]) -> _Seed:
    shapes = list(dict.fromkeys(shape for shape, _ in calls))
    programs = [kernel._program(shape) for shape in shapes]
    pointers = (POINTER(kernel._Shape) * len(shapes))(*(ctypes.pointer(one.shape) for one in programs))
    shape_of = (c_int32 * len(calls))(*(shapes.index(shape) for shape, _ in calls))
    reply = _reply([result for _, result in calls])
    kept += (programs, pointers, shape_of, reply)
    return _Seed(reply, len(reply), pointers, len(shapes), shape_of, len(calls))


def _compiler(*arguments: str) -> str:
    command = [os.environ.get("CC", "cc"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def build(folder: Path, *options: str) -> tuple[Path, str]:
    """Build the library with sanitizers; return it and what must be preloaded to use it."""
    library = folder / "fuzz_kernel.so"
    flags = [f"-fsanitize={','.join(SANITIZERS)}", "-fno-sanitize-recover=all"]
    _compiler("-shared", "-fPIC", "-g", "-O1", "-std=c11", *flags, *options, "-o", str(library), str(SOURCE))
    runtimes = [_compiler(f"-print-file-name={name}") for name in ("libasan.so", "libubsan.so")]
    return library, " ".join(runtimes)


def run(library: Path, executions: int, start: int) -> int:
    """Give so many replies to the library, in this process; return how many were taken."""
    fuzz = ctypes.CDLL(str(library)).fuzz
    fuzz.restype, fuzz.argtypes = c_int64, (POINTER(_Seed), c_int64, c_int64, c_uint64)
    kept: list[Any] = []
    seeds = (_Seed * len(SEEDS))(*(_seed(one, kept) for one in SEEDS))
    taken: int = fuzz(seeds, len(seeds), executions, start)
    if taken < 0:
        raise SystemExit(f"the kernel's columns contradict themselves; --start {start}")
    return taken


def main() -> None:
    """Build, start again with the sanitizers loaded, and fuzz."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--start", type=int, help="of the random numbers; another one each time if left out")
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    start = options.start if options.start is not None else random.SystemRandom().randrange(1, 2**63)
    if options.library is not None:
        taken = run(options.library, options.executions, start)
        print(f"{options.executions} executions, {taken} taken, nothing found (--start {start})")
        return
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        status = fuzz(*build(Path(folder)), options.executions, start)
        print(f"{time.monotonic() - begun:.0f} s")
    raise SystemExit(status)


def fuzz(library: Path, runtimes: str, executions: int, start: int, **streams: Any) -> int:
    """Fuzz in a process that has the sanitizers loaded; return its status."""
    environment = {**os.environ, "LD_PRELOAD": runtimes, "ASAN_OPTIONS": "detect_leaks=0"}
    arguments = ["--library", str(library), "--start", str(start), "--executions", str(executions)]
    command = [sys.executable, "-m", "tests.fuzz.fuzz_kernel", *arguments]
    return subprocess.run(command, env=environment, check=False, **streams).returncode


if __name__ == "__main__":
    main()
