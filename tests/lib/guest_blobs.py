#!/usr/bin/env python3
"""Takes what kairos-init-tpm-log sent out of a guest's lines. Standard library only.

    guest_blobs.py GUEST.txt DIR    DIR gets the files eventlog, SecureBoot, PK, KEK, db, dbx, and pcrs.txt
                                    ("NUMBER BANK VALUE" a line)
"""

import base64
import sys
from collections import defaultdict
from pathlib import Path


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    blobs, pcrs = defaultdict(list), []
    for line in Path(sys.argv[1]).read_text(errors="replace").replace("\r", "").splitlines():
        words = line.split()
        if words[:1] == ["blob"] and len(words) == 3 and words[1].isalnum():
            # The line "begin" makes the file, even if nothing follows: a variable may be empty.
            blobs[words[1]] += words[2:] if words[2] != "begin" else []
        elif words[:1] == ["pcr"] and len(words) == 4:
            pcrs.append(" ".join(words[1:]) + "\n")
    if "eventlog" not in blobs or not pcrs:
        sys.exit(f"guest_blobs.py: {sys.argv[1]} has no event log or no PCR values: the guest had no TPM, or did not come so far")
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in blobs.items():
        (folder / name).write_bytes(base64.b64decode("".join(lines), validate=True))
    (folder / "pcrs.txt").write_text("".join(pcrs))


if __name__ == "__main__":
    main()
