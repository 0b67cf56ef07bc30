"""ICC profiles with known contents."""

import struct

SRGB_COLUMNS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))  # XYZ of the primaries
P3_COLUMNS = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
LINEAR = b"curv" + bytes(8)
_WHITE = (0.9642, 1.0, 0.8249)


def gamma(exponent):
    """A tone curve that is a power."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * exponent))


def srgb_curve():
    """The tone curve of sRGB, with parameters."""
    return b"para" + bytes(4) + struct.pack(">HH5i", 3, 0, *map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))


def rgb_profile(curve, columns=SRGB_COLUMNS, title="test"):
    tags = [(name + b"XYZ", _xyz(column)) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)]
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    return _profile(b"RGB ", b"XYZ ", tags, title)


def grey_profile(curve, title="test"):
    return _profile(b"GRAY", b"XYZ ", [(b"kTRC", curve)], title)


def cmyk_profile(title="test"):
    """Two steps per ink, in CIELAB: without ink white, with the first ink only a colour, with more or other inks black."""
    colours = bytearray()
    for inks in range(16):  # the last ink varies fastest
        colours += bytes({0: (255, 128, 128), 8: (128, 192, 128)}.get(inks, (0, 128, 128)))
    steps = bytes(range(256))
    identity = struct.pack(">9i", *map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + steps * 4 + bytes(colours) + steps * 3
    return _profile(b"CMYK", b"Lab ", [(b"A2B0", table)], title, b"prtr")


def _fixed(value):
    return round(value * 2**16)


def _xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *map(_fixed, values))


def _profile(space, connection, tags, title, device=b"mntr"):
    text = title.encode() + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = [(b"desc", description), (b"cprt", b"text" + bytes(4) + b"-\0"), (b"wtpt", _xyz(_WHITE)), *tags]
    start, entries, contents = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        entries += name + struct.pack(">II", start + len(contents), len(data))
        contents += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(contents), bytes(4), 0x02400000, device, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *map(_fixed, _WHITE))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + contents
