"""The media types under their inner name."""

from ...data_types import Audio, Histogram, Html, Image, Media, Object3D, Table, Video, WBValue

__all__ = ("Audio", "Histogram", "Html", "Image", "Media", "Object3D", "Table", "Video", "WBValue")
