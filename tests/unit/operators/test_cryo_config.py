"""The config of cryo_ingest."""

import pytest
from pydantic import ValidationError

from trace_dagster.operators.cryo_ingest.config import CryoIngestConfig

ADDRESS = "0x" + "ab" * 20


def test_short_dataset_names_become_cryos_own() -> None:
    """What Cryo takes on its command line is accepted, in the given order."""
    config = CryoIngestConfig(chain_id=1, datasets=("txs", "events"), rpc_pool="main")
    assert config.datasets == ("transactions", "logs")


def test_one_filter_value_may_stand_without_a_list() -> None:
    """A single address is the usual case."""
    config = CryoIngestConfig.model_validate(
        {"chain_id": 1, "datasets": ("logs",), "rpc_pool": "main", "filters": {"address": ADDRESS}}
    )
    assert config.filters == {"address": (ADDRESS,)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": ("blokcs",)}, "did you mean 'blocks'"),
        ({"datasets": ("txss",)}, "did you mean 'txs'"),
        ({"datasets": ("txs", "transactions")}, "listed twice"),
        ({"rpc_pool": None}, "rpc_pool is missing"),
        ({"filters": {"adress": (ADDRESS,)}}, "did you mean 'address'"),
        ({"filters": {"slot": (ADDRESS,)}}, "filters.slot does not apply to blocks"),
        ({"datasets": ("logs",), "filters": {"address": ("wallets.csv",)}}, "write 0x and 40 hex digits"),
        ({"datasets": ("balances",)}, "dataset balances needs filters.address"),
        ({"chain_id": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_configs_say_what_to_write(change: dict[str, object], message: str) -> None:
    """Each mistake is named with its mend."""
    good: dict[str, object] = {"chain_id": 1, "datasets": ("blocks",), "rpc_pool": "main"}
    with pytest.raises(ValidationError, match=message):
        CryoIngestConfig.model_validate({**good, **change})
