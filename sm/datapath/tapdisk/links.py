"""What a tapdisk will open: it follows the names in the images, so these are looked at first.

An image is untrusted. Tapdisk is sent to a leaf only when each image of the given chain names the
next one, by a plain name in the one folder of all, and the last names none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from sm.cowutil.base import CowUtil, ImageRef, ParentLink
from sm.cowutil.errors import ImageError, ImageUnsafe, ImageUnsupported
from sm.cowutil.registry import CLIENT_NAMES, Formats
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import TapdiskFailed
from sm.datapath.tapdisk import wire
from sm.errors import InvalidArgument


@contextmanager
def refusing() -> Iterator[None]:
    """Around what was asked for: an image that is no good or cannot be read is a refusal."""
    try:
        yield
    except (ImageError, OSError) as error:
        raise TapdiskFailed(str(error)) from error


def argument(image: ImageRef) -> str:
    """How tapdisk is told to open an image: `type:/path`. `InvalidArgument` where it cannot be."""
    text = f"{CLIENT_NAMES.get(image.format, image.format)}:{image.path}"
    if not image.path.is_absolute():
        raise InvalidArgument(f"{image.path} is no absolute path")
    try:
        wire.slot(text)
    except ValueError as error:
        raise InvalidArgument(f"tapdisk cannot be told of {image.path}: {error}") from error
    return text


def check_chain(formats: Formats, chain: Sequence[ImageRef], *, first: int = 0) -> None:
    """Refuse a chain that tapdisk would not open as given; the links of `chain[first:]` count.

    Raises `ImageError` for an image that cannot be read or is unsafe, `DatapathFailed` for a chain
    that can be none, or where an image names another than the next.
    """
    _check_form(formats, chain)
    for upper, lower in pairwise(chain[first:]):
        link = link_of(formats, upper)
        if link != ParentLink(lower.path.name, lower.format):
            raise TapdiskFailed(
                f"{upper.path} is over {told(link)}, and not over {lower.path.name}"
                f" ({lower.format}); tapdisk would open that"
            )
    below = link_of(formats, chain[-1])
    if below is not None:
        raise TapdiskFailed(f"{chain[-1].path} is over {told(below)}, which was not given")


def link_of(formats: Formats, image: ImageRef) -> ParentLink | None:
    """The parent as the image names it now; `ImageUnsafe` where tapdisk might read another name."""
    util = formats.get(image.format)
    link = util.info(image.path).parent
    if link is None:
        return None
    if link.format is None:
        feature = "a parent whose format it does not tell"
        raise ImageUnsupported(image.path, feature, "tapdisk would guess it: set the parent anew")
    if isinstance(util, VhdUtil) and not util.names_one_parent(image.path):
        raise ImageUnsafe(
            image.path, "names its parent by other paths too, which tapdisk may take; set it anew"
        )
    return link


def told(link: ParentLink | None) -> str:
    """A link in a message."""
    return "nothing" if link is None else f"{link.name} ({link.format})"


def _check_form(formats: Formats, chain: Sequence[ImageRef]) -> None:
    if not chain:
        raise TapdiskFailed("an empty chain")
    folder = os.fspath(chain[0].path.parent)
    for image in chain:
        argument(image)
        if os.fspath(image.path.parent) != folder:
            raise TapdiskFailed(f"{image.path} is not in {folder}, as the leaf is")
    for upper, lower in pairwise(chain):
        util = formats.get(upper.format)
        if not isinstance(util, CowUtil) or lower.format not in util.parent_formats:
            raise TapdiskFailed(f"{upper.path}: no {upper.format} over {lower.format}")
