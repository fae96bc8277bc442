"""Who runs the trainings of a comparison: this process, or workers here and on other machines."""
