"""Bytes that programs move through device memory: every form of fusion and of single instructions, loops and branches."""

from __future__ import annotations

import pytest

from sample.planning import hbm

F, B = 4, 2  # bytes of a float32 or int32, and of a bfloat16


def counted(text: str) -> dict[str, tuple[int, float]]:
    return {k.kind: (k.count, k.bytes) for k in hbm.moved(text)}


def entry(lines: str, before: str = "") -> str:
    """A program with arguments `%p`, float32 (8, 100), and `%q`, float32 (8, 10)."""
    body = "\n".join(f"  {line.strip()}" for line in lines.strip().splitlines())
    arguments = "  %p = f32[8,100]{1,0} parameter(0)\n  %q = f32[8,10]{1,0} parameter(1)\n"
    return f"HloModule m\n\n{before}\nENTRY %main (p: f32[8,100], q: f32[8,10]) -> f32[] {{\n{arguments}{body}\n}}\n"


def fused(lines: str) -> float:
    """Bytes of a fusion of `%p` and `%q`."""
    body = "\n".join(f"  {line.strip()}" for line in lines.strip().splitlines())
    parameters = "  %p = f32[8,100]{1,0} parameter(0)\n  %q = f32[8,10]{1,0} parameter(1)\n  %i = s32[] constant(1)\n"
    body = f"%body (p: f32[8,100], q: f32[8,10]) -> f32[] {{\n{parameters}{body}\n}}\n"
    return hbm.total(hbm.moved(entry("ROOT %r = f32[] fusion(%p, %q), kind=kLoop, calls=%body", body)))


P, Q = 8 * 100 * F, 8 * 10 * F


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        # unused operands aren't read
        ("ROOT %r = f32[8,10]{1,0} negate(%q)", 2 * Q),
        ("ROOT %r = f32[8,100]{1,0} add(%p, %p)", 2 * P),
        # the same slice twice, different ones, and all besides a slice
        (
            """%a = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}
            %b = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}
            ROOT %r = f32[8,10]{1,0} add(%a, %b)""",
            2 * Q,
        ),
        (
            """%a = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}
            %b = f32[8,10]{1,0} slice(%p), slice={[0:8], [20:30]}
            ROOT %r = f32[8,10]{1,0} add(%a, %b)""",
            3 * Q,
        ),
        (
            """%a = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}
            ROOT %r = (f32[8,10]{1,0}, f32[8,100]{1,0}) tuple(%a, %p)""",
            P + Q + P,
        ),
        # the same places of an array and of its mirror image are different places of the array
        (
            """%m = f32[8,100]{1,0} reverse(%p), dimensions={1}
            %a = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}
            %b = f32[8,10]{1,0} slice(%m), slice={[0:8], [0:10]}
            ROOT %r = f32[8,10]{1,0} add(%a, %b)""",
            3 * Q,
        ),
        # a slice of a slice, behind other operations
        (
            """%n = bf16[8,100]{1,0} convert(%p)
            %a = bf16[8,50]{1,0} slice(%n), slice={[0:8], [0:50]}
            %b = bf16[400]{0} bitcast(%a)
            ROOT %r = bf16[40]{0} slice(%b), slice={[0:40]}""",
            40 * F + 40 * B,
        ),
        # parts that overlap
        (
            """%a = f32[8,60]{1,0} slice(%p), slice={[0:8], [0:60]}
            %b = f32[8,60]{1,0} slice(%p), slice={[0:8], [40:100]}
            ROOT %r = f32[8,60]{1,0} add(%a, %b)""",
            P + 8 * 60 * F,
        ),
        # one element of the result needs many of the operand, or the reverse: sums, broadcasts
        (
            """%b = f32[8,10,100]{2,1,0} broadcast(%q), dimensions={0,1}
            ROOT %r = f32[8,10,1]{2,1,0} slice(%b), slice={[0:8], [0:10], [0:1]}""",
            2 * Q,
        ),
        ("%s = f32[8]{0} reduce(%p, %i), dimensions={1}, to_apply=%add\nROOT %r = f32[8,10] broadcast(%s)", P + Q),
        # an update of an operand, also behind a bitcast; of new zeros; and one that is used further
        ("ROOT %r = f32[8,100]{1,0} dynamic-update-slice(%p, %q, %i, %i)", 2 * Q),
        (
            """%u = f32[8,100]{1,0} dynamic-update-slice(%p, %q, %i, %i)
            ROOT %r = f32[1,8,100]{2,1,0} bitcast(%u)""",
            2 * Q,
        ),
        (
            """%b = f32[100,8]{1,0} bitcast(%p)
            ROOT %r = f32[100,8]{1,0} dynamic-update-slice(%b, %q, %i, %i)""",
            2 * Q,
        ),
        (
            """%z = f32[8,100]{1,0} broadcast(%i), dimensions={}
            ROOT %r = f32[8,100]{1,0} dynamic-update-slice(%z, %q, %i, %i)""",
            Q + P,
        ),
        (
            """%u = f32[8,100]{1,0} dynamic-update-slice(%p, %q, %i, %i)
            ROOT %r = f32[8,100]{1,0} negate(%u)""",
            (P - Q) + Q + P,
        ),
        # two updates at once
        (
            """%u = f32[8,100]{1,0} dynamic-update-slice(%p, %q, %i, %i)
            %n = f32[8,10]{1,0} negate(%q)
            ROOT %r = (f32[8,100]{1,0}, f32[8,10]{1,0}) tuple(%u, %n)""",
            Q + 2 * Q,
        ),
        # sums at some places
        ("ROOT %r = f32[8,100]{1,0} scatter(%p, %i, %q), to_apply=%add", 3 * Q),
        # padding reads the operand alone, removal of a border only what stays
        ("ROOT %r = f32[8,100]{1,0} pad(%q, %i), padding=0_0x45_45", Q + P),
        ("ROOT %r = f32[8,10]{1,0} pad(%p, %i), padding=0_0x-45_-45", 2 * Q),
        (
            """%a = f32[8,100]{1,0} negate(%p)
            %b = f32[8,10]{1,0} pad(%p, %i), padding=0_0x-45_-45
            ROOT %r = (f32[8,100]{1,0}, f32[8,10]{1,0}) tuple(%a, %b)""",
            2 * P + Q,
        ),
    ],
)
def test_fusions(lines, size):
    assert fused(lines) == size


def test_a_fusion_in_a_fusion():
    inner = "%inner (x: f32[8,100]) -> f32[8,10] {\n  %x = f32[8,100]{1,0} parameter(0)\n"
    inner += "  ROOT %s = f32[8,10]{1,0} slice(%x), slice={[0:8], [0:10]}\n}\n"
    outer = "%outer (p: f32[8,100]) -> f32[8,10] {\n  %p = f32[8,100]{1,0} parameter(0)\n"
    outer += "  ROOT %f = f32[8,10]{1,0} fusion(%p), kind=kLoop, calls=%inner\n}\n"
    assert counted(entry("ROOT %r = f32[8,10]{1,0} fusion(%p), kind=kCustom, calls=%outer", inner + outer)) == {
        "elementwise": (1, 2 * Q)
    }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "%i = s32[] constant(1)\nROOT %r = f32[8,100]{1,0} dynamic-update-slice(%p, %q, %i, %i)",
            {"update in place": (1, 2 * Q + F)},
        ),
        ("ROOT %r = f32[8,10]{1,0} slice(%p), slice={[0:8], [0:10]}", {"elementwise": (1, 2 * Q)}),
        # a start and its end are one kernel
        (
            """%s = (f32[8,100]{1,0}, f32[8,100]{1,0}, u32[]) copy-start(%p)
            ROOT %r = f32[8,100]{1,0} copy-done(%s)""",
            {"copy": (1, 2 * P)},
        ),
        (
            """%s = (f32[8,10]{1,0}, f32[32,10]{1,0}) all-gather-start(%q), replica_groups=[1,4]<=[4], dimensions={0}
            ROOT %r = f32[32,10]{1,0} all-gather-done(%s)""",
            {"all-gather": (1, Q + 4 * Q)},
        ),
        # a library's workspace isn't counted, other results are
        (
            '%r = (f32[8,10]{1,0}, s8[4096]{0}) custom-call(%p, %q), custom_call_target="__cublas$gemm"',
            {"matrix product": (1, P + 2 * Q)},
        ),
        (
            '%r = (f32[8,10]{1,0}, f32[8,10]{1,0}) custom-call(%p), custom_call_target="__gpu$xla.gpu.triton"',
            {"Pallas kernel": (1, P + 2 * Q)},
        ),
        ('%r = f32[8,10]{1,0} custom-call(%q), custom_call_target="something"', {"something": (1, 2 * Q)}),
        # nothing moves
        ("%t = (f32[8,100]{1,0}) tuple(%p)\n%g = f32[8,100]{1,0} get-tuple-element(%t), index=0", {}),
        ("%r = f32[100,8]{1,0} bitcast(%p)", {}),
    ],
)
def test_single_instructions(lines, expected):
    assert counted(entry(lines)) == expected


BRANCH = "%{name} (x: f32[8,{n}]) -> f32[] {{\n  %x = f32[8,{n}]{{1,0}} parameter(0)\n  %c = f32[8,{n}]{{1,0}} copy(%x)\n}}\n"


def test_conditionals_and_calls():
    before = BRANCH.format(name="small", n=10) + BRANCH.format(name="large", n=100)
    line = "ROOT %r = f32[] conditional(%i, %q, %p), branch_computations={%small, %large}"
    assert counted(entry(line, before)) == {"copy": (1, 2 * P)}
    assert counted(entry("ROOT %r = f32[] call(%p), to_apply=%large", before)) == {"copy": (1, 2 * P)}
    asynchronous = (
        "%s = ((f32[8,100]), f32[], s32[]) async-start(%p), calls=%large\nROOT %r = f32[] async-done(%s), calls=%large"
    )
    assert counted(entry(asynchronous, before)) == {"copy": (1, 2 * P)}


def test_a_loop_of_unknown_length():
    before = BRANCH.format(name="body", n=100) + BRANCH.format(name="cond", n=10).replace("copy(", "bitcast(")
    loop = "ROOT %r = f32[8,100]{1,0} while(%p), condition=%cond, body=%body"
    assert counted(entry(f'{loop}, backend_config={{"known_trip_count":{{"n":"5"}}}}', before)) == {"copy": (5, 5 * 2 * P)}
    with pytest.raises(ValueError, match="can't count the bytes of r: the length of this loop is unknown"):
        counted(entry(loop, before))
