#!/usr/bin/env python3
"""Prints the short size report of the quickstart from report.json. Standard library only."""

import json
import sys
from pathlib import Path


def mib(number):
    return f"{number / (1 << 20):,.1f} MiB"


report = json.loads(Path(sys.argv[1]).read_text())
print(f"    kernel    {report['kernel']}")
for what in ["modules", "firmware"]:
    part = report[what]
    print(f"    {what:<9} kept {part['kept']:,} ({mib(part['kept_bytes'])}), "
          f"dropped {part['dropped']:,} ({mib(part['dropped_bytes'])})")
print(f"    initrd    {mib(report['initrd']['uncompressed_bytes'])}, compressed {mib(report['initrd']['bytes'])}")
print(f"    UKI       {mib(report['uki']['bytes'])} ({report['uki']['bytes']:,} bytes)")
