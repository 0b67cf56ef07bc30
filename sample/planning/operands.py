"""The parts of its operands that a kernel reads.

The parts that are wanted of a result are followed back to the operands: an elementwise operation wants the same parts of its
operands, a slice its own part, a matrix product everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from sample.planning.hlo import Computation, Instruction

# Parts of an array: the text that describes a part -> its share of the array. Two readers of the same part read it once;
# different parts are added.
Parts = dict[str, float]
ALL: Parts = {"": 1.0}
UPDATES = ("dynamic-update-slice", "scatter")


def operand_parts(
    instruction: Instruction,
    computation: Computation,
    wanted: Parts,
    computations: Mapping[str, Computation],
    *,
    in_place: bool,
) -> list[Parts]:
    """The parts of each operand that are read to compute the parts `wanted` of an instruction's result.

    Args:
        instruction: a kernel, or an instruction of a fusion.
        computation: where it is.
        wanted: parts of its result.
        computations: all computations of the program.
        in_place: whether an update shares the memory of the array that it updates.
    """
    names = instruction.operands
    match instruction.opcode:
        case "parameter" | "constant":
            return []
        case "fusion":
            return _fusion_parts(instruction, wanted, computations)
        case "slice" | "dynamic-slice" | "gather" | "pad":  # padding may be negative
            # indices are part of the text that describes the part
            place = instruction.attributes.partition(", metadata=")[0] + ",".join(names[1:])
            return [_scaled(wanted, instruction, computation[names[0]], place), *[ALL] * len(names[1:])]
        case "dynamic-update-slice":
            share = computation[names[1]].bytes / max(1, computation[names[0]].bytes)
            kept = {} if in_place else {f"around {instruction.name}": max(0.0, share_of(wanted) - share)}
            return [kept, *[ALL] * len(names[1:])]
        case "scatter":  # adds to what is there
            share = update_bytes(instruction, computation) / max(1, instruction.bytes)
            target = {f"places of {instruction.name}": share} if in_place else wanted
            arrays = len(names) // 2
            return [target] * arrays + [ALL] * (len(names) - arrays)
        case "transpose" | "reverse":
            return [{f"{instruction.name}, {key}" if key else "": share for key, share in wanted.items()}]
        case "broadcast" | "dot" | "convolution" | "sort" | "reduce-window" | "custom-call":
            return [ALL] * len(names)
        case _:  # to each element of the result belong the same number of elements of each operand
            return [wanted] * len(names)


def _fusion_parts(fusion: Instruction, wanted: Parts, computations: Mapping[str, Computation]) -> list[Parts]:
    """The parts of a fusion's operands that are read to compute the parts `wanted` of its results."""
    body = computations[fusion.called[0]]
    read: dict[str, Parts] = {name: {} for name in body}
    last = {result.name for result in results(body)}
    read |= dict.fromkeys(last, wanted)
    for instruction in reversed(body.values()):  # users come before what they use
        if read[instruction.name]:
            in_place = instruction.name in last and is_in_place(instruction, body)
            parts = operand_parts(instruction, body, read[instruction.name], computations, in_place=in_place)
            for operand, part in zip(instruction.operands, parts, strict=False):  # a constant has no parts
                read[operand] = read[operand] | part
    parameters = {int(each.operands[0]): read[each.name] for each in body.values() if each.opcode == "parameter"}
    return [parameters[number] for number in range(len(fusion.operands))]


def results(body: Computation) -> list[Instruction]:
    """The instructions whose results are the results of a fusion."""

    def behind(instruction: Instruction) -> list[Instruction]:
        if instruction.opcode not in ("tuple", "bitcast"):
            return [instruction]
        return [result for name in instruction.operands for result in behind(body[name])]

    return behind(next(each for each in body.values() if each.is_root))


def is_in_place(instruction: Instruction, body: Computation) -> bool:
    """Whether a result of a fusion is an operand of the fusion with an updated part. XLA then gives both the same memory.

    Where others need the old value, XLA copies it before.
    """
    if instruction.opcode not in UPDATES:
        return False
    target = body[instruction.operands[0]]
    while target.opcode == "bitcast":
        target = body[target.operands[0]]
    return target.opcode == "parameter"


def update_bytes(instruction: Instruction, computation: Computation) -> int:
    """Bytes of the updates of a `dynamic-update-slice` or `scatter`."""
    names = instruction.operands
    updates = names[1:2] if instruction.opcode == "dynamic-update-slice" else names[len(names) // 2 + 1 :]
    return sum(computation[name].bytes for name in updates)


def _scaled(wanted: Parts, result: Instruction, source: Instruction, place: str) -> Parts:
    """Parts of the source of a slice that make the parts `wanted` of its result."""
    ratio = result.bytes / max(1, source.bytes)
    return {f"{place}, {key}": min(1.0, share * ratio) for key, share in wanted.items()}


def _union(a: Parts, b: Parts) -> Parts:
    return a | {key: max(share, a.get(key, 0)) for key, share in b.items()}


def share_of(parts: Parts) -> float:
    """The share of an array that all parts together are; above 1 if parts overlap."""
    return sum(parts.values())
