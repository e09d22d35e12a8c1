#!/usr/bin/env python3
"""Judges the module tree of an unpacked initrd. Standard library only; exit code 1 and a line each for what is wrong.

    check_modules.py MODULES DEPMOD SHOW_DEPENDS REPORT.json

MODULES       /usr/lib/modules/RELEASE of the initrd
DEPMOD        the indexes that the real depmod made of it
SHOW_DEPENDS  what modprobe --show-depends printed for every module in it
"""

import json
import os
import re
import sys
from pathlib import Path

failures = []


def name_of(path):
    """Module names do not tell - from _."""
    return re.sub(r"\.ko(\.(gz|xz|zst))?$", "", path.rsplit("/", 1)[-1]).replace("-", "_")


def lines(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def dependencies(path):
    """modules.dep: file -> set of files."""
    return {line.partition(":")[0]: set(line.partition(":")[2].split()) for line in lines(path)}


def main():
    modules, depmod, shown, report = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    files = {os.path.relpath(os.path.join(folder, name), modules)
             for folder, _, names in os.walk(modules) for name in names if re.search(r"\.ko(\.(gz|xz|zst))?$", name)}
    names = {name_of(file) for file in files}
    builtin = {name_of(line) for line in lines(modules / "modules.builtin")}

    reported = {item["path"].split("/modules/")[1].split("/", 1)[1]
                for item in json.loads(report.read_text())["modules"]["items"] if item["kept"]}
    if reported != files:
        failures.append(f"report.json keeps {len(reported)} modules, the initrd has {len(files)}, "
                        f"for example {sorted(reported ^ files)[:1]}")

    ours, theirs = dependencies(modules / "modules.dep"), dependencies(depmod / "modules.dep")
    if set(ours) != files:
        failures.append(f"modules.dep and the files differ, for example {sorted(set(ours) ^ files)[:1]}")
    for file, needed in ours.items():
        if not needed <= files:
            failures.append(f"modules.dep: {file} needs {sorted(needed - files)[0]}, which is not there")
        if needed != theirs.get(file):
            failures.append(f"modules.dep: {file}: depmod has other dependencies")

    # Index -> which word of a line names the module, if one does.
    for index, word in [("alias", 2), ("symbols", 2), ("softdep", 1), ("devname", 0), ("builtin", None), ("order", None)]:
        file = f"modules.{index}"
        if not (modules / file).exists():
            failures.append(f"{file} is missing")
            continue
        if word is not None:
            named = {line.split()[word].replace("-", "_") for line in lines(modules / file)}
            for stray in sorted(named - names - builtin)[:3]:
                failures.append(f"{file} names {stray}, which is neither there nor built in")
            left, right = sorted(lines(modules / file)), sorted(lines(depmod / file))
            if left != right:
                failures.append(f"{file} differs from depmod's, for example {sorted(set(left) ^ set(right))[:1]}")
    for index in ["dep", "alias", "symbols", "builtin"]:
        if not (modules / f"modules.{index}.bin").exists():
            failures.append(f"modules.{index}.bin is missing: modprobe reads it first")

    inserted = set()
    for line in shown.read_text().splitlines():
        words = line.split()
        if words[:1] == ["insmod"]:
            # modprobe says lib/modules, the tree is below usr/lib.
            inserted.add(words[1].split("/modules/", 1)[1].split("/", 1)[1])
        elif words[:1] != ["builtin"]:
            failures.append(f"modprobe --show-depends: {line}")
    if inserted != files:
        failures.append(f"modprobe would load {len(inserted)} modules, the initrd has {len(files)}, "
                        f"for example {sorted(inserted ^ files)[:1]}")

    for line in failures[:20]:
        print(f"    {line}")
    if len(failures) > 20:
        print(f"    and {len(failures) - 20} more")
    print(f"    {len(files)} modules, {len(lines(modules / 'modules.alias'))} aliases")
    sys.exit(1 if failures or not files else 0)


if __name__ == "__main__":
    main()
