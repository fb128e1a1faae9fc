"""What the header check lets through, and what it refuses before any qemu-img runs."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qcow2_writer import (
    BACKING_FORMAT,
    BITMAPS,
    DATA_FILE,
    FEATURE_NAMES,
    LUKS,
    MIB,
    Qcow2,
)

from ai_how.errors import ImageError
from ai_how.images.qcow2_header import find_format, parse_header, read_header
from ai_how.process import run

GOOD = Qcow2()

ACCEPTED = {
    "version 3": GOOD,
    "version 2": replace(GOOD, version=2),
    "small clusters": replace(GOOD, cluster_bits=9, virtual_bytes=MIB),
    "large clusters": replace(GOOD, cluster_bits=21),
    "zstd": replace(GOOD, incompatible=8, header_bytes=112, compression=1),
    "zlib said aloud": replace(GOOD, header_bytes=112, compression=0),
    "lazy refcounts": replace(GOOD, compatible=1),
    "feature names": replace(GOOD, extensions=[(FEATURE_NAMES, bytes(96))]),
    "an unknown extension": replace(GOOD, extensions=[(0x12345678, b"abc")]),
    "a bitmaps extension": replace(GOOD, extensions=[(BITMAPS, bytes(24))]),
}

REFUSED = {
    "another magic": (replace(GOOD, magic=b"QFI\xfa"), "not a qcow2 image"),
    "version 1": (replace(GOOD, version=1), "version is 1"),
    "version 4": (replace(GOOD, version=4), "version is 4"),
    "a backing file": (replace(GOOD, backing_file=b"/etc/shadow"), "has a backing file"),
    "a json: backing file": (
        replace(GOOD, backing_file=b'json:{"driver":"nbd","host":"example.com"}'),
        "has a backing file",
    ),
    "a backing offset alone": (replace(GOOD, backing_offset=1024), "has a backing file"),
    "an external data file": (replace(GOOD, incompatible=4), "data in another file"),
    "the name of a data file": (
        replace(GOOD, extensions=[(DATA_FILE, b"/etc/passwd")]),
        "external data file",
    ),
    "a data file after others": (
        replace(GOOD, extensions=[(FEATURE_NAMES, bytes(48)), (DATA_FILE, b"/etc/passwd")]),
        "external data file",
    ),
    "a data file in version 2": (
        replace(GOOD, version=2, extensions=[(DATA_FILE, b"/etc/passwd")]),
        "external data file",
    ),
    "the dirty bit": (replace(GOOD, incompatible=1), "dirty bit"),
    "the corrupt bit": (replace(GOOD, incompatible=2), "marked corrupt"),
    "extended L2": (replace(GOOD, incompatible=16), "extended L2"),
    "an unknown feature": (replace(GOOD, incompatible=1 << 40), "unknown features (0x10000000000)"),
    "a LUKS header": (replace(GOOD, extensions=[(LUKS, bytes(16))]), "encrypted (LUKS)"),
    "AES": (replace(GOOD, crypt_method=1), "encrypted (method 1)"),
    "a backing format alone": (
        replace(GOOD, extensions=[(BACKING_FORMAT, b"raw")]),
        "but no backing file",
    ),
    "no size": (replace(GOOD, virtual_bytes=0, l1_entries=1), "is zero"),
    "a petabyte": (replace(GOOD, virtual_bytes=1 << 50), "more than the"),
    "tiny clusters": (replace(GOOD, cluster_bits=8), "2^8 bytes"),
    "huge clusters": (replace(GOOD, cluster_bits=22, header_bytes=104), "2^22 bytes"),
    "absurd clusters": (Qcow2(), "2^4294967295 bytes"),
    "an L1 table too small": (replace(GOOD, virtual_bytes=1 << 34, l1_entries=1), "too small"),
    "a huge L1 table": (replace(GOOD, l1_entries=0xFFFFFFFF), "L1 table has 34359738360 bytes"),
    "an L1 table beyond the end": (replace(GOOD, l1_offset=1 << 30), "beyond the end"),
    "an L1 table in the header": (replace(GOOD, l1_offset=0), "L1 table does not start"),
    "a crooked L1 table": (replace(GOOD, l1_offset=4097), "L1 table does not start"),
    "refcounts beyond the end": (replace(GOOD, refcount_offset=1 << 40), "beyond the end"),
    "no refcount table": (replace(GOOD, refcount_clusters=0), "refcount table has 0 bytes"),
    "a huge refcount table": (replace(GOOD, refcount_clusters=0xFFFF), "refcount table has"),
    "128 bit refcounts": (replace(GOOD, refcount_order=7), "refcounts have 2^7 bits"),
    "snapshots": (replace(GOOD, snapshots=2), "2 snapshot(s)"),
    "a short header": (replace(GOOD, header_bytes=96), "claims 96 bytes"),
    "a crooked header": (replace(GOOD, header_bytes=107), "claims 107 bytes"),
    "an unknown compression": (
        replace(GOOD, incompatible=8, header_bytes=112, compression=7),
        "compression type 7",
    ),
    "a compression that the bits deny": (
        replace(GOOD, header_bytes=112, compression=1),
        "compression type 1",
    ),
    "too many extensions": (
        replace(GOOD, extensions=[(0x1111, b"")] * 65),
        "more than 64 header extensions",
    ),
}


def rendered(label: str, image: Qcow2) -> bytes:
    data = image.render()
    if label == "absurd clusters":
        return data[:20] + b"\xff" * 4 + data[24:]
    return data


@pytest.mark.parametrize("label", ACCEPTED)
def test_a_header_without_other_files_is_accepted(tmp_path: Path, label: str) -> None:
    image = ACCEPTED[label]
    seen = read_header(image.write(tmp_path / "disk.qcow2"))
    assert (seen.version, seen.virtual_size_bytes) == (image.version, image.virtual_bytes)
    assert (seen.cluster_bytes, seen.backing_file) == (image.cluster, None)


@pytest.mark.parametrize("label", ["version 3", "version 2", "zstd", "feature names"])
def test_the_images_of_our_writer_are_good_ones_to_qemu(tmp_path: Path, label: str) -> None:
    image = ACCEPTED[label].write(tmp_path / "disk.qcow2")
    assert run(["qemu-img", "check", "-f", "qcow2", image], check=False).returncode == 0


@pytest.mark.parametrize("label", REFUSED)
def test_what_could_harm_us_is_refused_with_its_reason(tmp_path: Path, label: str) -> None:
    image, reason = REFUSED[label]
    path = tmp_path / "disk.qcow2"
    path.write_bytes(rendered(label, image))
    with pytest.raises(ImageError) as caught:
        read_header(path)
    assert reason in caught.value.brief
    assert str(path) in caught.value.brief


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "compat=0.10"),
        ("-o", "compression_type=zstd"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "refcount_bits=1"),
        ("-o", "preallocation=metadata"),
    ],
)
def test_what_qemu_img_makes_is_accepted(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-f", "qcow2", *options, path, "1G"])
    assert read_header(path).virtual_size_bytes == 1 << 30


def test_a_grown_image_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-f", "qcow2", path, "1G"])
    run(["qemu-img", "resize", "-f", "qcow2", path, "500G"])
    assert read_header(path).virtual_size_bytes == 500 << 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-o", "data_file={0}/data.raw,data_file_raw=on"), "data in another file"),
        (("-o", "extended_l2=on"), "extended L2"),
        (("-b", "{0}/base.raw", "-F", "raw"), "has a backing file"),
    ],
)
def test_what_qemu_img_makes_dangerous_is_refused(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    path = tmp_path / "disk.qcow2"
    words = [word.format(tmp_path) for word in options]
    run(["qemu-img", "create", "-f", "qcow2", *words, path, "64M"])
    with pytest.raises(ImageError, match=reason):
        read_header(path)


def test_an_internal_snapshot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-f", "qcow2", path, "64M"])
    run(["qemu-img", "snapshot", "-c", "first", path])
    with pytest.raises(ImageError, match="1 snapshot"):
        read_header(path)


def test_an_overlay_of_ours_names_its_base_and_format(tmp_path: Path) -> None:
    base = GOOD.write(tmp_path / "base.qcow2")
    path = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "qcow2", path, "1G"])
    seen = read_header(path, allow_backing=True)
    assert (seen.backing_file, seen.backing_format) == (str(base), "qcow2")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (replace(GOOD, backing_file=b"/b\0/c"), "control characters"),
        (replace(GOOD, backing_file=b"/\xff\xfe"), "not UTF-8"),
        (replace(GOOD, backing_file=b"/" * 1024), "name has 1024 bytes"),
        (replace(GOOD, backing_file=b"/base", backing_offset=16), "outside the header"),
        (replace(GOOD, backing_file=b"/base", backing_offset=1 << 63), "outside the header"),
        (replace(GOOD, backing_offset=4096), "name has 0 bytes"),
    ],
)
def test_a_backing_name_that_is_not_one_is_refused(
    tmp_path: Path, image: Qcow2, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        read_header(image.write(tmp_path / "disk.qcow2"), allow_backing=True)


@pytest.mark.parametrize("size", [0, 3, 4, 71, 72, 103, 104, 4096, 65536, 3 * 65536])
def test_a_file_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(GOOD.render()[:size])
    with pytest.raises(ImageError, match="refused"):
        read_header(path)


def test_a_petabyte_is_refused_at_once(tmp_path: Path) -> None:
    path = replace(GOOD, virtual_bytes=1 << 50, l1_entries=1).write(tmp_path / "disk.qcow2")
    begun = time.monotonic()
    with pytest.raises(ImageError, match="more than the"):
        read_header(path)
    assert time.monotonic() - begun < 20


def test_a_disk_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = GOOD.write(tmp_path / "disk.qcow2")
    assert read_header(path, max_virtual_bytes=64 * MIB).virtual_size_bytes == 64 * MIB
    with pytest.raises(ImageError, match="more than the maximum of 67108863"):
        read_header(path, max_virtual_bytes=64 * MIB - 1)


def test_links_pipes_directories_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(GOOD.write(tmp_path / "disk.qcow2"))
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("link", "cannot be read"),
        ("pipe", "not a regular file"),
        (".", "not a regular file"),
        ("absent", "No such file"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_header(tmp_path / name)


@given(data=st.binary(max_size=400), magic=st.booleans(), version=st.sampled_from([2, 3]))
def test_arbitrary_bytes_only_ever_raise_an_image_error(
    data: bytes, magic: bool, version: int
) -> None:
    head = b"QFI\xfb" + version.to_bytes(4, "big") + data if magic else data
    with pytest.raises(ImageError, match="fuzz is refused: "):
        parse_header(head, name="fuzz", file_bytes=len(head), allow_backing=True)


WHOLE = replace(
    GOOD, backing_file=b"/base.qcow2", extensions=[(BACKING_FORMAT, b"qcow2")], compression=0
).render()


@given(
    flips=st.lists(st.integers(min_value=0, max_value=8 * 176 - 1), min_size=1, max_size=6),
    allow_backing=st.booleans(),
)
def test_flipped_bits_are_refused_or_harmless(flips: list[int], allow_backing: bool) -> None:
    bent = bytearray(WHOLE)
    for bit in flips:
        bent[bit // 8] ^= 1 << bit % 8
    try:
        seen = parse_header(
            bytes(bent), name="fuzz", file_bytes=len(bent), allow_backing=allow_backing
        )
    except ImageError:
        return
    assert seen.backing_file is None or allow_backing
    assert 0 < seen.virtual_size_bytes <= 8 << 40


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (GOOD.head(), "qcow2"),
        (b"KDMV\x01\0\0\0", "VMDK"),
        (b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT /etc/shadow 0\n", "VMDK"),
        (b"# a comment\n\n#\nversion=1\nCID=1\nRW 63 FLAT /etc/passwd 0\n", "VMDK"),
        (b"  version = 3\n", "VMDK"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "VDI"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>\n", "VDI"),
        (b"LUKS\xba\xbe\0\1", "LUKS"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (bytes(4096) + b"conectix" + bytes(504), "VHD"),
        (bytes(4096) + b"koly" + bytes(508), "DMG"),
        (b"QED\0", "QED"),
        (b'json:{"driver":"nbd"}', "a json: file name"),
        (b"\xfd7zXZ\0", "xz"),
    ],
)
def test_content_that_announces_a_format_is_told(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    assert find_format(path) == name


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc", "qed", "luks", "qcow2", "qcow"])
def test_what_qemu_img_makes_in_another_format_is_no_raw_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.raw"
    secret = (
        ["--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10"]
        if kind == "luks"
        else []
    )
    argv = ["qemu-img", "create", "-q", "-f", kind, *secret, path, "16M"]
    # For LUKS it measures the processor, and on a busy machine says that it cannot.
    done = next((done for _ in range(20) if not (done := run(argv, check=False)).returncode), None)
    assert done is not None
    assert find_format(path) is not None


def test_a_raw_disk_announces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB))
    assert find_format(path) is None
