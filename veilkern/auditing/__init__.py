"""What an attacker gets out of protected photos: every attack we know (attacks, inverter, recognition, encryption), run
on the user's own photos and measured against chance (scores, statistics), and the report (report)."""

from veilkern.auditing.report import write_audit
from veilkern.auditing.run import Audit, audit

__all__ = ["Audit", "audit", "write_audit"]
