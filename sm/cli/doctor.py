"""`sm doctor`: what is wrong, why it matters, what mends it; and the mending of what is safe."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from sm.cli.admin import Admin
from sm.doctor import mend
from sm.doctor.facts import Access, Facts
from sm.doctor.finding import Finding, Remedy, finding_codes
from sm.doctor.findings import findings
from sm.doctor.gather import gather
from sm.errors import InvalidArgument, SrUnavailable
from sm.pool.base import SrRecord

EXIT_FINDINGS = 4


def doctor(admin: Admin, options: Namespace) -> int:
    """Look at everything; say what is wrong, why it matters, and the command that mends it.

    With --fix, what can be mended without any risk is mended, after a question: records, marks,
    claims and keys that nobody holds, and work that was interrupted. Guest data is never touched,
    and no image is deleted. With --check every image is examined whole, which takes a while.
    The exit status is 4 while something is wrong.
    """
    chosen = admin.chosen_srs(options.sr)
    found = _examine(admin, chosen, check=options.check)
    if options.sr and found[0].access is Access.DETACHED:
        raise SrUnavailable(f"SR {chosen[0].uuid} is not attached on this host")
    mended: list[dict[str, Any]] = []
    if options.fix:
        mended = _fix(admin, chosen, found, agreed=options.yes)
        if mended:
            found = _examine(admin, chosen, check=options.check)
    everything = [finding for facts in found for finding in findings(facts)]
    document = {
        "healthy": not everything,
        "srs": [_summary(facts) for facts in found],
        "findings": [_document(finding) for finding in everything],
        "mended": mended,
    }
    lines = [_mended_line(each) for each in mended]
    lines += _lines(everything) if everything else [_all_is_well(found)]
    admin.output.result(document, "\n".join(lines))
    return EXIT_FINDINGS if everything else 0


def _examine(admin: Admin, chosen: Sequence[SrRecord], *, check: bool) -> list[Facts]:
    return [gather(admin.settings, admin.pool, admin.ledger, sr, check=check) for sr in chosen]


def _fix(
    admin: Admin, chosen: Sequence[SrRecord], found: Sequence[Facts], *, agreed: bool
) -> list[dict[str, Any]]:
    plans = [
        (sr, remedy)
        for sr, facts in zip(chosen, found, strict=True)
        for remedy in mend.plan(findings(facts))
    ]
    if not plans or not (agreed or _ask(admin, plans)):
        return []
    done = []
    for sr, remedy in plans:
        problem = mend.mend(admin.repository(sr), remedy)
        done.append({"sr": sr.uuid, "action": mend.in_words(remedy), "problem": problem})
    return done


def _ask(admin: Admin, plans: Sequence[tuple[SrRecord, Remedy]]) -> bool:
    """Show the plan, and whether the administrator agrees; raises where nobody can be asked."""
    if admin.output.as_json or not sys.stdin.isatty():
        raise InvalidArgument("nobody can be asked here; add --yes, or leave --fix to see the plan")
    lines = [f"  {sr.name_label or sr.uuid}: {mend.in_words(remedy)}" for sr, remedy in plans]
    admin.output.result(None, "\n".join(["This would be done:", *lines]))
    sys.stdout.write("Do it? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _summary(facts: Facts) -> dict[str, Any]:
    return {
        "uuid": facts.sr.uuid,
        "name": facts.sr.name_label,
        "access": facts.access.value,
        "images": len(facts.forest.nodes),
        "checked": len(facts.damage),
        "as_master": facts.master,
    }


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "sr": finding.sr,
        "subject": finding.subject,
        "text": finding.text,
        "why": finding_codes()[finding.code]["text"],
        "advice": finding_codes()[finding.code]["advice"],
        "mend": finding.mend,
        "fixable": finding.remedy is not None,
    }


def _lines(found: Sequence[Finding]) -> list[str]:
    lines = []
    for number, finding in enumerate(found, start=1):
        known = finding_codes()[finding.code]
        lines += [
            f"{number}. {finding.code}: {finding.subject}: {finding.text}",
            f"    {known['text']} {known['advice']}",
            f"    {finding.mend}",
        ]
    fixable = sum(finding.remedy is not None for finding in found)
    if fixable:
        lines.append(f"{fixable} of {len(found)} can be mended by 'sm doctor --fix'")
    return lines


def _mended_line(done: dict[str, Any]) -> str:
    problem = done["problem"]
    return f"could not {done['action']}: {problem}" if problem else f"mended: {done['action']}"


def _all_is_well(found: Sequence[Facts]) -> str:
    """One line: how much was looked at, and what was not."""
    examined = [facts for facts in found if facts.access is Access.ATTACHED]
    images = sum(len(facts.forest.nodes) for facts in examined)
    said = f"all is well: {_many(len(examined), 'SR')}, {_many(images, 'image')}"
    checked = sum(len(facts.damage) for facts in examined)
    if checked:
        said += f", {checked} checked whole"
    away = len(found) - len(examined)
    if away:
        said += f"; not examined: {away} detached"
    others = sum(not facts.master for facts in examined)
    if others:
        said += f"; the images of {others} are for their master to examine"
    return said


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
