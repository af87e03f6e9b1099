"""The version of what the Redis store keeps, and how an older one is brought forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backends.errors import StoreError
from backends.redis_scripts import Script
from backends.redis_server import RedisServer

# One Lua body per version, never edited once released: a change is a new one at the end. ARGV[1]
# is the prefix of all keys. The server runs it in one step, but undoes nothing where it fails:
# write it so that it can be run again. Version 1 has nothing to make.
MIGRATIONS: Final[tuple[str, ...]] = ("",)

_step: Final = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[2] then
    return
end
{body}
redis.call('SET', KEYS[1], ARGV[2] + 1)
"""


async def migrate(server: RedisServer, prefix: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring what is there to the newest version, one by one; another edge may race us."""
    key = f"{prefix}schema"
    while (version := await _version(server, key)) < len(migrations):
        step = Script(_step.format(body=migrations[version]))
        # Does nothing if another edge has just done it.
        await server.run(step, [key], prefix, version)
    if version > len(migrations):
        raise StoreError(
            "newer_schema",
            f"The store was written by a newer moonhost (schema {version}; "
            f"this one knows {len(migrations)}).",
        )


async def _version(server: RedisServer, key: str) -> int:
    text = await server.command(b"GET", key)
    if text is None:
        return 0
    if not text.isdigit():
        raise server.damaged("a schema version")
    return int(text)
