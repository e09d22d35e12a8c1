#!/usr/bin/env python3
"""Judges what the marker unit of the boot tests wrote. Standard library only.

    check_boot.py measured GUEST.txt PCRS.json   Secure Boot is on, efivarfs is mounted, and PCR 11 of every active bank is
                                                 what was predicted, before and after each boot phase word
    check_boot.py unseal GUEST.txt NAME WORD unlocked|refused
                                                 the boot NAME, whose command line has WORD, unlocks its disk or does not
    check_boot.py medium GUEST.txt medium|gpt|disk OUT
                                                 a machine booted from OUT's ISO (with a GPT: gpt) or disk image with Secure Boot
                                                 on: what immucore looks for is there, and what it decides by says medium or disk;
                                                 the disk's persistent file system has grown while it was mounted
    check_boot.py drivers FULL.txt SLIM.txt      every device that has a driver in the first has the same one in the second

Prints one line a check, and what differs. Exit code 1 if a check failed.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

PHASES = ["enter-initrd", "leave-initrd", "sysinit", "ready"]
BANKS = ["sha1", "sha256", "sha384", "sha512"]
failures = 0


def check(good, text):
    """Prints one line and counts the failure."""
    global failures
    print(f"    {'ok  ' if good else 'FAIL'} {text}")
    failures += not good


def facts(path):
    """The lines of the guest between its marks, as lists of words."""
    lines = Path(path).read_text(errors="replace").replace("\r", "").splitlines()
    lines = [line.split() for line in lines if line.strip()]
    start = next((number for number, words in enumerate(lines) if words == ["begin"]), None)
    if start is None:
        sys.exit(f"check_boot.py: {path} has no line 'begin': the marker unit did not run")
    check(lines[-1] == ["end"], "the marker unit ran to its end")
    return lines[start:]


def measured(guest, predicted):
    lines = facts(guest)
    check(["efivarfs", "mounted"] in lines, "efivarfs is mounted")
    check(["secure-boot", "1"] in lines, "the variable SecureBoot is 1")
    seen = {(words[1], words[2]): words[3] for words in lines if words[0] == "pcr11" and len(words) == 4}
    answers = {words[1]: words[2] for words in lines if words[0] == "extend" and len(words) == 3}
    want = json.loads(Path(predicted).read_text())["11"]
    for bank in BANKS:
        by_path = {entry.get("phase", ""): entry["hash"].lower() for entry in want.get(bank, [])}
        path = ""
        for word in ["before"] + PHASES:
            if word != "before":
                path = f"{path}:{word}".lstrip(":")
                if answers.get(word) != "00000000":
                    check(False, f"TPM2_PCR_Extend of {word} answered {answers.get(word)}")
            value = seen.get((word, bank))
            good = value is not None and value == by_path.get(path)
            check(good, f"PCR 11, {bank}, phase path '{path}'"
                  + ("" if good else f": the guest has {value}, predicted was {by_path.get(path)}"))


def bound(lines):
    """(bus, nearest PCI address or first element of the path, driver) of each bound device, counted: numbers of SCSI hosts
    and USB buses depend on the order in which probes end, PCI addresses do not."""
    found = Counter()
    for words in lines:
        if words[0] != "driver" or len(words) != 5:
            continue
        _, bus, _, driver, path = words
        addresses = re.findall(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]", path)
        found[bus, addresses[-1] if addresses else "/".join(path.split("/")[3:5]), driver] += 1
    return found


def drivers(full, slim, least=60):
    before, after = facts(full), facts(slim)
    had, has = bound(before), bound(after)
    count = sum(had.values())
    check(count >= least, f"{count} devices have a driver in the unslimmed system ({least} at least)")
    missing = had - has
    check(not missing, f"the same drivers bind in the slimmed system ({sum((had & has).values())} devices, "
          f"{len({driver for _, _, driver in had})} drivers)")
    for (bus, where, driver), number in sorted(missing.items()):
        print(f"         missing: {driver} on {bus} at {where}" + (f" ({number} times)" if number > 1 else ""))
    for (bus, where, driver), number in sorted((has - had).items()):
        print(f"         only in the slimmed system: {driver} on {bus} at {where}")
    for what in ["net", "block"]:
        count = [sum(words[0] == what for words in lines) for lines in (before, after)]
        check(count[0] == count[1], f"{what}: {count[0]} devices unslimmed, {count[1]} slimmed")


def unseal(guest, name, word, verdict):
    """The disk opens at each phase that is signed (or at none, for another key), and at no other."""
    lines = facts(guest)
    cmdline = next((words[1:] for words in lines if words[0] == "cmdline"), [])
    check(not word or word in cmdline, f"{name}: booted with {word or 'the common command line'}: {' '.join(cmdline)}")
    check(word or not {"second=1", "updated=1"} & set(cmdline), f"{name}: no other entry's command line")
    missing = [words[1:] for words in lines if words[0] == "missing"]
    check(not missing, f"{name}: the stub handed over key and signatures, disk and TPM are there {missing or ''}")
    check((["enrolled"] in lines) == (name == "first"), f"{name}: enrolled by the first boot, and by no other")
    for phase, wanted in [("before", "refused"), ("enter-initrd", verdict), ("leave-initrd", verdict),
                          ("another-word", "refused")]:
        if phase == "before" and name == "first":
            continue
        said = [words[0] for words in lines if words[0] in ("unlocked", "refused") and words[1:] == [phase]]
        check(said == [wanted], f"{name}: at phase {phase} the disk is {wanted}" + ("" if said == [wanted] else f": {said}"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def grown(lines):
    """The partition has 8 GiB and 256 MiB, the file system in it had 256 MiB."""
    said = {words[1]: words[2] for words in lines if words[0] == "persistent" and len(words) == 3}
    before, after = int(said.get("before", 0)), int(said.get("after", 0))
    check(0 < before < 256 << 20, f"the persistent file system has {before >> 20} MiB")
    check(8 << 30 < after < 8448 << 20, f"mounted, it grows to {after >> 20} MiB of 8 GiB and 256 MiB")
    check(said.get("room") == "used", "what it has gained can be used")
    check(said.get("kept") == "yes", "a file that was there is as it was")
    check(said.get("clean") == "0", f"e2fsck -fn has nothing to say: {said.get('clean')}")


def medium(guest, kind, out):
    lines = facts(guest)
    check(["secure-boot", "1"] in lines, "the variable SecureBoot is 1")
    loader = {words[1]: words[2] for words in lines if words[0] == "loader" and len(words) == 3}
    entry = loader.get("LoaderEntrySelected", "")
    if kind == "disk":
        check("LoaderDevicePartUUID" in loader, "the disk is taken for an installed one")
        check(entry.startswith("active") and entry.endswith(".conf"), f"the role is active: {entry}")
        for label, filesystem in [("COS_GRUB", "vfat"), ("COS_OEM", "ext4"), ("COS_PERSISTENT", "ext4")]:
            check(["labelled", label, filesystem] in lines, f"{label} is {filesystem}")
        grown(lines)
        stick = {words[1]: words[2:] for words in lines if words[0] == "stick"}
        check(stick.get("written") == ["0"], f"images are written on FAT: {stick.get('written')}")
        check(stick.get("large") == ["1", "told"], f"one that FAT cannot hold is refused: {stick.get('large')}")
        check(stick.get("full") == ["1", "told"], f"one that has no room is refused: {stick.get('full')}")
        check(stick.get("left") == ["esp,iso,kairos-init,raw,tree,write-images,"], f"nothing else is left: {stick.get('left')}")
        return
    if kind == "gpt":
        check(re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", loader.get("LoaderDevicePartUUID", ""), re.IGNORECASE),
              f"with a GPT the medium is taken for an installed disk: {loader.get('LoaderDevicePartUUID')}")
    else:
        check("LoaderDevicePartUUID" not in loader, "the medium is not taken for an installed disk")
    check(entry == "norole.conf", f"the entry without a role: {entry}")
    tree = Path(out) / "uki"
    files = {str(path.relative_to(tree)): sha256(path) for path in tree.rglob("*") if path.is_file()}
    seen = {words[1]: words[2] for words in lines if words[0] == "boot-image" and len(words) == 3}
    # Those that the boot manager renames or writes itself would be a difference, and it does neither on a medium.
    check(seen == files, f"efiboot.img has the tree's {len(files)} files"
          + ("" if seen == files else f": {sorted(set(seen.items()) ^ set(files.items()))}"))
    names = {words[1] for words in lines if words[0] == "medium"}
    check(names == {"efiboot.img", "cloud_config.yaml", "more.sysext.raw"}, f"the ISO's files: {sorted(names)}")


def main():
    if len(sys.argv) == 5 and sys.argv[1] == "medium":
        medium(*sys.argv[2:])
        sys.exit(1 if failures else 0)
    if len(sys.argv) == 6 and sys.argv[1] == "unseal":
        unseal(*sys.argv[2:])
        sys.exit(1 if failures else 0)
    commands = {"measured": measured, "drivers": drivers, "guests": lambda full, slim: drivers(full, slim, 30)}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](sys.argv[2], sys.argv[3])
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
