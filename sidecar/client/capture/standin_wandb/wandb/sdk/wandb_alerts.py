"""How bad an alert is."""

from enum import Enum


class AlertLevel(Enum):
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"
