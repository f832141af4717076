"""A captured script is no notebook."""


def in_jupyter() -> bool:
    return False


in_ipython = in_notebook = in_colab = in_databricks = in_vscode_notebook = in_jupyter
