"""The training loop and what it depends on. Nothing here knows a distillation method."""
