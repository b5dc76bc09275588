"""Secrets sealed at rest: AES-256-GCM under a key ring, each bound to the record it belongs to.

The first key seals, all open, so keys are rotated by putting a new one first and sealing again what `stale` names. A
sealed text says which key made it; it opens only for the record it was sealed for, and only unchanged.
"""

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aiwm.kit.settings import key_ring
from aiwm.protocol.errors import AiwmError

_FORM = "aiwm1"
_NONCE_BYTES = 12
_PURPOSE = b"aiwm stored secrets"


class SecretUnreadable(AiwmError):
    """A sealed text that does not open: its key is gone, or it was changed, or it is another record's."""

    status, title, default_code = 500, "Secret unreadable", "SECRET_UNREADABLE"


class Sealer:
    """Seals and opens. Nothing of it is ever shown: not by `repr`, not in errors."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._ciphers = {_key_id(key): AESGCM(_derived(key)) for key in keys}
        self._sealing = _key_id(keys[0])

    @classmethod
    def from_setting(cls, text: str) -> "Sealer":
        """From `AIWM_ENCRYPTION_KEY`, one key a line; raises `SettingsError` when it holds none or a short one."""
        return cls(key_ring(text, "AIWM_ENCRYPTION_KEY"))

    def seal(self, secret: str, *, record_id: str) -> str:
        """`secret` as text that may be stored with the record of that id."""
        nonce = os.urandom(_NONCE_BYTES)
        content = self._ciphers[self._sealing].encrypt(nonce, secret.encode(), _bound(self._sealing, record_id))
        return f"{_FORM}.{self._sealing}.{base64.urlsafe_b64encode(nonce + content).decode()}"

    def open(self, sealed: str, *, record_id: str) -> str:
        """The secret; `SecretUnreadable` when it does not open for this record."""
        key_id, content = _parts(sealed)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SecretUnreadable(
                f"cannot open the secret of {record_id}: its key {key_id} is not in AIWM_ENCRYPTION_KEY; put it back"
            )
        try:
            opened = cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], _bound(key_id, record_id))
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadable(
                f"cannot open the secret of {record_id}: it was changed, or belongs to another record; set it again"
            ) from error
        return opened.decode()

    def stale(self, sealed: str) -> bool:
        """Whether it was sealed by another key than the first, and is to be sealed again before that key goes."""
        return _parts(sealed)[0] != self._sealing


def _parts(sealed: str) -> tuple[str, bytes]:
    form, _, rest = sealed.partition(".")
    key_id, _, content = rest.partition(".")
    try:
        raw = base64.b64decode(content.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise SecretUnreadable("cannot open a secret: what is stored is not a sealed text; set it again") from error
    if form != _FORM or len(raw) <= _NONCE_BYTES:
        raise SecretUnreadable("cannot open a secret: what is stored is not a sealed text; set it again")
    return key_id, raw


def _bound(key_id: str, record_id: str) -> bytes:
    return f"{_FORM}.{key_id}.{record_id}".encode()


def _derived(key: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(key)


def _key_id(key: bytes) -> str:
    """Names a key without telling anything of it that its use as a token key would tell too."""
    return hashlib.sha256(_PURPOSE + key).hexdigest()[:16]
