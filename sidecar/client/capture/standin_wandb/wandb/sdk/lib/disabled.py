"""Types of the disabled mode."""

from typing import Any


class SummaryDisabled(dict[str, Any]):
    __setattr__ = dict.__setitem__
    __delattr__ = dict.__delitem__

    def __getattr__(self, key: str) -> Any:
        return self[key]

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if isinstance(value, dict) and not isinstance(value, SummaryDisabled):
            value = SummaryDisabled(value)
            self[key] = value
        return value


class RunDisabled:
    """For integrations that ask ``isinstance(run, RunDisabled)``; a disabled run is a Run."""

    def __getattr__(self, name: str) -> Any:
        return None
