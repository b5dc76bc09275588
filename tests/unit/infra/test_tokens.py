"""Tokens: what is believed, and what never is."""

import base64
import json
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from tests.http_support import SetClock

from aiwm.infra.tokens import Tokens
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.states import PrincipalKind

KEY, OTHER = b"a" * 32, b"b" * 32
USER, NODE = PrincipalKind.USER, PrincipalKind.NODE


def _code(tokens: Tokens, token: str | None, *kinds: PrincipalKind) -> str:
    with pytest.raises(Unauthenticated) as caught:
        tokens.verify(token, *(kinds or (USER,)))
    return caught.value.code


def _forged(token: str, header: dict[str, object], *, signature: bool = True) -> str:
    _, payload, signed = token.split(".")
    first = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{first}.{payload}.{signed if signature else ''}"


def test_a_token_says_what_was_put_in_until_it_ends() -> None:
    clock = SetClock()
    tokens = Tokens((KEY,), clock)
    token, expires_at = tokens.issue(NODE, "node-1", expires_in=60, values={"epoch": 3})
    claims = tokens.verify(token, USER, NODE)
    assert (claims.kind, claims.subject, claims.values) == (NODE, "node-1", {"epoch": 3})
    assert claims.expires_at == expires_at == clock.now() + timedelta(seconds=60)
    clock.forward(59.999)
    tokens.verify(token, NODE)
    clock.forward(0.001)
    assert _code(tokens, token, NODE) == "TOKEN_EXPIRED"


@pytest.mark.parametrize("token", [None, ""])
def test_no_token_is_named_as_such(token: str | None) -> None:
    assert _code(Tokens((KEY,), SetClock()), token) == "TOKEN_MISSING"


def test_kinds_never_stand_in_for_each_other() -> None:
    tokens = Tokens((KEY,), SetClock())
    for kind in PrincipalKind:
        token, _ = tokens.issue(kind, "x", expires_in=60)
        for other in set(PrincipalKind) - {kind}:
            assert _code(tokens, token, other) == "TOKEN_INVALID"


def test_a_refresh_token_is_never_an_access_token_nor_the_reverse() -> None:
    tokens = Tokens((KEY,), SetClock())
    refresh, _ = tokens.issue(USER, "user-1", expires_in=60, use="refresh")
    access, _ = tokens.issue(USER, "user-1", expires_in=60)
    assert _code(tokens, refresh) == "TOKEN_INVALID"
    assert tokens.verify_refresh(refresh, USER).subject == "user-1"
    with pytest.raises(Unauthenticated, match="another kind"):
        tokens.verify_refresh(access, USER)


def test_after_a_rotation_old_tokens_are_good_and_new_ones_are_signed_by_the_new_key() -> None:
    clock = SetClock()
    old, both, new = Tokens((KEY,), clock), Tokens((OTHER, KEY), clock), Tokens((OTHER,), clock)
    token, _ = old.issue(USER, "user-1", expires_in=60)
    assert both.verify(token, USER).subject == "user-1"
    assert _code(new, token) == "TOKEN_INVALID"
    later, _ = both.issue(USER, "user-1", expires_in=60)
    assert new.verify(later, USER).subject == "user-1"


def test_what_a_token_says_about_algorithms_and_keys_is_not_believed() -> None:
    tokens = Tokens((KEY,), SetClock())
    token, _ = tokens.issue(USER, "user-1", expires_in=60)
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    forged = [
        _forged(token, {**header, "alg": "none"}, signature=False),
        _forged(token, {**header, "alg": "HS512"}),
        _forged(token, {**header, "jku": "https://evil.example/keys"}),
        _forged(token, {**header, "jwk": {"kty": "oct", "k": "YQ"}}),
        _forged(token, {**header, "crit": ["exp"]}),
        _forged(token, {"alg": "HS256"}),
        _forged(token, {**header, "kid": ["list"]}),
        token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
        token + "." + token,
        "a.b.c",
        "..",
        "not a token",
        "é" * 20,
        "x" * 9000,
    ]
    for each in forged:
        assert _code(tokens, each) == "TOKEN_INVALID", each


def test_claims_signed_with_our_key_by_another_program_are_still_checked() -> None:
    tokens = Tokens((KEY,), SetClock())
    kid = json.loads(base64.urlsafe_b64decode(tokens.issue(USER, "u", expires_in=1)[0].split(".")[0] + "=="))["kid"]
    good: dict[str, object] = {
        "iss": "aiwm",
        "aud": "aiwm:user",
        "sub": "u",
        "exp": 2**33,
        "use": "access",
        "values": {},
    }
    wrong: list[dict[str, object]] = [
        {"exp": "later"},
        {"exp": None},
        {"exp": True},
        {"sub": 7},
        {"aud": ["aiwm:user", "aiwm:node"]},
        {"iss": "other"},
        {"use": None},
        {"values": []},
    ]
    key = OctKey.import_key(KEY)
    for each in [{}, *wrong]:
        token = jwt.encode({"alg": "HS256", "kid": kid}, {**good, **each}, key)
        if each:
            assert _code(tokens, token) in ("TOKEN_INVALID", "TOKEN_EXPIRED"), each
        else:
            assert tokens.verify(token, USER).subject == "u"
