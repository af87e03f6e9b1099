"""The webhook against a real receiver: signed, bounded, tried again where that may help."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from webhook_receiver import SECRET, receiving

from proxy.errors import StartFailed
from proxy.webhook import Webhook, WebhookFailed
from proxy.webhook_signature import signed_headers, signing_key

PAYLOAD = {"event": "wake", "backends": ["pc/wolf"], "at": "2026-11-24T20:00:00+00:00"}
AT_ONCE = (0.0, 0.0)


async def test_a_call_is_signed_json(tmp_path: Path) -> None:
    async with receiving() as receiver, Webhook.open(receiver.config(tmp_path)) as webhook:
        with trio.fail_after(10):
            await webhook.call("wake_1", PAYLOAD)
        (call,) = receiver.calls
    assert call.target == b"/hook?key=hunter2"
    assert call.body == (
        b'{"event":"wake","backends":["pc/wolf"],"at":"2026-11-24T20:00:00+00:00"}'
    )
    assert call.headers["content-type"] == "application/json"
    sent_at = int(call.headers["webhook-timestamp"])
    signed = signed_headers(signing_key(SECRET), "wake_1", sent_at, call.body)
    assert signed.items() <= call.headers.items()


@pytest.mark.parametrize("first", [500, 503, 429, 408])
async def test_a_call_that_failed_is_tried_again_under_its_id(tmp_path: Path, first: int) -> None:
    async with receiving() as receiver:
        receiver.answers = [first]
        async with Webhook.open(receiver.config(tmp_path), delays_s=AT_ONCE) as webhook:
            with trio.fail_after(10):
                await webhook.call("wake_1", PAYLOAD)
        assert [call.headers["webhook-id"] for call in receiver.calls] == ["wake_1"] * 2


@pytest.mark.parametrize(
    ("answers", "calls", "reason"),
    [
        ([500] * 9, 3, "webhook_refused"),
        ([404], 1, "webhook_refused"),
        ([307], 1, "webhook_refused"),
    ],
)
async def test_it_is_given_up(
    tmp_path: Path, answers: list[int | None], calls: int, reason: str
) -> None:
    async with receiving() as receiver:
        receiver.answers = answers
        async with Webhook.open(receiver.config(tmp_path), delays_s=AT_ONCE) as webhook:
            with trio.fail_after(10), pytest.raises(WebhookFailed) as caught:
                await webhook.call("wake_1", PAYLOAD)
        assert len(receiver.calls) == calls
    assert caught.value.reason == reason
    assert "hunter2" not in str(caught.value)


async def test_a_receiver_that_never_comes_to_an_end_is_waited_for_no_longer_than_configured(
    tmp_path: Path,
) -> None:
    async with receiving() as receiver:
        receiver.answers = [None]
        config = receiver.config(tmp_path, timeout_s=0.5)
        async with Webhook.open(config, delays_s=()) as webhook:
            with trio.fail_after(10), pytest.raises(WebhookFailed) as caught:
                await webhook.call("wake_1", PAYLOAD)
    assert caught.value.reason == "webhook_timeout"


async def test_a_receiver_that_is_not_there_is_told_without_its_url(tmp_path: Path) -> None:
    async with receiving() as receiver:
        config = receiver.config(tmp_path)
    async with Webhook.open(config, delays_s=AT_ONCE) as webhook:
        with trio.fail_after(10), pytest.raises(WebhookFailed) as caught:
            await webhook.call("wake_1", PAYLOAD)
    assert caught.value.reason == "webhook_unreachable"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "mode", "why"),
    [
        ("text", 0o644, "chmod 600"),
        ("", 0o600, "one line"),
        ("whsec_hunter2!", 0o600, "base64"),
    ],
)
async def test_a_secret_that_cannot_be_used_stops_the_start(
    tmp_path: Path, secret: str, mode: int, why: str
) -> None:
    async with receiving() as receiver:
        config = receiver.config(tmp_path)
    config.secret_file.write_text(secret)
    config.secret_file.chmod(mode)
    with pytest.raises(StartFailed, match=why) as caught:
        async with Webhook.open(config):
            raise AssertionError("it was opened")
    assert "hunter2" not in str(caught.value)


async def test_certificates_that_are_not_there_stop_the_start(tmp_path: Path) -> None:
    async with receiving() as receiver:
        config = receiver.config(tmp_path)
    without = config.model_copy(update={"ca_file": tmp_path / "none.pem"})
    with pytest.raises(StartFailed, match="no certificates in"):
        async with Webhook.open(without):
            raise AssertionError("it was opened")
