"""gps-ray inside other programs: the library (``gps_ray.Selector``), the core of an adapter, the console command."""
