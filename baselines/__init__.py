"""What methods are compared with: baselines of the paper, and controls. One file each."""
