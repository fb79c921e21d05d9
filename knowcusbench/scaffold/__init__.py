"""The first hour: `knowcusbench new-method NAME` writes a method that runs, its YAML and its test."""

from knowcusbench.scaffold.new_method import new_method

__all__ = ["new_method"]
