"""Makes write-ahead logs of a real SQLite and damages them, and writes down what SQLite makes of each.

    damaged_log.py DATABASE DIR

DATABASE is rpm's, DIR gets a folder for each case: `rpmdb.sqlite`, `rpmdb.sqlite-wal`, and `seen`: the names of the packages that
SQLite finds, one a line, or `error: ...`. `DIR/whole` is without damage.
"""

import random
import shutil
import sqlite3
import struct
import sys
from pathlib import Path

database, target = map(Path, sys.argv[1:])
HEADER, FRAME = 32, 24


def checksum(data, big, first=0, second=0):
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second


def signed(log):
    """The log with the checksums that belong to it."""
    log = bytearray(log)
    big = log[3] & 1
    page = struct.unpack(">I", log[8:12])[0]
    sums = checksum(log[:24], big)
    log[24:32] = struct.pack(">2I", *sums)
    if page < 512:
        return bytes(log)
    for at in range(HEADER, len(log) - FRAME - page + 1, FRAME + page):
        sums = checksum(log[at:at + 8], big, *sums)
        sums = checksum(log[at + FRAME:at + FRAME + page], big, *sums)
        log[at + 16:at + 24] = struct.pack(">2I", *sums)
    return bytes(log)


work = target / "work.sqlite"
shutil.copy(database, work)
db = sqlite3.connect(work, isolation_level=None)
names = dict(db.execute("select hnum, key from Name").fetchall())
for statement in ["PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0", "DELETE FROM Packages WHERE hnum % 5 = 0",
                  "DELETE FROM Packages WHERE hnum % 5 = 1", "DELETE FROM Packages WHERE hnum % 5 = 2"]:
    db.execute(statement).fetchall()


def files():
    return work.read_bytes(), Path(f"{work}-wal").read_bytes()


base, log = files()
# Copied back, and begun again: behind the new frames lie old ones.
db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
db.execute("DELETE FROM Packages WHERE hnum % 5 = 3 AND hnum < 20").fetchall()
base_again, again = files()
page = struct.unpack(">I", log[8:12])[0]
size = FRAME + page
count = (len(log) - HEADER) // size
assert count > 8 and len(again) == len(log) and again[16:24] != log[16:24], (count, len(again), len(log))


def flipped(data, at, bits=0x10):
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1:]


def changed(data, at, new):
    return data[:at] + new + data[at + len(new):]


cases = {"whole": (base, log), "again": (base_again, again), "no-log": (base, None), "log-empty": (base, b""),
         "log-zeros": (base, bytes(len(log))), "log-header-only": (base, log[:HEADER]), "empty": (b"", log),
         "half": (base[:len(base) // 2 // page * page], log), "page-one-only": (base[:page], log),
         "newer-version": (base, signed(changed(log, 4, struct.pack(">I", 3007001)))),
         "other-page-size": (base, signed(changed(log, 8, struct.pack(">I", page * 2)))),
         "small-page-size": (base, signed(changed(log, 8, struct.pack(">I", page // 2)))),
         "bad-page-size": (base, signed(changed(log, 8, struct.pack(">I", 128)))),
         "other-salt-signed": (base, signed(flipped(log, 16)))}
for at in range(HEADER):
    cases[f"header-{at}"] = (base, flipped(log, at))
    cases[f"again-header-{at}"] = (base_again, flipped(again, at))
for number in sorted({0, 1, count // 2, count - 2, count - 1}):
    start = HEADER + number * size
    for what, at in [("page", 3), ("commit", 7), ("salt", 8), ("salt2", 12), ("sum", 16), ("sum2", 20), ("begin", FRAME),
                     ("end", size - 1)]:
        cases[f"frame-{number}-{what}"] = (base, flipped(log, start + at))
        cases[f"again-{number}-{what}"] = (base_again, flipped(again, start + at))
    cases[f"frame-{number}-no-page-signed"] = (base, signed(changed(log, start, bytes(4))))
    cases[f"frame-{number}-far-page-signed"] = (base, signed(changed(log, start, b"\x7f\0\0\0")))
    for cut in [1, FRAME - 1, FRAME, size // 2, size - 1]:
        cases[f"cut-{number}-{cut}"] = (base, log[:start + cut])
    cases[f"end-{number}"] = (base, log[:start])
    cases[f"zeros-{number}"] = (base, changed(log, start + FRAME, bytes(page)))
rng = random.Random(1)
for number in range(60):
    cases[f"random-{number}"] = (base, flipped(log, rng.randrange(len(log)), 1 << rng.randrange(8)))

for name, (data, wal) in cases.items():
    case = target / name
    case.mkdir()
    (case / "rpmdb.sqlite").write_bytes(data)
    if wal is not None:
        (case / "rpmdb.sqlite-wal").write_bytes(wal)
    # SQLite changes what it opens.
    shutil.rmtree(target / "open", ignore_errors=True)
    shutil.copytree(case, target / "open")
    try:
        opened = sqlite3.connect(target / "open" / "rpmdb.sqlite")
        seen = "".join(sorted(names[hnum] + "\n" for hnum, _ in opened.execute("select hnum, blob from Packages").fetchall()))
        opened.close()
    except sqlite3.Error as error:
        seen = f"error: {error}"
    (case / "seen").write_text(seen)
shutil.rmtree(target / "open")
