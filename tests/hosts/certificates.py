"""Certificates made by openssl, for tests of TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """An authority in a folder of its own, and the certificates that it gives out."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self._key = folder / "authority.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subject = ("-subj", f"/CN={folder.name}", "-days", "2")
        _openssl("req", "-x509", *curve, *subject, "-keyout", self._key, "-out", self.certificate)

    def give(self, name: str, alternative: str) -> dict[str, str]:
        """A certificate for `alternative` (such as `DNS:alpha`), as options of sm.conf."""
        key, request = self.folder / f"{name}.key", self.folder / f"{name}.csr"
        certificate, extensions = self.folder / f"{name}.pem", self.folder / f"{name}.ext"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        _openssl("req", "-new", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions.write_text(f"subjectAltName={alternative}\n")
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        _openssl(
            *("x509", "-req", "-in", request, *signed),
            *("-extfile", extensions, "-out", certificate),
        )
        return {
            "host_certificate": str(certificate),
            "host_key": str(key),
            "host_authority": str(self.certificate),
        }
