/* Short names of Xen's error numbers, and their names as text. */

#ifndef COWBIRD_ERRNO_H
#define COWBIRD_ERRNO_H

#include "xen-numbers.h"

#define EPERM      XEN_EPERM
#define ENOENT     XEN_ENOENT
#define ESRCH      XEN_ESRCH
#define EIO        XEN_EIO
#define ENXIO      XEN_ENXIO
#define E2BIG      XEN_E2BIG
#define EBADF      XEN_EBADF
#define EAGAIN     XEN_EAGAIN
#define ENOMEM     XEN_ENOMEM
#define EACCES     XEN_EACCES
#define EFAULT     XEN_EFAULT
#define EBUSY      XEN_EBUSY
#define EEXIST     XEN_EEXIST
#define EXDEV      XEN_EXDEV
#define ENODEV     XEN_ENODEV
#define EINVAL     XEN_EINVAL
#define ENOSPC     XEN_ENOSPC
#define EROFS      XEN_EROFS
#define ERANGE     XEN_ERANGE
#define ENOSYS     XEN_ENOSYS
#define EOVERFLOW  XEN_EOVERFLOW
#define EOPNOTSUPP XEN_EOPNOTSUPP

/* "EINVAL" for 22 or -22; NULL for a number that is none of the above. */
const char *errno_name(long error);

#endif
