"""Field types that models of the spec and of operators' configs share."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from trace_dagster.spec.schedules import ScheduleProblem, to_cron

__all__ = ["MAX_INTEGER", "NAME_PATTERN", "BlockNumber", "ChainId", "Name", "Owner", "Schedule"]

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
MAX_INTEGER = 2**63 - 1
_OWNER = r"team:[A-Za-z0-9_-]+|[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Lower-case letters, digits and underscores; at most 63, as in a Postgres identifier."""

BlockNumber = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""A block's number; blocks count from 0."""

ChainId = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
"""An EVM chain's id."""


def _check_schedule(text: str) -> str:
    try:
        to_cron(text)
    except ScheduleProblem as error:
        raise ValueError(str(error)) from None
    return text


def _check_owner(text: str) -> str:
    if re.fullmatch(_OWNER, text) is None:
        raise ValueError(f"{text!r} is no owner; write an e-mail address, or team: and a name")
    return text


Owner = Annotated[str, AfterValidator(_check_owner)]
"""An e-mail address, or ``team:name``, as Dagster takes them."""

Schedule = Annotated[str, AfterValidator(_check_schedule)]
"""Cron text of five fields, or ``rate(N minutes|hours|days)``, as it was written."""
