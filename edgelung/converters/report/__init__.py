"""The report of converted variants: report.json, report.md and plots, in the columns of the published report."""

from edgelung.converters.report.files import REPORT_NAME, read_report, write_report
from edgelung.converters.report.records import EvaluationRecord, Published, Report, ReportRow, rows_of_manifest

__all__ = [
    # records
    "EvaluationRecord",
    "Published",
    "Report",
    "ReportRow",
    "rows_of_manifest",
    # files
    "REPORT_NAME",
    "read_report",
    "write_report",
]
