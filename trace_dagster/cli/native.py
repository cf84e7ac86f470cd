"""What ``trace extract`` and ``trace quote`` share: their options, and what these say together."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from pydantic import ValidationError

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig
from trace_dagster.rpc import JsonRpcClient
from trace_dagster.rpc.client import log_no_retries
from trace_dagster.settings import RpcEndpoint, Settings
from trace_dagster.spec.fields import MAX_INTEGER

__all__ = ["Asked", "ask", "asked_options"]

_BLOCK: Final = re.compile("[0-9]{1,19}")


@dataclass(frozen=True)
class Asked:
    """What a command is asked for.

    Attributes:
        config: the config of such a job.
        range: the blocks, both ends inclusive.
        endpoint: of the pool.
    """

    config: CryoIngestConfig
    range: BlockRange
    endpoint: RpcEndpoint


def asked_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that name datasets, blocks and pool."""
    for option in (
        click.option(
            "--max-concurrent-requests", type=int, help="Most HTTP requests in flight; as in a job's config."
        ),
        click.option(
            "--filter",
            "filters",
            multiple=True,
            metavar="NAME=VALUE",
            help="Keep only such rows; repeatable.",
        ),
        click.option(
            "--rpc-pool", required=True, help="The pool to ask: a gateway's, or TRACE_RPC_POOL_<NAME>_URL."
        ),
        click.option(
            "--blocks",
            required=True,
            metavar="START:END",
            help="The first block, and the block after the last one, as in Cryo.",
        ),
        click.argument("datasets", nargs=-1, required=True),
    ):
        function = option(function)
    return function


def ask(
    datasets: Sequence[str], blocks: str, rpc_pool: str, filters: Sequence[str], **limits: int | None
) -> Asked:
    """Return what the options ask for; the chain id is the endpoint's.

    Raises:
        click.BadParameter: an option cannot be used.
        TraceError: a setting is missing, or the endpoint does not answer.
    """
    log_no_retries()
    wanted = _range(blocks)
    endpoint = Settings.from_environment(os.environ).rpc_endpoint(rpc_pool)
    held: dict[str, list[str]] = {}
    for item in filters:
        name, _, value = item.partition("=")
        held.setdefault(name, []).append(value)
    with JsonRpcClient(endpoint) as client:
        chain_id, head = client.chain_id(), client.block_number()
    if chain_id > MAX_INTEGER:
        raise ConfigurationError(f"rpc_pool {rpc_pool!r} says that its chain is {chain_id}, which cannot be")
    if head < wanted.end_block:
        raise click.BadParameter(
            f"block {wanted.end_block} does not exist yet at rpc_pool {rpc_pool!r}, whose head is block "
            f"{head}; write an END of {head + 1} or less, or wait for {wanted.end_block - head} more blocks",
            param_hint="--blocks",
        )
    try:
        config = CryoIngestConfig(
            chain_id=chain_id,
            datasets=tuple(datasets),
            rpc_pool=rpc_pool,
            engine="native",
            filters={name: tuple(values) for name, values in held.items()},
            **{name: value for name, value in limits.items() if value is not None},
        )
    except ValidationError as error:
        problems = [one for one in error.errors() if one["type"] != "too_short"] or error.errors()
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in problems]
        raise ConfigurationError("; ".join(line.replace("Value error, ", "") for line in lines)) from None
    return Asked(config, wanted, endpoint)


def _range(text: str) -> BlockRange:
    first, colon, after = text.replace("_", "").partition(":")
    if (
        not colon
        or not _BLOCK.fullmatch(first)
        or not _BLOCK.fullmatch(after)
        or not int(first) < int(after) <= MAX_INTEGER
    ):
        raise click.BadParameter(
            f"{text!r} is no range; write the first block, a colon, and the block after the last one: 0:1000",
            param_hint="--blocks",
        )
    return BlockRange.of(int(first), int(after) - 1)
