"""Which kind of file system a path is on, and whether SQLite's locks and shared memory can be trusted there.

Given: a path and the text of /proc/self/mountinfo. Hands on: the name of a network file system, or None.
Never: touches the path.
"""

import os
import re
from pathlib import Path

NETWORK = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "glusterfs", "pvfs2",
        "orangefs", "panfs", "wekafs", "efs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs",
        "fuse.gcsfuse", "fuse.juicefs", "fuse.rclone", "fuse.blobfuse2", "fuse.goofys", "fuse.mountpoint-s3",
    }
)  # fmt: skip


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of the network file system that holds ``path``; None when it is a local one or cannot be told."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return None
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split()
        if len(parts) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), parts[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind if kind in NETWORK else None
