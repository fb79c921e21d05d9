"""Figures: matplotlib and picture grids."""
