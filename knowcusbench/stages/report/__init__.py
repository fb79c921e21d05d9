"""The report stage, which turns a run's tables into its report."""
