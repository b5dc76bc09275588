"""S3's multipart calls over presigned URLs: begin, list, complete, abort, and making a bucket."""

import io
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import aiohttp
from yarl import URL

from aiwm.infra.objects.port import Part
from aiwm.infra.objects.presign import Presigner
from aiwm.protocol.errors import Invalid, NotFound, Unavailable

_EXPIRES = 900
_MAX_ANSWER = 4 * 2**20
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=5, sock_read=120)
_PART_FAULTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML", "InvalidRequest"})


class MultipartCalls:
    """One bucket's multipart uploads. Raises `Unavailable` when the server cannot be reached or refuses us."""

    def __init__(self, session: aiohttp.ClientSession, signer: Presigner) -> None:
        self._session = session
        self._signer = signer

    async def create(self, key: str) -> str:
        """Begins an upload; its id."""
        answer = await self._call("POST", key, {"uploads": ""}, what=f"begin an upload of {key!r}")
        return _text(answer, "UploadId")

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """All parts that are there, by number."""
        found: list[Part] = []
        marker = "0"
        while True:
            query = {"uploadId": upload_id, "part-number-marker": marker, "max-parts": "1000"}
            answer = await self._call("GET", key, query, what=f"list the parts of {key!r}")
            for part in _all(answer, "Part"):
                etag = _text(part, "ETag").strip('"')
                found.append(Part(int(_text(part, "PartNumber")), etag, int(_text(part, "Size"))))
            if _text(answer, "IsTruncated", "false") != "true":
                return found
            marker = _text(answer, "NextPartNumberMarker")

    async def complete(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Makes the blob of its parts."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(_quoted(etag))}</ETag></Part>"
            for number, etag in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        await self._call("POST", key, {"uploadId": upload_id}, body=body, what=f"complete {key!r}")

    async def abort(self, key: str, upload_id: str) -> None:
        """Forgets the upload."""
        await self._call("DELETE", key, {"uploadId": upload_id}, what=f"abandon the upload of {key!r}")

    async def ensure_bucket(self) -> None:
        """Makes the bucket if it is missing."""
        try:
            await self.ping()
        except NotFound:
            body = None
            if self._signer.region != "us-east-1":
                place = f"<LocationConstraint>{escape(self._signer.region)}</LocationConstraint>"
                body = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>"
            await self._call("PUT", "", {}, body=body, what=f"make the bucket {self._signer.bucket!r}")

    async def ping(self) -> None:
        """Returns when the bucket answers; `NotFound` when there is no such bucket."""
        await self._call("HEAD", "", {}, what=f"reach the bucket {self._signer.bucket!r}")

    async def _call(
        self, method: str, key: str, query: Mapping[str, str], *, what: str, body: str | None = None
    ) -> ET.Element | None:
        url = URL(self._signer.url(method, key, expires=_EXPIRES, query=query), encoded=True)
        try:
            sent = io.BytesIO(body.encode()) if body is not None else None
            async with self._session.request(method, url, data=sent, timeout=_TIMEOUT) as answer:
                raw = await _bounded(answer.content)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Unavailable(f"cannot {what}: {cause}", code="OBJECTS_UNAVAILABLE") from error
        parsed = _parsed(raw, what) if raw.strip() else None
        # A completion may answer 200 at once and say in the body that it failed after all.
        if status >= 300 or (parsed is not None and _name(parsed) == "Error"):
            raise _failure(status, parsed, what)
        return parsed


async def _bounded(stream: aiohttp.StreamReader) -> bytes:
    raw = bytearray()
    async for chunk in stream.iter_chunked(65_536):
        raw += chunk
        if len(raw) > _MAX_ANSWER:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return bytes(raw)


def _parsed(raw: bytes, what: str) -> ET.Element:
    try:
        return ET.fromstring(raw)  # noqa: S314 - an answer of the configured object store, bounded in size
    except ET.ParseError as error:
        raise Unavailable(
            f"cannot {what}: the object store answers no XML; is the endpoint right?", code="OBJECTS_UNAVAILABLE"
        ) from error


def _failure(status: int, answer: ET.Element | None, what: str) -> Exception:
    code = _text(answer, "Code", "") if answer is not None else ""
    said = f"{code or 'HTTP'} {status}: {_text(answer, 'Message', '')}" if answer is not None else f"HTTP {status}"
    if code == "NoSuchUpload":
        return NotFound(f"cannot {what}: the upload was completed, abandoned or never begun", code="UPLOAD_NOT_FOUND")
    if status == 404:
        return NotFound(f"cannot {what}: it is not there", code="OBJECT_NOT_FOUND")
    if code in _PART_FAULTS:
        return Invalid(f"cannot {what}: {said}", code="PART_INVALID")
    return Unavailable(f"cannot {what}: the object store answers {said}", code="OBJECTS_UNAVAILABLE")


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(parent: ET.Element | None, name: str) -> list[ET.Element]:
    return [child for child in (parent if parent is not None else ()) if _name(child) == name]


def _text(parent: ET.Element | None, name: str, default: str | None = None) -> str:
    for child in _all(parent, name):
        return child.text or ""
    if default is None:
        raise Unavailable(f"cannot read the object store's answer: it has no {name}", code="OBJECTS_UNAVAILABLE")
    return default


def _quoted(etag: str) -> str:
    return f'"{etag.strip(chr(34))}"'
