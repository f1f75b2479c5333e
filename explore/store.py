"""Results that survive: one SQLite file, a row for each measure of each point."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from systola.files.bounded import parse_json, shorten

__all__ = ["Store", "StoreError"]

_APPLICATION, _VERSION = 0x5357E11A, 1
_PATIENCE = 60
"""Seconds to wait for another command that writes into the same file."""

_KEYS = 500
"""Keys that are asked for at once."""


class StoreError(ValueError):
    """The file of results cannot be used; one line says why."""


class Store:
    """A file of results, as a context manager. Each one is on disk when `put` returns.

    Parameters
    ----------
    path : str or Path
        The file; it is made if it is not there, in an existing folder.

    Raises
    ------
    StoreError
        If it is something else, damaged, of another version, or cannot be written.
    """

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        try:
            self._database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            raise self._wrong(error) from None
        return self

    def __exit__(self, *error):
        self._database.close()

    def _prepare(self):
        def pragma(name):
            return self._database.execute(f"PRAGMA {name}").fetchone()[0]

        found = pragma("application_id"), pragma("user_version")
        if found == (0, 0) and not self._database.execute(
                "SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, measure TEXT NOT NULL, "
                "inputs TEXT NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL, "
                "at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID")
            self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database.execute("COMMIT")
        elif found != (_APPLICATION, _VERSION):
            raise StoreError(f"store {str(self.path)!r} must be a file of results of `systola "
                             f"explore`, of version {_VERSION}; another --store makes a new one")

    def _wrong(self, error):
        return StoreError(f"store {str(self.path)!r} cannot be used: {shorten(error)}")

    def get(self, keys):
        """Return the outcomes that are there, ``{key: (outcome, seconds)}``."""
        keys, found = list(keys), {}
        try:
            for start in range(0, len(keys), _KEYS):
                part = keys[start:start + _KEYS]
                marks = ", ".join("?" * len(part))
                with closing(self._database.execute(
                        f"SELECT key, outcome, seconds FROM results WHERE key IN ({marks})",
                        part)) as rows:
                    found |= {key: (parse_json(text), seconds) for key, text, seconds in rows}
        except (sqlite3.Error, ValueError) as error:
            raise self._wrong(error) from None
        return found

    def put(self, key, measure, inputs, outcome, seconds):
        """Keep an outcome, in place of one of the same key.

        Parameters
        ----------
        key, measure : str
            What identifies it, and what kind it is.
        inputs, outcome : dict
            Plain data.
        seconds : float
            What it took.
        """
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO results (key, measure, inputs, outcome, seconds) "
                "VALUES (?, ?, ?, ?, ?)",
                (key, measure, json.dumps(inputs, sort_keys=True),
                 json.dumps(outcome, sort_keys=True), seconds))
        except sqlite3.Error as error:
            raise self._wrong(error) from None

    def counts(self):
        """Return how many results there are of each measure."""
        try:
            return dict(self._database.execute(
                "SELECT measure, count(*) FROM results GROUP BY measure ORDER BY measure"))
        except sqlite3.Error as error:
            raise self._wrong(error) from None
