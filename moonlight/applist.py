"""``/applist``: the apps that a client may launch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from moonlight.errors import Malformed, TooLarge, printable
from moonlight.xml import Answer, Element, text_element

max_title_characters: Final = 200
max_app_id: Final = 2**31 - 1

_number: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class App:
    """An app: its title for people, its id for ``/launch``."""

    title: str
    id: int
    hdr: bool = False


def applist(apps: Iterable[App]) -> Answer:
    """Write the list, in the order given."""
    return Answer.ok(
        *(
            Element(
                "App",
                children=(
                    text_element("IsHdrSupported", int(app.hdr)),
                    text_element("AppTitle", app.title),
                    text_element("ID", app.id),
                ),
            )
            for app in apps
        )
    )


def parse_applist(answer: Answer, max_apps: int = 1024) -> tuple[App, ...]:
    """Read a host's list; titles are made printable.

    Raises `moonlight.xml.HostRefused`, `Malformed` and `TooLarge`.
    """
    elements = answer.checked().all("App")
    if len(elements) > max_apps:
        raise TooLarge("bad_applist", f"The host lists more than {max_apps} apps.")
    return tuple(_parse_app(element) for element in elements)


def _parse_app(element: Element) -> App:
    title = element.child_text("AppTitle")
    app_id = element.child_text("ID") or ""
    if not title:
        raise Malformed("bad_applist", "The host lists an app without a title.")
    if not _number.fullmatch(app_id) or not 0 < int(app_id) <= max_app_id:
        raise Malformed(
            "bad_applist",
            f"The host's app {printable(title)} has no id between 1 and {max_app_id}.",
        )
    return App(
        title=printable(title, max_title_characters),
        id=int(app_id),
        hdr=element.child_text("IsHdrSupported") == "1",
    )
