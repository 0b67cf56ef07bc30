"""Fuzzing: damage to bytes and to JSON, drawn by Hypothesis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none() | st.booleans() | st.sampled_from([float("nan"), float("inf"), -1e308, 1e-320, 0.0, -0.0, 0.5]),
    st.sampled_from([0, -1, 1, 2, 3, 32, 33, 64, 1000, 2**20, 2**31, 2**53 + 1, 2**64, -(2**63), 10**400]),
    st.text(max_size=6) | st.sampled_from(["a\0b", "\ud800", "../../x", "x" * 300, "float32", "config.json", "\u202e", "1\n2"]),
    st.recursive(st.integers(-2, 2), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner)),
)


@st.composite
def damaged_bytes(draw: st.DrawFn, samples: Mapping[str, bytes]) -> tuple[str, bytes]:
    """The name of a sample and its bytes with one to three damages."""
    name = draw(st.sampled_from(sorted(samples)))
    data = bytearray(samples[name])
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("flip", "number", "cut", "end", "insert", "zero", "repeat", "splice")))
        # Headers are short: some damages lie in them for certain.
        anywhere = st.integers(0, len(data))
        at = draw(st.one_of(st.integers(0, min(64, len(data))), anywhere, anywhere, anywhere))
        length = draw(st.integers(1, 8) | st.integers(1, 400))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, order)
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "end":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "splice":
            other = samples[draw(st.sampled_from(sorted(samples)))]
            start = draw(st.integers(0, len(other)))
            data[at : at + length] = other[start : start + length]
    return name, bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, samples: Mapping[str, Any]) -> tuple[str, bytes]:
    """The name of a sample, and its JSON text with one to three values replaced, removed or added, or with damaged bytes."""
    name = draw(st.sampled_from(sorted(samples)))
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes({name: json.dumps(samples[name]).encode()}))
    data = json.loads(json.dumps(samples[name]))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if kind == "replace":
            container[key] = draw(VALUES)
        elif kind == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.text(max_size=4))] = draw(VALUES)
        else:
            container.append(draw(VALUES))
    return name, json.dumps(data).encode(errors="surrogatepass")


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """All values within a JSON value, as container and key."""
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield data, key
            yield from _places(data[key])
