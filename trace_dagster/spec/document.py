"""YAML text -> plain data in which every value knows its place."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.composer import Composer
from yaml.events import AliasEvent, NodeEvent
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from trace_dagster.spec.problems import Mark, Path, Problem, dotted, shown
from trace_dagster.spec.scalars import AmbiguousScalar, read_plain
from trace_dagster.spec.syntax import explain_syntax

__all__ = ["MAX_BYTES", "Document", "read_document"]

MAX_BYTES: Final = 2**20
_MAX_DEPTH: Final = 40
_MAX_VALUES: Final = 100_000
_PLAIN, _QUOTED = "plain", "quoted"
_UNUSABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data.

    Attributes:
        file: its name, as it was asked for.
        text: its text.
        data: mappings, lists, strings, numbers, booleans and None.
        marks: where each value stands.
        key_marks: where each mapping's key stands.
        problems: what is wrong with the YAML itself.
        unreadable: paths whose value is not what was written, because of one of ``problems``.
    """

    file: str
    text: str = ""
    data: Any = None
    marks: Mapping[Path, Mark] = field(default_factory=dict)
    key_marks: Mapping[Path, Mark] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unreadable: frozenset[Path] = frozenset()

    def mark(self, path: Path, *, at_key: bool = False) -> Mark:
        """Return the place of ``path``, or of the nearest value around it."""
        if at_key and path in self.key_marks:
            return self.key_marks[path]
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))

    def get(self, path: Path) -> Any:
        """Return the value at ``path``, None where there is none."""
        value = self.data
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def read_document(file: str, content: bytes, *, least: str = "name and jobs") -> Document:
    """Read one YAML document; what is wrong with it is in ``problems``.

    Args:
        file: its name, as it was asked for.
        content: its bytes.
        least: what it must hold, for the message about a file that is empty.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        problem = f"the file is {'UTF-16' if utf16 else 'not UTF-8'}"
        return _failed(file, "", _mark_of_byte(content, error.start), problem, "save it as UTF-8")
    composed = _compose(text, least)
    if isinstance(composed, yaml.Node):
        return _Builder(file, text).build(composed)
    return _failed(file, text, *composed)


def _compose(text: str, least: str) -> yaml.Node | tuple[Mark, str, str]:
    """Return the root node, or where the text stops to be YAML, why, and what to write."""
    try:
        root = _Composer(text).get_single_node()
    except _Refused as refusal:
        return refusal.mark, refusal.problem, refusal.mend
    except ReaderError as error:
        mark = _mark_of_character(text, error.position)
        return mark, "a character that YAML does not allow", "remove it, or write it as an escape in quotes"
    except yaml.MarkedYAMLError as error:
        return explain_syntax(error)
    except (ValueError, OverflowError):
        return (
            Mark(1, 1),
            "an escape or a number that does not exist",
            "mend the quoted text that holds a \\U",
        )
    if root is None:
        return Mark(1, 1), "the file holds no YAML", f"write at least {least}"
    return root


def _failed(file: str, text: str, mark: Mark, problem: str, mend: str) -> Document:
    return Document(file, text, problems=(Problem(file, *mark, "document", problem, mend),))


def _mark_of_byte(content: bytes, position: int) -> Mark:
    before = content[:position]
    return Mark(before.count(b"\n") + 1, position - (before.rfind(b"\n") + 1) + 1)


def _mark_of_character(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Refused(Exception):
    """The composer met something that is YAML, but not of this format."""

    def __init__(self, at: yaml.Node | yaml.Event, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.mark, self.problem, self.mend = _mark(at), problem, mend


class _Composer(Reader, Scanner, Parser, Composer):
    """PyYAML's composer with a limit on depth, which keeps its recursion short, and without its tags."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        self.get_event()  # type: ignore[no-untyped-call]
        root = None if self.check_event(yaml.StreamEndEvent) else self.compose_document()
        if not self.check_event(yaml.StreamEndEvent):
            second = self.get_event()  # type: ignore[no-untyped-call]
            raise _Refused(second, "a second document", "write one document per file and remove this ---")
        return root

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth >= _MAX_DEPTH:
            raise _Refused(event, f"nested deeper than {_MAX_DEPTH} levels", "write it flatter")
        self._refuse_tag(event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @staticmethod
    def _refuse_tag(event: NodeEvent) -> None:
        tag = None if isinstance(event, AliasEvent) else getattr(event, "tag", None)
        if tag is not None:
            raise _Refused(event, "a YAML tag (!...)", "remove it; quote the value if it is text")

    def descend_resolver(self, current_node: object, current_index: object) -> None:
        """Do nothing: there are no tags to resolve."""

    def ascend_resolver(self) -> None:
        """Do nothing: there are no tags to resolve."""

    def resolve(self, kind: type, value: str | None, implicit: Any) -> str:  # noqa: ARG002
        """Return whether a scalar was written without quotes."""
        return _PLAIN if isinstance(implicit, tuple) and implicit[0] else _QUOTED


class _Builder:
    """Turns nodes into data, and collects what is wrong on the way."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text
        self._marks: dict[Path, Mark] = {}
        self._key_marks: dict[Path, Mark] = {}
        self._problems: list[Problem] = []
        self._unreadable: set[Path] = set()
        self._open: list[int] = []

    def build(self, root: yaml.Node) -> Document:
        try:
            data = self._value(root, ())
        except _Refused as refusal:
            return _failed(self._file, self._text, refusal.mark, refusal.problem, refusal.mend)
        return Document(
            file=self._file,
            text=self._text,
            data=data,
            marks=self._marks,
            key_marks=self._key_marks,
            problems=tuple(self._problems),
            unreadable=frozenset(self._unreadable),
        )

    def _add(self, path: Path, mark: Mark, problem: str, mend: str) -> None:
        self._problems.append(Problem(self._file, *mark, dotted(path), problem, mend))
        self._unreadable.add(path)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._guard(node)
        self._marks[path] = _mark(node)
        self._open.append(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            value = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            value = self._scalar(node, path)
        self._open.pop()
        return value

    def _guard(self, node: yaml.Node) -> None:
        if id(node) in self._open:
            raise _Refused(node, "an alias inside the value that it stands for", "write the value out")
        if len(self._marks) >= _MAX_VALUES or len(self._open) >= 2 * _MAX_DEPTH:
            raise _Refused(
                node,
                f"more than {_MAX_VALUES} values once every alias is written out",
                "split the file, or use fewer aliases",
            )

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text: str = node.value
        if _UNUSABLE.search(text):
            self._add(path, _mark(node), "the text holds a control character", "remove the escape")
            return None
        value = read_plain(text) if node.tag == _PLAIN else text
        if isinstance(value, AmbiguousScalar):
            self._add(path, _mark(node), value.problem, value.mend)
            return text
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        first: dict[str, Mark] = {}
        found: dict[str, Any] = {}
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in first:
                self._repeated(key, key_node, path, first[key])
                continue
            first[key] = _mark(key_node)
            if key == "<<" and key_node.tag == _PLAIN:
                merges.append(value_node)
                continue
            self._key_marks[*path, key] = first[key]
            found[key] = self._value(value_node, (*path, key))
        for source in merges:
            self._merge(source, path, found)
        return found

    def _repeated(self, key: str, node: yaml.Node, path: Path, first: Mark) -> None:
        mark = _mark(node)
        name = dotted((*path, key))
        problem = f"{shown(key)} is written twice, first on line {first.line}"
        self._problems.append(Problem(self._file, *mark, name, problem, "remove one of them"))

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or not node.value or _UNUSABLE.search(node.value):
            self._add(
                path,
                _mark(node),
                "a key that is not plain text",
                "write `key: value`, with a name as the key",
            )
            return None
        return str(node.value)

    def _merge(self, source: yaml.Node, path: Path, found: dict[str, Any]) -> None:
        for mapping in _merge_sources(source):
            if not isinstance(mapping, yaml.MappingNode):
                self._add(
                    (*path, "<<"), _mark(mapping), "<< takes a mapping", "write `<<: *anchor` of a mapping"
                )
                continue
            self._guard(mapping)
            self._open.append(id(mapping))
            for key_node, value_node in mapping.value:
                key = self._key(key_node, path)
                if key == "<<":
                    self._merge(value_node, path, found)
                elif key is not None and key not in found:
                    self._key_marks[*path, key] = _mark(key_node)
                    found[key] = self._value(value_node, (*path, key))
            self._open.pop()


def _merge_sources(source: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(source, yaml.SequenceNode):
        yield from source.value
    else:
        yield source


def _mark(at: yaml.Node | yaml.Event) -> Mark:
    start = at.start_mark
    return Mark(1, 1) if start is None else Mark(start.line + 1, start.column + 1)
