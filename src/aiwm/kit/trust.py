"""Whose certificates our clients believe: the system's authorities, and the one that `AIWM_TLS_CA` names."""

import ssl

from aiwm.kit.settings import SettingsError


def trusting(ca_file: str) -> ssl.SSLContext | None:
    """A client's context that also trusts the certificates in `ca_file` (PEM); None when it names none.

    Raises `SettingsError` when the file cannot be used.
    """
    if not ca_file:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError as error:
        raise SettingsError(f"cannot use AIWM_TLS_CA: {ca_file} holds no PEM certificate") from error
    except OSError as error:
        raise SettingsError(f"cannot use AIWM_TLS_CA: {ca_file}: {error.strerror}") from error
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
