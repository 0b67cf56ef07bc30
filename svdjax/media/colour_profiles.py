"""Colour spaces of images as tone curves and a matrix: from ICC profiles, PNG chunks and code points; conversion to sRGB."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from svdjax.errors import InputError

Curve = Callable[[np.ndarray], np.ndarray]  # from stored values in 0..1 to linear light

_D65 = (0.3127, 0.3290)
_PRIMARIES = {  # ITU-T H.273, table 2: x and y of red, green, blue and white
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # H.273, table 3; the curves of BT.709, BT.601 and BT.2020 are shown as sRGB's, as in videos
_HDR = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_TO_D50 = np.array(  # IEC 61966-2-1, adapted to the white of ICC profiles
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
_BLOCK = 2**20  # pixels converted at a time, which limits memory


@dataclass(frozen=True)
class ColourSpace:
    """An RGB or grey colour space without a table of colours.

    Attributes:
        title: for notes.
        curves: of red, green and blue.
        matrix: (3, 3), from linear light to linear sRGB.
        grey: whether it is for grey pixels; its three curves are the same.
    """

    title: str
    curves: tuple[Curve, Curve, Curve]
    matrix: np.ndarray
    grey: bool = False

    def to_srgb(self, values: np.ndarray) -> np.ndarray:
        """Convert pixels, uint8 or uint16 (H, W, 3), to uint8 (H, W, 3), rounded to nearest."""
        white = np.iinfo(values.dtype).max
        steps = np.arange(white + 1) / white
        linear = [curve(steps).astype(np.float32) for curve in self.curves]
        matrix = self.matrix.astype(np.float32)
        # 16 bits of linear light suffice: the steepest part of sRGB's curve changes by 0.05 levels per step.
        encode = np.rint(255 * _srgb_encoded(np.arange(2**16) / (2**16 - 1))).astype(np.uint8)
        out = np.empty(values.shape, np.uint8)
        rows = max(1, _BLOCK // max(1, values.shape[1]))
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            light = np.stack([linear[i][block[..., i]] for i in range(3)], -1) @ matrix.T
            out[start : start + rows] = encode[np.rint(light.clip(0, 1) * (2**16 - 1)).astype(np.uint16)]
        return out

    def is_srgb(self) -> bool:
        """Whether the conversion changes no 8-bit colour by more than one level, the rounding of profiles."""
        grid = np.array(list(itertools.product(range(0, 256, 17), repeat=3)), np.uint8)[None]
        grey = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, -1)
        return all(np.abs(self.to_srgb(colours).astype(int) - colours).max() <= 1 for colours in (grid, grey))


def from_icc(profile: bytes, title: str) -> ColourSpace | None:
    """The colour space of an ICC profile (ICC.1:2010); None if it is not made of curves and a matrix.

    Raises:
        Exception: of nearly any kind, if the profile is damaged.
    """
    tags = _icc_tags(profile)
    space, connection = profile[16:20], profile[20:24]
    if connection != b"XYZ " or b"A2B0" in tags:
        return None
    if space == b"GRAY":
        curve = _icc_curve(tags[b"kTRC"])
        return _checked(ColourSpace(title, (curve, curve, curve), np.eye(3), grey=True))
    if space != b"RGB ":
        return None
    columns = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    matrix = np.linalg.inv(_SRGB_TO_D50) @ (np.array(columns).T / 2**16)
    red, green, blue = (_icc_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
    return _checked(ColourSpace(title, (red, green, blue), matrix))


def _checked(space: ColourSpace) -> ColourSpace:
    """Refuse curves that aren't finite or don't rise."""
    with np.errstate(all="ignore"):
        for curve in space.curves:
            light = curve(np.linspace(0, 1, 256))
            if not np.isfinite(light).all() or light[-1] <= light[0]:
                raise ValueError("a damaged tone curve")
    return space


def _icc_tags(profile: bytes) -> dict[bytes, bytes]:
    if profile[36:40] != b"acsp":
        raise ValueError("not an ICC profile")
    (count,) = struct.unpack(">I", profile[128:132])
    entries = struct.iter_unpack(">4sII", profile[132 : 132 + 12 * min(count, 1000)])
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _icc_curve(tag: bytes) -> Curve:
    if tag[:4] == b"para":
        kind, numbers = struct.unpack(">H", tag[8:10])[0], [n / 2**16 for (n,) in struct.iter_unpack(">i", tag[12:])]
        return _parametric(kind, numbers)
    if tag[:4] != b"curv":
        raise ValueError("an unknown kind of tone curve")
    (count,) = struct.unpack(">I", tag[8:12])
    table = np.frombuffer(tag, ">u2", count, 12)
    if count == 0:
        return lambda x: x
    if count == 1:
        return _power(float(table[0]) / 256)
    return lambda x: np.interp(x, np.linspace(0, 1, count), table / 65535)


def _parametric(kind: int, numbers: list[float]) -> Curve:
    """ICC.1:2010, 10.16, table 65."""
    g, a, b, c, d, e, f = {
        0: lambda g: (g, 1, 0, 0, 0, 0, 0),
        1: lambda g, a, b: (g, a, b, 0, -b / a, 0, 0),
        2: lambda g, a, b, c: (g, a, b, 0, -b / a, c, c),
        3: lambda g, a, b, c, d: (g, a, b, c, d, 0, 0),
        4: lambda g, a, b, c, d, e, f: (g, a, b, c, d, e, f),
    }[kind](*numbers[: (1, 3, 4, 5, 7)[kind]])
    return lambda x: np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)


def _power(gamma: float) -> Curve:
    return lambda x: x**gamma


def from_code_points(primaries: int, transfer: int, name: str) -> ColourSpace | None:
    """The colour space of code points of ITU-T H.273; None if they are unknown.

    Args:
        primaries, transfer: the code points.
        name: the file, for messages.

    Raises:
        InputError: high dynamic range, which has no defined conversion to sRGB.
    """
    if transfer in _HDR:
        raise InputError(f"{name}: its colours are of high dynamic range ({_HDR[transfer]}), expected sRGB: export it as sRGB")
    if primaries not in _PRIMARIES:
        return None
    curve = _power(_GAMMAS[transfer]) if transfer in _GAMMAS else _srgb_decoded
    return _of_primaries(f"colour tags (primaries {primaries}, transfer {transfer})", _PRIMARIES[primaries], curve)


def from_gamma(gamma: float, primaries: tuple[float, ...] | None) -> ColourSpace | None:
    """The colour space of the chunks gAMA and cHRM of a PNG (PNG specification, 3rd edition, 11.3.2); None for damaged ones.

    Args:
        gamma: of the encoding. Values within 5 % of 1 / 2.2 stand for sRGB's curve, as in libpng.
        primaries: x and y of white, red, green and blue; None for sRGB's.
    """
    if not 0.1 <= gamma <= 10:
        return None
    curve = _srgb_decoded if abs(gamma * 2.2 - 1) <= 0.05 else _power(1 / gamma)
    title = "chunks gAMA and cHRM" if primaries else "chunk gAMA"
    return _of_primaries(title, (*primaries[2:], *primaries[:2]) if primaries else _PRIMARIES[1], curve)


def _of_primaries(title: str, primaries: tuple[float, ...], curve: Curve) -> ColourSpace | None:
    srgb, its = _to_xyz(_PRIMARIES[1]), _to_xyz(primaries)
    if srgb is None or its is None:
        return None
    whites = _BRADFORD @ np.stack([srgb.sum(1), its.sum(1)], 1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(whites[:, 0] / whites[:, 1]) @ _BRADFORD @ its
    return ColourSpace(title, (curve, curve, curve), np.linalg.inv(srgb) @ adapted)


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray | None:
    """Matrix from linear RGB to XYZ, from x and y of red, green, blue and white; None if they define none."""
    xy = np.array(primaries).reshape(4, 2)
    if len(xy) != 4 or (xy[:, 1] <= 0).any():
        return None
    columns = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
    if abs(np.linalg.det(columns[:, :3])) < 1e-6:
        return None
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def _srgb_decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb_encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
