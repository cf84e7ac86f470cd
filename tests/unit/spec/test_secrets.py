"""What counts as a secret, and what does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_dagster.spec.document import read_document
from trace_dagster.spec.findings import Findings
from trace_dagster.spec.secrets import find_in_comment, find_secret

HEX64 = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("endpoint", "https://eth-mainnet.g.alchemy.com/v2/abc"),
        ("x", "eth-mainnet.g.alchemy.com/v2/abc"),
        ("x", "see wss://mainnet.infura.io/ws/v3/9f86d081884c7d659a2feaa0c55ad015 for it"),
        ("x", "http://localhost:8545"),
        ("x", "https://rpc.example.com"),
        ("x", "https://example.com/monad/rpc"),
        ("rpc_url", "https://node.example.com"),
        ("x", "https://user:pass@example.com/"),
        ("x", "https://9f86d081884c7d659a2feaa0c55ad015@example.com/"),
        ("x", "https://api.example.com/v1?apikey=1"),
        ("x", "https://api.example.com/v1?x=Zm9vYmFyYmF6cXV4OTk"),
        ("x", "https://api.example.com/v1/Zm9vYmFy12YmF6cXV4"),
        ("x", "https://[::1"),
        ("x", "postgresql://trace:hunter2@db/trace"),
        ("x", "AKIAIOSFODNN7EXAMPLE"),
        ("x", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("x", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefg"),
        ("x", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("x", "xoxb-1234567890-abcdefgh"),
        ("x", "sk-proj-abcdefghij0123456789"),
        ("header", "Bearer abcdefghijklmnop1234"),
        ("x", "-----BEGIN EC PRIVATE KEY-----\nabc"),
        ("x", "9f86d081884c7d659a2feaa0c55ad015"),
        ("x", HEX64),
        ("x", "legal winner thank year wave sausage worth useful legal winner thank yellow"),
        ("password", "hunter2"),
        ("apiKey", "z"),
        ("client_secret", "12345"),
        ("private_key", f"0x{HEX64}"),
        ("signer_key", f"0x{HEX64}"),
        ("auth_token", "abc"),
    ],
)
def test_secret_is_found(key: str, text: str) -> None:
    """Keys, credentials and provider URLs are found by form, by place or by name."""
    finding = find_secret(key, text)
    assert finding is not None
    assert text not in f"{finding.problem} {finding.mend}"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("address", "0xdAC17F958D2ee523a2206206994597C13D831ec7"),
        ("topic0", f"0x{HEX64}"),
        ("block_hash", f"0x{HEX64}"),
        ("data", f"0xa9059cbb{'00' * 64}"),
        ("token", "0xdAC17F958D2ee523a2206206994597C13D831ec7"),
        ("token", "USDC"),
        ("unique_key", "block_hash"),
        ("partition_key", "transaction_index"),
        ("url", "https://api.example.com/v1/prices?symbol=ETH"),
        ("url", "https://api.example.com/monad-mainnet-prices-2026/daily"),
        ("url", "https://example.com/token/0xdAC17F958D2ee523a2206206994597C13D831ec7"),
        ("store", "s3://my-bucket/cryo/10143/blocks/0_999/"),
        ("store", "file:///data/trace/store"),
        ("image", f"registry.example/cryo_ingest@sha256:{HEX64}"),
        ("id", "123e4567-e89b-12d3-a456-426614174000"),
        ("schedule", "*/5 * * * *"),
        ("secrets", "price_feed_key"),
        ("rpc_pool", "monad"),
        ("chain_id", "10143"),
        ("end_block", "18446744073709551615"),
        ("owners", "data-platform@example.com"),
        ("operator", "MonadMainnetBootstrapJob2026ForTeamA"),
        ("description", "Follows Monad from block 1000000 on, with basic authentication of the bearer."),
        ("name", "transactions_by_block_number_and_transaction_index"),
        ("index", "pk_block_number_transaction_index_log_index"),
    ],
)
def test_plain_config_is_no_secret(key: str, text: str) -> None:
    """Addresses, hashes, topics, names and plain URLs stand in DAG files by right."""
    assert find_secret(key, text) is None


def test_comment_is_judged_by_form_alone() -> None:
    """Comments are prose: only what is surely a secret counts."""
    assert find_in_comment("password: ask the team") is None
    assert find_in_comment("was AKIAIOSFODNN7EXAMPLE") is not None


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="abcXYZ0123456789'\"\\ \n\té", min_size=4, max_size=90).filter(lambda text: text.strip())
)
def test_secret_is_hidden_however_it_is_shown(secret: str) -> None:
    """A message that quotes, escapes or shortens a value does not give it away."""
    quoted = secret.replace("'", "''").replace("\n", "\n\n")
    document = read_document("dag.yaml", f"password: '{quoted}'\nother: 1".encode())
    if document.problems:
        return
    value = document.data["password"]
    findings = Findings(document)
    if findings.clean or len(value) < 4:  # folding took blanks away; so little is left as it is
        return
    findings.add(("other",), f"shows {value} and {value!r} and {value.strip()}", "hide it")
    for problem in findings.problems():
        assert value not in str(problem)
