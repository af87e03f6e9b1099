"""Asks a running edge through its admin API, as the commands do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from moonhost.errors import CommandFailed
from proxy import state_dir
from proxy.config import ProxyConfig

request_timeout_s: Final = 45.0


class AdminError(CommandFailed):
    """The edge could not be asked, or refused; ``str()`` says what to do."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AdminClient:
    """A connection to the admin API of one edge; an async context manager."""

    def __init__(self, address: str, port: int, token: str) -> None:
        host = f"[{address}]" if ":" in address else address
        self._where = f"{host}:{port}"
        self._http = httpx.AsyncClient(
            base_url=f"http://{self._where}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=request_timeout_s,
            trust_env=False,
        )

    @classmethod
    def of(cls, config: ProxyConfig) -> AdminClient:
        """Return the client for the edge that runs with this configuration.

        Raises:
            AdminError: its token cannot be read.

        """
        path = config.state_dir / state_dir.admin_token
        return cls(config.admin.address, config.admin.port, _read(path))

    @classmethod
    def anonymous(cls, config: ProxyConfig) -> AdminClient:
        """Return a client without a token, for what anybody may ask."""
        return cls(config.admin.address, config.admin.port, "")

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

    async def status(self, path: str) -> int:
        """Tell the status code of an answer, whatever it is."""
        return (await self._send("GET", path)).status_code

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
        response = await self._send(method, path, body, query)
        if response.is_error:
            raise AdminError(_title(response), response.status_code)
        return response.json() if response.content else None

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise AdminError(
                f"no edge answers at {self._where}: is `moonhost proxy` running with this "
                f"configuration? ({type(error).__name__})"
            ) from error


def _title(response: httpx.Response) -> str:
    try:
        return str(response.json()["title"])
    except (ValueError, KeyError, TypeError):
        return f"the edge answered with status {response.status_code}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise AdminError(f"{path} does not exist: has the edge been started once?") from None
    except OSError as error:
        raise AdminError(
            f"{path} cannot be read ({error.strerror}): run this as the user that runs the edge"
        ) from None
