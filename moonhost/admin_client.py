"""Asks a running edge through its admin API, as the commands do."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from moonhost.admin_auth import JwtAuth, problem_of
from moonhost.errors import AdminError
from proxy import state_dir
from proxy.config import ProxyConfig
from settings import ConfigError, read_secret

request_timeout_s: Final = 45.0
"""Longer than a stream of events is ever silent."""
items_per_page: Final = 500
max_items: Final = 100_000
_data: Final = "data: "


class NoEdge(AdminError):
    """Nobody answers at the admin port."""


class AdminClient:
    """A connection to the admin API of one edge; an async context manager."""

    def __init__(
        self,
        address: str,
        port: int,
        auth: httpx.Auth,
        *,
        hostname: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host = f"[{address}]" if ":" in address else address
        self._where = f"{host}:{port}"

        async def name_edge(request: httpx.Request) -> None:
            # It proves to be `hostname`, at whatever address it is asked.
            request.extensions["sni_hostname"] = hostname

        self._http = httpx.AsyncClient(
            base_url=f"{'http' if tls is None else 'https'}://{self._where}",
            auth=auth,
            # To make a context takes 60 ms, and http:// has no use for one.
            verify=tls or False,
            event_hooks={} if tls is None else {"request": [name_edge]},
            timeout=request_timeout_s,
            trust_env=False,
        )

    @classmethod
    def of(cls, config: ProxyConfig) -> AdminClient:
        """Return the client for the edge that runs with this configuration.

        Raises:
            AdminError: its token, or the CA's file, cannot be read.

        """
        admin = config.admin
        if admin.token_file is None:
            path = config.state_dir / state_dir.admin_token
            token = _read(path)
        else:
            path = admin.token_file
            token = _read_secret(path)
        return cls._at(config, JwtAuth(token, str(path)))

    @classmethod
    def anonymous(cls, config: ProxyConfig) -> AdminClient:
        """Return a client without a token, for what anybody may ask.

        Raises:
            AdminError: the CA's file cannot be read.

        """
        return cls._at(config, httpx.Auth())

    @classmethod
    def _at(cls, config: ProxyConfig, auth: httpx.Auth) -> AdminClient:
        admin = config.admin
        return cls(
            admin.address,
            admin.port,
            auth,
            hostname=config.hostname,
            tls=None if admin.certificate is None else _tls(admin.ca_file),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Read something."""
        return await self._ask("GET", path, query=query)

    async def get_all(self, path: str) -> list[dict[str, Any]]:
        """Read a whole list, page by page."""
        items: list[dict[str, Any]] = []
        query = {"limit": str(items_per_page)}
        while len(items) < max_items:
            page = await self.get(path, query)
            items += page["items"]
            if page["next"] is None:
                return items
            query["cursor"] = page["next"]
        raise AdminError(f"{path} has over {max_items} entries: ask for its pages one by one")

    async def events(self, after: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Give events as they happen, those after an event first, until the edge ends it.

        Close the iterator (`contextlib.aclosing`) to stop before that.
        """
        path, query = "/api/v1/events/stream", {} if after is None else {"after": str(after)}
        with self._told_plainly():
            async with self._http.stream("GET", path, params=query) as response:
                if response.is_error:
                    await response.aread()
                    raise AdminError(problem_of(response), response.status_code)
                async for line in response.aiter_lines():
                    if line.startswith(_data):
                        yield json.loads(line.removeprefix(_data))

    async def status(self, path: str) -> int:
        """Tell the status code of an answer, whatever it is."""
        with self._told_plainly():
            return (await self._http.get(path)).status_code

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        """Set something."""
        return await self._ask("PUT", path, body)

    async def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change something."""
        await self._ask("PATCH", path, body)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Do something."""
        return await self._ask("POST", path, body)

    async def delete(self, path: str) -> None:
        """End or forget something."""
        await self._ask("DELETE", path)

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        with self._told_plainly():
            response = await self._http.request(method, path, json=body, params=query)
        if response.is_error:
            raise AdminError(problem_of(response), response.status_code)
        return response.json() if response.content else None

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            if _is_of_certificate(error):
                raise AdminError(
                    f"the edge at {self._where} does not prove that it is the hostname of this "
                    "configuration: name the CA of its certificate as admin.ca_file."
                ) from error
            raise NoEdge(
                f"no edge answers at {self._where}: is `moonhost proxy` running with this "
                f"configuration? ({type(error).__name__})"
            ) from error


def _read_secret(path: Path) -> str:
    try:
        return read_secret(path)
    except ConfigError as error:
        raise AdminError(f"admin.token_file {path} cannot be used: {error.why}") from None


def _is_of_certificate(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise AdminError(f"admin.ca_file {ca_file} cannot be used: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise AdminError(f"{path} does not exist: has the edge been started once?") from None
    except OSError as error:
        raise AdminError(
            f"{path} cannot be read ({error.strerror}): run this as the user that runs the edge"
        ) from None
