"""What a debugger shows of a CPU and its page tables, as text; knows nothing of domains.

Everything here only looks: memory is read through functions that set no accessed or dirty bit and
raise no fault. ``expressions`` evaluates what a person types, ``examine`` formats memory,
``code`` disassembles with symbols and source lines, ``tree`` folds page tables, ``qemu`` speaks
the dialect of QEMU's monitor, which gdb's page-table extensions parse.
"""
