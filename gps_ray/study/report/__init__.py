"""Self-contained HTML reports of run folders."""

from gps_ray.study.report.comparison_report import comparison_table, named_runs, write_comparison
from gps_ray.study.report.run_report import write_report
from gps_ray.study.report.seed_report import write_seed_comparison
from gps_ray.study.report.seed_summary import SUMMARY_COLUMNS, summary_rows
from gps_ray.study.report.tables import ComparisonRow, ComparisonTable, print_comparison

__all__ = [
    "SUMMARY_COLUMNS",
    "ComparisonRow",
    "ComparisonTable",
    "comparison_table",
    "named_runs",
    "print_comparison",
    "summary_rows",
    "write_comparison",
    "write_report",
    "write_seed_comparison",
]
