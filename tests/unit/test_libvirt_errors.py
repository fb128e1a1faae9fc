"""Each error number of libvirt has one meaning for us."""

import errno

import pytest

from ai_how.libvirt_client.error_codes import FROM_REMOTE, FROM_RPC, FROM_STORAGE, Kind, classify

FROM_QEMU = 10

MEANINGS = [
    *[(code, FROM_QEMU, Kind.GONE) for code in (42, 43, 49, 50)],
    *[(code, origin, Kind.LOST) for code in (38, 1) for origin in (FROM_RPC, FROM_REMOTE)],
    *[(code, FROM_RPC, Kind.LOST) for code in (5, 6, 39)],
    (68, FROM_QEMU, Kind.BUSY),
    (87, FROM_QEMU, Kind.BUSY),
    (1, FROM_STORAGE, Kind.BUSY),
    *[(code, FROM_QEMU, Kind.AGENT) for code in (86, 97, 112)],
    *[(code, FROM_QEMU, Kind.EXISTS) for code in (9, 28, 37, 90)],
    (55, FROM_QEMU, Kind.WRONG_STATE),
    *[(code, FROM_QEMU, Kind.UNSUPPORTED) for code in (3, 8, 74, 84)],
    *[(code, FROM_QEMU, Kind.DENIED) for code in (29, 45, 79, 88, 94)],
    *[(code, FROM_QEMU, Kind.FATAL) for code in (1, 2, 27, 38, 67, 80, 92, 99)],
]


@pytest.mark.parametrize(("code", "origin", "kind"), MEANINGS)
def test_each_number_of_the_table_has_its_meaning(code: int, origin: int, kind: Kind) -> None:
    assert classify(code, origin) is kind


def test_only_four_numbers_mean_that_there_is_no_such_thing() -> None:
    everything = [(code, origin) for code in range(200) for origin in range(80)]
    assert {code for code, origin in everything if classify(code, origin) is Kind.GONE} == {
        42,
        43,
        49,
        50,
    }


@pytest.mark.fault("F66", "a socket that refuses")
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_socket_that_refuses_us_is_a_denial_and_no_lost_daemon(number: int) -> None:
    assert classify(38, FROM_RPC, number) is Kind.DENIED
    assert classify(1, FROM_RPC, number) is Kind.LOST
    assert classify(38, FROM_RPC, errno.ENOENT) is Kind.LOST


def test_an_error_without_a_number_is_a_lost_answer() -> None:
    assert classify(None) is Kind.LOST


def test_a_number_from_a_later_libvirt_is_fatal() -> None:
    assert classify(9999, 9999) is Kind.FATAL
