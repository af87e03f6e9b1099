"""The command line, used rightly and wrongly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moonhost import cli
from moonhost.demo import own_command
from moonhost.sample_configs import write_edge_config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and gives status, output and errors."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        output, errors = capsys.readouterr()
        return status, output, errors

    return run_command


def test_a_simulated_host_beside_an_edge_is_told_of_other_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # In a process of its own, since it sets logging up.
        host = subprocess.run(
            [sys.executable, "-m", "moonhost", "simulate-host", "--http-port", port],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (host.returncode, "Address already in use" in host.stderr) == (1, True)
    assert "--base-port" in host.stderr
    assert "Errno" not in host.stderr


@pytest.mark.parametrize("command", [("backends",), ("proxy",), ("agent",), ("doctor",)])
def test_a_configuration_that_is_not_ours_to_read_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    path = tmp_path / "closed.toml"
    path.touch()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    status, output, errors = run(*command, "--config", str(path))
    assert (status, "`sudo -u moonhost`" in output + errors) == (1, True)

    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    status, output, errors = run(*command, "--config", str(path))
    assert (status, "`sudo -u moonhost`" in output + errors) == (1, True)


def test_whoever_has_read_enough_gets_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    told = subprocess.run(
        [sys.executable, "-u", "-m", "moonhost", "doctor", "--config", str(tmp_path)],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (told.returncode, told.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prox",), "Unknown command"),
        (("proxy", "--config", "/nope"), "config.example.toml shows what to put in it"),
        (("agent", "--config", "/nope"), "agent.example.toml shows what to put in it"),
        (("doctor", "--config", "/nope"), "config.example.toml shows what to put in it"),
        (("doctor", "agent", "--config", "/nope"), "agent.example.toml shows what to put in it"),
        (("pair", "1", "2"), "Unused Tokens"),
        (("pair", "12"), "A PIN has four digits"),
        (("pair", "12a4"), "A PIN has four digits"),
        (("demo", "--mode", "big"), "WIDTHxHEIGHTxFPS"),
        (("demo", "--bitrate", "0"), "kbit/s"),
        (("simulate-host", "--behave-like", "a-toaster"), "wolf-2026, wolf-2024, sunshine"),
        (("simulate-host", "--base-port", "80"), "--base-port is from 1029 to 65514."),
        (("simulate-host", "--api-password-file", "/nope"), "cannot be read"),
        (("simulate-host", "--log-level", "loud"), "debug, info, warning, error"),
        (("simulate-host", "--picture", "film"), "--picture is one of card, noise."),
        (("simulate-host", "--max-mbps", "0"), "--max-mbps is from 0.1 to 150."),
        (("simulate-host", "--slowdown", "0.5"), "--slowdown is from 1 to 100."),
        (("loadtest", "--sessions", "0"), "--sessions is from 1 to 128."),
        (("loadtest", "--sessions", "129"), "--sessions is from 1 to 128."),
        (("loadtest", "--edge", "x", "--sessions", "301"), "--sessions is from 1 to 300."),
        (("loadtest", "--mbps", "nan"), "--mbps is from 0.1 to 150."),
        (("loadtest", "--seconds", "0"), "--seconds is from 1 to 3600."),
        (("loadtest", "--mode", "big"), "WIDTHxHEIGHTxFPS"),
        (("loadtest", "--edge", "a:b"), "--edge is HOST or HOST:HTTP_PORT"),
        (("loadtest", "--edge", "a:70000"), "--edge is HOST or HOST:HTTP_PORT"),
        (("loadtest", "--edge", "a", "--config", "/nope"), "config.example.toml"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    status, output, errors = run(*arguments)

    assert status in {1, 2}
    assert said in " ".join((output + errors).split())
    assert "Traceback" not in errors


def test_every_mistake_in_a_configuration_is_told_at_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("log_level = 'loud'\n[listen]\nhttps_port = 0\nunknwon = 1\n")

    status, _, errors = run("proxy", "--config", str(path))

    assert status == 1
    for place in ("hostname:", "log_level:", "listen.https_port:", "listen.unknwon:"):
        assert place in errors


def test_a_token_is_printed_once_and_only_its_hash_is_kept(
    run: Run, tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)

    status, token, _ = run("token", "agent", "living-room", "--config", str(path))

    assert status == 0
    kept = b"".join(file.read_bytes() for file in (tmp_path / "edge").iterdir())
    assert len(token.strip()) > 40
    assert token.strip().encode() not in kept


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [("a/b", "read", "letters, digits"), ("local", "read", "is not local"), ("a", "all", "Scopes")],
)
def test_an_api_token_that_makes_no_sense_is_refused(
    run: Run, tmp_path: Path, name: str, scopes: str, said: str, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)
    status, _, errors = run("token", "create", name, "--scopes", scopes, "--config", str(path))
    assert status == 1
    assert said in errors


def test_an_api_token_is_made_while_the_edge_is_down(
    run: Run, tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)
    status, token, _ = run("token", "create", "anna", "--config", str(path))
    assert status == 0
    kept = b"".join(file.read_bytes() for file in (tmp_path / "edge").iterdir())
    assert token.strip().encode() not in kept
    status, _, errors = run("token", "create", "anna", "--config", str(path))
    assert (status, "a token anna already" in errors) == (1, True)


def test_the_command_that_the_demo_tells_can_be_typed() -> None:
    told = subprocess.run(
        [*own_command().split(), "--version"], capture_output=True, timeout=30, check=False
    )

    assert told.returncode == 0


def test_a_token_for_no_name_is_refused(run: Run, tmp_path: Path, shift_from: int) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)

    status, _, errors = run("token", "agent", "a/b", "--config", str(path))

    assert status == 1
    assert "letters, digits" in errors


def test_an_edge_that_was_never_started_cannot_be_asked(
    run: Run, tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)

    status, _, errors = run("sessions", "--config", str(path))

    assert status == 1
    assert "has the edge been started once?" in errors


def test_a_load_test_says_that_it_needs_the_admin_api(
    run: Run, tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)

    status, output, errors = run("loadtest", "--edge", "127.0.0.1", "--config", str(path))

    assert (status, output) == (1, "")
    assert "confirms its clients' PINs through the edge's admin API" in errors
    assert "has the edge been started once?" in errors


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("play.example.org", ("play.example.org", 47989)),
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("[::1]:5000", ("::1", 5000)),
        ("[2001:db8::1]", ("2001:db8::1", 47989)),
    ],
)
def test_an_edge_is_named_with_or_without_its_port(text: str, where: tuple[str, int]) -> None:
    assert cli._host_and_port(text) == where


def _follow(config: tuple[str, ...]) -> None:
    """Follow the events of a running edge up to the first, and have it end by Ctrl-C."""
    command = [sys.executable, "-m", "moonhost", "events", "--follow", *config]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follow:
        assert follow.stdout is not None
        assert "drain_began  living-room" in follow.stdout.readline()
        follow.send_signal(signal.SIGINT)
        assert "Traceback" not in follow.communicate(timeout=30)[1]


def test_an_edge_answers_its_commands_and_ends_cleanly_on_sigterm(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)
    config = ("--config", str(path))
    edge = subprocess.Popen(
        [sys.executable, "-m", "moonhost", "proxy", *config], stderr=subprocess.PIPE, text=True
    )
    try:
        assert edge.stderr is not None
        assert "edge_started" in edge.stderr.readline()

        assert run("pair", *config)[:2] == (0, "No device waits.\n")
        assert run("clients", *config)[:2] == (0, "No client is paired.\n")
        assert run("sessions", *config)[:2] == (0, "Nobody plays.\n")
        assert run("sessions", "--json", *config)[:2] == (0, "[]\n")
        assert run("backends", *config)[:2] == (0, "No agent has connected.\n")
        assert run("events", *config)[:2] == (0, "Nothing has happened yet.\n")
        assert run("events", "--json", *config)[:2] == (0, "[]\n")
        status, _, errors = run("clients", "rename", "abc", "TV", *config)
        assert (status, "No client has an id that begins like that" in errors) == (1, True)
        status, _, errors = run("pair", "1234", *config)
        assert (status, "No device waits to be paired" in errors) == (1, True)
        status, _, errors = run("sessions", "end", "abc", *config)
        assert (status, "no session of that id" in errors) == (1, True)
        status, _, errors = run("clients", "unpair", "../x", *config)
        assert (status, "letters and digits" in errors) == (1, True)

        status, token, _ = run("token", "create", "anna", "--scopes", "read,pair", *config)
        assert (status, token.startswith("moonhost-api-")) == (0, True)
        assert run("token", "agent", "living-room", *config)[0] == 0
        assert run("drain", "living-room", *config)[0] == 0
        status, output, _ = run("events", *config)
        assert (status, "drain_began  living-room" in output) == (0, True)
        _follow(config)

        listed = run("token", "list", *config)[1]
        assert "read,pair" in listed
        assert "living-room" in listed
        assert token.strip() not in listed

        reader = tmp_path / "reader.token"
        reader.touch(mode=0o600)
        reader.write_text(token)
        with monkeypatch.context() as environment:
            environment.setenv("MOONHOST_PROXY__ADMIN__TOKEN_FILE", str(reader))
            assert run("sessions", *config)[0] == 0
            status, _, errors = run("token", "list", *config)
            assert (status, "one of the scopes admin" in errors) == (1, True)
            assert run("token", "revoke", "api", "anna", *config)[0] == 1
        assert run("token", "revoke", "api", "anna", *config)[:2] == (0, "Revoked.\n")
        assert run("token", "revoke", "agent", "living-room", *config)[0] == 0
        status, _, errors = run("token", "revoke", "api", "anna", *config)
        assert (status, "no token of that kind" in errors) == (1, True)
        with monkeypatch.context() as environment:
            environment.setenv("MOONHOST_PROXY__ADMIN__TOKEN_FILE", str(reader))
            status, _, errors = run("sessions", *config)
            assert (status, "does not know the token in" in errors) == (1, True)
        assert run("token", "rotate-keys", *config)[0] == 0
        status, _, errors = run("token", "rotate-keys", *config)
        assert (status, "published already" in errors) == (1, True)

        second = subprocess.run(
            [sys.executable, "-m", "moonhost", "proxy", *config],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == 1
        assert "cannot listen on TCP" in second.stderr
        assert "Traceback" not in second.stderr

        edge.send_signal(signal.SIGTERM)
        _, errors = edge.communicate(timeout=30)
        assert edge.returncode == 0
        assert "Traceback" not in errors
    finally:
        edge.kill()
        edge.wait()
        if edge.stderr is not None:
            edge.stderr.close()
