"""Reads the recorded HTTP exchanges, where they lie beside the checkout."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recorded import CAPTURES


@dataclass(frozen=True)
class HttpExchange:
    """One HTTP connection: all that the client sent, all that the host answered."""

    name: str
    requests: bytes
    answers: bytes

    @property
    def whole(self) -> bool:
        """Whether the recording was not cut: it is where lists of display modes were."""
        return b"SupportedDisplayMode" not in self.answers

    @property
    def bodies(self) -> list[bytes]:
        return re.findall(rb"<\?xml(?:(?!HTTP/1\.1).)*", self.answers, re.DOTALL)


def http_exchanges() -> list[HttpExchange]:
    found = []
    for path in sorted(CAPTURES.glob("*.wire.txt")):
        for block in re.split(rb"=====+\n", path.read_bytes()):
            head, _, rest = block.partition(b"\n")
            if not re.search(rb"port 479(84|89)", head) or not rest:
                continue
            # segments: a line with the byte count, then the bytes, then a line end
            parts = re.split(rb"(?:\A|(?<=\n))(\t?[0-9]{2,5})\n", rest)
            sides: dict[bool, bytes] = {False: b"", True: b""}
            indented_first = parts[1].startswith(b"\t")
            for count, segment in zip(parts[1::2], parts[2::2], strict=True):
                client = count.startswith(b"\t") == indented_first
                sides[client] += segment.removesuffix(b"\n")
            found.append(HttpExchange(f"{path.name}: {head.decode()}", sides[True], sides[False]))
    return found
