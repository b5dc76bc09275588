"""An external IAM's tokens: believed for what its published keys signed, and for nothing a token says of itself."""

import base64
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Response
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey
from tests.http_support import PASSWORD, SetClock, Site, bearer, client, served, site

from aiwm.access.routes import access_router
from aiwm.access.routes_api_keys import api_keys_router
from aiwm.http.app import create_app
from aiwm.infra.jwks import FETCH_EVERY_SECONDS, FRESH_SECONDS, STALE_SECONDS, ExternalTokens, open_external
from aiwm.infra.store.port import Query
from aiwm.kit.settings import Settings, SettingsError
from aiwm.protocol.errors import Unauthenticated
from aiwm.protocol.states import PrincipalKind, Role

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")
assert issubclass(SecurityWarning, Warning)

ISSUER, AUDIENCE = "https://iam.example", "aiwm"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
NEXT = RSAKey.generate_key(2048, {"kid": "rsa-2"})
Key = RSAKey | ECKey | OKPKey
ALGORITHM = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


class Ticking(SetClock):
    """Both times move together."""

    def monotonic(self) -> float:
        return self.moment.timestamp()


class Iam:
    """An identity provider: what it publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA, EC, ED]
        self.asked = 0
        self.answer: Response | None = None
        self.clock = Ticking()
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/jwks")
        async def jwks() -> Response:
            self.asked += 1
            published = [each if isinstance(each, dict) else each.as_dict(private=False) for each in self.keys]
            return self.answer or Response(json.dumps({"keys": published}), media_type="application/json")

        return app

    def token(self, key: Key = RSA, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(self.clock.now().timestamp())
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "u-1",
            "username": "ann",
            "roles": ["universe.viewer"],
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        algorithm = ALGORITHM[key.key_type]
        return jwt.encode({"alg": algorithm, "kid": key.kid, **(header or {})}, said, key, algorithms=[algorithm])


@pytest.fixture
async def iam() -> AsyncIterator[Iam]:
    made = Iam()
    async with served(made.app()) as url:
        made.url = url + "/jwks"
        yield made


@pytest.fixture
async def here(iam: Iam) -> AsyncIterator[Site]:
    external = ExternalTokens(iam.url, ISSUER, AUDIENCE, iam.clock)
    async with site(iam.clock, external) as each:
        yield each


@pytest.fixture
async def http(here: Site) -> AsyncIterator[httpx2.AsyncClient]:
    routers = [access_router(here.access.sessions, here.guard), api_keys_router(here.access.api_keys, here.guard)]
    app = create_app(title="T", routers=routers, ready={}, guard=here.guard, settings=here.settings)
    async with client(app) as requests:
        requests.base_url = httpx2.URL("http://service/api/v1/")
        yield requests


async def _code(here: Site, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await here.guard.principal(token)
    return caught.value.code


async def _org(here: Site) -> str:
    (organization,) = await here.users.organizations.find(Query())
    return organization.id


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["RS256", "ES256", "EdDSA"])
async def test_its_tokens_say_who_somebody_is(key: Key, iam: Iam, here: Site, http: httpx2.AsyncClient) -> None:
    org_id = await _org(here)
    token = iam.token(key, roles=["organization.editor", "realm-admin", 7], orgId=org_id)
    assert (await http.get("auth/me", headers=bearer(token))).json() == {
        "userId": "u-1",
        "username": "ann",
        "orgId": org_id,
        "roles": ["organization.editor"],
        "kind": "user",
    }


async def test_our_own_tokens_go_on_beside_them(iam: Iam, http: httpx2.AsyncClient) -> None:
    pair = (await http.post("auth/login", json={"username": "admin", "password": PASSWORD})).json()
    assert (await http.get("auth/me", headers=bearer(pair["accessToken"]))).status_code == 200
    assert iam.asked == 0


def _encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def _by_hand(header: object, payload: object, secret: bytes) -> str:
    """As an attacker signs who takes a public key for a shared secret; the library refuses to."""
    signed = f"{_encoded(header)}.{_encoded(payload)}"
    signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_what_a_token_says_about_algorithms_and_keys_is_not_believed(iam: Iam, here: Site) -> None:
    good = iam.token()
    await here.guard.principal(good)
    payload = json.loads(base64.urlsafe_b64decode(good.split(".")[1] + "=="))
    mine = RSAKey.generate_key(2048, {"kid": "rsa-1"})
    forged = [
        f"{_encoded({'alg': 'none', 'kid': 'rsa-1'})}.{good.split('.')[1]}.",
        _by_hand({"alg": "HS256", "kid": "rsa-1"}, payload, RSA.as_pem(private=False)),
        _by_hand({"alg": "HS256", "kid": "rsa-1"}, payload, RSA.as_der(private=False)),
        iam.token(mine),
        iam.token(mine, {"jku": "https://evil.example/jwks"}),
        iam.token(mine, {"jwk": mine.as_dict(private=False)}),
        iam.token(RSA, {"jku": "https://evil.example/jwks"}),
        iam.token(RSA, {"jwk": RSA.as_dict(private=False)}),
        iam.token(RSA, {"x5u": "https://evil.example/cert"}),
        iam.token(RSA, {"kid": "ec-1"}),
        iam.token(RSA, {"typ": "logout+jwt"}),
        jwt.encode({"alg": "RS256"}, payload, RSA, algorithms=["RS256"]),
        jwt.encode({"alg": "RS512", "kid": "rsa-1"}, payload, RSA, algorithms=["RS512"]),
        f"{good[:-6]}AAAAAA",
        f"{good}.{good}",
    ]
    for each in forged:
        assert await _code(here, each) == "TOKEN_INVALID", each
    assert iam.asked == 1


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 1}, "TOKEN_EXPIRED"),
        ({"exp": None}, "TOKEN_INVALID"),
        ({"exp": "never"}, "TOKEN_INVALID"),
        ({"exp": 1e300}, "TOKEN_INVALID"),
        ({"nbf": 2**33}, "TOKEN_INVALID"),
        ({"nbf": "x"}, "TOKEN_INVALID"),
        ({"iat": 2**33}, "TOKEN_INVALID"),
        ({"aud": "another"}, "TOKEN_INVALID"),
        ({"aud": ["another"]}, "TOKEN_INVALID"),
        ({"aud": None}, "TOKEN_INVALID"),
        ({"iss": "https://evil.example"}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
        ({"typ": "Refresh"}, "TOKEN_INVALID"),
        ({"typ": "ID"}, "TOKEN_INVALID"),
        ({"nonce": "of an id token"}, "TOKEN_INVALID"),
        ({"orgId": "org-none"}, "TOKEN_INVALID"),
        ({"orgId": {"$ne": None}}, "TOKEN_INVALID"),
        ({"roles": ["organization.owner"]}, "TOKEN_INVALID"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(claims: dict[str, Any], code: str, iam: Iam, here: Site) -> None:
    assert await _code(here, iam.token(**claims)) == code


async def test_a_token_ends_when_it_says_though_it_is_remembered(iam: Iam, here: Site) -> None:
    token = iam.token(exp=int(iam.clock.now().timestamp()) + 1)
    await here.guard.principal(token)
    iam.clock.forward(1)
    assert await _code(here, token) == "TOKEN_EXPIRED"


async def test_its_tokens_are_users_and_nothing_else(iam: Iam, here: Site) -> None:
    for kind in (PrincipalKind.NODE, PrincipalKind.AGENT, PrincipalKind.SERVICE):
        with pytest.raises(Unauthenticated):
            here.tokens.verify(iam.token(aud=[AUDIENCE, f"aiwm:{kind.value}"]), kind)


async def test_nobody_becomes_a_user_of_ours_by_naming_its_id(iam: Iam, here: Site) -> None:
    admin = await here.users.by_username("admin")
    assert admin is not None
    assert await _code(here, iam.token(sub=admin.id, roles=["universe.owner"])) == "TOKEN_INVALID"


async def test_keys_rotate_with_overlap(iam: Iam, here: Site) -> None:
    old = iam.token()
    await here.guard.principal(old)
    iam.keys = [NEXT, RSA]
    iam.clock.forward(FETCH_EVERY_SECONDS)
    await here.guard.principal(iam.token(NEXT))
    await here.guard.principal(old)
    iam.keys = [NEXT]
    iam.clock.forward(FRESH_SECONDS - 10)
    await here.guard.principal(iam.token(NEXT))
    iam.clock.forward(20)
    assert await _code(here, iam.token(RSA)) == "TOKEN_INVALID"


async def test_an_unknown_key_causes_one_fetch_a_minute_at_most(iam: Iam, here: Site) -> None:
    await here.guard.principal(iam.token())
    assert iam.asked == 1
    for number in range(50):
        assert await _code(here, iam.token(NEXT, {"kid": f"unknown-{number}"})) == "TOKEN_INVALID"
    assert iam.asked == 1
    iam.clock.forward(FETCH_EVERY_SECONDS)
    for number in range(50):
        assert await _code(here, iam.token(NEXT, {"kid": f"unknown-{number}"})) == "TOKEN_INVALID"
    assert iam.asked == 2


async def test_while_the_iam_is_away_its_keys_go_on_for_an_hour(iam: Iam, http: httpx2.AsyncClient) -> None:
    assert (await http.get("auth/me", headers=bearer(iam.token()))).status_code == 200
    iam.answer = Response("no", status_code=500)
    iam.clock.forward(STALE_SECONDS - 1)
    assert (await http.get("auth/me", headers=bearer(iam.token()))).status_code == 200
    iam.clock.forward(2)
    away = await http.get("auth/me", headers=bearer(iam.token()))
    assert (away.status_code, away.json()["code"]) == (503, "JWKS_AWAY")
    iam.answer = None
    iam.clock.forward(FETCH_EVERY_SECONDS)
    assert (await http.get("auth/me", headers=bearer(iam.token()))).status_code == 200


@pytest.mark.parametrize(
    "answer",
    [
        Response("not json"),
        Response("[]"),
        Response('{"keys": 7}'),
        Response("x" * 300_000),
        Response(status_code=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["not json", "a list", "no keys", "too long", "a redirect"],
)
async def test_an_answer_that_is_no_key_set_is_not_used(answer: Response, iam: Iam, http: httpx2.AsyncClient) -> None:
    iam.answer = answer
    away = await http.get("auth/me", headers=bearer(iam.token()))
    assert (away.status_code, away.json()["code"]) == (503, "JWKS_AWAY")


async def test_keys_that_are_weak_of_other_use_or_unknown_are_passed_over(iam: Iam, here: Site) -> None:
    secret = {"kty": "oct", "k": _encoded("k" * 40), "kid": "oct-1"}
    encryption = {**NEXT.as_dict(private=False), "use": "enc"}
    iam.keys = [secret, encryption, {"kty": "RSA", "kid": "broken"}, {"kty": 7}, EC]
    await here.guard.principal(iam.token(EC))
    assert await _code(here, iam.token(NEXT)) == "TOKEN_INVALID"


async def test_who_was_here_can_be_shut_out_here(iam: Iam, here: Site) -> None:
    await here.guard.principal(iam.token())
    await here.users.users.update("u-1", lambda user: user.model_copy(update={"is_active": False}))
    assert await _code(here, iam.token()) == "TOKEN_INVALID"


async def test_roles_follow_the_newest_token(iam: Iam, here: Site) -> None:
    first = await here.guard.principal(iam.token(roles=["universe.owner"]))
    second = await here.guard.principal(iam.token(roles=["universe.viewer"], username="anna"))
    kept = await here.users.users.get("u-1")
    assert kept is not None
    assert [list(who.roles) for who in (first, second)] == [[Role.UNIVERSE_OWNER], [Role.UNIVERSE_VIEWER]]
    assert (kept.external, kept.username, kept.roles) == (True, "anna", ["universe.viewer"])


async def test_external_users_have_no_password_but_may_have_keys(
    iam: Iam, here: Site, http: httpx2.AsyncClient
) -> None:
    await here.guard.principal(iam.token())
    for name in ("ann", "external:u-1"):
        answer = await http.post("auth/login", json={"username": name, "password": "decoy"})
        assert answer.status_code == 401
    body = {"name": "ci", "scopes": ["manage"]}
    key = (await http.post("api-keys", json=body, headers=bearer(iam.token()))).json()["key"]
    assert (await http.get("auth/me", headers=bearer(key))).json()["userId"] == "u-1"


async def test_a_subject_that_is_no_id_gets_one(iam: Iam, here: Site) -> None:
    who = await here.guard.principal(iam.token(sub="auth0|5f7c8ec7"))
    again = await here.guard.principal(iam.token(EC, sub="auth0|5f7c8ec7"))
    assert who.id == again.id
    assert who.id.startswith("user-")


@pytest.mark.parametrize(
    "given",
    [
        {"jwks_url": "https://iam.example/jwks"},
        {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        {"jwks_url": "http://iam.example/jwks", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        {"jwks_url": "https://user:secret@iam.example/jwks", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
    ],
)
def test_settings_that_would_be_unsafe_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        open_external(Settings(**given), Ticking())


def test_without_settings_no_other_tokens_are_believed() -> None:
    assert open_external(Settings(), Ticking()) is None
    loopback: dict[str, Any] = {"jwks_url": "http://127.0.0.1:9/jwks", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    assert open_external(Settings(**loopback), Ticking()) is not None
