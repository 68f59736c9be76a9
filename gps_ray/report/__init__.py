"""Self-contained HTML reports of run folders."""

from gps_ray.report.comparison_report import comparison_table, named_runs, write_comparison
from gps_ray.report.run_report import write_report
from gps_ray.report.tables import ComparisonRow, ComparisonTable, print_comparison

__all__ = [
    "ComparisonRow",
    "ComparisonTable",
    "comparison_table",
    "named_runs",
    "print_comparison",
    "write_comparison",
    "write_report",
]
