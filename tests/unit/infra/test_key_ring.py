"""The key ring's file: rotated, pruned, read again, and never left half-written."""

import json
import os
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tests.http_support import SetClock

from aiwm.apps.keys import main
from aiwm.infra import key_ring
from aiwm.infra.key_ring import FileKeys, key_id, open_keys, rotate
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.infra.tokens import Tokens
from aiwm.kit.settings import SettingsError, load_settings
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.states import PrincipalKind

MONTH = timedelta(days=30)
FIRST = "a" * 64


class Ticking(SetClock):
    """Both times move together."""

    def monotonic(self) -> float:
        return self.moment.timestamp()


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    path = tmp_path / "jwt-secret"
    path.write_text(FIRST + "\n")
    path.chmod(0o600)
    return path


def test_a_rotation_puts_a_new_key_first_and_keeps_the_old_one_for_a_while(ring: Path, clock: Ticking) -> None:
    done = rotate(ring, clock.now(), overlap=MONTH)
    new, old = ring.read_text().split()
    assert (len(new), old) == (64, FIRST)
    assert (done.signing, done.removed) == (key_id(new.encode()), ())
    assert done.kept == {key_id(FIRST.encode()): clock.now() + MONTH}
    assert [stat.S_IMODE(path.stat().st_mode) for path in sorted(ring.parent.iterdir())] == [0o600] * 3
    assert not any(key in (ring.parent / "jwt-secret.retired").read_text() for key in (new, old))


def test_old_keys_go_when_their_own_time_is_over(ring: Path, clock: Ticking) -> None:
    rotate(ring, clock.now(), overlap=MONTH)
    second = ring.read_text().split()[0]
    clock.forward(10 * 86_400)
    rotate(ring, clock.now(), overlap=MONTH)
    assert len(ring.read_text().split()) == 3
    clock.forward(20 * 86_400)
    done = rotate(ring, clock.now(), overlap=MONTH, add=False)
    assert done.removed == (key_id(FIRST.encode()),)
    assert ring.read_text().split()[1:] == [second]
    assert rotate(ring, clock.now(), overlap=MONTH, add=False).removed == ()


def test_a_key_put_in_by_hand_begins_its_overlap_when_it_is_first_seen(ring: Path, clock: Ticking) -> None:
    ring.write_text(f"{'b' * 64}\n{FIRST}\n")
    assert rotate(ring, clock.now(), overlap=MONTH, add=False).kept == {key_id(FIRST.encode()): clock.now() + MONTH}
    clock.forward(MONTH.total_seconds())
    assert rotate(ring, clock.now(), overlap=MONTH, add=False).removed == (key_id(FIRST.encode()),)


def test_without_overlap_everything_signed_before_is_refused(ring: Path, clock: Ticking) -> None:
    assert rotate(ring, clock.now(), overlap=timedelta(0)).removed == (key_id(FIRST.encode()),)
    assert FIRST not in ring.read_text()


def test_nobody_is_signed_out_by_a_rotation_and_no_process_restarted(ring: Path, clock: Ticking) -> None:
    one, other = (Tokens(FileKeys(ring, clock), clock) for _ in range(2))
    before, _ = one.issue(PrincipalKind.USER, "user-1", expires_in=3600)
    rotate(ring, clock.now(), overlap=timedelta(seconds=600))
    clock.forward(key_ring.LOOKED_AT_EVERY)
    after, _ = one.issue(PrincipalKind.USER, "user-1", expires_in=3600)
    assert other.verify(after, PrincipalKind.USER).subject == "user-1"
    assert other.verify(before, PrincipalKind.USER).subject == "user-1"
    clock.forward(600)
    rotate(ring, clock.now(), overlap=MONTH, add=False)
    clock.forward(key_ring.LOOKED_AT_EVERY)
    assert other.verify(after, PrincipalKind.USER).subject == "user-1"
    with pytest.raises(Unauthenticated):
        other.verify(before, PrincipalKind.USER)


def test_a_process_that_has_not_looked_yet_takes_what_another_signed_with_the_new_key(
    ring: Path, clock: Ticking
) -> None:
    slow = Tokens(FileKeys(ring, clock), clock)
    rotate(ring, clock.now(), overlap=MONTH)
    quick = Tokens(FileKeys(ring, clock), clock)
    token, _ = quick.issue(PrincipalKind.USER, "user-1", expires_in=60)
    assert slow.verify(token, PrincipalKind.USER).subject == "user-1"


def test_urls_of_files_go_on_too(ring: Path, clock: Ticking) -> None:
    slow = BlobTickets(FileKeys(ring, clock), clock)
    before = slow.sign("GET", "a", expires=60)
    rotate(ring, clock.now(), overlap=MONTH)
    quick = BlobTickets(FileKeys(ring, clock), clock)
    assert slow.verify(quick.sign("GET", "b", expires=60)).key == "b"
    assert quick.verify(before).key == "a"


@pytest.mark.parametrize("content", ["", "short\n", None, b"\xff\xfe"])
def test_a_ring_that_became_unusable_is_not_used(
    content: str | bytes | None, ring: Path, clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    keys = FileKeys(ring, clock)
    before = keys.current()
    if content is None:
        ring.unlink()
    else:
        ring.write_bytes(content if isinstance(content, bytes) else content.encode())
    clock.forward(key_ring.LOOKED_AT_EVERY)
    assert keys.current() is before
    clock.forward(key_ring.LOOKED_AT_EVERY)
    assert keys.current() is before
    assert caplog.text.count("the former one goes on") == 1
    assert FIRST not in caplog.text
    ring.write_text("c" * 64)
    clock.forward(key_ring.LOOKED_AT_EVERY)
    assert keys.current() == (b"c" * 64,)


def test_rotations_at_once_lose_no_key(ring: Path, clock: Ticking) -> None:
    threads = [threading.Thread(target=rotate, args=(ring, clock.now()), kwargs={"overlap": MONTH}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = ring.read_text().split()
    assert len(set(keys)) == 9
    assert keys[-1] == FIRST
    assert len(json.loads((ring.parent / "jwt-secret.retired").read_text())) == 8


def test_notes_that_cannot_be_read_stop_a_rotation(ring: Path, clock: Ticking) -> None:
    (ring.parent / "jwt-secret.retired").write_text("[]")
    with pytest.raises(SettingsError, match="remove it"):
        rotate(ring, clock.now(), overlap=MONTH)
    assert ring.read_text().split() == [FIRST]


def test_settings_remember_which_file_the_ring_came_from(ring: Path, clock: Ticking) -> None:
    settings = load_settings(environment={"AIWM_JWT_SECRET_FILE": str(ring)})
    assert (settings.jwt_secret, settings.jwt_secret_file) == (FIRST, str(ring))
    assert isinstance(open_keys(settings.jwt_secret, settings.jwt_secret_file, clock), FileKeys)
    plain = load_settings(environment={"AIWM_JWT_SECRET": FIRST})
    assert plain.jwt_secret_file == ""
    assert open_keys(plain.jwt_secret, "", clock).current() == (FIRST.encode(),)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AIWM_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("alone")
def test_the_command_rotates_the_file_that_the_settings_name(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIWM_JWT_SECRET_FILE", str(ring))
    assert main(["rotate", "--overlap", "3600"]) == 0
    told = capsys.readouterr().out
    new, old = ring.read_text().split()
    assert key_id(new.encode()) in told
    assert key_id(old.encode()) in told
    assert new not in told
    assert main(["rotate", "--prune"]) == 0
    assert ring.read_text().split() == [new, old]
    assert main(["rotate", "--overlap", "0"]) == 0
    assert len(ring.read_text().split()) == 1


@pytest.mark.usefixtures("alone")
def test_the_command_finds_the_ring_of_aiwm_up(ring: Path) -> None:
    assert main(["rotate", "--data-dir", str(ring.parent)]) == 0
    assert ring.read_text().split()[1:] == [FIRST]


@pytest.mark.usefixtures("alone")
def test_the_command_says_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rotate", "--data-dir", str(tmp_path)]) == 2
    assert "cannot find a key ring" in capsys.readouterr().err
    monkeypatch.setenv("AIWM_JWT_SECRET", FIRST)
    assert main(["rotate"]) == 2
    assert "AIWM_JWT_SECRET_FILE" in capsys.readouterr().err
    for wrong in (["rotate", "--overlap", "-1"], ["rotate", "--overlap", "soon"], []):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
