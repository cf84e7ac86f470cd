"""Does this text hold a secret or a provider's URL? Plain addresses, hashes and topics do not."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

__all__ = ["Finding", "find_in_comment", "find_secret"]

_POOL_MEND: Final = "write rpc_pool: <name>; provider URLs and their keys live in the RPC Egress Gateway"
_SECRET_MEND: Final = "take it out, replace it at its provider, and give its logical name under secrets"  # noqa: S105

_PATTERNS: Final = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY"),
        ("an AWS access key", r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z0-9]{16}\b"),
        ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"),
        ("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
        ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{16,}"),
        ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/\S+"),
        ("a Google key", r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}"),
        ("an API key", r"\b(?:sk|pk|rk)[-_](?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"),
        ("a registry token", r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{40,}|hf_[A-Za-z0-9]{30,})"),
        ("a SendGrid key", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
        ("credentials of an HTTP header", r"(?i)\b(?:bearer|basic)\s+(?=\S*[0-9])[A-Za-z0-9+/_.=-]{16,}"),
    )
)  # fmt: skip

_URL: Final = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+")
_RPC_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})
_PROVIDERS: Final = frozenset({
    "alchemy.com", "alchemyapi.io", "allthatnode.com", "allnodes.me", "ankr.com", "blastapi.io",
    "blockdaemon.com", "blockpi.network", "bloxroute.com", "chainnodes.org", "chainstack.com",
    "chainstacklabs.com", "cloudflare-eth.com", "drpc.org", "dwellir.com", "figment.io",
    "flashbots.net", "getblock.io", "grove.city", "hypersync.xyz", "infura.io", "lavanet.xyz",
    "llamarpc.com", "meowrpc.com", "moralis-nodes.com", "moralis.io", "nodereal.io", "nodies.app",
    "nownodes.io", "omniatech.io", "onfinality.io", "pokt.network", "publicnode.com", "quicknode.com",
    "quiknode.pro", "rivet.cloud", "rpcfast.com", "syndica.io", "tatum.io", "tenderly.co",
    "thirdweb.com", "tokenview.io", "unifra.io", "validationcloud.io", "zan.top", "zmok.io", "1rpc.io",
    "4everland.org",
})  # fmt: skip
_RPC_WORD: Final = re.compile(r"(?:^|[^a-z])(?:json-?rpc|rpc|geth|erigon|reth)(?:[^a-z]|$)")
_RPC_PORTS: Final = frozenset({8545, 8546, 8551})
_KEY_IN_QUERY: Final = re.compile(
    r"(?i)key|token|secret|password|passwd|^auth|credential|^sig(?:nature)?$|-signature$|^jwt$"
)

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS: Final = frozenset({
    "password", "passwd", "pwd", "passphrase", "passcode", "secret", "mnemonic", "credential",
    "credentials", "authorization", "apikey", "privatekey", "accesskey", "secretkey", "bearer",
})  # fmt: skip
_KEY_QUALIFIERS: Final = frozenset({
    "api", "private", "secret", "access", "signing", "encryption", "master", "service", "account",
    "auth", "client", "rpc", "provider", "gateway", "wallet", "deployer", "ssh", "deploy", "shared",
    "admin", "infura", "alchemy", "quicknode",
})  # fmt: skip
_TOKEN_QUALIFIERS: Final = frozenset({
    "auth", "access", "api", "bearer", "refresh", "id", "session", "secret", "gateway", "rpc", "github",
})  # fmt: skip
_URL_WORDS: Final = frozenset({"rpc", "provider", "endpoint", "node"})

_PUBLIC_HEX: Final = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_DIGEST: Final = re.compile(r"(?:sha256|sha512|sha1|md5)[:=-][0-9a-fA-F]+")
_UUID: Final = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BARE_HEX: Final = re.compile(r"[0-9a-fA-F]{32,}")
_PRIVATE_KEY_HEX: Final = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_+/=.-]{20,}")
_SEED_WORDS: Final = re.compile(r"[a-z]{3,8}(?: [a-z]{3,8})+")
_SEED_LENGTHS: Final = frozenset({12, 15, 18, 21, 24})
_LONG_SEGMENT: Final = 16
_MIXED: Final = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9]{10,}")


class Finding(NamedTuple):
    """A secret: what it looks like, and what to do. Never the secret itself."""

    problem: str
    mend: str


def find_secret(key: str, text: str) -> Finding | None:
    """Return what is secret about ``text``, which stands under ``key``, else None."""
    finding = _find_url(key, text) or _find_pattern(text) or _find_by_name(key, text)
    if finding is None and key != "description":
        finding = _find_by_shape(text)
    return finding


def find_in_comment(text: str) -> Finding | None:
    """Return what is secret about a comment, by its form alone."""
    return _find_url("", text) or _find_pattern(text)


def _secret(what: str) -> Finding:
    return Finding(f"looks like {what}", _SECRET_MEND)


def _find_pattern(text: str) -> Finding | None:
    return next((_secret(what) for what, pattern in _PATTERNS if pattern.search(text)), None)


def _find_url(key: str, text: str) -> Finding | None:
    for match in _URL.finditer(text):
        try:
            parts = urlsplit(match[0])
            port = parts.port
        except ValueError:
            return _secret("a URL that cannot be read")
        finding = _judge_url(key, parts, port)
        if finding is not None:
            return finding
    bare = text.lower().split("/")[0].split(":")[0]
    if " " not in bare and _is_provider(bare):
        return Finding("looks like the address of an RPC provider", _POOL_MEND)
    return None


def _judge_url(key: str, parts: SplitResult, port: int | None) -> Finding | None:
    host = (parts.hostname or "").lower()
    is_rpc = parts.scheme.lower() in _RPC_SCHEMES and (
        _is_provider(host)
        or port in _RPC_PORTS
        or _RPC_WORD.search(host) is not None
        or _RPC_WORD.search(parts.path.lower()) is not None
        or bool(_URL_WORDS & _words(key))
    )
    if is_rpc:
        return Finding("looks like the URL of an RPC provider", _POOL_MEND)
    if parts.password or (parts.username and len(parts.username) >= _LONG_SEGMENT):
        return _secret("a URL with credentials")
    query = [*parse_qsl(parts.query), *parse_qsl(parts.fragment)]
    in_query = any(_KEY_IN_QUERY.search(name) or _is_token(item) for name, item in query)
    if in_query or any(_is_token(segment) for segment in parts.path.split("/")):
        return _secret("a URL with a key in it")
    return None


def _is_provider(host: str) -> bool:
    labels = host.rstrip(".").split(".")
    return any(".".join(labels[start:]) in _PROVIDERS for start in range(len(labels) - 1))


def _is_token(segment: str) -> bool:
    """Whether a part of a URL is random text rather than words."""
    if len(segment) < _LONG_SEGMENT or _PUBLIC_HEX.fullmatch(segment):
        return False
    return any(_MIXED.fullmatch(piece) for piece in re.split(r"[-_.=]", segment)) or _is_random(segment)


def _find_by_name(key: str, text: str) -> Finding | None:
    words = _words(key)
    if not text.strip():
        return None
    if words & _SECRET_WORDS or ("key" in words and words & _KEY_QUALIFIERS):
        return _secret(f"the value of a secret, by its name {key[:40]!r}")
    if "token" in words and words & _TOKEN_QUALIFIERS and not _PUBLIC_HEX.fullmatch(text):
        return _secret(f"the value of a secret, by its name {key[:40]!r}")
    if words & {"key", "keys"} and _PRIVATE_KEY_HEX.fullmatch(text.strip()):
        return _secret("a private key")
    return None


def _words(key: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(key)}


def _find_by_shape(text: str) -> Finding | None:
    if _SEED_WORDS.fullmatch(text.strip()) and len(text.split()) in _SEED_LENGTHS:
        return _secret("a wallet's seed phrase")
    if any(_is_random(token) for token in _tokens(text)):
        return _secret("a key: a long random text")
    return None


def _tokens(text: str) -> Iterator[str]:
    for token in _TOKEN.findall(_DIGEST.sub(" ", _URL.sub(" ", text))):
        yield token.strip("=.")


def _is_random(token: str) -> bool:
    if _PUBLIC_HEX.fullmatch(token) or _UUID.fullmatch(token):
        return False
    if _BARE_HEX.fullmatch(token):
        return not token.isdigit() and _entropy(token) >= 3
    kinds = [_kind(character) for character in token]
    changes = sum(1 for one, next_one in pairwise(kinds) if one != next_one and (one, next_one) != ("A", "a"))
    return len(set(kinds) - {""}) == 3 and changes >= len(token) / 4 and _entropy(token) >= 4


def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    return ("a" if character.islower() else "A") if character.isalpha() else ""


def _entropy(text: str) -> float:
    """Return Shannon's entropy in bits per character."""
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())
