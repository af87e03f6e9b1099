"""The command line's JWTs: asked for when they are needed, and renewed."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import trio
import trio.testing

from moonhost.admin_auth import JwtAuth
from moonhost.errors import AdminError

Answer = Callable[[httpx.Request], httpx.Response]
TOKEN = "moonhost-api-secret"


class FakeEdge:
    """Gives JWTs "jwt-1", "jwt-2" … and takes the newest only."""

    def __init__(self) -> None:
        self.made = 0
        self.valid = ""
        self.asked: list[str] = []
        self.exchange: list[httpx.Response] = []
        """What is answered instead of JWTs."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        shown = request.headers["Authorization"]
        if request.url.path == "/api/v1/token":
            assert shown == f"Bearer {TOKEN}"
            assert request.content == b"{}"
            if self.exchange:
                return self.exchange.pop(0)
            self.made += 1
            self.valid = f"jwt-{self.made}"
            return httpx.Response(200, json={"access_token": self.valid, "expires_in": 300})
        return httpx.Response(200 if shown == f"Bearer {self.valid}" else 401, json={})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.MockTransport(self),
            base_url="http://edge:47980",
            auth=JwtAuth(TOKEN, "/secret/file"),
        )


async def test_a_jwt_is_asked_for_once_and_used_until_it_expires(
    autojump_clock: trio.testing.MockClock,
) -> None:
    edge = FakeEdge()
    async with edge.client() as client:
        for _ in range(3):
            assert (await client.get("/api/v1/x?y=1")).status_code == 200
            await trio.sleep(60)
        assert edge.asked == ["/api/v1/token", *["/api/v1/x"] * 3]
        await trio.sleep(91)
        assert (await client.get("/api/v1/x")).status_code == 200
        assert edge.made == 2


async def test_a_jwt_that_is_refused_is_renewed_once() -> None:
    edge = FakeEdge()
    async with edge.client() as client:
        await client.get("/x")
        edge.valid = "of another run of the edge"
        assert (await client.get("/x")).status_code == 200
        assert edge.made == 2

        def refuse(request: httpx.Request) -> httpx.Response:
            response = edge(request)
            return response if request.url.path == "/api/v1/token" else httpx.Response(401)

        client._transport = httpx.MockTransport(refuse)
        assert (await client.get("/x")).status_code == 401
        assert edge.made == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(401, json={"title": "no"}), r"does not know the token in /secret/file"),
        (httpx.Response(503, json={"title": "The store is away."}), "The store is away"),
        (httpx.Response(503, json={"title": "Away", "detail": "It is away."}), "It is away"),
        (httpx.Response(200, json={"token": 1}), "status 200"),
        (httpx.Response(502, text="bad gateway"), "status 502"),
        (httpx.Response(200, json=[]), "status 200"),
        (httpx.Response(429, headers={"Retry-After": "300"}, json={"title": "Wait."}), "Wait"),
    ],
)
async def test_why_there_is_no_jwt_is_told(answer: httpx.Response, said: str) -> None:
    edge = FakeEdge()
    edge.exchange = [answer]
    async with edge.client() as client:
        with pytest.raises(AdminError, match=said) as caught:
            await client.get("/x")
    assert caught.value.status == answer.status_code
    assert TOKEN not in str(caught.value)


async def test_a_short_wait_is_waited(autojump_clock: trio.testing.MockClock) -> None:
    edge = FakeEdge()
    edge.exchange = [httpx.Response(429, headers={"Retry-After": "4"}, json={})]
    began_at = trio.current_time()
    async with edge.client() as client:
        assert (await client.get("/x")).status_code == 200
    assert trio.current_time() - began_at == pytest.approx(4)


async def test_an_answer_that_never_ends_is_read_as_it_comes() -> None:
    """Events are followed so."""

    class Endless(httpx.AsyncByteStream):
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            return await trio.sleep_forever()

    edge = FakeEdge()

    def answer(request: httpx.Request) -> httpx.Response:
        response = edge(request)
        return response if request.url.path != "/stream" else httpx.Response(200, stream=Endless())

    async with edge.client() as client:
        client._transport = httpx.MockTransport(answer)
        with trio.fail_after(5):
            async with client.stream("GET", "/stream") as response:
                assert not response.is_stream_consumed
