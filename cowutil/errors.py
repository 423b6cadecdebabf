"""What can be wrong with an image, as types. Each message says what, where, and what to do."""

from __future__ import annotations

from pathlib import Path


class ImageError(Exception):
    """Any failure that is about one image; `path` says which."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class ImageCorrupt(ImageError):
    """A field holds a value that the format does not allow. Nothing was written."""

    def __init__(self, path: Path, field: str, offset: int, problem: str) -> None:
        super().__init__(path, f"{field} at byte {offset}: {problem}")
        self.field = field
        self.offset = offset


class ImageUnsupported(ImageError):
    """A legal image that uses a feature which is refused; `feature` is its name."""

    def __init__(self, path: Path, feature: str, advice: str) -> None:
        super().__init__(path, f"uses {feature}, which is not supported: {advice}")
        self.feature = feature


class ImageUnsafe(ImageError):
    """The image names a file that it has no right to, outside its own storage repository."""


class ImageNotRecognised(ImageError):
    """The file is not an image of the format that it was opened as."""


class ImageBusy(ImageError):
    """Another process holds the image open in a way that excludes this operation."""


class SizeOutOfRange(ImageError):
    """A virtual size that the format cannot hold, or a shrink. Sizes are in bytes."""

    def __init__(self, path: Path, size: int, minimum: int, maximum: int) -> None:
        super().__init__(path, f"virtual size {size} is outside {minimum} to {maximum} bytes")
        self.size = size
        self.minimum = minimum
        self.maximum = maximum


class Cancelled(Exception):
    """Raised by a progress callback to stop long work at a safe point."""
