"""What this machine is, how fast it computes, and how progress is told."""
