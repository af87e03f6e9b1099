"""One Redis server for all tests of this package, each of which has a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_process import RedisProcess

from tests.ports import reserved


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with reserved() as block:
        server = RedisProcess(tmp_path_factory.mktemp("redis"), block[0])
        server.start()
        yield server
        server.kill()
