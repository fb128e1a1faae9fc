"""Foreign XML: a parser that refuses a DOCTYPE, and a census of a document's elements."""

from collections import Counter
from xml.etree import ElementTree as ET

from ai_how.errors import HostError

MARK_NAMESPACE = "urn:ai-how:cluster:1"


def read_xml(text: str) -> ET.Element:
    """The root element of a document. Raises HostError for a DOCTYPE and for invalid XML."""
    parser = ET.XMLParser(target=_WithoutDoctype())  # noqa: S314  no DOCTYPE, so no entities
    try:
        parser.feed(text)
        root = parser.close()
    except (ET.ParseError, ValueError) as error:
        raise HostError("this XML cannot be read", details=str(error)) from error
    if not isinstance(root, ET.Element):
        raise HostError("this XML cannot be read", details="it has no root element")
    return root


def census(root: ET.Element) -> Counter[tuple[str, tuple[str, ...]]]:
    """The number of elements by name and set of attribute names."""
    return Counter((element.tag, tuple(sorted(element.attrib))) for element in root.iter())


class _WithoutDoctype(ET.TreeBuilder):
    def doctype(self, name: str, _public_id: str | None, _system: str | None) -> None:
        raise HostError(f"XML with a DOCTYPE ({name}) is refused")
