"""Values that only who has to use them may see. Pure."""

from __future__ import annotations

from collections.abc import Mapping

MASK = "***"


def is_secret(key: str) -> bool:
    """Whether the value of a key is a secret: `chappassword`, `*password*`, `*_secret`.

    A key that names a secret of XAPI by its UUID, such as `password_secret`, is masked as well.
    """
    name = key.lower()
    return "password" in name or name.endswith("_secret")


def masked(config: Mapping[str, str]) -> dict[str, str]:
    """The same for everybody to see: each secret is there, and its value is not."""
    return {key: MASK if value and is_secret(key) else value for key, value in config.items()}
