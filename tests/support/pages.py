"""A report as a person reads it: its tags, its texts, and what its scripts are given."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any


def texts_of(content: Any) -> Iterator[str]:
    """Every text in JSON values, names included."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from texts_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts_of(value)
    elif isinstance(content, str):
        yield content


class Page(HTMLParser):
    """Everything that is opened has to be closed.

    Attributes:
        figures: names of the figures that the page's script draws.
        content: what it draws them from.
    """

    VOID = ("img", "br", "meta", "input")

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.figures = [value for name, value in self.attributes if name == "data-figure"]
        self.content: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What stands in the page, and the texts that its script puts there."""
        return " ".join(" ".join([*self.texts, *texts_of(self.content)]).split())
