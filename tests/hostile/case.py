"""What a hostile image is to the tests: a sparse file, and the refusal that it must end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Stage(Enum):
    """What refuses an image: the readings by name.

    `HEADER`: any look at it. `LINK`: whoever wants to know its parent; the data of the image itself
    can be read, because nothing here follows a link. `TABLES`: its map. `DATA`: a compressed
    cluster that is no such thing, which only reading it can tell. `CHECK`: the check of all
    metadata alone, because whoever reads data never needs what is wrong.
    """

    HEADER = frozenset({"info", "map", "extents", "size", "data", "check"})
    LINK = frozenset({"info", "check"})
    TABLES = frozenset({"map", "extents", "size", "data", "check"})
    DATA = frozenset({"data"})
    CHECK = frozenset({"check"})


@dataclass(frozen=True)
class Hostile:
    """One image made to harm.

    `pieces`: bytes by offset; the rest of the `length` bytes is a hole. `error`: name of the class
    that refuses it. `says`: what the message must name. `offset`: of the field, where one is to
    blame; None where the message is about the image as a whole.
    """

    name: str
    format: str
    length: int
    pieces: Mapping[int, bytes]
    error: str
    says: str
    offset: int | None = None
    stage: Stage = Stage.HEADER

    def write(self, folder: Path) -> Path:
        """Make the file, read-only."""
        path = folder / f"{self.name}.{self.format}"
        write_sparse(path, self.length, self.pieces)
        path.chmod(0o444)
        return path


def write_sparse(path: Path, length: int, pieces: Mapping[int, bytes]) -> None:
    """Make a file of `length` bytes with some pieces in it; what lies behind its end is cut."""
    with path.open("xb") as file:
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece[: max(0, length - offset)])
        file.truncate(length)
