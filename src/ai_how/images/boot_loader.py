"""Which firmware a disk boots by, from its partition table (pure).

The layouts are those of the UEFI specification 2.10, chapter 5: a protective MBR in the first
block, the header of the GPT in the second one.
"""

import struct
from uuid import UUID

from ai_how.spec.images import Firmware

BLOCK_BYTES = 512
BLOCKS = 34
"""As many as a GPT of usual size takes, with the MBR."""
_CODE_BYTES = 440
_EFI_SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_MBR_EFI_SYSTEM = 0xEF
_MBR_TABLE, _MBR_ENTRY_BYTES, _MBR_TYPE = 446, 16, 4
_GPT_FIELDS = struct.Struct("<72xQII")
"""The first block of the entries, their number, and the size of each."""
_MOST_ENTRIES, _LEAST_ENTRY_BYTES = 1024, 16


def find_firmware(start: bytes) -> Firmware:
    """The firmware for a disk that begins with these blocks.

    A disk that boots by both has code in its MBR, and is booted by that: SeaBIOS is quicker.
    """
    if any(start[:_CODE_BYTES]):
        return "bios"
    return "uefi" if _has_efi_system(start) else "bios"


def _has_efi_system(start: bytes) -> bool:
    header = start[BLOCK_BYTES : 2 * BLOCK_BYTES]
    if header[:8] != b"EFI PART" or len(header) < BLOCK_BYTES:
        types = start[_MBR_TABLE + _MBR_TYPE : 510 : _MBR_ENTRY_BYTES]
        return _MBR_EFI_SYSTEM in types
    first, count, size = _GPT_FIELDS.unpack_from(header)
    if size < _LEAST_ENTRY_BYTES or first > BLOCKS:
        return False
    begin = first * BLOCK_BYTES
    places = range(begin, begin + min(count, _MOST_ENTRIES) * size, size)
    return any(start[place : place + 16] == _EFI_SYSTEM.bytes_le for place in places)
