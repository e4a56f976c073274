"""``python -m dro_core``: the command ``structured-dro``."""

import sys

from dro_core.cli import main

sys.exit(main())
