#!/usr/bin/env python3
"""Starts one QEMU machine with OVMF from a UKI and waits for its end. Standard library only.

    vm.py --uki FILE | --medium KIND:FILE --work DIR [--keys DIR | --setup-mode | --variables FILE] [--loader FILE] [--auth DIR] [--tpm]
          [--devices none|many|vmware] [--memory MiB] [--timeout S] [--until REGEX] [--fail REGEX] [--show]
          [--virt-fw-vars PROGRAM]

--medium     boots from a whole image: cdrom:FILE, usb:FILE, disk:FILE; the file stays as it is
--keys DIR   Secure Boot, enforced, with PK.pem, KEK.pem and db.pem of DIR enrolled; without it Secure Boot is off
--setup-mode no keys are enrolled, and the machine may reset, as it does after enrolment
--variables FILE  the firmware's variables as another run left them in its DIR/vars.fd
--loader FILE     systemd-boot starts, and then the UKI, from EFI/Linux
--auth DIR   systemd-boot enrols PK.auth, KEK.auth and db.auth of DIR, if the machine is in setup mode
--entry GLOB the boot entry that systemd-boot takes
--disk FILE  a disk with the serial number "sealed", kept as the machine leaves it
--tpm-state DIR  the TPM's state, kept for the next run
--tpm        a TPM 2.0 (swtpm) with the banks sha1, sha256, sha384, sha512 active
--devices    many: dozens of emulated controllers and network cards; vmware: those that VMware gives its guests
--until      ends well as soon as the console matches; without it, when the guest powers off
--fail       ends with 1 as soon as the console matches; a kernel panic always does
--show       copies the console to stdout

In DIR: console.log (first serial port), guest.txt (second serial port, written by the marker unit), vars.fd, esp.img.
Exit code: 0 ended well; 1 the time was up, or the console matched --fail, or QEMU failed: the reason is on stderr.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

OWNER = "5b7d4a0e-6f0c-4d5e-9f27-1d7c5a3c9b11"  # of the enrolled keys: any GUID does
MIB = 1 << 20

# (option of -device, with a disk?). "bus=@" is replaced by a bus with a free slot. No option ROM (romfile=):
# the firmware would spend minutes in them. Not usb-net: two drivers claim it, and the one that is loaded first gets it.
MANY = [
    ("nvme,bus=@,serial=nvme1,drive={disk}", True),
    ("ich9-ahci,bus=@,id=ahci1", False),
    ("ide-hd,bus=ahci1.0,drive={disk}", True),
    ("virtio-blk-pci,bus=@,drive={disk}", True),
    ("virtio-scsi-pci,bus=@,id=vscsi", False),
    ("scsi-hd,bus=vscsi.0,drive={disk}", True),
    ("scsi-cd,bus=vscsi.0,drive={disk}", True),
    ("megasas,bus=@,id=megasas1", False),
    ("scsi-hd,bus=megasas1.0,drive={disk}", True),
    ("megasas-gen2,bus=@,id=megasas2", False),
    ("scsi-hd,bus=megasas2.0,drive={disk}", True),
    ("mptsas1068,bus=@,id=mptsas", False),
    ("scsi-hd,bus=mptsas.0,drive={disk}", True),
    ("pvscsi,bus=@,id=pvscsi1", False),
    ("scsi-hd,bus=pvscsi1.0,drive={disk}", True),
    ("lsi53c895a,bus=@,id=lsi", False),
    ("scsi-hd,bus=lsi.0,drive={disk}", True),
    ("am53c974,bus=@,id=am53", False),
    ("scsi-hd,bus=am53.0,drive={disk}", True),
    ("sdhci-pci,bus=@,id=sdhci", False),
    ("sd-card,drive={disk}", True),
    ("qemu-xhci,bus=@,id=xhci", False),
    ("usb-storage,bus=xhci.0,drive={disk}", True),
    ("usb-uas,bus=xhci.0,id=uas", False),
    ("scsi-hd,bus=uas.0,drive={disk}", True),
    ("usb-kbd,bus=xhci.0", False),
    ("usb-mouse,bus=xhci.0", False),
    ("nec-usb-xhci,bus=@,id=nec", False),
    ("usb-ehci,bus=@,id=ehci", False),
    ("usb-storage,bus=ehci.0,drive={disk}", True),
    ("piix3-usb-uhci,bus=@,id=uhci", False),
    ("usb-tablet,bus=uhci.0", False),
    ("pci-ohci,bus=@,id=ohci", False),
    ("usb-serial,bus=ohci.0,chardev=void", False),
    ("e1000,bus=@,romfile=", False),
    ("e1000e,bus=@,romfile=", False),
    ("igb,bus=@,romfile=", False),
    ("vmxnet3,bus=@,romfile=", False),
    ("rtl8139,bus=@,romfile=", False),
    ("ne2k_pci,bus=@,romfile=", False),
    ("pcnet,bus=@,romfile=", False),
    ("tulip,bus=@,romfile=", False),
    ("i82551,bus=@,romfile=", False),
    ("virtio-net-pci,bus=@,romfile=", False),
    ("virtio-rng-pci,bus=@", False),
    ("virtio-balloon-pci,bus=@", False),
    ("virtio-serial-pci,bus=@", False),
    ("virtio-gpu-pci,bus=@", False),
    ("vmware-svga,bus=@,romfile=", False),
    ("virtio-keyboard-pci,bus=@", False),
    ("i6300esb,bus=@", False),
    ("pci-serial,bus=@,chardev=void2", False),
]


def run(*command, **options):
    """Runs a command, quietly unless it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        sys.exit(f"vm.py: {' '.join(map(str, command))}: exit {done.returncode}: {done.stdout.decode()[-500:]}")


def firmware_file(*names):
    """The first of the OVMF files that this distribution has (Ubuntu and Debian name them alike)."""
    for name in names:
        path = Path("/usr/share/OVMF") / name
        if path.exists():
            return path
    sys.exit(f"vm.py: none of {', '.join(names)} in /usr/share/OVMF: install the package ovmf")


def make_esp(options, image):
    """A FAT image that holds the UKI where the firmware looks on removable media, or there a boot manager."""
    size = (options.uki.stat().st_size + 64 * MIB) // MIB * MIB
    image.unlink(missing_ok=True)
    run("mkfs.vfat", "-F", "32", "-C", image, size // 1024)
    run("mmd", "-i", image, "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", image, options.loader or options.uki, "::EFI/BOOT/BOOTX64.EFI")
    if options.loader is None:
        return
    run("mmd", "-i", image, "::EFI/Linux", "::loader", "::loader/keys", "::loader/keys/auto")
    run("mcopy", "-i", image, options.uki, "::EFI/Linux/uki.efi")
    config = options.work / "loader.conf"
    entry = f"default {options.entry}\n" if options.entry else ""
    config.write_text(f"timeout 0\nsecure-boot-enroll force\n{entry}")
    run("mcopy", "-i", image, config, "::loader/loader.conf")
    for name in ["PK", "KEK", "db"] if options.auth else []:
        run("mcopy", "-i", image, options.auth / f"{name}.auth", f"::loader/keys/auto/{name}.auth")


def make_variables(keys, template, variables, virt_fw_vars):
    """The firmware's variables: with keys they enforce Secure Boot, without them nothing is enrolled."""
    if keys is None:
        shutil.copyfile(template, variables)
        return
    run(virt_fw_vars, "-i", template, "-o", variables, "--set-pk", OWNER, keys / "PK.pem", "--add-kek", OWNER,
        keys / "KEK.pem", "--add-db", OWNER, keys / "db.pem", "--sb")


def start_tpm(state, keep):
    """swtpm with four banks, a new one unless it is to be kept; returns its process and socket."""
    if not keep or not state.exists():
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        run("swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", "sha1,sha256,sha384,sha512", "--overwrite")
    socket = state / "socket"
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={socket}",
         "--flags", "not-need-init", "--terminate"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(100):
        if socket.exists():
            return process, socket
        time.sleep(0.1)
    process.kill()
    sys.exit(f"vm.py: swtpm made no socket at {socket} within 10 seconds")


def known_devices():
    """The devices that this QEMU can emulate."""
    text = subprocess.run(["qemu-system-x86_64", "-device", "help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return set(re.findall(r'^name "([^"]+)"', text, re.MULTILINE))


# What VMware gives its guests, of MANY.
VMWARE = {"ahci1", "ehci", "mptsas", "pvscsi1", "uhci", "xhci"}
VMWARE_NAMES = {"e1000", "e1000e", "nvme", "vmware-svga", "vmxnet3"}


def of_vmware(device):
    """Whether a device is one of VMware's, or behind one of them."""
    fields = device.split(",")
    place = [field.split("=")[1].split(".")[0] for field in fields[1:] if field.startswith(("id=", "bus="))]
    return fields[0] in VMWARE_NAMES or any(name in VMWARE for name in place)


def many_devices(work, devices):
    """Options for every device that this QEMU has, on conventional PCI bridges (the root bus has 32 slots)."""
    known = known_devices()
    options = ["-chardev", "null,id=void", "-chardev", "null,id=void2"]
    buses = []
    slots = 0
    absent = []
    for number, (device, with_disk) in enumerate(devices):
        name = device.split(",")[0]
        if name not in known:
            absent.append(name)
            continue
        if "bus=@" in device:
            if slots % 16 == 0:
                buses.append(f"bridge{len(buses)}")
                options += ["-device", f"pci-bridge,id={buses[-1]},chassis_nr={len(buses)}"]
            device = device.replace("bus=@", f"bus={buses[-1]},addr={slots % 16 + 1:#x}")
            slots += 1
        if with_disk:
            disk = work / f"disk{number}.img"
            with open(disk, "wb") as file:
                file.truncate(8 * MIB)
            options += ["-drive", f"if=none,id=disk{number},format=raw,file={disk}"]
            device = device.replace("{disk}", f"disk{number}")
        options += ["-device", device]
    if absent:
        print(f"    this QEMU lacks {', '.join(absent)}: left out of both machines")
    return options


# How a machine sees an image that it boots from.
MEDIA = {
    "cdrom": ["-device", "ide-cd,drive=medium,bootindex=0"],
    "usb": ["-device", "qemu-xhci,id=usbboot", "-device", "usb-storage,bus=usbboot.0,drive=medium,bootindex=0"],
    "disk": ["-device", "virtio-blk-pci,drive=medium,bootindex=0,addr=0x3"],
}


def medium(text):
    """KIND:FILE"""
    kind, _, file = text.partition(":")
    if kind not in MEDIA or not file:
        raise argparse.ArgumentTypeError(f"{text}: KIND:FILE, with one of {', '.join(MEDIA)}")
    return kind, Path(file)


def boot_device(options):
    """Options for what the machine boots from. What it writes is thrown away."""
    if options.medium is None:
        make_esp(options, options.work / "esp.img")
        return ["-drive", f"if=none,id=esp,format=raw,file={options.work / 'esp.img'}",
                "-device", "virtio-blk-pci,drive=esp,bootindex=0,addr=0x3"]
    kind, file = options.medium
    drive = f"if=none,id=medium,format=raw,file={file}"
    drive += ",media=cdrom,readonly=on" if kind == "cdrom" else ",snapshot=on"
    return ["-drive", drive, *MEDIA[kind]]


def arguments():
    parser = argparse.ArgumentParser()
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--uki", type=Path)
    what.add_argument("--medium", type=medium)
    parser.add_argument("--work", type=Path, required=True)
    variables = parser.add_mutually_exclusive_group()
    variables.add_argument("--keys", type=Path)
    variables.add_argument("--setup-mode", action="store_true")
    variables.add_argument("--variables", type=Path)
    parser.add_argument("--loader", type=Path)
    parser.add_argument("--auth", type=Path)
    parser.add_argument("--virt-fw-vars", default="virt-fw-vars")
    parser.add_argument("--tpm", action="store_true")
    parser.add_argument("--tpm-state", type=Path)
    parser.add_argument("--disk", type=Path)
    parser.add_argument("--entry")
    parser.add_argument("--devices", choices=["none", "many", "vmware"], default="none")
    parser.add_argument("--memory", type=int, default=4096)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--until")
    parser.add_argument("--fail")
    parser.add_argument("--show", action="store_true")
    return parser.parse_args()


def wait(process, console, options):
    """Follows the console until the machine ends or a pattern is seen. Returns why it failed, or None."""
    until = re.compile(options.until.encode()) if options.until else None
    fail = re.compile("|".join(filter(None, [options.fail, "Kernel panic - not syncing[^\\r\\n]*"])).encode())
    deadline = time.monotonic() + options.timeout
    text = b""
    position = 0
    while True:
        ended = process.poll() is not None
        if console.exists():
            with open(console, "rb") as file:
                file.seek(position)
                new = file.read()
            position += len(new)
            text += new
            if options.show and new:
                sys.stdout.buffer.write(new)
                sys.stdout.buffer.flush()
        if fail.search(text):
            return f"the console says {fail.search(text).group().decode(errors='replace')!r}"
        if until and until.search(text):
            return None
        if ended:
            if process.returncode:
                return f"QEMU ended with {process.returncode} ({console.with_name('qemu.log').read_text()[-300:].strip()})"
            return f"the machine ended before its console matched {options.until!r}" if until else None
        if time.monotonic() > deadline:
            return f"no end after {options.timeout:.0f} s"
        time.sleep(0.2)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the machines below end with this script
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    boot = boot_device(options)
    variables = work / "vars.fd"
    template = options.variables or firmware_file("OVMF_VARS_4M.fd")
    make_variables(options.keys, template, variables, options.virt_fw_vars)
    code = firmware_file("OVMF_CODE_4M.secboot.fd")
    accelerator = os.environ.get("KAIROS_INIT_ACCEL", "tcg")
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
               "-machine", "q35,smm=on,usb=off", "-m", str(options.memory),
               # One processor: with two, emulated, the kernel now and then dies of an int3 while it patches its own code.
               "-smp", "1", "-accel", accelerator, "-cpu", "qemu64",
               "-global", "driver=cfi.pflash01,property=secure,value=on",
               "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
               "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
               *boot,
               "-serial", f"file:{work / 'console.log'}", "-serial", f"file:{work / 'guest.txt'}"]
    if not options.setup_mode:
        command.append("-no-reboot")
    tpm = None
    if options.tpm:
        tpm, socket = start_tpm(options.tpm_state or work / "tpm", options.tpm_state is not None)
        command += ["-chardev", f"socket,id=tpm,path={socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                    "-device", "tpm-tis,tpmdev=tpm0"]
    if options.disk:
        command += ["-drive", f"if=none,id=own,format=raw,file={options.disk}",
                    "-device", "virtio-blk-pci,drive=own,serial=sealed"]
    if options.devices == "many":
        command += many_devices(work, MANY)
    elif options.devices == "vmware":
        command += many_devices(work, [(device, disk) for device, disk in MANY if of_vmware(device)])
    (work / "command.txt").write_text(" ".join(command) + "\n")
    started = time.monotonic()
    with open(work / "qemu.log", "wb") as log:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        failure = wait(machine, work / "console.log", options)
    finally:
        for process in filter(None, [machine, tpm]):
            if process.poll() is None:
                process.terminate()
            process.wait()
        (work / "esp.img").unlink(missing_ok=True)
    print(f"    {time.monotonic() - started:.0f} s")
    if failure:
        sys.exit(f"vm.py: {failure}: see {work / 'console.log'}")


if __name__ == "__main__":
    main()
