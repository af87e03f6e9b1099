"""Calls are signed so that every library for Standard Webhooks can tell."""

from __future__ import annotations

import pytest

from proxy.webhook_signature import signed_headers, signing_key

BODY = b'{"test": 2432232314}'


def test_the_signature_is_the_one_that_receivers_compute() -> None:
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert signed_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, BODY) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_every_part_is_signed() -> None:
    signatures = {
        signed_headers(key, name, at, body)["webhook-signature"]
        for key in (b"k", b"l")
        for name in ("a", "b")
        for at in (1, 2)
        for body in (b"", b"x")
    }
    assert len(signatures) == 16


def test_a_secret_is_plain_text_or_base64() -> None:
    assert signing_key("correct horse") == b"correct horse"
    assert signing_key("whsec_AAEC") == b"\0\1\2"
    with pytest.raises(ValueError, match="is not base64") as caught:
        signing_key("whsec_hunter2!")
    assert "hunter2" not in str(caught.value)
