"""PyYAML's words about broken syntax, in words that say what to do."""

import yaml

from trace_dagster.spec.problems import Mark

__all__ = ["explain_syntax"]

# The start of PyYAML's problem, what is wrong, what to write. First match wins. PyYAML's own text is never
# shown: it may quote the file, and with it a secret.
_EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    ("found character '\\t'", "a tab where YAML wants spaces", "indent with spaces"),
    ("found character", "a value that starts with a character that YAML keeps for itself", "quote the value"),
    (
        "mapping values are not allowed",
        "a second `: ` in a line, or a line indented too far",
        "quote text that holds `: `, or mend the indentation",
    ),
    (
        "expected <block end>",
        "a line that belongs to nothing around it",
        "indent the items of one list or mapping alike",
    ),
    ("could not find expected ':'", "a key without a colon", "write `key: value`"),
    (
        "found undefined alias",
        "an alias (*name) that no anchor (&name) defines",
        "define the anchor before it, or quote text that starts with *",
    ),
    ("found duplicate anchor", "an anchor (&name) that is defined twice", "give it another name"),
    ("found unexpected end of stream", "a quote that is never closed", "close it"),
    ("found unexpected document separator", "a quote that is never closed", "close it"),
    ("expected ',' or ']'", "a list [...] that is not closed, or lacks a comma", "write [a, b]"),
    ("expected ',' or '}'", "a mapping {...} that is not closed, or lacks a comma", "write {a: 1, b: 2}"),
    ("expected the node content", "a value is missing here", "write one, or close what is open before it"),
    (
        "found unknown escape character",
        "an escape that YAML does not know",
        "write \\\\ for a backslash, or use single quotes",
    ),
    (
        "expected escape sequence of",
        "an escape that is too short",
        "write \\xNN, \\uNNNN or \\UNNNNNNNN in base sixteen",
    ),
    (
        "sequence entries are not allowed",
        "a list item (- ...) where none can stand",
        "put it on a line of its own, indented below its key",
    ),
    (
        "block sequence entries",
        "a list item (- ...) where none can stand",
        "put it on a line of its own, indented below its key",
    ),
    ("expected '<document start>'", "something after the end of the document", "write one document per file"),
    ("found undefined tag handle", "a YAML tag (!...)", "remove it; quote the value if it is text"),
)
_OTHERWISE = ("not readable as YAML", "mend or quote what stands here")


def explain_syntax(error: yaml.MarkedYAMLError) -> tuple[Mark, str, str]:
    """Return where the syntax breaks, what is wrong, and what to write."""
    said = error.problem or ""
    problem, mend = next((words for start, *words in _EXPLANATIONS if said.startswith(start)), _OTHERWISE)
    unclosed = said.startswith(("found unexpected", "expected ',' or"))
    place = (error.context_mark if unclosed else None) or error.problem_mark or error.context_mark
    return Mark(1, 1) if place is None else Mark(place.line + 1, place.column + 1), problem, mend
