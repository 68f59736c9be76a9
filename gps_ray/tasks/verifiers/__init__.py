"""Built-in verifiers for prompts from files; each is a ``gps_ray.tasks.interface.Task``."""
