"""Media types: texts are kept, the rest is accepted and counted as not kept."""

from typing import Any


class Media:
    _log_type = "swanlab-media"

    def __init__(self, data: Any = None, *args: Any, **kwargs: Any) -> None:
        self.data_given, self.caption = data, kwargs.get("caption")


class Image(Media):
    pass


class Audio(Media):
    pass


class Video(Media):
    pass


class Object3D(Media):
    pass


class Molecule(Media):
    pass


class ECharts(Media):
    pass


class Text(Media):
    def __init__(self, data: Any = None, caption: str | None = None, **kwargs: Any) -> None:
        super().__init__(data, caption=caption)
        self.text_data = str(data)


class Html(Media):
    def __init__(self, data: Any = None, caption: str | None = None, **kwargs: Any) -> None:
        super().__init__(data, caption=caption)
        self.html = str(data)


class Settings:
    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


class Callback:
    pass
