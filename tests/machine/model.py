"""What the disks of an SR must read as, and what an interrupted command may have left of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.site import MIB

UNIT = 64 << 10
"""The guest writes whole units."""

GROWTH = 2 * MIB


@dataclass
class Model:
    """`disks`: content by UUID. `uris`: of those that are active, where they are served.

    `perhaps_new`: content of disks that a command may have made before it was interrupted.
    `perhaps_gone`: those that one may have deleted; `perhaps_grown`: those that one may have grown.
    """

    disks: dict[str, bytearray] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)
    perhaps_new: list[bytes] = field(default_factory=list)
    perhaps_gone: dict[str, bytearray] = field(default_factory=dict)
    perhaps_grown: set[str] = field(default_factory=set)

    def pick(self, number: int) -> str:
        """One of the disks."""
        return sorted(self.disks)[number % len(self.disks)]

    def require(self, uuid: str, content: bytes) -> None:
        """The content of a disk must be that of the model, perhaps longer by zeroes."""
        known = bytes(self.disks[uuid])
        if uuid in self.perhaps_grown and len(content) > len(known):
            known += bytes(GROWTH)
        assert content == known, f"content of {uuid}"

    def settle(self, found: dict[str, bytes]) -> None:
        """Take note of what interrupted commands did, seen from all visible disks at rest."""
        for uuid, content in self.perhaps_gone.items():
            if uuid in found:
                self.disks[uuid] = content
        for uuid in set(found) - set(self.disks):
            assert found[uuid] in self.perhaps_new, f"{uuid} came from nowhere"
            self.perhaps_new.remove(found[uuid])
            self.disks[uuid] = bytearray(found[uuid])
        assert set(found) == set(self.disks), "a disk was lost"
        for uuid, content in found.items():
            self.require(uuid, content)
            self.disks[uuid] = bytearray(content)
        self.perhaps_new.clear()
        self.perhaps_gone.clear()
        self.perhaps_grown.clear()
