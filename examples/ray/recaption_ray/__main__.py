"""`python -m recaption_ray`."""

import sys

from .cli import main

sys.exit(main())
