"""The members of an uncompressed tar, by their headers alone.

In: a tar, here or remote.  Out: each member's name, place and kind, and where and why the scan had to stop.

Nothing is ever extracted: a member is a range of bytes. `tarfile` reads each header, but does not walk: it takes a
damaged header for the end, and believes whatever length an extended header claims.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 512
_MAX_EXTENDED_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_EXTENDED = (_LONG_NAME, _LONG_LINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_WITHOUT_DATA = (*_LINKS, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar."""

    name: str
    """Path, as it is written there."""
    offset: int
    """First byte of its content."""
    size: int
    """Bytes of its content."""
    problem: str | None = None
    """Why it cannot be served."""


@dataclass(slots=True)
class Listing:
    """What a scan found."""

    members: list[Member] = field(default_factory=list)
    """Files and links, in order; folders are left out."""
    cut: str | None = None
    """Why nothing after the last member could be read; None where the tar ends as it should."""


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the next member."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


class _DamageError(Exception):
    """Why a scan cannot go on."""


def scan(file: BinaryIO, size: int, name: str) -> Listing:
    """The members of a tar of `size` bytes; `ValueError` where it is no tar at all."""
    head = file.read(BLOCK)
    if head.startswith(_GZIP) or name.lower().endswith((".gz", ".tgz")):
        raise ValueError(
            f"source.path: {name} is compressed, which allows no access by position: unpack it to a plain .tar "
            f"(gunzip {name.rpartition('/')[2]})"
        )
    listing = Listing()
    try:
        for member in _members(file, size):
            listing.members.append(member)
    except _DamageError as error:
        if not listing.members:
            raise ValueError(f"source.path: {name} is not a tar (it {error}); give uncompressed .tar files") from error
        listing.cut = f"the tar {error}: all that followed is missing"
    return listing


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    position, extended = 0, _Extended()
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise _DamageError(f"is cut short at byte {position}, before its end marker")
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise _DamageError(f"has a damaged header at byte {position} ({error})") from error
        length = 0 if info.type in _WITHOUT_DATA else info.size if extended.size is None else extended.size
        if info.type in _EXTENDED:
            length = info.size
        start = position + BLOCK
        if length < 0:
            raise _DamageError(f"has a damaged header at byte {position} (size {length})")
        position = start + -(-length // BLOCK) * BLOCK
        if info.type in _EXTENDED:
            if length > _MAX_EXTENDED_BYTES or start + length > size:
                raise _DamageError(f"has a damaged header at byte {start - BLOCK} (extended by {length} bytes)")
            _extend(extended, info.type, file.read(length))
            continue
        member = Member(extended.name or info.name, start, length, _problem(info, extended))
        extended = _Extended()
        if start + length > size:
            yield Member(member.name, start, 0, f"the tar is cut short at byte {size}, inside of this sample")
            raise _DamageError(f"is cut short at byte {size}")
        if info.type != tarfile.DIRTYPE:
            yield member


def _problem(info: tarfile.TarInfo, extended: _Extended) -> str | None:
    if info.type in _LINKS:
        return "is a link, which is not followed"
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        return "is no file"
    if extended.sparse or info.type == tarfile.GNUTYPE_SPARSE:
        return "is stored with holes: pack it without --sparse"
    return None


def _extend(extended: _Extended, kind: bytes, content: bytes) -> None:
    if kind == _LONG_NAME:
        extended.name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        for key, value in _records(content):
            if key == b"path":
                extended.name = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                if not value.isdigit() or len(value) > 18:
                    raise _DamageError(f"has a damaged extended header (size {value[:20]!r})")
                extended.size = int(value)
            elif key.startswith(b"GNU.sparse"):
                extended.sparse = True


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records `<length> <key>=<value>\\n` of a pax header."""
    while content.strip(b"\0"):
        digits, space, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        if not space or not len(digits) + 1 < length <= len(content):
            raise _DamageError("has a damaged extended header (record length)")
        key, _, value = content[len(digits) + 1 : length].removesuffix(b"\n").partition(b"=")
        yield key, value
        content = content[length:]
