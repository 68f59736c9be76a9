"""``python -m gps_ray.integrations.commands``: the command from a folder that is not installed."""

import sys

from gps_ray.integrations.commands import main

sys.exit(main())
