"""Xen's error numbers. Code answers a guest with ``-Errno.EINVAL``.

The values are Linux's, but the set is Xen's: this is not the host's ``errno`` module, whose
numbers differ between systems.

Source: xen/errno.h. ``EINTR`` and ``ERESTART`` are Xen-internal there and never reach a guest.
"""

from enum import IntEnum


class Errno(IntEnum):
    """Positive error numbers; a hypercall returns them negated."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EIO = 5
    ENXIO = 6
    E2BIG = 7
    ENOEXEC = 8
    EBADF = 9
    ECHILD = 10
    EAGAIN = 11
    EWOULDBLOCK = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EXDEV = 18
    ENODEV = 19
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    ENFILE = 23
    EMFILE = 24
    ENOSPC = 28
    EROFS = 30
    EMLINK = 31
    EDOM = 33
    ERANGE = 34
    EDEADLK = 35
    EDEADLOCK = 35
    ENAMETOOLONG = 36
    ENOLCK = 37
    ENOSYS = 38
    ENOTEMPTY = 39
    ENODATA = 61
    ETIME = 62
    EBADMSG = 74
    EOVERFLOW = 75
    EILSEQ = 84
    ENOTSOCK = 88
    EMSGSIZE = 90
    EOPNOTSUPP = 95
    EADDRINUSE = 98
    EADDRNOTAVAIL = 99
    ENOBUFS = 105
    EISCONN = 106
    ENOTCONN = 107
    ETIMEDOUT = 110
    ECONNREFUSED = 111


def result_name(result: int, width: int = 64) -> str:
    """A hypercall's return value for a person: ``-EINVAL``, or the number itself.

    ``result`` may be signed or the raw register of ``width`` bits (RAX or EAX).
    """
    if result >> (width - 1) == 1:
        result -= 1 << width
    error = Errno._value2member_map_.get(-result)
    return f"-{error.name}" if error is not None else str(result)
