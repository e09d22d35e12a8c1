#!/usr/bin/env python3
"""Compares an unpacked initrd with the root that it was made from. Standard library only; needs root to read both.

    check_tree.py ROOT INITRD REPORT.json

What may differ, and nothing else: what report.json lists as dropped is gone; the contents of LEFT_OUT are gone; MADE was
made; /init is a link to systemd; the modules' indexes are new (tests/lib/check_modules.py judges those). Exit code 1 and a
line each for up to 20 differences.
"""

import filecmp
import json
import os
import stat
import sys
from collections import defaultdict
from pathlib import Path

# Directories that stay, empty.
LEFT_OUT = ["proc", "sys", "dev", "run", "tmp", "var/tmp", "boot", "var/cache/apt", "var/lib/apt/lists"]
# Made where they are missing.
MADE = ["oem", "efi", "usr/local/cloud-config"]

differences = []


def entries(top, prune):
    """Path below the top -> lstat, for all below it, the contents of `prune` left out."""
    found = {"": os.lstat(top)}
    for folder, names, files in os.walk(top):
        inside = os.path.relpath(folder, top)
        inside = "" if inside == "." else inside + "/"
        for name in names + files:
            found[inside + name] = os.lstat(os.path.join(folder, name))
        names[:] = [name for name in names if inside + name not in prune]
    return found


def say(path, text):
    differences.append(f"/{path}: {text}")


def compare(path, old, new, root, initrd):
    """One entry: type, mode, owner, device number, time, link target, content."""
    if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
        return say(path, f"type {stat.filemode(old.st_mode)} became {stat.filemode(new.st_mode)}")
    for what, left, right in [("owner", old.st_uid, new.st_uid), ("group", old.st_gid, new.st_gid)]:
        if left != right:
            say(path, f"{what} {left} became {right}")
    if stat.S_ISLNK(old.st_mode):
        left, right = os.readlink(root / path), os.readlink(initrd / path)
        if left != right:
            say(path, f"link target {left} became {right}")
        return None
    if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
        say(path, f"mode {stat.filemode(old.st_mode)} became {stat.filemode(new.st_mode)}")
    if stat.S_ISREG(old.st_mode):
        if int(old.st_mtime) != int(new.st_mtime):
            say(path, f"time {int(old.st_mtime)} became {int(new.st_mtime)}")
        if old.st_size != new.st_size or not filecmp.cmp(root / path, initrd / path, shallow=False):
            say(path, "content differs")
    if stat.S_ISCHR(old.st_mode) or stat.S_ISBLK(old.st_mode):
        if old.st_rdev != new.st_rdev:
            say(path, f"device {old.st_rdev:#x} became {new.st_rdev:#x}")
    return None


def link_groups(found):
    """Sets of paths that are one file, of two paths or more."""
    groups = defaultdict(set)
    for path, status in found.items():
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            groups[status.st_dev, status.st_ino].add(path)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def main():
    root, initrd = Path(sys.argv[1]), Path(sys.argv[2])
    report = json.loads(Path(sys.argv[3]).read_text())
    dropped = {item["path"].strip("/") for what in ("modules", "firmware") for item in report[what]["items"]
               if not item["kept"]}
    kept = {item["path"].strip("/") for what in ("modules", "firmware") for item in report[what]["items"] if item["kept"]}
    modules = f"usr/lib/modules/{report['kernel']}/modules."
    old, new = entries(root, set(LEFT_OUT)), entries(initrd, set())
    # Directories that held only what was dropped may stay or go.
    emptied = {os.path.dirname(path) for path in dropped}
    emptied |= {parent for path in emptied for parent in map(str, Path(path).parents)}
    for path in sorted(dropped & set(new)):
        say(path, "was dropped, says report.json, but is in the initrd")
    for path in sorted(kept - set(new)):
        say(path, "was kept, says report.json, but is not in the initrd")
    compared = 0
    for path, status in old.items():
        if path in dropped or path.startswith(modules):
            continue
        if path not in new:
            if not (path in emptied and stat.S_ISDIR(status.st_mode)):
                say(path, "is missing")
            continue
        compare(path, status, new[path], root, initrd)
        compared += 1
    # The ancestors of what is made, too.
    made = {str(parent) for path in MADE for parent in [Path(path), *Path(path).parents]}
    for path in sorted(set(new) - set(old) - made - {"init"}):
        if not path.startswith(modules):
            say(path, "is in the initrd but not in the root")
    for path in MADE:
        if not (initrd / path).is_dir():
            say(path, "was not made")
    if not os.path.islink(initrd / "init") or not os.readlink(initrd / "init").endswith("systemd"):
        say("init", "is not a link to systemd")
    elif not (initrd / os.readlink(initrd / "init").lstrip("/")).exists():
        say("init", f"points to {os.readlink(initrd / 'init')}, which is not there")
    gone = set(old) - set(new)
    groups = {frozenset(group - gone) for group in link_groups(old)}
    groups = {group for group in groups if len(group) > 1}
    for group in sorted(map(sorted, groups ^ link_groups(new))):
        say(group[0], f"hard links differ: {', '.join(group)}")
    for line in differences[:20]:
        print(f"    {line}")
    if len(differences) > 20:
        print(f"    and {len(differences) - 20} more")
    print(f"    {compared} entries compared, {len(dropped)} dropped, {len(groups)} groups of hard links")
    sys.exit(1 if differences or compared < 1000 else 0)


if __name__ == "__main__":
    main()
