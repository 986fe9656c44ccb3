"""Many domains on one machine, in one process."""

import pytest

from hypervisor.settings import Settings
from tests.guests.boot import Lab


@pytest.mark.timeout(600)
def test_a_thousand_kernels_on_four_gigabytes() -> None:
    lab = Lab(Settings(machine_memory=4 << 30))
    guests = [lab.boot("hello", memory=2 << 20) for _ in range(1000)]
    assert len(lab.hv.domains) == 1000
    assert lab.free - lab.hv.frames.free > 1000 * 512
    lab.run()
    assert all(guest.reason == "poweroff" for guest in guests)
    assert all(guest.verdicts == ["ok 1 hello"] for guest in guests)
    assert lab.hv.frames.free == lab.free


@pytest.mark.timeout(600)
def test_a_hundred_kernels_run_one_copy_of_their_text() -> None:
    lab = Lab(Settings(slice=2_000))
    guests = [lab.boot("text") for _ in range(100)]
    lab.run()
    lab.check()
    pages = guests[0].number("# pages of code and constants: ")
    # All were alive when the last one shared: each page once, mapped by a hundred.
    assert lab.hv.sharing.entered == pages
    assert lab.hv.sharing.merged == 99 * pages
    assert lab.hv.sharing.peak_saved == 99 * pages
