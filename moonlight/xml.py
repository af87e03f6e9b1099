"""The XML that every GameStream answer is: read with bounds, written as hosts write it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from moonlight.errors import Malformed, ProtocolError, TooLarge, quoted

max_depth: Final = 16
max_elements: Final = 16_384

_declaration: Final = '<?xml version="1.0" encoding="utf-8"?>\n'
_not_xml: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_escapes: Final = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        '"': "&quot;",
        "'": "&apos;",
        "\r": "&#13;",
        "\n": "&#10;",
        "\t": "&#9;",
    }
)
_status_code: Final = re.compile(r"-?[0-9]{1,10}")


class HostRefused(ProtocolError):
    """A host answered with an error; `status_code` and the message are its own."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__("host_refused", message)
        self.status_code = status_code


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its own text, then its children.

    GameStream never mixes the two, so text between children is not told from text before them.
    """

    name: str
    text: str = field(default="", repr=False)
    children: tuple[Element, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    def walk(self) -> Iterator[Element]:
        """Give this element and all below it, in the order of the text."""
        yield self
        for child in self.children:
            yield from child.walk()

    def child_text(self, name: str) -> str | None:
        """Give the text of the first direct child of that name."""
        return next((child.text for child in self.children if child.name == name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's ``<root>``: attributes in order (``status_code`` among them) and elements."""

    attributes: tuple[tuple[str, str], ...]
    elements: tuple[Element, ...] = ()

    @classmethod
    def ok(cls, *elements: Element) -> Answer:
        """Build the answer of a request that went well."""
        return cls((("status_code", "200"),), elements)

    @classmethod
    def error(cls, status_code: int, message: str, query: str | None = None) -> Answer:
        """Build a refusal; the client shows `message` to a person. `query` is the path asked."""
        asked = () if query is None else (("query", query),)
        return cls((("status_code", str(status_code)), *asked, ("status_message", message)))

    @property
    def status_code(self) -> int:
        """What GameStream means by HTTP's status; 200 is good."""
        return int(dict(self.attributes)["status_code"])

    @property
    def status_message(self) -> str:
        """The host's own words about an error, made safe; empty if it has none."""
        return quoted(dict(self.attributes).get("status_message", ""), 200)

    def checked(self) -> Answer:
        """Give this answer if it is a good one, raise `HostRefused` otherwise."""
        if self.status_code != 200:
            said = self.status_message or "without a message"
            raise HostRefused(
                self.status_code, f"The host answered with error {self.status_code}: {said}."
            )
        return self

    def text(self, name: str) -> str | None:
        """Give the text of the first element of that name, at any depth."""
        return next((element.text for element in self._walk() if element.name == name), None)

    def all(self, name: str) -> tuple[Element, ...]:
        """Give all elements of that name, at any depth, in order."""
        return tuple(element for element in self._walk() if element.name == name)

    def _walk(self) -> Iterator[Element]:
        for element in self.elements:
            yield from element.walk()

    def encode(self) -> bytes:
        """Write the answer as Wolf does: declaration, line end, and one line of elements."""
        root = Element("root", children=self.elements, attributes=self.attributes)
        return (_declaration + _written(root)).encode()

    @classmethod
    def parse(cls, data: bytes, max_bytes: int = 1 << 20) -> Answer:
        """Read an answer. Raises `Malformed` or `TooLarge`; a DOCTYPE is malformed."""
        if len(data) > max_bytes:
            raise TooLarge("xml_too_large", f"An XML answer has more than {max_bytes} bytes.")
        root = _TreeBuilder().build(data)
        if root.name != "root":
            raise Malformed("bad_xml", "The XML answer's outermost element is not <root>.")
        status_code = dict(root.attributes).get("status_code", "")
        if not _status_code.fullmatch(status_code):
            raise Malformed("bad_xml", "The XML answer has no numeric status_code.")
        return cls(root.attributes, root.children)


def text_element(name: str, text: str | int) -> Element:
    """Build the commonest element: a name and a text."""
    return Element(name, str(text))


def _escaped(text: str) -> str:
    return _not_xml.sub("\ufffd", text).translate(_escapes)


def _written(element: Element) -> str:
    attributes = "".join(f' {name}="{_escaped(value)}"' for name, value in element.attributes)
    inner = _escaped(element.text) + "".join(map(_written, element.children))
    if not inner:
        return f"<{element.name}{attributes}/>"
    return f"<{element.name}{attributes}>{inner}</{element.name}>"


class _Open:
    """An element whose end has not come yet."""

    def __init__(self, name: str, attributes: list[str]) -> None:
        self.name = name
        self.attributes = tuple(zip(attributes[::2], attributes[1::2], strict=True))
        self.text: list[str] = []
        self.children: list[Element] = []

    def closed(self) -> Element:
        return Element(self.name, "".join(self.text), tuple(self.children), self.attributes)


class _TreeBuilder:
    """Builds the tree out of expat's events and stops it at the first thing beyond the bounds."""

    def __init__(self) -> None:
        self._open = [_Open("", [])]
        self._count = 0

    def build(self, data: bytes) -> Element:
        # An encoding of its own overrides the document's: answers are UTF-8.
        parser = expat.ParserCreate("utf-8")
        parser.ordered_attributes = True
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise Malformed(
                "bad_xml", f"The answer is not well-formed XML: {expat.ErrorString(error.code)}."
            ) from None
        return self._open[0].children[0]

    def _start(self, name: str, attributes: list[str]) -> None:
        self._count += 1
        if self._count > max_elements or len(self._open) > max_depth:
            raise TooLarge("xml_too_large", "The XML answer has too many elements or levels.")
        self._open.append(_Open(name, attributes))

    def _end(self, name: str) -> None:
        element = self._open.pop().closed()
        self._open[-1].children.append(element)

    def _characters(self, text: str) -> None:
        self._open[-1].text.append(text)

    def _doctype(self, *_: object) -> None:
        # Without one there are no entities, and nothing can expand.
        raise Malformed("bad_xml", "An XML answer with a DOCTYPE is not accepted.")
