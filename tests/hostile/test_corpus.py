"""Every hostile image ends in a typed refusal: cheap, by name, and with nothing else touched."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.case import Hostile, write_sparse
from tests.hostile.corpus import HOSTILE_IMAGES, corpus
from tests.hostile.cost import Cost
from tests.hostile.limits import MEMORY, OF_A_REFUSAL, OF_A_REPORT
from tests.hostile.qcow2_parts import SOUND_PARTS
from tests.hostile.reading import READINGS
from tests.hostile.vhd_cases import sound
from tests.support.patience import patient
from tests.support.tiers import chosen

ROOT = Path(__file__).parents[2]

END_SECONDS = math.ceil(patient(600))
"""CPU for all of them: only the end of one that would go on for ever."""

DEAREST = 3


@dataclass(frozen=True)
class Laid:
    """The corpus as files, and the lists that `child` takes."""

    folder: Path
    cases: dict[str, Hostile]

    def arguments(self) -> list[str]:
        """The command that reads all of it."""
        names = (str(self.folder / name) for name in ("list", "warm", "start", "end"))
        return [sys.executable, "-m", "tests.hostile.child", *names]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    folder = tmp_path_factory.mktemp("hostile")
    images = folder / "images"
    images.mkdir()
    some = chosen(corpus(), 3, "hostile images")
    cases = {str(case.write(images)): case for case in some}
    lines = [f"{case.format} {path}" for path, case in cases.items()]
    (folder / "list").write_text("\n".join(lines))
    write_sparse(folder / "sound.qcow2", SOUND_PARTS.length, SOUND_PARTS.layout())
    (folder / "sound.vhd").write_bytes(sound())
    # One that is refused too, so that whatever a refusal needs is there before the trace begins.
    warm = [f"{kind} {folder}/sound.{kind}" for kind in ("qcow2", "vhd")]
    (folder / "warm").write_text("\n".join([*warm, lines[0], lines[-1]]))
    for mark in ("start", "end"):
        (folder / mark).write_text("")
    return Laid(folder, cases)


@pytest.fixture(scope="module")
def results(laid: Laid) -> dict[str, dict[str, Any]]:
    child = subprocess.Popen(
        laid.arguments(),
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    resource.prlimit(child.pid, resource.RLIMIT_CPU, (END_SECONDS, END_SECONDS))
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    return {found["path"]: found for found in map(json.loads, output.splitlines())}


def test_the_corpus_is_whole() -> None:
    assert len({case.name for case in corpus()}) == len(corpus()) >= HOSTILE_IMAGES


def test_each_is_refused_by_name(laid: Laid, results: dict[str, dict[str, Any]]) -> None:
    assert results.keys() == laid.cases.keys()
    wrong = []
    for path, case in laid.cases.items():
        for reading in READINGS:
            problem = judge(case, reading, results[path]["said"][reading])
            if problem:
                wrong.append(f"{case.name}: {reading}: {problem}")
    assert not wrong, "\n".join(wrong)


def judge(case: Hostile, reading: str, said: dict[str, Any] | None) -> str | None:
    """What is wrong with what one reading said."""
    refuses = reading in case.stage.value
    if said is None or said.get("corruptions") == []:
        return "accepted" if refuses else None
    if not refuses:
        return None if reading == "check" else f"refused: {said}"
    if "corruptions" in said:
        text = "; ".join(said["corruptions"])
        if case.error not in ("ImageCorrupt", "ImageUnsafe"):
            return f"was to be raised: {text}"
        # A check goes on after what a reader refuses first, and may say it in other words.
        exact = case.stage.name in ("HEADER", "LINK", "CHECK")
        named = case.offset is None or f"byte {case.offset}" in text
        return None if not exact or (case.says in text and named) else text
    fits = said["error"] == case.error and case.says in said["text"]
    fits = fits and (case.offset is None or said["offset"] == case.offset)
    return None if fits else f"{said}, not {case.error}: {case.says} at {case.offset}"


def test_each_needs_little(
    laid: Laid, results: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    spent = [
        (Cost(**cost), limit(found["said"][reading]), f"{laid.cases[path].name}, {reading}")
        for path, found in results.items()
        for reading, cost in found["cost"].items()
    ]
    sizes = sorted((found["memory"], laid.cases[path].name) for path, found in results.items())
    with capsys.disabled():
        for most in (OF_A_REFUSAL, OF_A_REPORT):
            alike = [(cost, name) for cost, allowed, name in spent if allowed is most]
            for field in ("lines", "reads", "bytes_read"):
                alike.sort(key=lambda each: getattr(each[0], field), reverse=True)
                for cost, name in alike[:DEAREST]:
                    print(f"\n  {getattr(cost, field):,} {field}: {name}", end="")
        for size, name in sizes[-DEAREST:]:
            print(f"\n  {size >> 10} KiB: {name}", end="")
    beyond = [(name, cost.beyond(most)) for cost, most, name in spent]
    assert [each for each in beyond if each[1]] == []
    assert [each for each in sizes if each[0] > MEMORY] == []


def limit(said: dict[str, Any] | None) -> Cost:
    """What a reading that said this may cost."""
    return OF_A_REPORT if said is not None and "corruptions" in said else OF_A_REFUSAL


OPENING = re.compile(
    r'(?:open|openat|openat2|creat)\((?:AT_FDCWD(?:<[^>]*>)?, )?"([^"]*)", ([^,)]*)'
)
CHANGING = (
    "pwrite64,pwritev,pwritev2,writev,ftruncate,truncate,fallocate,rename,renameat,renameat2,"
    "unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,chmod,fchmod,fchmodat,utimensat,"
    "copy_file_range,sendfile,mmap,execve,fork,vfork,clone,clone3,socket,connect,mount"
)


def test_no_other_file_is_opened_and_none_written(laid: Laid) -> None:
    trace = laid.folder / "trace"
    argv = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace=%file,write,{CHANGING}"]
    ended = subprocess.run(
        [*argv, *laid.arguments()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    text = trace.read_text()
    marks = [text.rindex(f'"{laid.folder}/{name}"') for name in ("start", "end")]
    lines = text[slice(*marks)].splitlines()[1:-1]
    opened = set()
    for line in lines:
        if " resumed>" in line or "+++ exited with 0 +++" in line:  # of threads; see their calls
            continue
        found = OPENING.search(line)
        if found and not found[1].startswith("/proc/self/"):
            opened.add(found[1])
            assert "O_RDONLY" in found[2], line
        elif "write(" in line:
            # The report of this child, and the reset of its own memory mark.
            assert re.search(r"write\((1<|\d+</proc/\d+/clear_refs>)", line), line
        else:
            call = line.split("(")[0].split()[-1]
            harmless = ("openat", "stat", "newfstatat", "lstat", "readlink", "access", "statx")
            private = call == "mmap" and ("MAP_ANONYMOUS" in line or "PROT_READ," in line)
            thread = call == "clone3" and "CLONE_THREAD" in line
            assert call in harmless or private or thread, line
    assert opened == set(laid.cases)
    assert all(os.access(path, os.R_OK) for path in opened)
