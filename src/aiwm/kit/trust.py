"""Whose certificates our clients believe: the system's authorities, and the one that `AIWM_TLS_CA` names."""

import functools
import os
import ssl

from aiwm.kit.settings import SettingsError


def trusting(ca_file: str) -> ssl.SSLContext | None:
    """A client's context that also trusts the certificates in `ca_file` (PEM); None when it names none.

    Raises `SettingsError` when the file cannot be used.
    """
    if not ca_file:
        return None
    try:
        state = os.stat(ca_file)
        return _context(ca_file, state.st_ino, state.st_mtime_ns, state.st_size)
    except ssl.SSLError as error:
        raise SettingsError(f"cannot use AIWM_TLS_CA: {ca_file} holds no PEM certificate") from error
    except OSError as error:
        raise SettingsError(f"cannot use AIWM_TLS_CA: {ca_file}: {error.strerror}") from error


@functools.lru_cache(maxsize=4)
def _context(ca_file: str, *_state: int) -> ssl.SSLContext:
    """One for all who trust the same file as it is now: it takes 20 ms to make, and up to a megabyte."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context


def distrusted(error: BaseException) -> str | None:
    """Why a certificate was not believed and what to do, if that is behind `error`; None when it is not."""
    seen: BaseException | None = error
    while seen is not None:
        # The HTTP library's own error is of this class too, but without the reason.
        if isinstance(seen, ssl.SSLCertVerificationError) and (reason := getattr(seen, "verify_message", "")):
            return (
                f"its certificate is not trusted ({reason}); "
                "set AIWM_TLS_CA to the file of the authority that signed it"
            )
        seen = seen.__cause__ or seen.__context__
    return None
