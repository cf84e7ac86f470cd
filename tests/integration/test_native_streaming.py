"""The native engine writes to the store and to nothing else: no local file, no half-visible object."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

import boto3
import pytest
from pydantic import SecretStr

from tests.support.fault_proxy import FaultProxy, Reply
from tests.support.project import PROGRAMS, clean_environment
from tests.support.small_chain import SmallChain, small_chain
from trace_dagster.chain.datasets import NATIVE_DATASETS
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.operators.cryo_ingest.native.standalone import StandaloneExtraction
from trace_dagster.operators.cryo_ingest.writer import DatasetWriter, WriterLimits
from trace_dagster.settings import RpcEndpoint
from trace_dagster.store import find_garbage, open_store, resolve, scan_polars

CHAIN_ID = 31337


@pytest.fixture(scope="module")
def chain() -> Iterator[SmallChain]:
    """A chain of seven blocks."""
    with small_chain() as built:
        yield built


def extract(
    folder: Path, url: str, out: str, *arguments: str, status: int | None = 0, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run ``trace extract`` in a folder of its own."""
    done = subprocess.run(
        [str(PROGRAMS / "trace"), "extract", "--out", out, *arguments, "--rpc-pool", "test"],
        cwd=folder,
        env={**clean_environment(), "TRACE_RPC_POOL_TEST_URL": url, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done


def test_extract_commits_chunks_and_keeps_them(chain: SmallChain, tmp_path: Path) -> None:
    """Every dataset is there, chunk by chunk; a second run changes nothing and asks for nothing."""
    out = tmp_path / "out"
    asked = (*NATIVE_DATASETS, "--blocks", "0:8", "--chunk-size", "3")
    said = extract(tmp_path, chain.anvil.url, str(out), *asked).stdout
    assert "chain 31337, blocks 0 to 7" in said
    assert "0 of 3 chunks were committed before" in said
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len([path for path in before if path.name == "_manifest.json"]) == 3 * len(NATIVE_DATASETS)
    said = extract(tmp_path, chain.anvil.url, str(out), *asked).stdout
    assert "; 0 RPC requests; 3 of 3 chunks" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    store = open_store(out.as_uri(), {})
    assert scan_polars(store, CHAIN_ID, "blocks", 0, 7).collect().height == 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_large_partition_is_several_objects(
    chain: SmallChain, bucket_url: str, s3_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut by rows while it streams: the objects follow each other, and hold the rows of a single one."""
    endpoint = RpcEndpoint(pool="test", url=SecretStr(chain.anvil.url), variable="V")
    config = CryoIngestConfig(
        chain_id=CHAIN_ID, datasets=("blocks", "logs"), engine="native", rpc_pool="test"
    )
    rows, files = [], []
    for name, limits in (("whole", WriterLimits()), ("cut", WriterLimits(max_rows=3))):
        store = open_store(f"{bucket_url}/{name}", s3_environment)
        monkeypatch.setattr(
            "trace_dagster.operators.cryo_ingest.native.engine.DatasetWriter",
            partial(DatasetWriter, limits=limits),
        )
        work = StandaloneExtraction(config, BlockRange(0, 7), 8, endpoint, store)
        (chunk,) = work.run(lambda *_args, **_fields: None)
        files.append([file.rows for file in chunk.manifests["blocks"].objects])
        rows.append([scan_polars(store, CHAIN_ID, one, 0, 7).collect() for one in config.datasets])
    assert files == [[8], [3, 3, 2]]
    assert all(one.equals(other) for one, other in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks", "--blocks", "5:5"), "'5:5' is no range"),
        (
            ("blokcs", "--blocks", "0:5"),
            "'blokcs' is no dataset of Cryo, nor of engine native; did you mean 'blocks'?",
        ),
        (("balances", "--blocks", "0:5"), "engine native has no dataset balances; write engine: cryo"),
        (("logs", "--blocks", "0:5", "--filter", "topic9=0x"), "filters.topic9 is no filter"),
        (
            ("blocks", "--blocks", "0:5000"),
            "block 4999 does not exist yet at rpc_pool 'test', whose head is block 7; write an END of 8",
        ),
        (("blocks", "--blocks", "\u0660:\u0664"), "is no range"),
        (("blocks", "--blocks", f"0:{'9' * 5000}"), "is no range"),
        (("blocks", "--blocks", "0:5", "--out", ""), "name a folder or s3://bucket/prefix"),
        (("blocks", "--blocks", "0:5", "--out", "s3://b//x"), "--out is 's3://b//x', with an empty"),
    ],
)
def test_what_cannot_be_extracted_is_one_line(
    chain: SmallChain, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """The cause and the mend, and nothing is written."""
    done = extract(tmp_path, chain.anvil.url, str(tmp_path / "out"), *arguments, status=None)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    *usage, error = done.stderr.splitlines()
    assert message in error
    assert all(line.startswith(("Usage:", "Try ")) or not line for line in usage)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>hello</html>", "a page of HTML or XML; is the URL that of a JSON-RPC endpoint?"),
        (
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"method not found"}}',
            "answered eth_chainId with",
        ),
        (
            b'{"jsonrpc":"2.0","id":0,"result":"polygon"}',
            "answered eth_chainId with 'polygon'; expected a hex",
        ),
    ],
)
def test_what_is_no_node_is_one_line(tmp_path: Path, answer: bytes, message: str) -> None:
    """An HTML page, a server without the methods, an answer that is no chain id."""
    proxy = FaultProxy()
    proxy.intercept = lambda _: Reply(answer)
    done = extract(tmp_path, proxy.url(), "out", "blocks", "--blocks", "0:5", status=1)
    proxy.close()
    (line,) = (done.stdout + done.stderr).splitlines()
    assert message in line
    assert "planted" not in line


def test_branches_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    """Ranges beside each other, and datasets of one range, must be of one branch; else nothing is written."""
    out = tmp_path / "out"
    with small_chain() as own:

        def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
            return extract(tmp_path, own.anvil.url, str(out), *arguments, status=status)

        run("blocks", "--blocks", "0:4")
        own.anvil.call("anvil_reorg", 5, [])
        before = sorted(out.rglob("*"))
        for asked in (("blocks", "--blocks", "4:8"), ("logs", "transactions", "--blocks", "0:4")):
            done = run(*asked, status=1)
            assert "remove the _manifest.json of the range that is not canonical" in done.stderr
            assert [path for path in sorted(out.rglob("*")) if path.is_file()] == [
                path for path in before if path.is_file()
            ]
        shutil.rmtree(out)
        run("blocks", "--blocks", "4:8")
        run("blocks", "logs", "--blocks", "0:4")
        run("logs", "--blocks", "4:8")


def test_quote_is_near_what_it_costs(tmp_path: Path) -> None:
    """Samples of a longer range tell what it takes, without a file anywhere; Parquet is an upper figure."""
    asked = ("blocks", "transactions", "--blocks", "0:400")
    with small_chain() as own:
        for _ in range(30):
            own.anvil.call("anvil_mine", 13)
            own.busy_block()
        environment = {**clean_environment(), "TRACE_RPC_POOL_TEST_URL": own.anvil.url}
        quote = [str(PROGRAMS / "trace"), "quote", *asked, "--rpc-pool", "test"]
        done = subprocess.run(
            quote, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert list(tmp_path.iterdir()) == []
        took = extract(tmp_path, own.anvil.url, "out", *asked, "--chunk-size", "400").stdout
    assert "chain 31337, 400 blocks; from 8 samples" in done.stdout
    quoted = {line[2:38].strip(): line[38:].split()[:2] for line in done.stdout.splitlines()[1:]}
    spent = re.search(r": (\d+) rows, (\d+) bytes of Parquet .*; (\d+) RPC requests", took)
    assert spent is not None
    rows, parquet, requests = map(int, spent.groups())
    assert quoted["RPC requests"][0] == "800"
    assert requests == 802
    assert 0.5 < number(quoted["rows"]) / rows < 2
    assert 0.5 < number(quoted["Parquet"]) / parquet < 4


def number(shown: list[str]) -> float:
    """Return what a figure of ``trace quote`` stands for."""
    value, unit = shown
    return float(value) * {"k": 1e3, "M": 1e6, "kB": 1e3, "MB": 1e6}.get(unit, 1)


def test_nothing_touches_the_local_disk(
    chain: SmallChain, tmp_path: Path, bucket_url: str, s3_environment: Mapping[str, str]
) -> None:
    """With a limit of no bytes for any file, and nowhere to put one, all of it lands in the bucket."""
    program = (
        "import resource, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "from trace_dagster.cli import main; main()"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-B", "-c", program, "extract", *NATIVE_DATASETS),
            *("--blocks", "0:8", "--rpc-pool", "test", "--out", bucket_url),
        ],
        cwd="/",
        env={
            **clean_environment(),
            **s3_environment,
            "TRACE_RPC_POOL_TEST_URL": chain.anvil.url,
            "TMPDIR": "/nonexistent",
            "TRACE_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0
    store = open_store(bucket_url, s3_environment)
    for dataset in NATIVE_DATASETS:
        assert [piece.manifest.range.key for piece in resolve(store, CHAIN_ID, dataset, 0, 7)] == ["0_7"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_upload_shows_nothing(
    chain: SmallChain, tmp_path: Path, bucket_url: str, s3_environment: Mapping[str, str]
) -> None:
    """Killed while a multipart upload is under way, there is no object, and ``trace gc`` ends the upload."""
    proxy = FaultProxy(chain.anvil.url)
    seen: list[int] = []
    payload = "0x" + os.urandom(12 * 2**20).hex()

    def large(params: list[object], block: dict[str, object]) -> dict[str, object]:
        seen.append(int(str(params[0]), 16))
        if len(seen) > 4:
            time.sleep(60)
        return {**block, "extraData": payload}

    proxy.rewrite["eth_getBlockByNumber"] = large
    small_parts = (
        "import trace_dagster.operators.cryo_ingest.native.fetch as f;"
        "f._FIRST_BLOCKS = 1; f._TARGET_REPLY_BYTES = 1; f._CORES = 2;"
        "from trace_dagster.cli import main; main()"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", small_parts, "extract", "blocks"),
            *("--blocks", "0:8", "--rpc-pool", "test", "--out", bucket_url),
        ],
        cwd=tmp_path,
        env={
            **clean_environment(),
            **s3_environment,
            "TRACE_RPC_POOL_TEST_URL": proxy.url(),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    bucket = bucket_url.removeprefix("s3://").split("/")[0]
    client = boto3.client(
        "s3",
        endpoint_url=s3_environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=s3_environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3_environment["AWS_SECRET_ACCESS_KEY"],
        region_name=s3_environment["AWS_REGION"],
    )
    until = time.monotonic() + 60
    while not client.list_multipart_uploads(Bucket=bucket).get("Uploads") and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    proxy.close()
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    store = open_store(bucket_url, s3_environment)
    garbage = list(find_garbage(store, timedelta(0)))
    assert [one.reason for one in garbage] == ["unfinished"]
    done = subprocess.run(
        [str(PROGRAMS / "trace"), "gc", "--older-than-hours", "0", "--delete"],
        cwd=tmp_path,
        env={
            **clean_environment(),
            **s3_environment,
            "TRACE_OBJECT_STORE_URL": bucket_url,
            "TRACE_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
