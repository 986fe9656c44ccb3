"""The comparison: systems of the 2005 discussion, as real guests over the same contents.

``README.md`` beside this file says what each system is, how it was built, and what the results
say. A *cell* is one system with one workload, a number of domains and a seed: one machine, run to
its end in a process of its own (``cell``). A *grid* is the cells of an experiment (``grid``).
Everything that is measured comes out of one cell's run; tables, figures and the report only put
cells together.
"""
