"""Mixture of Specialized Teachers for cross-modal knowledge distillation."""

__version__ = "0.2.0"
