"""A report of what was measured: one HTML file that needs no network, and the same as Markdown.

    write_report([before, after], Path("report"), title="digits")     ->   report.html, report.md

Invariant: every figure in a report stands in a measurement; names are shown as text, whatever is in them.
"""

from secateur.report.writing import as_html, as_markdown, write_report

__all__ = ["as_html", "as_markdown", "write_report"]
