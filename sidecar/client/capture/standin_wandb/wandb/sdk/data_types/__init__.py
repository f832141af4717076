"""wandb.sdk.data_types: the same classes under the paths that scripts import them by."""

import sys
from types import ModuleType

from ... import data_types

PATHS = {
    "audio": ("Audio",), "bokeh": ("Bokeh",), "graph": ("Graph",), "helper_types.classes": ("Classes",),
    "histogram": ("Histogram",), "html": ("Html",), "image": ("Image",), "molecule": ("Molecule",),
    "object_3d": ("Object3D",), "plotly": ("Plotly",), "table": ("EvalTable", "JoinedTable", "Table"),
    "video": ("Video",),
    "base_types.media": ("BatchableMedia", "Media"), "base_types.wb_value": ("WBValue",),
}  # fmt: skip

for _path, _names in PATHS.items():
    _package = sys.modules[__name__]
    *_folders, _last = _path.split(".")
    for _part in (*_folders, _last):
        _full = f"{_package.__name__}.{_part}"
        _found = sys.modules.setdefault(_full, ModuleType(_full))
        _found.__path__ = []
        setattr(_package, _part, _found)
        _package = _found
    for _name in _names:
        setattr(_package, _name, getattr(data_types, _name))
