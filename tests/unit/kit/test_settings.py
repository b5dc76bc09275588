"""Settings: flags over environment over file over defaults, and one clear line for what is unknown or wrong."""

from pathlib import Path

import pytest

from aiwm.kit.settings import Settings, SettingsError, injected, key_ring, load_settings


def loaded(environment: dict[str, str] | None = None, /, **flags: object) -> Settings:
    return load_settings(flags, environment or {})


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_anything_the_defaults_hold() -> None:
    settings = loaded()
    assert (settings.host, settings.port, settings.noti_port) == ("127.0.0.1", 3003, 3002)
    assert settings.own_url == "http://127.0.0.1:3003"
    assert settings.data_dir == Path("~/.aiwm").expanduser()


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    (tmp_path / "aiwm.toml").write_text('host = "file"\nport = 1\nnoti_port = 1\n')
    settings = loaded({"AIWM_PORT": "2", "AIWM_NOTI_PORT": "2"}, noti_port=3)
    assert (settings.host, settings.port, settings.noti_port) == ("file", 2, 3)


def test_a_flag_that_was_not_given_and_an_empty_variable_say_nothing() -> None:
    assert loaded({"AIWM_PORT": ""}, port=None).port == 3003


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    assert loaded({"AIWM_JWT_SECRET_FILE": str(tmp_path / "secret")}).jwt_secret == "from a file"
    with pytest.raises(SettingsError, match="AIWM_JWT_SECRET_FILE"):
        loaded({"AIWM_JWT_SECRET_FILE": str(tmp_path / "nowhere")})


def test_what_an_operator_allows_is_off_until_said(tmp_path: Path) -> None:
    assert not loaded().trust_remote_code
    assert loaded({"AIWM_TRUST_REMOTE_CODE": "True"}).trust_remote_code
    (tmp_path / "aiwm.toml").write_text("custom_commands = true\n")
    assert loaded().custom_commands
    assert not loaded({"AIWM_CUSTOM_COMMANDS": "false"}).custom_commands


def test_the_source_s_own_name_for_a_node_s_token_is_read() -> None:
    assert loaded({"NODE_TOKEN": "t"}).node_token == "t"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"AIWM_PROT": "1"}, "unknown setting AIWM_PROT; the nearest valid one is AIWM_PORT"),
        ({"AIWM_PORT": "http"}, "the setting port must be a port from 1 to 65535, not 'http'"),
        ({"AIWM_PORT": "70000"}, "the setting port must be a port from 1 to 65535, not '70000'"),
        ({"AIWM_CUSTOM_COMMANDS": "yes"}, "the setting custom_commands must be true or false, not 'yes'"),
        ({"AIWM_LOG_LEVEL": "loud"}, "the setting log_level must be DEBUG, INFO, WARNING or ERROR, not 'loud'"),
        ({"AIWM_STORE_URL": "postgres://x"}, "the setting store_url must begin with sqlite:// or mongodb:// or"),
        (
            {"AIWM_CONTROLLER_URL": "host:3003"},
            "the setting controller_url must begin with http:// or https:// or ws:// or",
        ),
    ],
)
def test_what_is_unknown_or_wrong_is_one_clear_line(environment: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(environment)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_the_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "aiwm.toml").write_text("prt = 1\n")
    with pytest.raises(SettingsError, match=r"unknown key 'prt' in aiwm\.toml; the nearest valid one is port"):
        loaded()


def test_a_file_that_was_named_must_be_there_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings({}, {}, tmp_path / "other.toml")
    (tmp_path / "other.toml").write_text("port 3\n")
    with pytest.raises(SettingsError, match="cannot read the settings file"):
        load_settings({}, {}, tmp_path / "other.toml")


def test_what_others_put_under_our_prefix_is_not_judged() -> None:
    links = {"AIWM_CONTROLLER_SERVICE_HOST": "10.0.0.1", "AIWM_CONTROLLER_PORT_3003_TCP": "tcp://x"}
    assert loaded({**links, "AIWM_TEST_REDIS_URL": "x", "AIWM_BUILD_ID": "x"}) == loaded()
    assert injected({**links, "AIWM_PORT": "1", "HOME": "x"}) == sorted(links)


def test_secrets_are_not_shown() -> None:
    shown = repr(
        loaded({"AIWM_JWT_SECRET": "hush", "AIWM_ADMIN_PASSWORD": "hush", "NODE_TOKEN": "hush", "HF_TOKEN": "hush"})
    )
    assert "hush" not in shown


def test_a_key_ring_has_a_key_on_each_line_and_no_short_one() -> None:
    assert key_ring(f"{'a' * 32}\n\n {'b' * 40} \n", "AIWM_JWT_SECRET") == (b"a" * 32, b"b" * 40)
    for wrong in ("", "  \n", "short", f"{'a' * 32}\nshort"):
        with pytest.raises(SettingsError, match="AIWM_JWT_SECRET"):
            key_ring(wrong, "AIWM_JWT_SECRET")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"host": "::", "port": 80}, "http://127.0.0.1:80"),
        ({"public_url": "https://aiwm.example/"}, "https://aiwm.example"),
    ],
)
def test_the_public_url_follows_from_host_and_port_unless_it_is_given(given: dict[str, object], url: str) -> None:
    assert loaded({}, **given).own_url == url


@pytest.mark.parametrize(
    "host", ["", "off", "unix:///run/docker.sock", "tcp://10.0.0.1:2375", "https://docker.test:2376"]
)
def test_docker_can_be_named(host: str) -> None:
    assert load_settings({"docker_host": host}, {}).docker_host == host


@pytest.mark.parametrize(
    "host",
    [
        *("/var/run/docker.sock", "localhost:2375", "fd://", "npipe:////./pipe/docker_engine", "ssh://me@host"),
        *("unix://", "unix://docker.sock", "tcp://", "tcp://host:many", "tcp://host:70000", "http://[::1", "on"),
    ],
)
def test_what_docker_cannot_be_asked_at_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="docker_host must be off or unix:///PATH"):
        load_settings({}, {"AIWM_DOCKER_HOST": host})
