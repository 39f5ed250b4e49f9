"""Damage inside a JPEG's pixels that its decoder passes over in silence, looked for in the bytes.

Found is what no encoder writes: zeros in place of data, markers that cannot stand there, restarts out of order. Other
damage decodes to other pixels, and nothing in the format tells. Zeros in a WebP's pixels tell nothing: a blank area's
data are zeros too.
"""

import re

ZEROS = bytes(512)
_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # FF 00 is a data byte, FF FF fills
_START, _END, _TABLES, _SCAN = 0xD8, 0xD9, 0xC4, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_ALONE = {0x01, _START, *_RESTARTS}  # markers without a length
_SEQUENTIAL = {0xC0, 0xC1}
# What may follow a scan's data: tables, the next scan, the number of lines, application data, a comment, the end.
_AFTER = {_TABLES, 0xCC, _END, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


def jpeg_damage(data: bytes) -> str | None:
    """What is broken in the first picture of a JPEG that can be decoded, or None."""
    at, frame = 2, 0
    firsts: dict[int, int] = {}
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = marker[1][0], marker.end()
        if code == _END:
            return None
        if code in _ALONE:
            continue
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(body)
        if code == _TABLES:
            firsts |= _first_symbols(body)
        elif code == _SCAN:
            end, damage = _scan(data, at)
            if frame in _SEQUENTIAL and not _zeros_are_blank(body, firsts) and data.find(ZEROS, at, end) >= 0:
                return f"{len(ZEROS)} zero bytes or more among its pixels"
            if damage is not None:
                return damage
            at = end
        elif code & 0xF0 == 0xC0 and code not in (0xC8, 0xCC):
            frame = code
    return None


def _scan(data: bytes, start: int) -> tuple[int, str | None]:
    """(where a scan's data end, what is broken in them)."""
    expected = 0
    for marker in _MARKER.finditer(data, start):
        code = marker[1][0]
        if code not in _RESTARTS:
            wrong = None if code in _AFTER else f"marker FF{code:02X} among its pixels"
            return marker.start(), wrong
        if code != _RESTARTS[expected]:
            return marker.start(), f"restart {code - _RESTARTS[0]} where {expected} is due"
        expected = (expected + 1) % len(_RESTARTS)
    return len(data), None


def _first_symbols(body: bytes) -> dict[int, int]:
    """By class and number of a Huffman table: its symbol of the shortest code, which is all zero bits."""
    found: dict[int, int] = {}
    while len(body) > 17:
        found[body[0]] = body[17]
        body = body[17 + sum(body[1:17]) :]
    return found


def _zeros_are_blank(scan: bytes, firsts: dict[int, int]) -> bool:
    """Whether zero bits mean blocks like the ones before: no change of brightness (0), the end of the block (0)."""
    tables = scan[2 : 1 + 2 * scan[0] : 2] if scan else b""
    return all(firsts.get(t >> 4) == 0 and firsts.get(0x10 | t & 0xF) == 0 for t in tables)
