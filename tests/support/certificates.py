"""Certificates that tests sign themselves."""

import subprocess
from pathlib import Path


def make_certificate(cert: Path, key: Path) -> None:
    """Write a certificate for this machine, and its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
