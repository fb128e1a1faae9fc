"""A guest in one boot sector: enters 64-bit mode, fills memory, prints a line on COM1, halts.

Real mode alone proves nothing: on some hosts KVM runs it, and hangs in what Linux needs.
"""

MESSAGE = "ai-how: a guest ran"

_SECTOR_BYTES = 512
_DISK_BYTES = 1024 * 1024  # the firmware reads nothing from a disk of less than one cylinder
_SIGNATURE = b"\x55\xaa"

# Loaded at 0x7c00 with at least 128 MiB of memory. Page tables go to 0x1000, 0x2000 and 0x3000.
_PROGRAM = bytes.fromhex(
    # 00: real mode; all segments at 0
    "fa"  #              cli
    "fc"  #              cld
    "6631c0"  #          xor    eax, eax
    "8ed8"  #            mov    ds, ax
    "8ec0"  #            mov    es, ax
    "8ed0"  #            mov    ss, ax
    # 0b: empty page tables, the first two levels with one entry each
    "66bf00100000"  #    mov    edi, 0x1000
    "0f22df"  #          mov    cr3, edi
    "b9000c"  #          mov    cx, 0xc00
    "66f3ab"  #          rep stosd
    "c70600100320"  #    mov    word [0x1000], 0x2003  ; present, writable
    "c70600200330"  #    mov    word [0x2000], 0x3003
    # 26: the third level: 64 pages of 2 MiB, each at its own address
    "bf0030"  #          mov    di, 0x3000
    "66b883000000"  #    mov    eax, 0x83            ; present, writable, large
    "b94000"  #          mov    cx, 64
    "668905"  # 32 page: mov    [di], eax
    "660500002000"  #    add    eax, 0x200000
    "83c708"  #          add    di, 8
    "e2f2"  #            loop   page
    # 40: physical address extension, long mode, then protection and paging at once
    "0f20e0"  #          mov    eax, cr4
    "0c20"  #            or     al, 0x20             ; PAE
    "0f22e0"  #          mov    cr4, eax
    "66b9800000c0"  #    mov    ecx, 0xc0000080      ; EFER
    "0f32"  #            rdmsr
    "80cc01"  #          or     ah, 1                ; LME
    "0f30"  #            wrmsr
    "0f0116b87c"  #      lgdt   [0x7cb8]
    "0f20c0"  #          mov    eax, cr0
    "660d01000080"  #    or     eax, 0x80000001      ; PG, PE
    "0f22c0"  #          mov    cr0, eax
    "ea6b7c0800"  #      jmp    8:0x7c6b
    # 6b: 64-bit mode; fill 64 MiB from 16 MiB on, so that the host must find pages for it
    "b810000000"  #      mov    eax, 0x10
    "8ed8"  #            mov    ds, eax
    "8ec0"  #            mov    es, eax
    "bf00000001"  #      mov    edi, 0x1000000
    "b900008000"  #      mov    ecx, 0x800000
    "f348ab"  #          rep stosq
    # 81: write the message
    "bebe7c0000"  #      mov    esi, 0x7cbe
    "ac"  # 86 next:     lodsb
    "84c0"  #            test   al, al
    "7412"  #            jz     done
    "88c4"  #            mov    ah, al
    "66bafd03"  #        mov    dx, 0x3fd            ; COM1's line status
    "ec"  # 91 busy:     in     al, dx
    "a820"  #            test   al, 0x20             ; is its transmitter empty?
    "74fb"  #            jz     busy
    "b2f8"  #            mov    dl, 0xf8             ; 0x3f8: COM1's data
    "88e0"  #            mov    al, ah
    "ee"  #              out    dx, al
    "ebe9"  #            jmp    next
    "f4"  # 9d done:     hlt
    "ebfd"  #            jmp    done
    # a0: segment descriptors: none, 64-bit code (8), data (0x10); b8: their length and address
    "0000000000000000"
    "00000000009a2000"
    "0000000000920000"
    "1700a07c0000"
    # be: the message
)


def render_boot_disk() -> bytes:
    """A raw disk with this boot sector; no kernel is needed."""
    body = _PROGRAM + MESSAGE.encode("ascii") + b"\r\n\0"
    sector = body.ljust(_SECTOR_BYTES - len(_SIGNATURE), b"\0") + _SIGNATURE
    return sector.ljust(_DISK_BYTES, b"\0")
