"""The public name of what an outer step yields."""

from jboat.outer_step import OuterStep

HyperGradientResult = OuterStep
"""What :meth:`BilevelTrainer.hypergradient` returns and hooks are given."""
