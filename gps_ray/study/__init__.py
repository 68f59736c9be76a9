"""Looking at runs: comparisons over seeds, replay, reports, benchmarks. No other room imports this one."""
