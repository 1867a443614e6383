"""The certificate hash of SCRAM-SHA-256-PLUS."""

from __future__ import annotations

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from trio_pool.protocol.channel_binding import end_point

SHA256_WITH_RSA = bytes.fromhex("06092a864886f70d01010b")
SHA1_WITH_RSA = bytes.fromhex("06092a864886f70d010105")
MD5_WITH_RSA = bytes.fromhex("06092a864886f70d010104")

type_of_key = (
    ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
)


def certificate(
    key: type_of_key, algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None, *, pss: bool = False
) -> bytes:
    """A self-signed certificate, DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
    )
    if pss:
        assert algorithm is not None
        scheme = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        return builder.sign(key, algorithm, rsa_padding=scheme).public_bytes(Encoding.DER)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name
)
def test_the_hash_is_the_one_of_the_signature(
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512, rsa_key: rsa.RSAPrivateKey
) -> None:
    """A certificate is hashed with the hash function of its own signature, whatever the kind of key."""
    for key in (rsa_key, ec.generate_private_key(ec.SECP256R1())):
        der = certificate(key, algorithm)
        assert end_point(der) == hashlib.new(algorithm.name, der).digest()


def test_rsa_pss_names_its_hash_in_its_parameters(rsa_key: rsa.RSAPrivateKey) -> None:
    """RSA-PSS certificates are bound with the hash of their parameters."""
    der = certificate(rsa_key, hashes.SHA384(), pss=True)
    assert end_point(der) == hashlib.sha384(der).digest()


@pytest.mark.parametrize("oid", [MD5_WITH_RSA, SHA1_WITH_RSA], ids=["md5", "sha1"])
def test_broken_hashes_are_replaced(oid: bytes, rsa_key: rsa.RSAPrivateKey) -> None:
    """MD5 and SHA-1 signatures are bound with SHA-256 (RFC 5929 section 4.1)."""
    der = certificate(rsa_key, hashes.SHA256()).replace(SHA256_WITH_RSA, oid)
    assert end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()])
def test_signatures_without_a_hash_cannot_be_bound(
    key: ed448.Ed448PrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    """Ed25519 and Ed448 certificates offer no channel binding, as RFC 5929 leaves it undefined."""
    assert end_point(certificate(key, None)) is None


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"not a certificate", bytes(100)])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    """Anything but one whole certificate raises ValueError."""
    with pytest.raises(ValueError, match="certificate"):
        end_point(data)


def test_a_truncated_or_continued_certificate_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    """A certificate with bytes missing or left over raises ValueError."""
    der = certificate(rsa_key, hashes.SHA256())
    for changed in (der[:-1], der + b"\0"):
        with pytest.raises(ValueError, match="certificate"):
            end_point(changed)
