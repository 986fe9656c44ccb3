"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Signals reach what tests start, however the tests themselves were started.

    A shell ignores SIGINT in what it puts in the background, ``nohup`` SIGHUP, and that is
    inherited.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
