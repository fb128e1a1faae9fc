"""dns_query.py udp|tcp ADDRESS PORT TYPE NAME: what a DNS server answers, as JSON.

It prints {"code": "NOERROR", "answers": [...]}: addresses, names, or `port target` for SRV. It is
run as a program where the server is reached, and needs nothing but Python.
"""

import ipaddress
import json
import socket
import struct
import sys

TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "AAAA": 28, "SRV": 33}
CODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
ANSWER_S = 5.0


def question(kind: str, name: str) -> bytes:
    if kind == "PTR":
        name = ipaddress.ip_address(name).reverse_pointer
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.rstrip(".").split("."))
    head = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0)
    return head + labels + struct.pack(">BHH", 0, TYPES[kind], 1)


def ask(transport: str, place: tuple[str, int], message: bytes) -> bytes:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as line:
        line.settimeout(ANSWER_S)
        line.connect(place)
        if transport == "udp":
            line.send(message)
            return line.recv(65535)
        line.sendall(struct.pack(">H", len(message)) + message)
        file = line.makefile("rb")
        (size,) = struct.unpack(">H", file.read(2))
        return file.read(size)


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """A name that may be compressed, and the place after it."""
    labels: list[str] = []
    end = 0
    while size := message[at]:
        if size & 0xC0:
            end = end or at + 2
            at = struct.unpack_from(">H", message, at)[0] & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + size].decode())
        at += 1 + size
    return ".".join(labels), end or at + 1


def read(message: bytes) -> dict[str, object]:
    _, flags, _, count = struct.unpack_from(">4H", message)
    _, at = read_name(message, 12)
    at += 4
    answers = []
    for _ in range(count):
        _, at = read_name(message, at)
        kind, _, _, size = struct.unpack_from(">HHIH", message, at)
        at += 10
        if kind in (TYPES["A"], TYPES["AAAA"]):
            answers.append(str(ipaddress.ip_address(message[at : at + size])))
        elif kind == TYPES["SRV"]:
            _, _, port = struct.unpack_from(">3H", message, at)
            answers.append(f"{port} {read_name(message, at + 6)[0]}")
        else:
            answers.append(read_name(message, at)[0])
        at += size
    return {"code": CODES.get(flags & 15, str(flags & 15)), "answers": sorted(answers)}


if __name__ == "__main__":
    _transport, _address, _port, _kind, _name = sys.argv[1:]
    _message = ask(_transport, (_address, int(_port)), question(_kind, _name))
    json.dump(read(_message), sys.stdout)
