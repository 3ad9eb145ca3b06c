"""Commands on a cluster: ``send`` cuts one into tasks and submits them, ``status`` tells how they fare."""

from mepipe.jobs.submit import Sent, send
from mepipe.jobs.tasks import Status, TaskStatus, status

__all__ = ["Sent", "Status", "TaskStatus", "send", "status"]
