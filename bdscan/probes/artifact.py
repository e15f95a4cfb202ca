"""What the file itself would do when somebody loads it.

What it measures
    Follows every pickle in the file opcode by opcode, without importing or calling anything: which names it would
    import, which it would call, and with what. The archive around it is read as torch reads it and as Python's
    `zipfile` does, and whatever they differ in, or neither sees, is told; what is packed into it is followed too. Only
    names that are vouched for (tensor rebuilding, containers, the layers of torch, torchvision and timm) pass, each
    with what honest files give it; the score is the number of dangers at or above a suspicion.

Why it shows a backdoor
    A pickle is a program. A file that calls `os.system` when it is loaded takes over the computer it is loaded on, and
    needs no trigger in a picture. No model needs the standard library's modules, a pickle behind the last tensor, or an
    archive whose two directories disagree.

When it misleads
    A net saved whole (`torch.save(net)`) imports its author's own classes, which may be honest; it is suspicious, not
    condemned. A file without any danger can still hold a net with a backdoor in its weights; the other probes
    look there. The code of a TorchScript or exported program decides what it answers; it is rebuilt as a net, or
    refused, and not looked at here.

Reference
    CVE-2025-32434 and CVE-2026-24747 (torch.load), CVE-2025-1716 and CVE-2025-10155 to 10157 (names and archives that
    scanners overlooked); Python's `pickletools` documents the opcodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bdscan.facts.finding import Finding, Level
from bdscan.facts.problem import Problem
from bdscan.load.contents import Contents
from bdscan.method.case import FileCase
from bdscan.method.probe import FileProbe


@dataclass(frozen=True)
class Artifact(FileProbe):
    """Reports the dangers that `survey` found; there is nothing to set."""

    def __call__(self, case: FileCase) -> Iterator[Finding]:
        contents = case.contents
        grave = sum(danger.level > Level.NOTE for danger in contents.dangers)
        for danger in contents.dangers:
            where = f" ({danger.where})" if danger.where else ""
            yield Finding(level=danger.level, message=danger.message + where)
        if not grave and not contents.unread:
            yield Finding(level=Level.NOTE, message=_harmless(contents))
        if contents.unread:
            raise Problem("; ".join(contents.unread))


def _harmless(contents: Contents) -> str:
    if not contents.pickles:
        return f"nothing runs when this {contents.format} file is loaded: it holds no pickle"
    only = "known names only" if contents.dangers else "only tensor rebuilds"
    count = f"{contents.pickles} pickle{'s' if contents.pickles > 1 else ''}"
    return f"nothing runs when this {contents.format} file is loaded: {count}, {only}"
