"""Configuration files and the environment over them: everything wrong is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from settings import ConfigError, Problem, load_toml, read_secret


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Host(Strict):
    name: str
    port: int = Field(default=47989, ge=1)


class Edge(Strict):
    url: str
    token: SecretStr | None = None
    ports: tuple[int, ...] = ()

    @field_validator("url")
    @classmethod
    def _secure(cls, url: str) -> str:
        if not url.startswith("wss://"):
            raise ValueError("must begin with wss://")
        return url


class Config(Strict):
    edge: Edge
    hosts: tuple[Host, ...] = ()


GOOD = '[edge]\nurl = "wss://edge"\n[[hosts]]\nname = "wolf"\n'


def load(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_toml(path, Config, "APP", environ=environ or {})


def problems(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    assert caught.value.source == tmp_path / "config.toml"
    return list(caught.value.problems)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config == Config(edge=Edge(url="wss://edge"), hosts=(Host(name="wolf"),))


def test_the_environment_wins(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GOOD,
        {
            "APP__EDGE__URL": "wss://other",
            "APP__EDGE__PORTS": "[1, 2]",
            "APP__HOSTS__0__PORT": "8",
            "APP__HOSTS__1__NAME": "second",
            "APPLE__EDGE__URL": "not ours",
            "APP_EDGE__URL": "not ours",
        },
    )
    assert config.edge == Edge(url="wss://other", ports=(1, 2))
    assert config.hosts == (Host(name="wolf", port=8), Host(name="second"))


def test_the_environment_alone_is_enough() -> None:
    environ = {"APP__EDGE__URL": "wss://edge", "APP__HOSTS__0": '{name = "wolf"}'}
    config = load_toml(None, Config, "APP", environ=environ)
    assert config.hosts == (Host(name="wolf"),)


def test_a_whole_item_of_a_list_is_replaced(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, {"APP__HOSTS__0": '{name = "other", port = 7}'})
    assert config.hosts == (Host(name="other", port=7),)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONHOST_TEST__EDGE__URL", "wss://edge")
    assert load_toml(None, Config, "MOONHOST_TEST").edge.url == "wss://edge"


def test_all_errors_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    text = '[edge]\nurl = "http://edge"\nunknwon = 1\n[[hosts]]\nport = 0\n'
    found = problems(tmp_path, text, {"APP__HOSTS__0__PORT": "many", "APP__EDG__URL": "x"})
    assert [problem.path for problem in found] == [
        "edge.url",
        "edge.unknwon",
        "hosts.0.name",
        "hosts.0.port (from APP__HOSTS__0__PORT)",
        "edg (from APP__EDG__URL)",
    ]
    assert [found[index].message for index in (0, 1, 2)] == [
        "must begin with wss://",
        "there is no such setting",
        "this setting is required",
    ]


def test_an_error_reads_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[edge]\n")
    assert str(caught.value) == (
        f"The configuration in {tmp_path}/config.toml cannot be used:\n"
        "  edge.url: this setting is required"
    )
    with pytest.raises(ConfigError, match="in the environment"):
        load_toml(None, Config, "APP", environ={})


def test_no_value_is_ever_shown(tmp_path: Path) -> None:
    text = '[edge]\nurl = "hunter2"\ntoken = ["hunter2"]\nports = "hunter2"\nhosts = "hunter2"\n'
    environ = {"APP__EDGE__PORTS": "[hunter2", "APP__HOSTS__0__PORT": "hunter2"}
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    assert len(caught.value.problems) >= 6
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("APP__HOSTS__3__NAME", "the list has 1 items: the next number is 1"),
        ("APP__HOSTS__NAME", "no such place"),
        ("APP__EDGE__URL__DEEPER", "no such place"),
        ("APP__EDGE__PORTS", "not one"),
    ],
)
def test_a_variable_that_fits_nowhere_is_named(tmp_path: Path, name: str, message: str) -> None:
    (problem,) = problems(tmp_path, GOOD, {name: "[1, " if name.endswith("PORTS") else "x"})
    assert problem.path == name
    assert message in problem.message


def test_a_number_where_names_belong_is_an_unknown_setting(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD, {"APP__EDGE__0": "x"})
    assert (problem.path, problem.message) == ("edge.0", "there is no such setting")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[edge\n", "not valid TOML"),
        (b"\xff", "not UTF-8"),
        (b"#" * (1 << 20) + b"#", "larger than"),
        (b"a = " + b"[" * 5_000, "nested too deeply"),
        (b"a = " + b"9" * 5_000, "too many digits"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_configuration(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_toml(path, Config, "APP", environ={})


def test_control_characters_in_a_key_are_not_printed(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD + '"\\u001b[2J" = 1\n')
    assert problem.path == "hosts.0.?[2J"


def test_an_error_can_be_printed_whatever_is_in_it() -> None:
    shown = str(ConfigError(None, (Problem("a", "not valid TOML: \x1b[2J"),)))
    assert all(line.isprintable() for line in shown.splitlines())


def test_a_number_of_any_length_in_a_variable_is_told_in_words(tmp_path: Path) -> None:
    for name in ("APP__HOSTS__" + "9" * 5_000, "APP__EDGE__PORTS"):
        with pytest.raises(ConfigError):
            load_toml(None, Config, "APP", environ={name: "[" + "9" * 5_000 + "]"})


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["EDGE", "HOSTS", "0", "1", "URL", "", "x"]), max_size=4).map(
            lambda parts: "__".join(["APP", *parts])
        ),
        st.text(max_size=10),
        max_size=4,
    )
)
def test_no_environment_breaks_the_loader(environ: dict[str, str]) -> None:
    try:
        config = load_toml(None, Config, "APP", environ=environ)
    except ConfigError:
        return
    assert config.edge.url.startswith("wss://")


def secret_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_is_read_without_its_newline(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path, b"hunter2\n", 0o440)) == "hunter2"


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"hunter2", 0o604, "chmod 600"),
        (b"", 0o600, "one line"),
        (b"hunter2\nhunter3", 0o600, "one line"),
        (b"hunter2\xff", 0o600, "one line"),
        (b"h" * 5000, 0o600, "4096 bytes"),
    ],
)
def test_a_bad_secret_file_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    path = secret_file(tmp_path, content, mode)
    with pytest.raises(ConfigError, match=message) as caught:
        read_secret(path)
    assert "hunter" not in str(caught.value)


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_secret(tmp_path / "token")


class Offset(Strict):
    base: int = Field(default=1, ge=1)
    beside: int = Field(default_factory=lambda settings: settings["base"] + 1)


def test_a_default_that_cannot_follow_is_no_mistake_of_its_own() -> None:
    assert load_toml(None, Offset, "P", environ={"P__BASE": "5"}).beside == 6
    with pytest.raises(ConfigError) as caught:
        load_toml(None, Offset, "P", environ={"P__BASE": "0"})
    assert [problem.path for problem in caught.value.problems] == ["base (from P__BASE)"]
