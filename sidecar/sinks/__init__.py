"""Outlets: readers of the journal with cursors, each at its own pace. See base.py for the plug."""
