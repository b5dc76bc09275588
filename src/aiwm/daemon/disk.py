"""What a full or broken disk is called on the wire."""

import contextlib
import errno
from collections.abc import Iterator

import aiohttp

from aiwm.protocol.errors import AiwmError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def disk_errors(cannot: str) -> Iterator[None]:
    """Within it, a failing disk is an `AiwmError` that begins with `cannot`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, aiohttp.ClientError | TimeoutError):
            raise
        code = "RESOURCE_EXHAUSTED" if error.errno in _FULL else "INTERNAL_ERROR"
        raise AiwmError(f"{cannot}: {error.strerror or error}", code=code) from error
