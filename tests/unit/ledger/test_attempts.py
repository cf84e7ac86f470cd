"""Attempts without a database."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from trace_dagster.errors import AttemptLost, DataMismatch, LedgerUnavailable
from trace_dagster.ledger.attempts import Attempt, _one_line


class GonePostgres:
    """Answers the claim, and is away ever after."""

    def rows(self, query: str, _parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Answer one statement."""
        if query == "claim":
            return [{"number": 1}]
        raise LedgerUnavailable("away")


def test_an_attempt_that_cannot_renew_its_lease_finds_itself_lost() -> None:
    """Without a heartbeat for a whole lease it stops by its own clock, as nobody can tell it."""
    attempt = Attempt(GonePostgres(), "dag/job/0_9", "run", 2)  # type: ignore[arg-type]
    attempt.claim(time.monotonic())
    with pytest.raises(LedgerUnavailable):
        attempt.still_mine()
    attempt._heartbeat.join(60)
    with pytest.raises(AttemptLost, match=r"1 of dag/job/0_9 .* no heartbeat reached Postgres for 2 s"):
        attempt.still_mine()
    with pytest.raises(AttemptLost), attempt.fenced():
        pass
    attempt.release(None)


def test_only_our_own_errors_are_recorded_with_their_text() -> None:
    """Foreign text may hold a credential; ours does not, and is kept in one line of bounded length."""
    assert _one_line(DataMismatch("rows\n  differ")) == "DataMismatch: rows differ"
    assert _one_line(ValueError("https://user:secret@host")) == "ValueError"
    assert len(_one_line(DataMismatch("x" * 10_000))) == 500
