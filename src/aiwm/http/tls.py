"""The server's certificate: read at the start, and again when its files change, while connections go on.

Each handshake takes the newest context that could be read. A context that is loaded anew would keep a certificate of
another key type beside the new one, so a new one is made each time; open connections keep theirs.
"""

import asyncio
import logging
import ssl
from pathlib import Path

from aiwm.kit.settings import Settings, SettingsError

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
# The last two: a key of another type than the certificate's.
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")

Signature = tuple[tuple[int, int, int], ...]


class Certificate:
    """Files of a certificate and its key. `SettingsError` when they cannot be used at the start."""

    def __init__(self, cert: str, key: str) -> None:
        self._cert, self._key = cert, key
        self._read_at = self._signature()
        self.context = self._newest = self._loaded()
        self.context.sni_callback = self._choose

    async def keep_fresh(self, every: float = _LOOK_SECONDS) -> None:
        """Looks at the files for ever; what cannot be used is one warning, and the last good certificate stays."""
        while True:
            await asyncio.sleep(every)
            self.look()

    def look(self) -> None:
        """Reads the files again if they changed."""
        try:
            signature = self._signature()
            if signature == self._read_at:
                return
            self._read_at = signature
            self._newest = self._loaded()
        except SettingsError as error:
            log.warning("the certificate stays as it was: %s", error)
        else:
            log.info("the certificate was read again", extra={"file": self._cert})

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Asked in every handshake, also when the client names no server."""
        connection.context = self._newest

    def _signature(self) -> Signature:
        found = []
        for variable, path in (("AIWM_TLS_CERT", self._cert), ("AIWM_TLS_KEY", self._key)):
            try:
                stat = Path(path).stat()
            except OSError as error:
                raise SettingsError(f"cannot use {variable}: {path}: {error.strerror}") from error
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_passphrase)
        except _Encrypted:
            raise SettingsError(
                f"cannot use AIWM_TLS_KEY: {self._key} has a passphrase; write it without: openssl pkey"
            ) from None
        except ssl.SSLError as error:
            raise SettingsError(f"cannot use AIWM_TLS_CERT and AIWM_TLS_KEY: {_cause(error)}") from error
        except OSError as error:
            raise SettingsError(
                f"cannot read AIWM_TLS_CERT {self._cert} or AIWM_TLS_KEY {self._key}: {error.strerror}"
            ) from error
        return context


def certificate(settings: Settings) -> Certificate | None:
    """The one that the settings name, None for plain HTTP. Raises `SettingsError`."""
    return Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None


class _Encrypted(Exception):
    """The key asks for a passphrase: a server has nobody to ask."""


def _no_passphrase() -> str:
    raise _Encrypted


def _cause(error: ssl.SSLError) -> str:
    if error.reason in _MISMATCHES:
        return "the key does not belong to the certificate"
    return f"one of the files is not PEM of the right kind ({error.reason or error})"
