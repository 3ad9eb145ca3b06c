"""The paper's tables beside what runs of the user's own shards gave: ``mepipe reproduce table7``.

reproduce(ws, table, ...)   find the runs of a table, train what is missing when asked, lay both side by side
TABLES                      the tables there are
"""

from mepipe_model.reproduce.run import Reproduction, reproduce
from mepipe_model.reproduce.tables import TABLES

__all__ = ["TABLES", "Reproduction", "reproduce"]
