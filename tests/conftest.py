"""What tests of several folders need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ports import reserved, shift_to


@pytest.fixture
def own_ports() -> Iterator[range]:
    """Ports that nobody else has while the test runs."""
    with reserved() as block:
        yield block


@pytest.fixture
def shift_from(own_ports: range) -> int:
    """For `write_edge_config`: the shift to ports of the test's own."""
    return shift_to(own_ports)
