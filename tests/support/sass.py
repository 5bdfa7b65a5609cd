"""Analysis of the machine code of Hopper kernels: whether they wait for sums before using them."""

import re
from collections.abc import Iterable
from typing import NamedTuple

LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
ALL_DONE = ("WARPGROUP.DEPBAR.LE", "gsb0, 0x0")
NO_NEXT = ("EXIT", "RET", "BRA")


class Instruction(NamedTuple):
    """A line of what `cuobjdump -sass` prints."""

    address: int
    predicate: str
    name: str  # with what follows after dots
    operands: str

    @property
    def opcode(self) -> str:
        return self.name.partition(".")[0]

    @property
    def registers(self) -> set[int]:
        """Registers of the thread that occur as operands; the first one of wide operands."""
        return {int(number) for number in re.findall(r"\bR(\d+)\b", self.operands)}

    @property
    def sums(self) -> set[int]:
        """Registers of a product's sums: 64 × N numbers of 4 bytes, over 128 threads."""
        first, columns = re.match(r"R(\d+)", self.operands), re.search(r"\.64x(\d+)x", self.name)
        assert first is not None, self
        assert columns is not None, self
        return set(range(int(first[1]), int(first[1]) + int(columns[1]) // 2))


def functions(lines: Iterable[str]) -> dict[tuple[str, str], list[Instruction]]:
    """(architecture, mangled name): its instructions."""
    found: dict[tuple[str, str], list[Instruction]] = {}
    arch, kernel = "", []
    for line in lines:
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif "Function : " in line:
            kernel = found.setdefault((arch, line.partition("Function : ")[2].strip()), [])
        elif matched := LINE.match(line):
            kernel.append(Instruction(int(matched[1], 16), matched[2] or "", matched[3], matched[4]))
    return found


def _targets(instruction: Instruction) -> list[int]:
    """Addresses among the operands."""
    return [int(number, 16) for number in re.findall(r"\b0x([0-9a-f]+)\b", instruction.operands)]


def _next(kernel: list[Instruction]) -> dict[int, list[int]]:
    """The possible next addresses, by address."""
    reconvergence: dict[str, list[int]] = {}
    for instruction in kernel:
        if instruction.opcode == "BSSY":
            barrier = instruction.operands.split(",")[0]
            reconvergence.setdefault(barrier, []).append(_targets(instruction)[-1])
    found = {}
    for instruction, following in zip(kernel, [*kernel[1:], None], strict=True):
        assert instruction.opcode not in ("BRX", "JMX", "BRXU", "JMXU"), f"where does it go? {instruction}"
        unconditional = not instruction.predicate and instruction.name in (*NO_NEXT, "RET.REL.NODEC", "RET.ABS.NODEC")
        goes = [following.address] if following is not None and not unconditional else []
        if instruction.opcode in ("BRA", "CALL"):
            goes.append(_targets(instruction)[-1])
        if instruction.opcode == "BSYNC":
            goes += reconvergence.get(instruction.operands, [])
        found[instruction.address] = goes
    return found


def touched_before_done(kernel: list[Instruction]) -> list[Instruction]:
    """Instructions that read or write sums on some path from a product to the wait for all products."""
    goes, at = _next(kernel), {instruction.address: instruction for instruction in kernel}
    pending: dict[int, set[int]] = {kernel[0].address: set()}
    waiting = [kernel[0].address]
    while waiting:
        address = waiting.pop()
        instruction, sums = at[address], pending[address]
        if instruction.opcode == "HGMMA":
            sums = sums | instruction.sums
        elif (instruction.name, instruction.operands) == ALL_DONE and not instruction.predicate:
            sums = set()
        for other in goes[address]:
            if other not in pending or not sums <= pending[other]:
                pending[other] = pending.get(other, set()) | sums
                waiting.append(other)
    return [i for i in kernel if i.opcode != "HGMMA" and i.registers & pending.get(i.address, set())]
