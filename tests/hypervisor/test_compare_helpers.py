"""What becomes of the clients of a manager or a pager that dies, stalls or is lied to."""

from random import Random

import pytest

from hypervisor.audit import audit
from hypervisor.builder import build_domain
from hypervisor.compare.cell import Cell, Experiment, kernel
from hypervisor.console import Console
from hypervisor.domain import State
from hypervisor.hypervisor import Hypervisor

STEP = 200_000
LIMIT = 400_000_000


class Beside(Experiment):
    """An experiment with a domain on the same machine that is in nobody's group."""

    def __init__(self, system: str, workload: str = "identical") -> None:
        super().__init__(Cell(system, workload, 2, pages=48))
        self.said: list[str] = []
        self.outsider = build_domain(
            self.hv,
            kernel("lab"),
            memory=4 << 20,
            name="outsider",
            cmdline="workload=fourphase contents=identical policy=share pages=48 instance=9",
            console=Console(self.said.append),
        )

    def until(self, hv: Hypervisor, what: str) -> None:
        """Run until the first client has come to a mark."""
        while f"# mark {what}" not in self.lines[0]:
            assert not hv.run(STEP)
            assert hv.machine.position < LIMIT

    def finish(self) -> None:
        while not self.hv.run(STEP):
            assert self.hv.machine.position < LIMIT


@pytest.mark.parametrize("system", ["manager", "pager"])
def test_all_went_well_and_nothing_was_refused(system):
    both = Beside(system)
    both.finish()
    assert audit(both.hv) == []
    assert both.probe.reported["helper_refused"] == 0
    assert both.probe.reported["helper_served"] > 100
    assert [line[-1].startswith("ok 3") for line in both.lines] == [True, True]
    assert both.hv.domains == {}


@pytest.mark.parametrize("system", ["manager", "pager"])
@pytest.mark.parametrize("how", ["dies", "stalls"])
def test_it_hurts_its_group_only(system, how):
    both = Beside(system)
    both.until(both.hv, "read")
    if how == "dies":
        both.hv.crash(both.helpers[0], "test")
    else:
        both.hv.scheduler.pause(both.helpers[0])
    both.finish()
    assert both.outsider.exit is not None
    assert both.outsider.exit.reason == "poweroff"
    assert both.said[-1].startswith("ok 3")
    assert audit(both.hv) == []
    for client in both.clients:
        # They wait for an answer, or Xen has told them that nobody is there.
        assert client.state is State.BLOCKED or client.exit is not None
    for client in both.clients:
        both.hv.crash(client, "test")
    assert audit(both.hv) == []


@pytest.mark.parametrize("system", ["manager", "pager"])
@pytest.mark.parametrize("seed", range(4))
def test_a_client_that_lies(system, seed):
    """Its link is full of claims: they are refused, and the other client is served on."""
    both = Beside(system)
    hv = both.hv
    both.until(hv, "read")
    liar, honest = both.clients
    link = liar.symbols.address("link")
    assert link is not None
    random = Random(seed)
    for _ in range(64):
        hv.run(STEP // 4)
        if liar.exit is not None or honest.exit is not None:
            break
        page = bytearray(hv.guest.read(liar, link, 4096))
        for slot in range(32):
            at = 64 + slot * 64
            words = [
                random.choice([0, 1, random.randrange(16, 160), 1 << 20, random.getrandbits(64)])
                for _ in "abc"
            ]
            page[at : at + 4] = random.randrange(12).to_bytes(4, "little")
            for i, word in enumerate(words):
                page[at + 8 + 8 * i : at + 16 + 8 * i] = word.to_bytes(8, "little")
        asked = int.from_bytes(page[16:20], "little") + random.choice([1, 5, 31])
        page[16:20] = asked.to_bytes(4, "little")
        hv.guest.write(liar, link, bytes(page))
        assert audit(hv) == []
    if liar.exit is None:
        # More requests than there are places: nobody answers two thousand million of them.
        asked = int.from_bytes(hv.guest.read(liar, link + 16, 4), "little") ^ 1 << 31
        hv.guest.write(liar, link + 16, asked.to_bytes(4, "little"))
        hv.run(STEP)
        hv.crash(liar, "test")
    both.finish()
    assert audit(hv) == []
    assert both.lines[1][-1].startswith("ok 3"), both.lines[1]
    assert both.outsider.exit is not None
    assert both.outsider.exit.reason == "poweroff"
    assert both.said[-1].startswith("ok 3")


def test_the_manager_lets_go_of_blocks_that_nobody_maps():
    both = Beside("manager", "pagecache")
    both.until(both.hv, "quiet")
    manager = both.helpers[0]
    assert len(manager.shared) > 20
    assert all(both.hv.frames.refs[mfn] > 1 for mfn in manager.shared)
    both.finish()


@pytest.mark.parametrize("system", ["manager", "pager"])
def test_a_client_that_claims_more_requests_than_there_are_places(system):
    """Nobody answers two thousand million of them: the other client's turn would never come."""
    both = Beside(system)
    both.until(both.hv, "read")
    liar = both.clients[0]
    link = liar.symbols.address("link")
    assert link is not None
    asked = int.from_bytes(both.hv.guest.read(liar, link + 16, 4), "little") ^ 1 << 31
    both.hv.guest.write(liar, link + 16, asked.to_bytes(4, "little"))
    both.finish()
    assert both.lines[1][-1].startswith("ok 3"), both.lines[1]
    assert audit(both.hv) == []


def test_a_pagers_client_gets_nothing_of_anothers():
    """It asks for a copy of every object, and gets its own only."""
    both = Beside("pager", "aslr")  # blocks of files: granted read-only, so a copy may be had
    hv = both.hv
    both.until(hv, "read")
    asker = both.clients[0]
    pager = both.helpers[0]
    link, objects = asker.symbols.address("link"), pager.symbols.address("objects")
    assert link is not None
    assert objects is not None
    hv.scheduler.pause(asker)
    refused = granted = 0
    for first in range(16, 16 + 31 * 6, 31):
        asked = int.from_bytes(hv.guest.read(asker, link + 16, 4), "little")
        owners = {}
        for i in range(31):
            number = first + i
            owners[asked + i] = int.from_bytes(
                hv.guest.read(pager, objects + number * 8, 2), "little"
            )
            request = (9).to_bytes(8, "little") + number.to_bytes(8, "little") + bytes(24)
            hv.guest.write(asker, link + 64 + (asked + i) % 32 * 64, request)
        hv.guest.write(asker, link + 16, (asked + 31).to_bytes(4, "little"))
        while hv.guest.read(asker, link + 20, 4) != (asked + 31).to_bytes(4, "little"):
            hv.scheduler.wake(pager)  # as if it had rung
            hv.run(STEP // 20)
        for place, owner in owners.items():
            slot = hv.guest.read(asker, link + 64 + place % 32 * 64, 40)
            status = int.from_bytes(slot[4:8], "little", signed=True)
            if owner == 2:
                assert (status, slot[32:40]) == (-22, bytes(8))
                refused += 1
            granted += status == 0
    assert refused > 30
    assert granted > 0
    assert audit(hv) == []
