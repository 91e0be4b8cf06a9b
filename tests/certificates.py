"""A chain of certificates for tests: one that vouches, and one that signs."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


def make(
    folder: Path, name: str = "Ann", days: int = 30, password: str | None = None
) -> tuple[Path, Path, Path]:
    """Writes a chain, its key, and the certificate of who vouches; returns their paths."""
    above, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate("Root", "Root", above, above, True, 30)
    leaf = certificate(name, "Root", own, above, False, days)
    chain, key, anchor = (folder / f"{name}-{part}.pem" for part in ("chain", "key", "anchor"))
    chain.write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
    anchor.write_bytes(root.public_bytes(PEM))
    secret = serialization.NoEncryption()
    if password:
        secret = serialization.BestAvailableEncryption(password.encode())
    key.write_bytes(own.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret))
    return chain, key, anchor


def certificate(subject: str, issuer: str, key, signer, root: bool, days: int) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = lambda who: x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, who), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]
    )
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not root, key_cert_sign=root, crl_sign=root, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not root:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())
