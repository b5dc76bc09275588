"""The one family of errors: a code clients rely on, a sentence that says what to do, and how each edge answers it."""

from pydantic import Field

from aiwm.protocol.base import Wire


class AiwmError(Exception):
    """A failure with a name. `message` reads "cannot X: cause"; `details` is JSON-ready and safe to show."""

    status = 500
    title = "Internal error"
    default_code = "INTERNAL_ERROR"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.details = details or {}


class Invalid(AiwmError):
    """What was sent does not fit; `fields` names each place."""

    status, title, default_code = 422, "Invalid request", "VALIDATION_FAILED"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, object] | None = None,
        fields: list["FieldError"] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.fields = fields or []


class NotFound(AiwmError):
    status, title, default_code = 404, "Not found", "NOT_FOUND"


class Unauthenticated(AiwmError):
    status, title, default_code = 401, "Not signed in", "UNAUTHENTICATED"


class Denied(AiwmError):
    status, title, default_code = 403, "Not allowed", "DENIED"


class Conflict(AiwmError):
    status, title, default_code = 409, "Conflict", "CONFLICT"


class Stale(AiwmError):
    """Somebody else changed it first."""

    status, title, default_code = 412, "Changed in the meantime", "VERSION_MISMATCH"


class Unavailable(AiwmError):
    """A part is away; the same request may succeed later."""

    status, title, default_code, retryable = 503, "Unavailable", "UNAVAILABLE", True


class TimedOut(AiwmError):
    status, title, default_code, retryable = 504, "Timed out", "TIMEOUT", True


class TooMany(AiwmError):
    status, title, default_code = 429, "Too many requests", "TOO_MANY_REQUESTS"


class TooLarge(AiwmError):
    status, title, default_code = 413, "Too large", "TOO_LARGE"


class Malformed(AiwmError):
    status, title, default_code = 400, "Malformed request", "MALFORMED"


class BadUpstream(AiwmError):
    status, title, default_code, retryable = 502, "Bad upstream answer", "BAD_UPSTREAM", True


class FieldError(Wire):
    """One field that does not fit: its path (`a.b[0]`), and why."""

    field: str
    message: str
    code: str


class Problem(Wire):
    """RFC 9457 `application/problem+json`, with our code and correlation id."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    correlation_id: str
    errors: list[FieldError] = Field(default_factory=list)
