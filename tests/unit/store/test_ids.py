"""Identity of dataset versions."""

import pytest

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.store import DatasetId, canonical_json, config_hash
from trace_dagster.store.ids import ObjectPath

ID = DatasetId(10143, "blocks", BlockRange.of(0, 999), config_hash({"engine": "stub"}))


def test_a_version_never_changes() -> None:
    """The same identity has this version for ever: paths in users' stores depend on it."""
    assert ID.version == "09e9a662-d814-50e6-9219-fc3ab65b6c3a"
    assert ID.prefix == f"cryo/10143/blocks/0_999/{ID.version}"


@pytest.mark.parametrize(
    "other",
    [
        DatasetId(1, "blocks", ID.range, ID.config_hash),
        DatasetId(10143, "logs", ID.range, ID.config_hash),
        DatasetId(10143, "blocks", BlockRange.of(0, 998), ID.config_hash),
        DatasetId(10143, "blocks", ID.range, config_hash({"engine": "cryo"})),
    ],
)
def test_every_part_of_an_identity_changes_the_version(other: DatasetId) -> None:
    """Chain, dataset, range and config each make another version."""
    assert other.version != ID.version


def test_config_hash_ignores_the_order_of_keys() -> None:
    """Two mappings that say the same have the same hash."""
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})


def test_canonical_json_refuses_numbers_that_json_lacks() -> None:
    """Not-a-number would not be equal to itself, so it has no canonical form."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_objects_are_numbered_only_where_there_are_several() -> None:
    """The range stays visible in each name, its end inclusive."""
    assert ID.object_names(1) == ("blocks_0_999.parquet",)
    assert ID.object_names(2) == ("blocks_0_999_0001.parquet", "blocks_0_999_0002.parquet")


def test_a_dataset_name_cannot_leave_its_folder() -> None:
    """A name with path characters is refused."""
    with pytest.raises(ValueError, match="no dataset name"):
        DatasetId(1, "../x", ID.range, ID.config_hash)


def test_object_paths_are_read_back() -> None:
    """What an identity writes, a reader understands; anything else is left alone."""
    path = ObjectPath.parse(f"{ID.prefix}/blocks_0_999.parquet")
    assert path == ObjectPath(ID.prefix, "blocks", ID.range, ID.version, "blocks_0_999.parquet")
    for foreign in ("cryo/1/blocks/README", f"cryo/1/blocks/9_1/{ID.version}/x", "other/file"):
        assert ObjectPath.parse(foreign) is None
