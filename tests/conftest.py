"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Ctrl-C works in what tests start, however the tests themselves were started.

    A shell ignores SIGINT in what it puts in the background, and ignoring is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
