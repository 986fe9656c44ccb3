"""The Xen side: domains, the frame table, direct paging, sharing, hypercalls, scheduling.

Sits on ``emu``'s public interface. The command line is ``hypervisor.cli``.
"""
