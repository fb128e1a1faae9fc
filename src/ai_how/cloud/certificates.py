"""X.509 with `cryptography`: makes and checks keys and certificates, as PEM text (pure).

A key and its certificate are one text, so that a file has both or none. This module is imported
where it is used, since `cryptography` is an extra, and takes a while to load.
"""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ai_how.cloud.leaves import Leaf

CA_LIFE = timedelta(days=3652)
LEAF_LIFE = timedelta(days=365)
RENEWED_BEFORE_END = timedelta(days=30)
# The clock of a guest may be a little behind ours.
_BACKDATED = timedelta(minutes=5)


def make_key() -> bytes:
    """A private key, ECDSA P-256."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def make_ca(common_name: str, now: datetime) -> bytes:
    """A new CA that signs leaves alone, no other CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), now, now + CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_ca=True), critical=True)
    return _key_pem(key) + _certificate_pem(builder.sign(key, hashes.SHA256()))


def make_leaf(ca: bytes, leaf: Leaf, now: datetime) -> bytes:
    """A new key and its certificate, which never outlives its CA's."""
    issuer, key = read_certificate(ca), ec.generate_private_key(ec.SECP256R1())
    end = min(now + LEAF_LIFE, issuer.not_valid_after_utc)
    builder = _builder(_subject(leaf), issuer.subject, key.public_key(), now, end)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(is_ca=False), critical=True)
    builder = builder.add_extension(_extended_usage(leaf), critical=False)
    if names := _alternative_names(leaf):
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(issuer))
    builder = builder.add_extension(authority, critical=False)
    return _key_pem(key) + _certificate_pem(builder.sign(_private(ca), hashes.SHA256()))


def fits(pem: bytes, ca: bytes, leaf: Leaf, now: datetime) -> bool:
    """Whether a certificate is the asked one, of this CA, and valid for a while yet."""
    try:
        found, issuer = read_certificate(pem), read_certificate(ca)
        found.verify_directly_issued_by(issuer)
        is_own_key = _public(found) == _private(pem).public_key()
    except (ValueError, TypeError, InvalidSignature):
        return False
    return (
        is_own_key
        and found.subject == _subject(leaf)
        and _found_names(found) == _alternative_names(leaf)
        and _found_usage(found) == _extended_usage(leaf)
        and found.not_valid_before_utc <= now
        # One that ends with its CA cannot be renewed.
        and found.not_valid_after_utc > min(now + RENEWED_BEFORE_END, _last_end(issuer))
    )


def is_ca(pem: bytes) -> bool:
    """Whether this is a CA with its own key."""
    try:
        found = read_certificate(pem)
        found.verify_directly_issued_by(found)
        return _public(found) == _private(pem).public_key()
    except (ValueError, TypeError, InvalidSignature):
        return False


def is_key(pem: bytes) -> bool:
    try:
        _private(pem)
    except (ValueError, TypeError):
        return False
    return True


def read_certificate(pem: bytes) -> x509.Certificate:
    """Raises ValueError for anything else than a PEM certificate."""
    return x509.load_pem_x509_certificate(pem)


def certificate_of(pem: bytes) -> bytes:
    return _certificate_pem(read_certificate(pem))


def key_of(pem: bytes) -> bytes:
    return _key_pem(_private(pem))


def public_key_of(pem: bytes) -> bytes:
    return (
        _private(pem)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def end_of(pem: bytes) -> datetime:
    """When a certificate ends."""
    return read_certificate(pem).not_valid_after_utc


def life_of(pem: bytes) -> tuple[datetime, datetime]:
    """When a certificate begins and ends."""
    found = read_certificate(pem)
    return found.not_valid_before_utc, found.not_valid_after_utc


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _subject(leaf: Leaf) -> x509.Name:
    return _name(leaf.common_name, leaf.organisation)


def _alternative_names(leaf: Leaf) -> list[x509.GeneralName]:
    return [*map(x509.DNSName, leaf.names), *map(x509.IPAddress, leaf.addresses)]


def _found_names(found: x509.Certificate) -> list[x509.GeneralName]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(names.value)


def _extended_usage(leaf: Leaf) -> x509.ExtendedKeyUsage:
    server = [ExtendedKeyUsageOID.SERVER_AUTH] if leaf.is_server else []
    client = [ExtendedKeyUsageOID.CLIENT_AUTH] if leaf.is_client else []
    return x509.ExtendedKeyUsage([*server, *client])


def _found_usage(found: x509.Certificate) -> x509.ExtendedKeyUsage | None:
    try:
        return found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _last_end(issuer: x509.Certificate) -> datetime:
    return issuer.not_valid_after_utc - timedelta(seconds=1)


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an ECDSA key")
    return key


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("not an ECDSA key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The form that `openssl ecparam` writes, too ("EC PRIVATE KEY"): every Go program reads it.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
