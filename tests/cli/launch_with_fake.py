"""``sidecar`` with the fake service in place of the real one: started by tests as a process of its own."""

import sys
from pathlib import Path

from sidecar import cli, supervise

supervise.SERVE = (sys.executable, str(Path(__file__).with_name("fake_service.py")))
supervise.STOP_SECONDS_MAX = 1.0
sys.exit(cli.main())
