"""The report stage: from a run's tables to its report."""
