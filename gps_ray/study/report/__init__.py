"""Self-contained HTML reports of run folders, and what a comparison of several is made of."""

from gps_ray.study.report.comparison_report import (
    Comparison,
    baseline_of,
    named_runs,
    read_comparison,
    write_comparison,
)
from gps_ray.study.report.run_report import write_report
from gps_ray.study.report.summary import ArmSummary, ComparisonSummary, as_json, summarise
from gps_ray.study.report.tables import print_comparison

__all__ = [
    "ArmSummary",
    "Comparison",
    "ComparisonSummary",
    "as_json",
    "baseline_of",
    "named_runs",
    "print_comparison",
    "read_comparison",
    "summarise",
    "write_comparison",
    "write_report",
]
