"""What distillation did in a finished run."""
