"""The simulator's command line: what is wrong is said in one sentence, and ends with 2."""

from pathlib import Path

import pytest

from aiwm.kit.settings import Settings
from aiwm.protocol.errors import Invalid
from aiwm.testing.faults import Faults
from aiwm.testing.simulate_options import parse


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nodes 0", "'0' is not a whole number from 1 to 20000"),
        ("--nodes many", "'many' is not a whole number from 1 to 20000"),
        ("--nodes \u0661", "is not a whole number from 1 to 20000"),
        ("--gpus 65", "'65' is not a whole number from 0 to 64"),
        ("--seconds nan", "'nan' is not a number from 0.1 to 1e+08"),
        ("--seconds -1", "is not a number from 0.1 to 1e+08"),
        ("--flap 2000%", "'2000%' is not a number from 0 to 1000%"),
        ("--cut 5", "expected 2 arguments"),
        ("--cut 9 8", "a cut of 9 s does not fit into 8 s"),
        ("--slow -5", "is not a number from 0 to 60000"),
        ("--crash x", "'x' is not a number from 0 to 1000%"),
        ("--skew inf", "'inf' is not a number"),
        ("--seed -1", "is not a whole number"),
        ("--log-level LOUD", "invalid choice: 'LOUD'"),
        ("--username admin", "go with --url"),
        ("--password-stdin", "go with --url"),
        ("--url http://x --key-file k --username a", "either --key-file or a password"),
        ("--keep --remove", "either --keep or --remove"),
        ("--node 3", "unrecognized arguments: --node 3"),
    ],
)
def test_a_wrong_value_is_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("aiwm simulate: ")
    assert error.count("\n") == 1


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--nodes", "--flap", "--cut", "--skew", "--slow", "--crash", "--keep"))


def test_faults_are_read_in_their_units() -> None:
    given = parse(["--flap", "5%", "--cut", "4", "60", "--skew", "-90", "--slow", "250", "--crash", "1.5"])
    assert given.faults == Faults(flap=5.0, cut=(4.0, 60.0), skew=-90.0, slow=0.25, crash=1.5)
    assert parse([]).faults == Faults()


def test_who_signs_in() -> None:
    assert parse([]).username is None
    assert parse(["--url", "http://x"]).username == "admin"
    assert parse(["--url", "http://x", "--username", "eve"]).username == "eve"
    assert parse(["--url", "http://x", "--key-file", "k"]).username is None


def test_a_key_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    words = ["--url", "http://x", "--key-file", str(file)]
    with pytest.raises(Invalid, match="cannot read the key file"):
        parse(words).key()
    file.write_text("the-key\n")
    assert parse(words).key() == "the-key"


def test_a_password_is_asked_for_when_there_is_none(tmp_path: Path) -> None:
    given = parse(["--url", "http://x"])
    with pytest.raises(Invalid, match="cannot sign in: no password"):
        given.password(Settings(data_dir=tmp_path))
    assert given.password(Settings(data_dir=tmp_path, admin_password="secret")) == "secret"
