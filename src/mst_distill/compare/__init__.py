"""Other methods on equal terms: what a method is, its trials, and what they show."""
