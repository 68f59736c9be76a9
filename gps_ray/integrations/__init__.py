"""gps-ray inside other programs: the library (``gps_ray.Selector``), other people's trainers, the console command."""
