"""Which images a node runs: the operator's patterns, judged over names as Docker completes them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiwm.protocol.errors import Denied, Invalid

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>{_PART}(?::[0-9]+(?=/))?(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LONGEST = 512
_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Image:
    """An image's name with its registry, and what pins it; `tag` and `digest` are empty when they were not given."""

    name: str
    tag: str
    digest: str

    @property
    def registry(self) -> str:
        return self.name.partition("/")[0]


def parse_image(text: str) -> Image:
    """Raises `Invalid`."""
    found = _REFERENCE.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise Invalid(
            f"cannot run image {text[:200]!r}: that is no image's name; give it as registry/name:tag or name@sha256:…",
            code="COMMAND_INVALID",
        )
    return Image(_completed(found["name"]), found["tag"] or "", found["digest"] or "")


def repository(text: str) -> str:
    """An image's name without what tells its versions apart."""
    name, colon, tag = text.partition("@")[0].rpartition(":")
    return name if colon and "/" not in tag else text.partition("@")[0]


def _completed(name: str) -> str:
    """With the registry and the folder that Docker adds when they are left out."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return f"{_HUB}/{rest}" if first == f"index.{_HUB}" else name
    return f"{_HUB}/{name}" if slash else f"{_HUB}/library/{name}"


class AllowList:
    """Patterns of images, `*` for any letters. One without a tag takes every tag; one with a digest demands it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_split(each.strip()) for each in patterns if each.strip()]

    def allows(self, image: Image) -> bool:
        return any(_fits(image, pattern) for pattern in self._patterns)

    def check(self, image: Image, text: str) -> None:
        """Raises `Denied`."""
        if not self.allows(image):
            raise Denied(
                f"cannot run image {text}: this node does not allow it; its operator can, with AIWM_ALLOWED_IMAGES",
                code="IMAGE_NOT_ALLOWED",
            )


def _split(pattern: str) -> Image:
    name = repository(pattern)
    rest, _, digest = pattern.partition("@")
    tag = rest[len(name) + 1 :]
    if "*" not in name.partition("/")[0]:
        name = _completed(name)
    return Image(name, tag, digest)


def _fits(image: Image, pattern: Image) -> bool:
    if not fnmatchcase(image.name, pattern.name):
        return False
    if pattern.digest:
        return bool(image.digest) and fnmatchcase(image.digest, pattern.digest)
    # Docker looks at the digest alone where there is one: a tag beside it promises nothing.
    return pattern.tag in ("", "*") or (not image.digest and fnmatchcase(image.tag or "latest", pattern.tag))
