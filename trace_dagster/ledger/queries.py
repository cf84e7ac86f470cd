"""The statements of ``queries.sql``, by name."""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Final, LiteralString, cast

__all__ = ["QUERIES"]

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def _load() -> Mapping[str, LiteralString]:
    text = resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    # A file of the package is as good as a literal: nothing of a user's is in it.
    return {
        name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


QUERIES: Final = _load()
