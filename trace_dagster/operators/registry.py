"""The operators, by name: the built-in ones and those of other packages (entry points)."""

from functools import cache
from importlib.metadata import entry_points

from trace_dagster.errors import ConfigurationError
from trace_dagster.operators.base import Operator
from trace_dagster.operators.block_follower import BlockFollower
from trace_dagster.operators.cryo_ingest.operator import CryoIngest
from trace_dagster.operators.range_aggregator import RangeAggregator
from trace_dagster.operators.range_request import RangeRequest
from trace_dagster.operators.range_splitter import RangeSplitter
from trace_dagster.spec.catalog import Catalog

__all__ = ["ENTRY_POINT_GROUP", "RESERVED", "catalog", "operators"]

ENTRY_POINT_GROUP = "trace_dagster.operators"

# Names of the DAG format whose operators this version does not have.
RESERVED = frozenset({"parquet_compact", "integrity_check", "cron_source", "http_source"})

_BUILT_IN: tuple[Operator, ...] = (
    RangeRequest(),
    RangeSplitter(),
    RangeAggregator(),
    CryoIngest(),
    BlockFollower(),
)


@cache
def operators() -> dict[str, Operator]:
    """Return every operator by name.

    Raises:
        ConfigurationError: a package offers an operator under a name that is taken.
    """
    found = {operator.name: operator for operator in _BUILT_IN}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        operator: Operator = entry_point.load()()
        if operator.name in found:
            raise ConfigurationError(
                f"entry point {entry_point.value} offers operator {operator.name!r}, a name that is taken; "
                "rename it or remove that package"
            )
        found[operator.name] = operator
    return found


@cache
def catalog() -> Catalog:
    """Return the declarations of every operator, for the spec."""
    return Catalog(operators=operators(), reserved=RESERVED - operators().keys())
