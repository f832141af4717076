"""Scripts that were never changed: calls to wandb, swanlab, TensorBoard and torch become events of a run.

Given: the calls a script makes to those libraries. Hands on: events through ``sidecar.client``.
Never: changes what the script sees of them, beyond where the rows go.

``standin_wandb`` and ``standin_swanlab`` are folders for PYTHONPATH, each with a package that answers to the library's
name; ``site`` holds the ``sitecustomize`` that installs the others. ``sidecar.capture_env`` puts them there.
"""
