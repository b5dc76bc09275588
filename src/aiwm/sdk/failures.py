"""What goes wrong between here and the controller, as the one family of errors that everything else raises too."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from pydantic import ValidationError

from aiwm.kit.trust import distrusted
from aiwm.protocol.errors import (
    AiwmError,
    BadUpstream,
    Conflict,
    Denied,
    FieldError,
    Invalid,
    Malformed,
    NotFound,
    Problem,
    Stale,
    TimedOut,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
)

_FAMILY: dict[int, type[AiwmError]] = {
    each.status: each
    for each in (
        BadUpstream,
        Conflict,
        Denied,
        Invalid,
        Malformed,
        NotFound,
        Stale,
        TimedOut,
        TooLarge,
        TooMany,
        Unauthenticated,
        Unavailable,
    )
}


def error_of(status: int, body: bytes, correlation_id: str | None, asked: str) -> AiwmError:
    """The error an answer means. `asked` is "METHOD URL", for answers that are none of ours."""
    payload = _object(body)
    try:
        problem = Problem.model_validate(payload)
    except ValidationError:
        return _foreign(status, payload, correlation_id, asked)
    details: dict[str, object] = {"correlationId": problem.correlation_id}
    return _raise_as(problem.status, problem.detail, problem.code, details, problem.errors)


def _foreign(status: int, payload: dict[str, object], correlation_id: str | None, asked: str) -> AiwmError:
    """Errors in the shape of OpenAI (`error.message`) or KServe (`error`), or of something that is not AIWM at all."""
    details: dict[str, object] = {"correlationId": correlation_id} if correlation_id else {}
    error = payload.get("error")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        return _raise_as(status, error["message"], code if isinstance(code, str) else None, details)
    if isinstance(error, str):
        code = payload.get("code")
        return _raise_as(status, error, code if isinstance(code, str) else None, details)
    sentence = f"cannot {asked}: it answered {status} in a shape this client does not know; is that an AIWM service?"
    return _raise_as(status, sentence, None, details)


def _raise_as(
    status: int, message: str, code: str | None, details: dict[str, object], fields: list[FieldError] | None = None
) -> AiwmError:
    kind = _FAMILY.get(status, AiwmError)
    if kind is Invalid:
        return Invalid(message, code=code, details=details, fields=fields)
    return kind(message, code=code, details=details)


def _object(body: bytes) -> dict[str, object]:
    try:
        payload = json.loads(body)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Within it, what the HTTP library raises becomes `Unavailable` or `TimedOut`, naming `url`."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Unavailable(f"cannot reach {url}: {distrusted(error) or error}", code="CERTIFICATE_REFUSED") from error
    except aiohttp.ClientConnectorError as error:
        cause = error.os_error.strerror or str(error.os_error)
        raise Unavailable(f"cannot reach {url}: {cause}; is AIWM running there?", code="UNREACHABLE") from error
    except TimeoutError as error:
        raise TimedOut(f"cannot finish with {url}: no answer in time; try again") from error
    except aiohttp.InvalidURL as error:
        raise Invalid(f"cannot use {url}: it is no http:// or https:// URL", code="URL_INVALID") from error
    except (aiohttp.ClientError, OSError) as error:
        cause = str(error) or type(error).__name__
        raise Unavailable(f"cannot finish with {url}: {cause}; try again", code="CONNECTION_LOST") from error
