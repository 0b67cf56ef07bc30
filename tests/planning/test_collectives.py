"""Bytes between devices, from HLO text in every form that XLA writes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from sample.planning.collectives import Traffic, table, traffic
from sample.planning.hlo import Instruction, parse

MESH = AbstractMesh((2, 4), ("data", "fsdp"))


def module(body: str, before: str = "") -> str:
    """The text of a module with 8 partitions; `%p` has 64 float32, `%q` 8 bfloat16."""
    text = "HloModule jit_f, is_scheduled=true, num_partitions=8\n\n"
    lines = ["%p = f32[64]{0:T(256)} parameter(0)", "%q = bf16[2,4]{1,0} parameter(1)", *body.strip().splitlines()]
    entry = "\n".join(f"  {line.strip()}" for line in lines)
    return f"{text}{before}\nENTRY %main (p: f32[64], q: bf16[2,4]) -> f32[64] {{\n{entry}\n}}\n"


def of(line: str, before: str = "") -> list[tuple]:
    return [(t.kind, t.axes, t.count, t.bytes) for t in traffic(module(line, before), MESH)]


@pytest.mark.parametrize(
    ("groups", "axes", "n"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", "fsdp", 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", "data", 2),
        ("{}", "data+fsdp", 8),
        ("[2,4]<=[8]", "fsdp", 4),
        ("[4,2]<=[2,4]T(1,0)", "data", 2),
        ("[1,8]<=[8]", "data+fsdp", 8),
        ("[4,2]<=[8]", "fsdp", 2),  # pairs of neighbours
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", "fsdp", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data", 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1','axis_0'}", "data+fsdp", 8),
        ("mesh[a=8] {a:(2)4}", "fsdp", 4),
        ("mesh['a'=8] {'a':(1)2}", "data", 2),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", "fsdp", 4),
        ("mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'a'}", "fsdp", 2),
    ],
)
def test_groups(groups, axes, n):
    found = of(f"ROOT %r = f32[64]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, use_global_device_ids=true")
    assert found == [("all-reduce", axes, 1, 2 * (n - 1) / n * 256)]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh[a=2,b=4] {a}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh[a=8] {a:(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", [[3, 1], [2, 0]]),
    ],
)
def test_members_of_groups(text, groups):
    attributes = f", channel_id=1, replica_groups={text}, use_global_device_ids=true"
    instruction = Instruction(name="r", opcode="all-reduce", sizes=[256], operands=["p"], attributes=attributes)
    assert instruction.groups(8) == groups


GROUPS = "replica_groups=[2,4]<=[8]"
FSDP = ("fsdp", 1)


@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        (f"%r = f32[256]{{0}} all-gather(%p), {GROUPS}, dimensions={{0}}", "all-gather", 3 * 256),
        (f"%r = f32[16]{{0}} reduce-scatter(%p), {GROUPS}, dimensions={{0}}", "reduce-scatter", 192),
        (f"%r = f32[64]{{0}} all-to-all(%p), {GROUPS}, dimensions={{0}}", "all-to-all", 192),
        (f"%r = (f32[64]{{0}}, bf16[2,4]{{1,0}}) all-reduce(%p, /*index=1*/%q), {GROUPS}", "all-reduce", 1.5 * (256 + 16)),
        (f"%r = f32[64]{{0}} all-reduce(f32[64]{{0:T(256)}} %p), {GROUPS}", "all-reduce", 384),
        (f"%r = f32[64]{{0}} all-reduce(p), {GROUPS}", "all-reduce", 384),
        # start and end: counted once, without the buffers that a start returns
        (
            f"""%s = (f32[64]{{0}}, f32[256]{{0}}) all-gather-start(%p), {GROUPS}, dimensions={{0}}
            ROOT %r = f32[256]{{0}} all-gather-done(%s)""",
            "all-gather",
            3 * 256,
        ),
        (
            f"""%s = ((f32[64]{{0}}), f32[16]{{0}}) reduce-scatter-start(%p), {GROUPS}, dimensions={{0}}
            ROOT %r = f32[16]{{0}} reduce-scatter-done(%s)""",
            "reduce-scatter",
            192,
        ),
        ("%r = f32[64]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0},{2,2}}", "collective-permute", 256),
    ],
)
def test_kinds(line, kind, sent):
    assert of(line) == [(kind, *FSDP, sent)]


def test_nothing_is_sent():
    assert of("%r = f32[64]{0} all-reduce(%p), replica_groups=[8,1]<=[8]") == []
    assert of("%r = f32[64]{0} collective-permute(%p), source_target_pairs={{0,0},{1,1}}") == []
    assert of('%r = f32[64]{0} fusion(%p), kind=kLoop, metadata={op_name="all-reduce(%p)"}') == []


def test_asynchronous_computations():
    gather = f"%x = f32[64] parameter(0)\n  ROOT %g = f32[256] all-gather(%x), {GROUPS}"
    before = f"%wrapped (x: f32[64]) -> f32[256] {{\n  {gather}\n}}\n"
    body = """%s = ((f32[64]), f32[256], s32[]) async-start(%p), calls=%wrapped
    ROOT %r = f32[256] async-done(%s), calls=%wrapped"""
    assert of(body, before) == [("all-gather", *FSDP, 768)]


BRANCHES = f"""%small (a: f32[64]) -> f32[64] {{
  %a = f32[64] parameter(0)
  ROOT %ar = f32[64] all-reduce(%a), {GROUPS}, to_apply=%add
}}

%large (b: f32[64]) -> f32[64] {{
  %b = f32[64] parameter(0)
  %ag = f32[256] all-gather(%b), {GROUPS}
  ROOT %s = f32[64] slice(%ag), slice={{[0:64]}}
}}
"""


def test_the_most_expensive_branch_counts():
    before = BRANCHES.replace(", to_apply=%add", "")
    expected = [("all-gather", *FSDP, 768)]
    assert of("%r = f32[64] conditional(%i, %p, %p), branch_computations={%small, %large}", before) == expected
    assert of("%r = f32[64] conditional(%i, %p, %p), true_computation=%large, false_computation=%small", before) == expected


def test_loops():
    before = BRANCHES.replace(", to_apply=%add", "") + "\n%cond (c: f32[64]) -> pred[] {\n  %c = f32[64] parameter(0)\n}\n"
    loop = "%r = f32[64] while(%p), condition=%cond, body=%large"
    assert of(
        f'{loop}, backend_config={{"known_trip_count":{{"n":"7"}},"known_init_step":{{"init":"0","step":"1"}}}}', before
    ) == [("all-gather", "fsdp", 7, 7 * 768)]
    with pytest.raises(ValueError, match="can't count the bytes of r: the length of this loop is unknown"):
        of(loop, before)
    assert of(loop.replace("large", "cond"), before) == []  # nothing is sent, for any length


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%r = f32[64] collective-broadcast(%p), replica_groups={{0,1}}", "can't count the bytes of r: collective-broadcast"),
        ("%r = f32[64] all-reduce(%p), replica_groups=new{0}", "can't read the groups of r"),
        ("%r = f32[64] collective-permute(%p), pairs=0", "can't read the pairs of r"),
        ("%r = f32[64] ???", "can't read the HLO of r"),
    ],
)
def test_refused(line, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        of(line)


def test_text_that_is_not_hlo():
    with pytest.raises(ValueError, match="it has no ENTRY"):
        traffic("module @jit_f {}")


def test_bytes_of_types():
    types = {
        "f32[]": 4,
        "bf16[3,5]{1,0:T(8,128)(2,1)}": 30,
        "pred[7]": 7,
        "f8e4m3fn[4]": 4,
        "c64[2]": 16,
        "s4[3]": 2,
        "token[]": 0,
        "(f32[2]{0}, (u8[3]{0}, token[]), /*index=2*/f64[1])": 19,
        "f32[<=8]": 32,
    }
    lines = "\n".join(f"%t{i} = {text} parameter({i + 2})" for i, text in enumerate(types))
    computations, entry = parse(module(lines))
    found = [i.bytes for name, i in computations[entry].items() if name.startswith("t")]
    assert found == list(types.values())


def test_table():
    rows = [Traffic("all-gather", "fsdp", 12, 3.5e9), Traffic("all-reduce", "data", 1, 2e6)]
    lines = table(rows).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["all-gather", "fsdp", "12", "3500.000"],
        ["all-reduce", "data", "1", "2.000"],
        ["all", "13", "3502.000"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_one_device_sends_nothing():
    assert traffic(jax.jit(lambda x: jnp.tanh(x @ x).sum()).lower(jnp.ones((4, 4))).compile()) == []
