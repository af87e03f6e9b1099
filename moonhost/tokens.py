"""The commands about tokens: making them, and asking a running edge to list and revoke them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from backends.model import is_valid_name, name_rule
from backends.tokens import new_agent_token, new_api_token, token_hash
from moonhost.admin_client import AdminClient
from moonhost.cli_options import AsJson, ProxyConfigPath, default_proxy_config, proxy_settings
from moonhost.errors import CommandFailed
from moonhost.operate import show
from proxy import state_dir
from proxy.admin.api_tokens import add_api_token, check_agent_name, check_name, scopes_of
from proxy.stores import open_store

token_app = cyclopts.App(name="token", help="Make, list and revoke tokens of agents and people.")


@token_app.command(name="agent")
async def token_agent(name: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """Make a token for an agent and print it, once: only a hash of it is kept.

    NAME is the agent's id in its configuration. The edge need not be running, nor be restarted.
    """
    check_agent_name(name)
    settings = proxy_settings(config)
    state_dir.prepare(settings.state_dir)
    token = new_agent_token()
    async with open_store(settings) as store:
        await store.put_agent_token(name, token_hash(token), datetime.now(UTC))
    print(token)


@token_app.command
async def create(
    name: str,
    *,
    scopes: Annotated[
        str, Parameter(help="What it lets one do: of read, pair, operate, admin, with commas.")
    ] = "read",
    config: ProxyConfigPath = default_proxy_config,
) -> None:
    """Make a token of the admin API and print it, once: only a hash of it is kept.

    NAME is the person or the service that it is for. The edge need not be running.
    """
    check_name(name)
    wanted = scopes_of(scopes.replace(",", " ").split())
    settings = proxy_settings(config)
    state_dir.prepare(settings.state_dir)
    token = new_api_token()
    async with open_store(settings) as store:
        await add_api_token(store, name, wanted, token)
    print(token)


@token_app.command(name="list")
async def list_tokens(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """List the tokens there are, of agents and of the admin API, without the tokens themselves."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        tokens = await edge.get_all("/api/v1/tokens")
    columns = ("kind", "name", "scopes", "created_at", "tokens")
    show(tokens, as_json, columns, "There are no tokens but the local one.")


@token_app.command
async def revoke(
    kind: Literal["agent", "api"], name: str, *, config: ProxyConfigPath = default_proxy_config
) -> None:
    """Make all tokens of an agent, or a token of the admin API, worthless at once."""
    if not is_valid_name(name):
        raise CommandFailed(f"A token's name has {name_rule}.")
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/tokens/{kind}/{name}")
    print("Revoked.")


@token_app.command(name="rotate-keys")
async def rotate_keys(*, config: ProxyConfigPath = default_proxy_config) -> None:
    """Have the edge publish a new signing key, which it signs with ten minutes later."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        made = await edge.post("/api/v1/keys/rotate", {})
    print(made["kid"])
