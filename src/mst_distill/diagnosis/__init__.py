"""What distillation did in one run: whom the student followed, where it looks, what routing is."""
