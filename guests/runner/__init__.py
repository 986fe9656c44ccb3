"""The runner of guest-level test programs: collect them, run them, judge what they print.

============== ==========================================================================
``manifest``   what a program says about itself at its head
``collect``    from paths to programs, and ``-k``
``build``      from a program to the ELF file that both hypervisors boot (``elfcache``)
``verdict``    from console lines and an ending to one of six results
``machine``    a machine with domains, for tests in Python and for the runner
``run_cowbird`` ``run_xen``   one program on this hypervisor; on the real Xen under QEMU
``pool``       many programs in processes of their own
``report``     table, JUnit XML, JSON
``scaffold``   a new program that passes at once
============== ==========================================================================

Nothing here is imported by the hypervisor itself; ``cowbird test`` and the pytest plugin are the
two front ends.
"""
