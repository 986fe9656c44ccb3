"""What is made of a trace afterwards: a page that shows the run, a file for a trace viewer.

``reading`` takes a trace in and trusts nothing of it; ``document`` and ``page`` make the HTML page
of ``cowbird report``, ``perfetto`` what ``cowbird trace --perfetto`` writes. Nothing here needs the
hypervisor that made the trace.
"""

from hypervisor.report.page import render
from hypervisor.report.perfetto import export
from hypervisor.report.reading import TraceError, TraceReader

__all__ = ["TraceError", "TraceReader", "export", "render"]
