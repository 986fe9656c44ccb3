"""The content table's key: what it depends on, and what it does not."""

import pytest

from hypervisor.abi import Errno
from hypervisor.audit import audit
from hypervisor.hypervisor import Hypervisor
from hypervisor.settings import Settings
from tests.hypervisor.handmade import Handmade

MEMORY = 4 << 20


def keys(contents: list[bytes], **settings: int) -> list[int]:
    """The keys that a fresh machine enters one domain's pages of these contents under."""
    hv = Hypervisor(Settings(machine_memory=MEMORY, **settings))
    guest = Handmade(hv, len(contents))
    found = []
    for page, data in enumerate(contents):
        guest.write(guest.va(page), data)
        assert guest.share(page) == 0
        key = hv.sharing.key_of(guest.mfn(page))
        assert key is not None
        found.append(key)
    return found


def test_the_seed_salts_the_hash():
    """A guest that knew the function could prepare pages that collide."""
    contents = [b"", b"one", b"two"]
    one = keys(contents, seed=1)
    assert one == keys(contents, seed=1)
    assert not set(one) & set(keys(contents, seed=2))
    assert not set(one) & set(keys(contents, seed=1 << 63))


@pytest.mark.parametrize("bits", [0, 1, 7])
def test_the_hash_can_be_narrowed_for_tests(bits):
    assert (
        max(key & ((1 << 64) - 1) for key in keys([b"a", b"b", b"c"], hash_bits=bits)) < 1 << bits
    )


def test_the_group_is_no_part_of_the_hash():
    """It lies above it, so that not even a collision brings two groups together."""
    hv = Hypervisor(Settings(machine_memory=MEMORY, groups=2, hash_bits=0))
    found = []
    for _ in range(2):
        guest = Handmade(hv, 1)
        assert guest.share(0) == 0
        found.append(hv.sharing.key_of(guest.mfn(0)))
    assert sorted(found) == [0, 1 << 64]


@pytest.mark.parametrize("opaque", [False, True])
def test_what_a_domain_enters_stays_on_its_account(opaque):
    """Otherwise a guest that fills and enters page after page would have all memory."""
    hv = Hypervisor(Settings(machine_memory=MEMORY, opaque=opaque))
    one, two = Handmade(hv, 4, max_pages=13), Handmade(hv, 4)
    for page in range(4):
        for guest in (one, two):
            guest.write(guest.va(page), b"page %d" % page)
    one.domain.max_pages = 2
    assert [one.share(page) for page in range(2)] == [0, 0]
    assert one.domain.entered_alive == 2
    enomem = -int(Errno.ENOMEM)
    before = one.entry(2)
    assert one.share(2) == enomem
    assert one.entry(2) == before
    assert [two.share(page) for page in range(3)] == [0 if opaque else 1, 0 if opaque else 1, 0]
    # What others have may be merged with, unless that would tell that they have it.
    assert one.share(2) == (enomem if opaque else 1)
    assert one.update(0, 0) == 0
    assert one.domain.entered_alive == 2  # the other one maps it still
    assert two.update(0, 0) == 0
    assert one.domain.entered_alive == 1
    assert one.share(3) == 0
    assert audit(hv) == []
    hv.crash(one.domain, "test")
    assert audit(hv) == []
    hv.crash(two.domain, "test")
    assert audit(hv) == []
