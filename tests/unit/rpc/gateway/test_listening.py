"""A certificate that changes while the gateway listens."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import make_certificate
from trace_dagster.errors import ConfigurationError
from trace_dagster.rpc.gateway.listening import Certificate


async def presented(certificate: Certificate) -> bytes:
    """Return the certificate that a client sees."""
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.listening
    )
    async with server:
        address = server.sockets[0].getsockname()
        return ssl.PEM_cert_to_DER_cert(
            await asyncio.to_thread(ssl.get_server_certificate, address, timeout=20)
        )


def test_a_pair_is_read_once(tmp_path: Path) -> None:
    """What was read is used, whatever the files hold by then; a pair that does not fit changes nothing."""
    pairs = [(tmp_path / f"cert{at}.pem", tmp_path / f"key{at}.pem") for at in range(2)]
    for pair in pairs:
        make_certificate(*pair)
    (cert, key), (new_cert, new_key) = pairs
    expected = [ssl.PEM_cert_to_DER_cert(one.read_text()) for one, _ in pairs]

    async def run() -> None:
        certificate = Certificate(cert, key)
        assert await presented(certificate) == expected[0]
        cert.write_bytes(new_cert.read_bytes())
        with pytest.raises(ConfigurationError, match="belong together"):
            certificate.read()
        key.write_bytes(new_key.read_bytes())
        read = certificate.read()
        key.write_text("")
        assert await presented(certificate) == expected[0]
        certificate.use(read)
        assert await presented(certificate) == expected[1]

    asyncio.run(run())
