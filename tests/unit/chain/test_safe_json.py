"""JSON that is nested deeply ends in an error, never in the end of the process."""

import json
import sys
from collections.abc import Iterator

import pytest

from trace_dagster.chain.decoding.safe_json import MAX_DEPTH, loads


@pytest.fixture(params=[1_000, 100_000])
def limit(request: pytest.FixtureRequest) -> Iterator[int]:
    """The interpreter's own limit, and the one that py_ecc sets when it is imported."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, request.param) if request.param > 1_000 else 1_000)
    yield request.param
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
@pytest.mark.usefixtures("limit")
def test_deep_nesting_is_an_error(text: str) -> None:
    """Closed or not, lists or objects."""
    with pytest.raises(ValueError, match=r"nested|Expecting"):
        loads(text)


@pytest.mark.usefixtures("limit")
def test_brackets_in_strings_count_for_nothing() -> None:
    """Neither do they hide depth, nor are they taken for it."""
    flat = ["[" * 2_000, '\\"[{' * 1_000, "]" * 2_000]
    assert loads(json.dumps(flat)) == flat
    hidden = "[" * 1_000 + '"' + "]" * 2_000 + '"'
    with pytest.raises(ValueError, match=r"nested|Expecting"):
        loads("[" * 200_000 + hidden)


@pytest.mark.usefixtures("limit")
def test_ordinary_depth_passes() -> None:
    """Up to the bound, and wide ones of any length."""
    depth = MAX_DEPTH - 10
    assert loads("[" * depth + "]" * depth) == json.loads("[" * depth + "]" * depth)
    wide = [{"a": [index]} for index in range(1_000)]
    assert loads(json.dumps(wide)) == wide


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "", "{", '"\\', "1" * 5_000])
def test_what_is_no_json(text: str) -> None:
    """Other wrong text is a ValueError too."""
    with pytest.raises(ValueError, match=r"."):
        loads(text)
