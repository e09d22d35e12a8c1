#!/usr/bin/env python3
"""Compares what systemd's programs and ours say of a UKI. Standard library only; exit code 1 where they differ.

    check_uki.py inspect UKIFY.json OURS.json SECTIONS   sizes, digests and texts of all sections; SECTIONS as pe.py dumps them
    check_uki.py measure MEASURE.json OURS.json          PCR 11 of every bank and phase path
    check_uki.py predicted MEASURE.json PCRS.json        the same in pcrs.json
    check_uki.py sign SIGN.json PCRSIG                   policies, keys, and the signatures of the sha256 bank
"""

import hashlib
import json
import sys
from pathlib import Path

BANKS = ["sha1", "sha256", "sha384", "sha512"]
failures = 0


def equal(what, theirs, ours):
    global failures
    if theirs != ours:
        print(f"    {what}: theirs is {str(theirs)[:120]!r}, ours is {str(ours)[:120]!r}")
        failures += 1


def inspect(theirs, ours, sections):
    equal("sections", sorted(theirs), sorted(ours))
    for name, entry in theirs.items():
        content = (Path(sections) / name.lstrip(".")).read_bytes()
        equal(f"{name} size", entry["size"], len(content))
        equal(f"{name} sha256", entry["sha256"], hashlib.sha256(content).hexdigest())
        equal(name, entry, ours.get(name))


def values(data):
    """{(bank, phase path): value}; systemd leaves the phase out where the path is empty."""
    return {(bank, entry.get("phase", "")): entry["hash"].lower() for bank, entries in data.items() for entry in entries}


def measure(theirs, ours):
    theirs, ours = values(theirs), values(ours)
    equal("banks and phase paths", sorted(theirs), sorted(ours))
    equal("number of values", 20, len(theirs))
    for key, value in theirs.items():
        equal(key, value, ours.get(key))


def sign(theirs, ours):
    equal("banks", sorted(theirs), sorted(ours))
    equal("all banks", BANKS, sorted(ours))
    for bank in theirs:
        for left, right in zip(theirs[bank], ours[bank]):
            for field in ["pcrs", "pkfp", "pol"] + (["sig"] if bank == "sha256" else []):
                equal(f"{bank} {field}", left[field], right[field])
        equal(f"number of policies in {bank}", len(theirs[bank]), len(ours[bank]))


def load(path):
    return json.loads(Path(path).read_bytes().rstrip(b"\0"))


def main():
    command, theirs, ours, *rest = sys.argv[1:]
    if command == "inspect":
        inspect(load(theirs), load(ours), *rest)
    elif command == "measure":
        measure(load(theirs), load(ours))
    elif command == "predicted":
        measure(load(theirs), load(ours)["11"])
    elif command == "sign":
        sign(load(theirs), load(ours))
    else:
        sys.exit(__doc__)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
