"""What can be said of a page without a browser: whether it can be read by name, by keyboard, and on a phone."""

import re
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
NARROW = 358
"""Pixels that a phone of 390 leaves between the page's margins."""


class Markup(HTMLParser):
    """Reads a page; `problems` says what is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._ids: set[str] = set()
        self._named: set[str] = set()
        """ids that a label is for."""
        self._unnamed: list[tuple[str, str | None]] = []
        self._counts = {"h1": 0, "title": 0, "main": 0}
        self._said: list[str] = []
        self.viewport = self.language = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag in self._counts and not self._within("svg"):
            self._counts[tag] += 1
        if (name := about.get("id")) is not None:
            if name in self._ids:
                self.problems.append(f"two elements have the id {name}")
            self._ids.add(name)
        self.language |= tag == "html" and bool(about.get("lang"))
        self.viewport |= tag == "meta" and about.get("name") == "viewport" and "width=device-width" in str(about)
        if tag == "label" and about.get("for"):
            self._named.add(str(about["for"]))
        asks = tag in ("input", "select", "textarea") and about.get("type") != "hidden"
        if asks and not (self._within("label") or about.get("aria-label")):
            self._unnamed.append((tag, about.get("id")))
        if tag == "table" and not any("scroll" in str(a.get("class", "")).split() for _, a in self._open):
            self.problems.append("a table is wider than a phone and does not scroll by itself")
        scrolls = tag == "pre" or "scroll" in str(about.get("class", "")).split()
        if scrolls and about.get("tabindex") != "0":
            self.problems.append("what scrolls cannot be reached by the keyboard")
        if tag == "img" and "alt" not in about:
            self.problems.append("a picture has no alt")
        if tag == "svg" and not (about.get("aria-label") or about.get("aria-hidden")):
            self.problems.append("a plot has no name")
        if tag == "a" and not about.get("href"):
            self.problems.append("a link leads nowhere")
        if "onclick" in about or str(about.get("href", "")).startswith("javascript:"):
            self.problems.append("a script stands in the page")
        if tag not in VOID:
            self._open.append((tag, about))
            if tag in ("a", "button"):
                self._said.append(about.get("aria-label") or "")

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            closed, _ = self._open.pop()
            if closed in ("a", "button") and not self._said.pop().strip():
                self.problems.append(f"a {closed} says nothing")
            if closed == tag:
                return

    def handle_data(self, data: str) -> None:
        self._said = [said + data for said in self._said]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._within("svg"):
            self.handle_starttag(tag, attrs)

    def _within(self, tag: str) -> bool:
        return any(opened == tag for opened, _ in self._open)

    def close(self) -> None:
        """Say what the whole page lacks."""
        super().close()
        self.problems += [f"a {tag} has no name" for tag, name in self._unnamed if name not in self._named]
        self.problems += [f"{count} {tag} elements" for tag, count in self._counts.items() if count != 1]
        self.problems += ["no lang"] * (not self.language) + ["no viewport"] * (not self.viewport)


def problems(page: str) -> list[str]:
    """What is wrong with a page's HTML."""
    reader = Markup()
    reader.feed(page)
    reader.close()
    return reader.problems


def too_wide(css: str) -> list[str]:
    """Fixed widths of a style sheet that a phone has no room for."""
    narrow = re.sub(r"@media print \{.*", "", css, flags=re.DOTALL)
    found = re.findall(r"(?<![\w-])(?:min-)?width:\s*(\d+)px", narrow)
    return [f"{width}px" for width in found if int(width) > NARROW]
