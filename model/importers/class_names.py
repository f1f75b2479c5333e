"""Names of the classes that a checkpoint distinguishes."""

from systola.files.tensors import ModelError

__all__ = ["class_names"]

_CHARACTERS = 2**20
"""Most characters of all names: an integer network keeps them beside its nodes."""


def class_names(config):
    """Return names by number that ``config.json`` has, or None: a list of str.

    Hugging Face writes ``id2label``, timm ``label_names``. Names that only number the classes
    (``LABEL_0``) are none.

    Raises
    ------
    ModelError
        If they are so long that no integer network could keep them.
    """
    table, names = config.get("id2label"), config.get("label_names")
    if isinstance(table, dict) and table.keys() == {str(index) for index in range(len(table))}:
        names = [table[str(index)] for index in range(len(table))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str)
                                                           for name in names):
        return None
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return None
    if sum(map(len, names)) > _CHARACTERS:
        raise ModelError(f"names of classes in config.json must have at most {_CHARACTERS:,} "
                         f"characters together, not {sum(map(len, names)):,}")
    return names
