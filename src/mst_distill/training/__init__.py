"""The one training loop and what it stands on. Nothing here knows a method of distillation."""
