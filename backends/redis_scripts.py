"""What the Redis store changes, as Lua: each script compares and sets in one step of the server.

Where what a store keeps lies under its prefix:

=========================  ==========================================================
``schema``                 the version of this layout
``edge_identity``          the edge's identity
``clients``                hash, client id -> record; ``client_users`` -> user, if any
``host_identities``        hash, client id -> identity
``pairings:<client id>``   hash, backend id -> record
``sticky:<client id>``     hash of ``backend`` and ``expires_at``; expires then
``app_ids``                hash, normalised title -> id; ``app_titles`` is its inverse
``session:<id>``           hash of ``updated_at`` and ``record``; expires when long unwritten
``sessions``               set of session ids, some of which may have expired
``tokens``                 hash, token hash -> agent id; ``token_times`` -> made at
``api_tokens``             hash, name -> record; ``api_token_names``, token hash -> name
``signing_keys``           hash, key id -> record
``drains``                 hash, target -> since; ``drain_deadlines`` -> deadline, if any
=========================  ==========================================================

Times are microseconds since 1970, which Lua's doubles hold exactly until the year 2255.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the name that a server knows it by once it has seen it."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by their SHA-1; nothing is secured by it.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


add_edge_identity = Script("""
redis.call('SETNX', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
""")

# KEYS: clients, client_users. ARGV: id, record, user or nothing.
put_client = Script("""
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
else
    redis.call('HDEL', KEYS[2], ARGV[1])
end
""")

get_client = Script("""
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])}
""")

# KEYS: clients, client_users. ARGV: id, user or nothing.
set_client_user = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
if ARGV[2] then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
else
    redis.call('HDEL', KEYS[2], ARGV[1])
end
return 1
""")

# KEYS: clients. ARGV: id, the record as it was read, the new one.
replace_client = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
""")

# KEYS: clients, client_users, host_identities, pairings:…, sticky:…. ARGV: id.
delete_client = Script("""
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

# KEYS: clients, host_identities. ARGV: client id, identity. Nothing if there is no such client.
add_host_identity = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return false
end
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[2], ARGV[1])
""")

# KEYS: clients, pairings:…. ARGV: client id, backend id, record.
put_pairing = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
""")

delete_pairing = Script("""
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

# KEYS: clients, sticky:…. ARGV: client id, backend id, expires at, the same in milliseconds.
put_sticky = Script("""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'backend', ARGV[2], 'expires_at', ARGV[3])
redis.call('PEXPIREAT', KEYS[2], ARGV[4])
return 1
""")

delete_sticky = Script("""
if redis.call('HGET', KEYS[1], 'backend') ~= ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
""")

# KEYS: app_ids, app_titles. ARGV: how many ids are proposed for a title, then each title and its
# proposals. Gives each title's id, or nothing if another title has each of the proposals.
choose_app_ids = Script("""
local proposals = tonumber(ARGV[1])
local ids = {}
for first = 2, #ARGV, proposals + 1 do
    local title = ARGV[first]
    local id = redis.call('HGET', KEYS[1], title)
    for place = first + 1, first + proposals do
        if not id and redis.call('HSETNX', KEYS[2], ARGV[place], title) == 1 then
            id = ARGV[place]
            redis.call('HSET', KEYS[1], title, id)
        end
    end
    ids[#ids + 1] = id
end
return ids
""")

# KEYS: session:…, sessions. ARGV: id, updated at, record, milliseconds to live.
add_session = Script("""
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
end
redis.call('HSET', KEYS[1], 'updated_at', ARGV[2], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
""")

# KEYS: session:…. ARGV: updated at, record, milliseconds to live.
update_session = Script("""
local updated_at = redis.call('HGET', KEYS[1], 'updated_at')
if not updated_at or tonumber(updated_at) > tonumber(ARGV[1]) then
    return 0
end
redis.call('HSET', KEYS[1], 'updated_at', ARGV[1], 'record', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

delete_session = Script("""
redis.call('SREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
""")

# KEYS: sessions. ARGV: what each session's key begins with. Forgets the ids of those that expired.
list_sessions = Script("""
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local record = redis.call('HGET', ARGV[1] .. id, 'record')
    if record then
        found[#found + 1] = id
        found[#found + 1] = record
    else
        redis.call('SREM', KEYS[1], id)
    end
end
return found
""")

# KEYS: tokens, token_times. ARGV: token hash, agent id, made at.
put_agent_token = Script("""
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
""")

revoke_agent = Script("""
local revoked = 0
local tokens = redis.call('HGETALL', KEYS[1])
for place = 1, #tokens, 2 do
    if tokens[place + 1] == ARGV[1] then
        redis.call('HDEL', KEYS[1], tokens[place])
        redis.call('HDEL', KEYS[2], tokens[place])
        revoked = revoked + 1
    end
end
return revoked
""")

# KEYS: api_tokens, api_token_names. ARGV: name, record, token hash.
add_api_token = Script("""
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
    return 0
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
return 1
""")

api_token_for_hash = Script("""
local name = redis.call('HGET', KEYS[2], ARGV[1])
if not name then
    return {}
end
return {name, redis.call('HGET', KEYS[1], name)}
""")

# KEYS: api_tokens, api_token_names. ARGV: name.
delete_api_token = Script("""
local names = redis.call('HGETALL', KEYS[2])
for place = 1, #names, 2 do
    if names[place + 1] == ARGV[1] then
        redis.call('HDEL', KEYS[2], names[place])
    end
end
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

# KEYS: signing_keys. ARGV: key id, record, the key ids that the caller knows.
add_signing_key = Script("""
local known = {}
for place = 3, #ARGV do
    known[ARGV[place]] = true
end
for _, kid in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not known[kid] then
        return 0
    end
end
return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
""")

# KEYS: drains, drain_deadlines. ARGV: target, since, deadline or nothing.
put_drain = Script("""
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
else
    redis.call('HDEL', KEYS[2], ARGV[1])
end
""")

delete_drain = Script("""
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

# Two hashes as of one moment: of clients and users, tokens and times, drains and deadlines.
both = Script("""
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
""")
